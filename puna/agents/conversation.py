"""A conversation with one or two stages of a run, and what they answer, piece by piece.

`chat = Conversation(Path("runs/quickstart"), "rl", SamplingParams(64, 0.0))`; then
`for name, said in chat.ask("2+2="): print(said.text, end="")`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from puna.agents.model import load
from puna.agents.rows import append_rows, read_last_row
from puna.core.errors import UserError, nearest
from puna.core.messages import Image, Message, Text
from puna.core.runs import find_model
from puna.engine.local import Engine, Request
from puna.engine.policy import SamplingParams
from puna.gateway import reading
from puna.gateway.asked import Asked, Said
from puna.gateway.speaker import Speaker
from puna.gym.seat import ContextFullError
from puna.text.images import attach, images_of, pictures_in
from puna.text.template import render

SETTINGS = ("temperature", "max_tokens", "seed")
Turns = tuple[Message, ...]


class Conversation:
    """What was said with the stages `names`: each has a history, whose answers are its own.

    `system` is what they are told first, `tools` what they may call (nothing carries a call out).
    `seed` names the random draws: the same conversation with the same seed has the same answers.
    Every method that asks or changes something raises UserError, and then has changed nothing.
    """

    def __init__(self, target: Path, stage: str, params: SamplingParams) -> None:
        self.target, self.params, self.seed = target, params, 0
        self.engines: dict[str, Engine] = {}
        self.system = ""
        self.names = [self._load(stage)]
        self.reset()

    def reset(self) -> None:
        """Begin anew; the system message stays."""
        self.images: list[Image] = []
        self.tools: tuple[Mapping[str, Any], ...] = ()
        self.turns: dict[str, Turns] = dict.fromkeys(self.names, ())
        self._stopped = False

    def use(self, *stages: str) -> None:
        """Talk to these stages from now on, beginning anew."""
        self.names = list(dict.fromkeys([self._load(s) for s in stages]))
        self.reset()

    def show(self, path: Path) -> None:
        """Put an image before the next prompt."""
        for name in self.names:
            self._require_eyes(name)
        self.images.append(attach(path))

    def set(self, name: str, value: str) -> None:
        """Change one of SETTINGS to what `value` spells."""
        if name not in SETTINGS:
            raise UserError(f"no setting '{name[:40]}'", nearest(name, SETTINGS))
        given: dict[str, Any] = {name: value}
        with contextlib.suppress(ValueError, RecursionError):
            given = {name: value if (read := json.loads(value)) is None else read}
        try:
            if name == "seed":
                self.seed = reading.whole(given, name, 0, -(2**63), 2**63) or 0
            elif name == "temperature":
                self.params = replace(self.params, temperature=reading.temperature(given, 100.0))
            else:
                most = reading.whole(given, name, 1, 1, reading.TOKENS) or 1
                self.params = replace(self.params, max_tokens=most)
        except reading.BadRequest as error:
            raise UserError(str(error), f"e.g. /set {name} 1") from None

    def messages(self, name: str) -> Turns:
        """The whole of what a stage is asked to go on from."""
        return self._with_system(self.turns[name])

    def ask(self, text: str) -> Iterator[tuple[str, Said]]:
        """(stage, what is new of its answer), one stage after the other, something at every step.

        Raises ContextFullError where a stage has no room for an answer: then all begins anew.
        """
        asked = Message("user", (*self.images, Text(text)))
        return self._answers({n: (*self.turns[n], asked) for n in self.names})

    def retry(self) -> Iterator[tuple[str, Said]]:
        """Other answers to what was asked last, with the next seed; else like `ask`."""
        turns = {n: _unanswered(self.turns[n]) for n in self.names}
        if not all(turns.values()):
            raise UserError("nothing was asked yet")
        self.seed += 1
        return self._answers(turns)

    def stop(self) -> None:
        """Let the answer that is under way end as it is; may be called from a signal's handler."""
        self._stopped = True

    def undo(self) -> str:
        """Forget the last prompt and what came of it; the prompt."""
        before = {n: _unanswered(self.turns[n], "assistant", "tool") for n in self.names}
        if not all(before.values()):
            raise UserError("nothing was asked yet")
        self.turns = {n: turns[:-1] for n, turns in before.items()}
        return before[self.names[0]][-1].text

    def save(self, path: Path) -> int:
        """Add the conversation to a file of rows for `sft`, one a stage; how many it then has."""
        if not all(any(m.role == "assistant" for m in t) for t in self.turns.values()):
            raise UserError("nothing was answered yet")
        return append_rows(path, [(self.messages(n), self.tools) for n in self.names])

    def load(self, path: Path) -> int:
        """Go on with the last conversation of such a file; how many messages it has."""
        messages, tools = read_last_row(path)
        for name in self.names:
            if next(images_of(messages), None) is not None:
                self._require_eyes(name)
        told = messages[0].role == "system"
        self.system = messages[0].text if told else ""
        self.reset()
        self.turns, self.tools = dict.fromkeys(self.names, messages[told:]), tools
        return len(messages)

    def _load(self, stage: str) -> str:
        directory, label = find_model(self.target, stage)
        if label not in self.engines:
            model = load(self.target, stage)
            tokenizer = model.engine.tokenizer.require_chat(directory)
            # What a turn leaves in the cache the next one begins with.
            self.engines[label] = Engine(model.engine.model, tokenizer, 0, slots=1, frozen=True)
        return label

    def _require_eyes(self, name: str) -> None:
        if self.engines[name].tokenizer.tiling is None:
            raise UserError(f"{name} reads no images", "take a model with a vision encoder")

    def _with_system(self, turns: Turns) -> Turns:
        return (Message.system(self.system), *turns) if self.system else turns

    def _answers(self, turns: Mapping[str, Turns]) -> Iterator[tuple[str, Said]]:
        """Answers to `turns`, which become the histories once every stage has room for one."""
        self._stopped = False
        try:
            requests = {n: self._request(n, turns[n]) for n in self.names}
        except ContextFullError:
            self.reset()
            raise
        self.turns, self.images = dict(turns), []
        for name, request in requests.items():
            for said in self._answer(name, request):
                yield name, said

    def _request(self, name: str, turns: Turns) -> Request:
        engine, messages = self.engines[name], self._with_system(turns)
        try:
            ids = render(engine.tokenizer, messages, tools=self.tools, open_turn=True).ids
        except RecursionError:
            raise UserError("the tools are nested too deeply", "/reset forgets them") from None
        room = engine.max_context - len(ids)
        if room < 1:
            raise ContextFullError(f"the conversation has {len(ids)} tokens")
        params = replace(self.params, max_tokens=min(room, self.params.max_tokens))
        pictures = tuple(pictures_in(engine.tokenizer, messages, ids))
        request = Request(tuple(ids), params, ("chat", self.seed, len(turns)), pictures)
        engine.check(request)
        return request

    def _answer(self, name: str, request: Request) -> Iterator[Said]:
        """What is new of one answer at every step; whatever was said of it is kept."""
        engine = self.engines[name]
        speaker = Speaker(engine.tokenizer, Asked(messages=self.messages(name), tools=self.tools))
        row = engine.add(request)
        try:
            while not row.finish:
                row.cancelled = self._stopped
                for heard in engine.step():
                    speaker.hear(heard.ids[-1], heard.logprobs[-1])
                if not row.finish:
                    yield speaker.say() or Said()
        finally:
            row.cancelled = True  # left before its end: the next step does away with it
            speaker.end(row.finish or "cancelled")
            self.turns[name] = (*self.turns[name], speaker.message)
            self._stopped = False
        yield speaker.say() or Said()


def _unanswered(turns: Turns, *roles: str) -> Turns:
    """`turns` without the messages of `roles` (an assistant's if not given) at their end."""
    end = len(turns)
    while end and turns[end - 1].role in (roles or ("assistant",)):
        end -= 1
    return turns[:end]
