"""OpenAI's chat completions: a request read, and its answer written, whole or as a stream.

`read(b'{"messages": [{"role": "user", "content": "2+2="}]}')` -> `Asked(...)`; then `Chat(asked,
head)`. Extensions: `prompt_token_ids` in place of messages, `return_token_ids`, `top_k`, `min_p`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring_ascii as quote
from typing import Any, ClassVar

from puna.core.messages import Message
from puna.gateway import reading
from puna.gateway.asked import Asked, Choice, Drawn, Head, Said
from puna.gateway.reading import BadRequest


def read(raw: bytes) -> Asked:
    """A chat-completions body, total over any bytes. Raises BadRequest naming what is wrong.

    Parameters that no local model has a use for (`user`, penalties, `logit_bias`) are ignored, as
    other servers do; those that ask for another kind of answer are refused.
    """
    data = reading.json_object(raw)
    tools = reading.tools(data)
    form = reading.table(data, "response_format")
    where = "response_format"
    top = reading.whole(data, "top_logprobs", 0, 0, reading.MAX_TOP) or 0
    logprobs = reading.flag(data, "logprobs")
    if top and not logprobs:
        raise BadRequest("top_logprobs is given without logprobs", "top_logprobs")
    limit = "max_tokens" if data.get("max_completion_tokens") is None else "max_completion_tokens"
    ids = data.get("prompt_token_ids")
    prompts = () if ids is None else (reading.token_ids(ids, "prompt_token_ids"),)
    if prompts and data.get("messages"):
        raise BadRequest("messages and prompt_token_ids are both given", "prompt_token_ids")
    if data.get("functions"):
        raise BadRequest("functions is the old form; give tools", "functions")
    return Asked(
        messages=() if prompts else reading.chat_messages(data.get("messages")),
        prompts=prompts,
        tools=tools,
        choice=reading.tool_choice(data.get("tool_choice"), tools),
        parallel=reading.flag(data, "parallel_tool_calls", True),
        schema=reading.schema_form(form, reading.table(form, "json_schema"), where),
        max_tokens=reading.whole(data, limit, None, 1, reading.TOKENS),
        stop=reading.stops(data),
        logprobs=logprobs,
        top_logprobs=top,
        **common(data),
    )


def common(data: Mapping[str, Any]) -> dict[str, Any]:
    """What chat and plain completions share."""
    options = reading.table(data, "stream_options")
    return {
        "model": reading.words(data, "model"),
        "temperature": reading.temperature(data),
        "top_p": float(reading.number(data, "top_p", 1.0, 0.0, 1.0) or 1e-9),
        "top_k": max(0, reading.whole(data, "top_k", 0, -1, 10**9) or 0),
        "min_p": float(reading.number(data, "min_p", 0.0, 0.0, 1.0) or 0.0),
        "n": reading.whole(data, "n", 1, 1, reading.MAX_CHOICES) or 1,
        "seed": reading.whole(data, "seed", None, -(2**63), 2**63),
        "stream": reading.flag(data, "stream"),
        "include_usage": reading.flag(options, "include_usage"),
        "token_ids": reading.flag(data, "return_token_ids"),
        "given": data,
    }


class Chunks:
    """What the streams of both kinds of completions have in common: their chunks' beginning and
    end, the last events; `kind` is the `object` that a chunk says it is.
    """

    kind: ClassVar[str]

    def __init__(self, asked: Asked, head: Head) -> None:
        self.asked, self.head = asked, head
        stamp = f'"created":{head.created},"model":{quote(head.model)}'
        self._start = f'data: {{"id":"{head.name}","object":"{self.kind}",{stamp}'
        self._end = ',"usage":null}\n\n' if asked.include_usage else "}\n\n"

    def end(self, choices: Sequence[Choice]) -> str:
        """The events after all is said."""
        counts = ""
        if self.asked.include_usage:
            counts = json.dumps(usage(self.head.prompt_tokens, choices))
            counts = f'{self._start},"choices":[],"usage":{counts}}}\n\n'
        return f"{counts}data: [DONE]\n\n"

    def failed(self, message: str) -> str:
        """The event for an answer that breaks off."""
        return f"data: {json.dumps(reading.error_body('', 500, message))}\n\n"


class Chat(Chunks):
    """Writes chat completions."""

    kind = "chat.completion.chunk"

    def whole(self, choices: Sequence[Choice]) -> str:
        """The JSON of a whole answer."""
        body = {
            "id": self.head.name,
            "object": "chat.completion",
            "created": self.head.created,
            "model": self.head.model,
            "choices": [self._whole(i, c) for i, c in enumerate(choices)],
            "usage": usage(self.head.prompt_tokens, choices),
        }
        if self.asked.token_ids:
            body["prompt_token_ids"] = list(self.head.prompts[0])
        return json.dumps(body)

    def _whole(self, index: int, choice: Choice) -> dict[str, Any]:
        shown = {
            "index": index,
            "message": spoken(choice.message),
            "logprobs": self._logprobs(choice.tokens) if self.asked.logprobs else None,
            "finish_reason": choice.finish,
        }
        if self.asked.token_ids:
            shown["token_ids"] = [t.id for t in choice.tokens]
        return shown

    def begin(self) -> str:
        """The events before anything is said."""
        ids = ""
        if self.asked.token_ids:
            ids = f',"prompt_token_ids":{json.dumps(self.head.prompts[0])}'
        first = '{"role":"assistant","content":""}'
        count = len(self.head.prompts)
        return "".join(
            f"{self._start}{ids if i == 0 else ''},{self._piece(i, first)}" for i in range(count)
        )

    def say(self, index: int, said: Said) -> str:
        """The events for what is new of a choice."""
        more = ""
        if said.tokens:  # of all that is new here: the first event has them
            more = json.dumps(self._logprobs(said.tokens)) if self.asked.logprobs else ""
            if self.asked.token_ids:
                more = f'{more or "null"},"token_ids":{json.dumps([t.id for t in said.tokens])}'
        deltas = []
        if said.thought:
            deltas.append(f'{{"reasoning_content":{quote(said.thought)}}}')
        if said.text:
            deltas.append(f'{{"content":{quote(said.text)}}}')
        if said.calls:
            deltas.append(json.dumps({"tool_calls": call_deltas(said.calls)}))
        if not deltas and more and not said.finish:
            deltas.append("{}")
        out = []
        for delta in deltas:
            out.append(f"{self._start},{self._piece(index, delta, more or 'null')}")
            more = ""
        if said.finish:
            piece = self._piece(index, "{}", more or "null", f'"{said.finish}"')
            out.append(f"{self._start},{piece}")
        return "".join(out)

    def _piece(self, index: int, delta: str, logprobs: str = "null", finish: str = "null") -> str:
        return (
            f'"choices":[{{"index":{index},"delta":{delta},"logprobs":{logprobs},'
            f'"finish_reason":{finish}}}]{self._end}'
        )

    def _logprobs(self, tokens: Sequence[Drawn]) -> dict[str, Any]:
        rows = []
        for token in tokens:
            row = self._row(token.id, token.logprob)
            rows.append(row | {"top_logprobs": [self._row(i, p) for i, p in token.top]})
        return {"content": rows, "refusal": None}

    def _row(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.head.text(token)
        return {"token": text, "logprob": finite(logprob), "bytes": octets(text)}


def finite(logprob: float) -> float:
    """JSON has no infinity: what cannot be drawn is at -9999, as OpenAI has it."""
    return logprob if logprob > -9999.0 else -9999.0


def octets(text: str) -> list[int] | None:
    """A token's bytes; None where it is a part of a character, which its text does not tell."""
    return None if "\ufffd" in text else list(text.encode("utf-8", "replace"))


def usage(prompt: int, choices: Sequence[Choice]) -> dict[str, Any]:
    """Token counts."""
    said = sum(c.count for c in choices)
    thinking = sum(c.thinking for c in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": said,
        "total_tokens": prompt + said,
        "completion_tokens_details": {"reasoning_tokens": thinking},
    }


def spoken(message: Message) -> dict[str, Any]:
    """An assistant's message; its content is null where it has only calls."""
    out = message.to_openai()
    if message.tool_calls and not out["content"]:
        out["content"] = None
    return out | {"refusal": None}


def call_deltas(calls: Sequence[Any]) -> list[dict[str, Any]]:
    """Calls as a stream has them: each whole, with its place."""
    return [
        {
            "index": i,
            "id": c.id,
            "type": "function",
            "function": {"name": c.name, "arguments": c.arguments},
        }
        for i, c in enumerate(calls)
    ]
