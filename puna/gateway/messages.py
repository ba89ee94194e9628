"""Anthropic's Messages protocol: a request read, and its answer written, whole or as a stream.

`read(b'{"max_tokens": 8, "messages": [{"role": "user", "content": "2+2="}]}')` -> `Asked(...)`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring_ascii as quote
from typing import Any

from puna.gateway import reading
from puna.gateway.asked import Asked, Choice, Head, Said
from puna.gateway.blocks import messages_of
from puna.gateway.reading import BadRequest

MAX_STOPS = 16


def read(raw: bytes, counting: bool = False) -> Asked:
    """A Messages body, total over any bytes. Raises BadRequest naming what is wrong.

    `counting` is for a request to count its tokens, which has no `max_tokens`.
    """
    data = reading.json_object(raw)
    limit = reading.whole(data, "max_tokens", None, 1, reading.TOKENS)
    if limit is None and not counting:
        raise BadRequest("max_tokens is missing", "max_tokens")
    tools = _tools(data)
    wanted = reading.table(data, "tool_choice")
    form = reading.table(reading.table(data, "output_config"), "format")
    return Asked(
        model=reading.words(data, "model"),
        messages=messages_of(data),
        tools=tools,
        choice=_choice(wanted, tools),
        parallel=not reading.flag(wanted, "disable_parallel_tool_use"),
        schema=reading.schema_form(form, form, "output_config.format"),
        max_tokens=limit,
        temperature=reading.temperature(data),
        top_p=float(reading.number(data, "top_p", 1.0, 0.0, 1.0) or 1e-9),
        top_k=reading.whole(data, "top_k", 0, 0, 10**9) or 0,
        stop=reading.stops(data, "stop_sequences", MAX_STOPS),
        stream=reading.flag(data, "stream"),
        given=data,
    )


def _tools(data: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Tools in chat's form; those that run at their maker's have no schema."""
    out = []
    for i, tool in enumerate(reading.rows(data, "tools")):
        if not isinstance(tool.get("input_schema"), Mapping):
            raise BadRequest(f"tools[{i}] has no input_schema", f"tools[{i}]")
        function = {"name": tool.get("name"), "parameters": tool["input_schema"]}
        for key in ("description", "strict"):
            function |= {key: tool[key]} if tool.get(key) is not None else {}
        out.append({"type": "function", "function": function})
    return reading.tools({"tools": out})


def _choice(wanted: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> str:
    kind = wanted.get("type")
    if kind == "tool":
        return reading.known_choice(reading.words(wanted, "name"), tools)
    if kind == "any":
        if not tools:
            raise BadRequest("tool_choice is 'any', and there are no tools", "tool_choice")
        return "required"
    if kind not in (None, "auto", "none"):
        raise BadRequest("tool_choice: type is not auto, any, tool or none", "tool_choice")
    return "none" if kind == "none" or not tools else "auto"


class Messages:
    """Writes answers of the Messages protocol."""

    def __init__(self, asked: Asked, head: Head) -> None:
        self.asked, self.head = asked, head
        self._at = -1  # the block in work
        self._open = ""
        self._spoken = False

    def whole(self, choices: Sequence[Choice]) -> str:
        """The JSON of a whole answer."""
        choice = choices[0]
        message = choice.message
        thought = message.thought
        blocks: list[dict[str, Any]] = []
        if thought:
            blocks.append({"type": "thinking", "thinking": thought, "signature": ""})
        if message.text or not message.tool_calls:
            blocks.append({"type": "text", "text": message.text})
        blocks += [_used(c) | {"input": _input(c.arguments)} for c in message.tool_calls]
        ended = {"content": blocks, **_stopped(choice), "usage": self._usage(choice.count)}
        return json.dumps(self._message() | ended)

    def begin(self) -> str:
        """The events before anything is said."""
        started = self._message() | {"usage": self._usage(0)}
        return _event("message_start", {"message": started})

    def say(self, index: int, said: Said) -> str:
        """The events for what is new."""
        out = ""
        if said.thought:
            out += self._to("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            out += self._delta("thinking", said.thought)
        if said.text:
            out += self._to("text", {"type": "text", "text": ""})
            out += self._delta("text", said.text)
            self._spoken = True
        if said.finish and not self._spoken and not said.calls:
            out += self._to("text", {"type": "text", "text": ""})
        for call in said.calls:
            out += self._to("", {}) + self._to("tool_use", _used(call) | {"input": {}})
            told = {"type": "input_json_delta", "partial_json": call.arguments}
            out += _event("content_block_delta", {"index": self._at, "delta": told})
        return out + (self._to("", {}) if said.finish else "")

    def end(self, choices: Sequence[Choice]) -> str:
        """The events after all is said."""
        told = {"delta": _stopped(choices[0]), "usage": self._usage(choices[0].count)}
        return _event("message_delta", told) + _event("message_stop", {})

    def failed(self, message: str) -> str:
        """The event for an answer that breaks off."""
        return f"event: error\ndata: {json.dumps(reading.error_body(PATH, 500, message))}\n\n"

    def _to(self, kind: str, block: Mapping[str, Any]) -> str:
        """Close the block in work where it is another, and open one of `kind`."""
        if kind == self._open:
            return ""
        out = _event("content_block_stop", {"index": self._at}) if self._open else ""
        self._open = kind
        if kind:
            self._at += 1
            out += _event("content_block_start", {"index": self._at, "content_block": block})
        return out

    def _delta(self, kind: str, text: str) -> str:
        return (
            'event: content_block_delta\ndata: {"type":"content_block_delta","index":'
            f'{self._at},"delta":{{"type":"{kind}_delta","{kind}":{quote(text)}}}}}\n\n'
        )

    def _message(self) -> dict[str, Any]:
        return {
            "id": self.head.name,
            "type": "message",
            "role": "assistant",
            "model": self.head.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _usage(self, count: int) -> dict[str, int]:
        cached = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        return {"input_tokens": self.head.prompt_tokens, "output_tokens": count} | cached


PATH = "/v1/messages"
_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "stop": "end_turn"}


def _stopped(choice: Choice) -> dict[str, str | None]:
    reason = _REASONS[choice.finish] if choice.stop is None else "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": choice.stop}


def _used(call: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name}


def _input(arguments: str) -> Any:
    """Arguments as an object; what a model may write and JSON has not (NaN, 1e999) is null."""

    def number(text: str) -> float | None:
        return float(text) if math.isfinite(float(text)) else None

    return json.loads(arguments, parse_float=number, parse_constant=lambda _: None)


def _event(name: str, data: Mapping[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n"
