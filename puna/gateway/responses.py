"""OpenAI's Responses protocol: a request read, and its answer written, whole or as a stream.

`read(b'{"input": "2+2="}')` -> `Asked(...)`. Nothing is stored: a request carries its conversation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring_ascii as quote
from typing import Any

from puna.core.messages import Reasoning
from puna.gateway import reading
from puna.gateway.asked import Asked, Choice, Drawn, Head, Said
from puna.gateway.chat import finite, octets
from puna.gateway.items import messages_of
from puna.gateway.reading import BadRequest

# What the answer repeats of the request, and what it says where the request does not.
_REPEATED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "user": None,
}


def read(raw: bytes) -> Asked:
    """A Responses body, total over any bytes. Raises BadRequest naming what is wrong."""
    data = reading.json_object(raw)
    for name in ("previous_response_id", "conversation", "prompt"):
        if data.get(name) is not None:
            what = f"{name}: nothing is stored here; send the whole conversation as input"
            raise BadRequest(what, name)
    if data.get("background"):
        raise BadRequest("background is not supported", "background")
    form = reading.table(reading.table(data, "text"), "format")
    top = reading.whole(data, "top_logprobs", 0, 0, reading.MAX_TOP) or 0
    include = data.get("include") or []
    if not isinstance(include, list):
        raise BadRequest("include is not a list", "include")
    tools = _tools(data)
    return Asked(
        model=reading.words(data, "model"),
        messages=messages_of(data.get("input"), reading.words(data, "instructions")),
        tools=tools,
        choice=reading.tool_choice(data.get("tool_choice"), tools),
        parallel=reading.flag(data, "parallel_tool_calls", True),
        schema=reading.schema_form(form, form, "text.format"),
        max_tokens=reading.whole(data, "max_output_tokens", None, 1, reading.TOKENS),
        temperature=reading.temperature(data),
        top_p=float(reading.number(data, "top_p", 1.0, 0.0, 1.0) or 1e-9),
        stream=reading.flag(data, "stream"),
        logprobs=bool(top) or "message.output_text.logprobs" in include,
        top_logprobs=top,
        given=data,
    )


def _tools(data: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Functions in chat's form; other kinds of tools run at their maker's only."""
    out = []
    for i, tool in enumerate(reading.rows(data, "tools")):
        if tool.get("type") != "function":
            kind = str(tool.get("type"))[:60]
            what = f"tools[{i}]: tools of type {kind!r} are not supported, functions are"
            raise BadRequest(what, f"tools[{i}]")
        out.append({"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}})
    return reading.tools({"tools": out})


class Responses:
    """Writes answers of the Responses protocol."""

    def __init__(self, asked: Asked, head: Head) -> None:
        self.asked, self.head = asked, head
        self._mark = head.name.removeprefix("resp_")
        self._number = -1
        self._items: list[dict[str, Any]] = []
        self._open = ""  # the kind of the item in work
        self._parts: list[str] = []
        self._tokens: list[dict[str, Any]] = []

    def whole(self, choices: Sequence[Choice]) -> str:
        """The JSON of a whole answer."""
        choice = choices[0]
        parts = choice.message.parts
        thought = "".join(p.text for p in parts if isinstance(p, Reasoning))
        text = choice.message.text
        if thought:
            self._items.append(self._reasoning(thought))
        if text or not choice.message.tool_calls:
            self._items.append(self._message(text, self._logprobs(choice.tokens)))
        self._items += [self._call(c) for c in choice.message.tool_calls]
        return json.dumps(self._response(_status(choice), choice))

    def begin(self) -> str:
        """The events before anything is said."""
        started = {"response": self._response("in_progress")}
        return self._event("created", started) + self._event("in_progress", started)

    def say(self, index: int, said: Said) -> str:
        """The events for what is new."""
        out = ""
        if said.thought:
            out += self._to("reasoning")
            out += self._delta("reasoning_text", said.thought)
        if said.text:
            out += self._to("message")
            new = self._logprobs(said.tokens)
            self._tokens += new
            out += self._delta("output_text", said.text, f',"logprobs":{json.dumps(new)}')
        elif self.asked.logprobs:
            self._tokens += self._logprobs(said.tokens)
        if said.finish:
            spoken = any(i["type"] == "message" for i in self._items) or self._open == "message"
            if not spoken and not said.calls:
                out += self._to("message")
            out += self._to("")
            out += "".join(self._called(call) for call in said.calls)
        return out

    def end(self, choices: Sequence[Choice]) -> str:
        """The events after all is said."""
        status = _status(choices[0])
        return self._event(status, {"response": self._response(status, choices[0])})

    def failed(self, message: str) -> str:
        """The event for an answer that breaks off."""
        response = self._response("failed")
        response["error"] = {"code": "server_error", "message": message}
        return self._event("failed", {"response": response})

    def _to(self, kind: str) -> str:
        """Close the item in work where it is another, and open one of `kind`."""
        if kind == self._open:
            return ""
        out, at = "", len(self._items)
        if self._open:
            text, place = "".join(self._parts), {"output_index": at, "content_index": 0}
            item = self._message(text, self._tokens)
            if self._open == "reasoning":
                item = self._reasoning(text)
            place["item_id"] = item["id"]
            more = {"logprobs": self._tokens} if self._open == "message" else {}
            name = "output_text" if self._open == "message" else "reasoning_text"
            out += self._event(f"{name}.done", place | {"text": text} | more)
            if self._open == "message":
                out += self._event("content_part.done", place | {"part": item["content"][0]})
            out += self._event("output_item.done", {"output_index": at, "item": item})
            self._items.append(item)
            at, self._parts, self._tokens = at + 1, [], []
        self._open = kind
        if kind:
            item = self._message("", []) if kind == "message" else self._reasoning("")
            part, item["content"], item["status"] = item["content"][0], [], "in_progress"
            out += self._event("output_item.added", {"output_index": at, "item": item})
            if kind == "message":
                place = {"output_index": at, "content_index": 0, "item_id": item["id"]}
                out += self._event("content_part.added", place | {"part": part})
        return out

    def _delta(self, name: str, text: str, more: str = "") -> str:
        self._parts.append(text)
        self._number += 1
        kind, item = f"response.{name}.delta", "rs" if name == "reasoning_text" else "msg"
        at = len(self._items)
        return (
            f'event: {kind}\ndata: {{"type":"{kind}","sequence_number":{self._number},'
            f'"item_id":"{item}_{self._mark}{at}","output_index":{at},"content_index":0,'
            f'"delta":{quote(text)}{more}}}\n\n'
        )

    def _called(self, call: Any) -> str:
        at, item = len(self._items), self._call(call)
        place = {"output_index": at, "item_id": item["id"]}
        begun = item | {"arguments": "", "status": "in_progress"}
        told = {"arguments": call.arguments, "name": call.name}
        self._items.append(item)
        return "".join(
            (
                self._event("output_item.added", {"output_index": at, "item": begun}),
                self._event("function_call_arguments.delta", place | {"delta": call.arguments}),
                self._event("function_call_arguments.done", place | told),
                self._event("output_item.done", {"output_index": at, "item": item}),
            )
        )

    def _event(self, name: str, data: Mapping[str, Any]) -> str:
        self._number += 1
        body = {"type": f"response.{name}", "sequence_number": self._number, **data}
        return f"event: response.{name}\ndata: {json.dumps(body)}\n\n"

    def _reasoning(self, text: str) -> dict[str, Any]:
        content = [{"type": "reasoning_text", "text": text}]
        return self._named("rs", "reasoning") | {"summary": [], "content": content}

    def _message(self, text: str, logprobs: Sequence[Any]) -> dict[str, Any]:
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}
        return self._named("msg", "message") | {"role": "assistant", "content": [part]}

    def _call(self, call: Any) -> dict[str, Any]:
        told = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
        return self._named("fc", "function_call") | told

    def _named(self, short: str, kind: str) -> dict[str, Any]:
        name = f"{short}_{self._mark}{len(self._items)}"
        return {"id": name, "type": kind, "status": "completed"}

    def _logprobs(self, tokens: Sequence[Drawn]) -> list[dict[str, Any]]:
        def row(token: int, logprob: float) -> dict[str, Any]:
            text = self.head.text(token)
            return {"token": text, "logprob": finite(logprob), "bytes": octets(text) or []}

        if not self.asked.logprobs:
            return []
        return [
            row(t.id, t.logprob) | {"top_logprobs": [row(i, p) for i, p in t.top]} for t in tokens
        ]

    def _response(self, status: str, choice: Choice | None = None) -> dict[str, Any]:
        given = self.asked.given
        body: dict[str, Any] = {
            "id": self.head.name,
            "object": "response",
            "created_at": self.head.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self.head.model,
            "output": list(self._items),
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "truncation": "disabled",
            "usage": None,
        }
        body |= {k: v if given.get(k) is None else given[k] for k, v in _REPEATED.items()}
        if status == "incomplete":
            body["incomplete_details"] = {"reason": "max_output_tokens"}
        if choice is not None:
            prompt = self.head.prompt_tokens
            body["usage"] = {
                "input_tokens": prompt,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": choice.count,
                "output_tokens_details": {"reasoning_tokens": choice.thinking},
                "total_tokens": prompt + choice.count,
            }
        return body


def _status(choice: Choice) -> str:
    return "incomplete" if choice.finish == "length" else "completed"
