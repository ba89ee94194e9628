"""OpenAI's plain completions: prompts continued without any chat format.

`read(b'{"prompt": "def "}')` -> `Asked(prompts=("def ",), chat=False)`. A prompt is a text, token
ids, or a list of either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring_ascii as quote
from typing import Any

from puna.gateway import reading
from puna.gateway.asked import Asked, Choice, Drawn, Head, Said
from puna.gateway.chat import Chunks, common, finite, usage
from puna.gateway.reading import BadRequest

MAX_PROMPTS = 64
MOST = 128  # answers to one request
SHORT = 16  # tokens, where the request says nothing: OpenAI's own default


def read(raw: bytes) -> Asked:
    """A completions body, total over any bytes. Raises BadRequest naming what is wrong."""
    data = reading.json_object(raw)
    for name in ("suffix", "best_of"):
        if data.get(name) not in (None, "", data.get("n") or 1):
            raise BadRequest(f"{name} is not supported", name)
    top = reading.whole(data, "logprobs", None, 0, reading.MAX_TOP)
    echo = reading.flag(data, "echo")
    if echo and top is not None:
        raise BadRequest("logprobs of an echoed prompt are not supported", "echo")
    prompts, shared = _prompts(data), common(data)
    if len(prompts) * shared["n"] > MOST:
        raise BadRequest(f"prompts times n is more than {MOST}", "n")
    return Asked(
        prompts=prompts,
        chat=False,
        max_tokens=reading.whole(data, "max_tokens", SHORT, 1, reading.TOKENS),
        stop=reading.stops(data),
        logprobs=top is not None,
        top_logprobs=top or 0,
        echo=echo,
        **shared,
    )


def _prompts(data: Mapping[str, Any]) -> tuple[str | tuple[int, ...], ...]:
    ids, given = data.get("prompt_token_ids"), data.get("prompt")
    if ids is not None:
        if given:
            raise BadRequest("prompt and prompt_token_ids are both given", "prompt_token_ids")
        return (reading.token_ids(ids, "prompt_token_ids"),)
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, list) or not given:
        raise BadRequest("prompt is neither text nor token ids nor a list of them", "prompt")
    if type(given[0]) is int:
        return (reading.token_ids(given, "prompt"),)
    if len(given) > MAX_PROMPTS:
        raise BadRequest(f"prompt has {len(given)} entries, at most {MAX_PROMPTS}", "prompt")
    return tuple(
        p if isinstance(p, str) else reading.token_ids(p, f"prompt[{i}]")
        for i, p in enumerate(given)
    )


class Completions(Chunks):
    """Writes plain completions."""

    kind = "text_completion"

    def __init__(self, asked: Asked, head: Head) -> None:
        super().__init__(asked, head)
        self._offsets = [0] * len(head.prompts)

    def whole(self, choices: Sequence[Choice]) -> str:
        """The JSON of a whole answer."""
        body = {
            "id": self.head.name,
            "object": "text_completion",
            "created": self.head.created,
            "model": self.head.model,
            "choices": [self._whole(i, c) for i, c in enumerate(choices)],
            "usage": usage(self.head.prompt_tokens, choices),
        }
        return json.dumps(body)

    def _whole(self, index: int, choice: Choice) -> dict[str, Any]:
        shown = {
            "index": index,
            "text": self._echoed(index) + choice.message.text,
            "logprobs": self._logprobs(index, choice.tokens) if self.asked.logprobs else None,
            "finish_reason": choice.finish,
        }
        if self.asked.token_ids:
            shown["prompt_token_ids"] = list(self.head.prompts[index])
            shown["token_ids"] = [t.id for t in choice.tokens]
        return shown

    def begin(self) -> str:
        """The events before anything is said: the prompts, where they are asked for."""
        if not self.asked.echo and not self.asked.token_ids:
            return ""
        out = []
        for i, ids in enumerate(self.head.prompts):
            more = f',"prompt_token_ids":{json.dumps(ids)}' if self.asked.token_ids else ""
            out.append(self._piece(i, self._echoed(i), more))
        return "".join(out)

    def say(self, index: int, said: Said) -> str:
        """The events for what is new of a choice."""
        more, finish = "", f'"{said.finish}"' if said.finish else "null"
        if self.asked.token_ids:
            more = f',"token_ids":{json.dumps([t.id for t in said.tokens])}'
        logprobs = "null"
        if self.asked.logprobs and said.tokens:
            logprobs = json.dumps(self._logprobs(index, said.tokens))
        return self._piece(index, said.text, more, logprobs, finish)

    def _echoed(self, index: int) -> str:
        if not self.asked.echo:
            return ""
        prompt = self.asked.prompts[index // self.asked.n]
        if isinstance(prompt, str):
            return prompt
        text: str = self.head.tokenizer.decode(list(prompt), skip_special=False)
        return text

    def _piece(
        self, index: int, text: str, more: str, logprobs: str = "null", finish: str = "null"
    ) -> str:
        return (
            f'{self._start},"choices":[{{"index":{index},"text":{quote(text)}{more},'
            f'"logprobs":{logprobs},"finish_reason":{finish}}}]{self._end}'
        )

    def _logprobs(self, index: int, tokens: Sequence[Drawn]) -> dict[str, Any]:
        texts, offsets = [self.head.text(t.id) for t in tokens], []
        for text in texts:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [finite(t.logprob) for t in tokens],
            "top_logprobs": [{self.head.text(i): finite(p) for i, p in t.top} for t in tokens],
            "text_offset": offsets,
        }
