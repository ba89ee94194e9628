"""A trained model to talk to from Python: `load("runs/quickstart", "rl").chat("47+8=").text`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.runs import find_model, home_of
from puna.core.threads import set_threads

if TYPE_CHECKING:
    from puna.engine.local import Engine
    from puna.engine.policy import Completion, SamplingParams
    from puna.text.images import Picture


@dataclass(frozen=True)
class Sample:
    """A continuation: its text, token ids [T], their log-probabilities [T].

    `finish` is "stop" (a stop token, the last of `ids` and no part of `text`) or "length".
    """

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str


class Model:
    """A model of this machine that answers messages and continues text; see `load`.

    `name` is its stage's or directory's name. Nothing is remembered between calls: give the whole
    conversation each time. Equal arguments give equal answers.
    """

    def __init__(self, engine: Engine, name: str, directory: Path) -> None:
        self.engine, self.name, self.directory = engine, name, directory

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {str(self.directory)!r})"

    def chat(
        self,
        messages: str | Sequence[Message | Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        max_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Message:
        """The assistant's answer to one user's text, or to a conversation.

        Messages are `puna.Message` or OpenAI's dictionaries, in which an `image_url` may be a path;
        `tools` are OpenAI's function dictionaries; `temperature` 0 is greedy; `seed` names the
        random stream of the draws.
        Raises UserError for a message that is none and a conversation longer than the context.

        >>> import puna
        >>> model = puna.load("runs/mine", "rl")
        >>> answer = model.chat("47+8=", max_tokens=4)
        >>> answer.role
        'assistant'
        >>> more = [puna.Message.user("47+8="), answer, {"role": "user", "content": "1+1="}]
        >>> model.chat(more, max_tokens=4) == model.chat(more, max_tokens=4)
        True
        """
        from puna.text.images import images_of, pictures_in
        from puna.text.template import parse_assistant, render

        asked = [Message.user(messages)] if isinstance(messages, str) else _messages(messages)
        tokenizer = self.engine.tokenizer
        if tokenizer.tiling is None and next(images_of(asked), None) is not None:
            raise UserError(f"{self.name} reads no images", "take a model with a vision encoder")
        ids = render(tokenizer, asked, tools=tools, open_turn=True).ids
        pictures = pictures_in(tokenizer, asked, ids)
        done = self._draw(ids, _params(max_tokens, temperature), seed, pictures)
        return parse_assistant(tokenizer, done.ids, tools=tools)

    def sample(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 64,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> Sample:
        """A continuation of text (or of token ids), without any chat format.

        Raises UserError where the prompt fills the context.

        >>> import puna
        >>> found = puna.load("runs/mine", "pretrain").sample("def ", max_tokens=5, seed=1)
        >>> len(found.ids) == len(found.logprobs) <= 5
        True
        """
        tokenizer = self.engine.tokenizer
        if isinstance(prompt, str):
            ids = [*tokenizer.opening, *tokenizer.encode(prompt)]
        else:
            ids = list(prompt)
        done = self._draw(ids, _params(max_tokens, temperature), seed)
        shown = done.ids[:-1] if done.finish == "stop" else done.ids
        text = tokenizer.decode(shown, skip_special=False)
        return Sample(text, done.ids, done.logprobs, done.finish)

    def _draw(
        self,
        ids: Sequence[int],
        params: SamplingParams,
        seed: int,
        pictures: Sequence[Picture] = (),
    ) -> Completion:
        from puna.engine.local import Request

        room = self.engine.max_context - len(ids)
        if room < 1 or not ids:
            what = f"the prompt has {len(ids)} tokens, {self.name} takes 1 to"
            raise UserError(f"{what} {self.engine.max_context - 1}", "say less")
        params = replace(params, max_tokens=min(params.max_tokens, room))
        request = Request(tuple(ids), params, ("model", seed), tuple(pictures))
        return self.engine.generate([request])[0]


def load(path: str | Path, stage: str = "") -> Model:
    """The model of a run's stage (the last trained one if not named), or of a checkpoint.

    It computes as its run's own scores had it: on that device, with that dtype and those threads.
    Raises UserError where there is no such model.

    >>> import puna
    >>> puna.load("runs/mine", "sft").name
    'sft'
    >>> puna.load("runs/mine/sft/model").chat("1+1=", max_tokens=2).role
    'assistant'
    """
    directory, label = find_model(Path(path), stage)
    machine = home_of(directory).machine
    set_threads(machine.threads)
    import torch

    from puna.engine.local import Engine
    from puna.models import load as load_weights
    from puna.text.tokenizer import Tokenizer

    model, _ = load_weights(directory)
    model.compute_dtype, model.decode_weights = getattr(torch, machine.dtype), machine.weights
    model.to(machine.device)
    return Model(Engine(model.eval(), Tokenizer.load(directory), 0), label, directory)


def _params(max_tokens: int, temperature: float) -> SamplingParams:
    from puna.engine.policy import SamplingParams

    try:
        return SamplingParams(max_tokens, temperature)
    except ValueError as error:
        raise UserError(str(error)) from error


def _messages(given: Sequence[Message | Mapping[str, Any]]) -> list[Message]:
    from puna.text.images import attached

    try:
        found = [m if isinstance(m, Message) else Message.from_openai(m) for m in given]
        return [attached(m, Path()) for m in found]
    except (ValueError, AttributeError) as error:
        fix = 'give text, or [{"role": "user", "content": "..."}]'
        raise UserError(f"that is no conversation: {error}", fix) from error
