"""The input of the Messages protocol: blocks become messages.

`messages_of({"messages": [{"role": "user", "content": "2+2="}]})`. A turn of the user that holds
results of tools is one message of each, and then what the user says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from puna.core.messages import Image, Message, Part, Reasoning, Text, ToolCall, ToolResult
from puna.gateway import reading
from puna.gateway.reading import BadRequest


def messages_of(data: Mapping[str, Any]) -> tuple[Message, ...]:
    """Messages of a body's `system` and `messages`. Raises BadRequest with the place."""
    given = reading.rows(data, "messages")
    if not given:
        raise BadRequest("messages is not a list of at least one message", "messages")
    out: list[Message] = []
    system = data.get("system")
    if system:
        out.append(Message("system", tuple(_texts(system, "system"))))
    for i, item in enumerate(given):
        where = f"messages[{i}]"
        role, content = item.get("role"), item.get("content")
        if role not in ("user", "assistant"):
            raise BadRequest(f"{where}: role is neither user nor assistant", where)
        parts = _parts(content, f"{where}.content")
        results = [p for p in parts if isinstance(p, ToolResult)]
        others = tuple(p for p in parts if not isinstance(p, ToolResult))
        wrong = Reasoning | ToolCall if role == "user" else ToolResult | Image
        if any(isinstance(p, wrong) for p in parts):
            raise BadRequest(f"{where}: a block that {role} messages cannot have", where)
        out += [Message("tool", (r,)) for r in results]
        if others or not results:
            out.append(Message(role, others))
    return tuple(out)


def _parts(content: object, where: str) -> list[Part]:
    if isinstance(content, str):
        return [Text(content)]
    if not isinstance(content, list):
        raise BadRequest(f"{where} is neither text nor a list of blocks", where)
    out: list[Part] = []
    for i, block in enumerate(content):
        place = f"{where}[{i}]"
        if not isinstance(block, Mapping):
            raise BadRequest(f"{place} is not an object", place)
        if block.get("type") != "redacted_thinking":
            out.append(_block(block, place))
    return out


def _block(block: Mapping[str, Any], where: str) -> Part:
    kind = block.get("type")
    if kind == "text":
        return Text(reading.words(block, "text"))
    if kind == "thinking":
        return Reasoning(reading.words(block, "thinking"))
    if kind == "image":
        return _image(reading.table(block, "source"), where)
    if kind == "tool_use":
        name, given = reading.words(block, "name"), reading.table(block, "input")
        arguments = json.dumps(given, ensure_ascii=False)
        return ToolCall(reading.words(block, "id"), name, arguments)
    if kind == "tool_result":
        inner = _texts(block.get("content") or [], f"{where}.content")
        failed = reading.flag(block, "is_error")
        return ToolResult(reading.words(block, "tool_use_id"), tuple(inner), failed)
    raise BadRequest(f"{where}: blocks of type {str(kind)[:60]!r} are not supported", where)


def _texts(content: object, where: str) -> list[Text | Image]:
    parts = _parts(content, where)
    kept = [p for p in parts if isinstance(p, Text | Image)]
    if len(kept) < len(parts):
        raise BadRequest(f"{where} holds a block that is neither text nor image", where)
    return kept


def _image(source: Mapping[str, Any], where: str) -> Image:
    if source.get("type") != "base64":
        what = f"{where}: nothing is fetched for a message; send the image as base64"
        raise BadRequest(what, where)
    mime, data = reading.words(source, "media_type"), reading.words(source, "data")
    return Image("", mime, f"data:{mime};base64,{data}")
