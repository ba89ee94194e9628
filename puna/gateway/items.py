"""The input of the Responses protocol: items become messages.

`messages_of("2+2=", "Be brief.")` -> a system and a user message. Thoughts, text and calls of an
assistant that follow each other are one message, as they were when it said them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puna.core.messages import Image, Message, Part, Reasoning, Text, ToolCall, ToolResult
from puna.gateway.reading import BadRequest

_TEXTS = ("input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text")


def messages_of(given: object, instructions: str) -> tuple[Message, ...]:
    """Messages of an `input`, text or a list of items. Raises BadRequest with the place."""
    out = [Message.system(instructions)] if instructions else []
    if isinstance(given, str):
        return (*out, Message.user(given))
    if not isinstance(given, list) or not given:
        raise BadRequest("input is neither text nor a list of at least one item", "input")
    said: list[Part] = []  # by the assistant, since the last message of anybody else
    for i, item in enumerate(given):
        where = f"input[{i}]"
        if not isinstance(item, Mapping):
            raise BadRequest(f"{where} is not an object", where)
        other = _item(item, where, said)
        if other is not None:
            if said:
                out.append(Message("assistant", tuple(said)))
                said = []
            out.append(other)
    return (*out, *([Message("assistant", tuple(said))] if said else ()))


def _item(item: Mapping[str, Any], where: str, said: list[Part]) -> Message | None:
    """The message of an item; what an assistant said goes to `said`."""
    kind = item.get("type", "message")
    if kind == "message":
        role, parts = item.get("role"), _parts(item.get("content"), f"{where}.content")
        if role == "assistant":
            said.extend(parts)
            return None
        if role not in ("user", "system", "developer"):
            what = f"{where}: role is {str(role)[:60]!r}, not user, assistant, system or developer"
            raise BadRequest(what, where)
        return Message("user" if role == "user" else "system", parts)
    if kind == "reasoning":
        found = item.get("content") or item.get("summary") or []
        said.extend(Reasoning(p.text) for p in _parts(found, where) if isinstance(p, Text))
        return None
    if kind == "function_call":
        name, arguments = item.get("name"), item.get("arguments")
        if not isinstance(name, str) or not isinstance(arguments, str):
            raise BadRequest(f"{where} has no name or no arguments as text", where)
        said.append(ToolCall(str(item.get("call_id") or item.get("id") or ""), name, arguments))
        return None
    if kind == "function_call_output":
        parts = _parts(item.get("output"), f"{where}.output")
        return Message("tool", (ToolResult(str(item.get("call_id", "")), parts),))
    raise BadRequest(f"{where}: items of type {str(kind)[:60]!r} are not supported", where)


def _parts(content: object, where: str) -> tuple[Text | Image, ...]:
    if isinstance(content, str):
        return (Text(content),)
    if not isinstance(content, list):
        raise BadRequest(f"{where} is neither text nor a list of parts", where)
    out: list[Text | Image] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("refusal" if kind == "refusal" else "text") if kind in _TEXTS else None
        if isinstance(text, str):
            out.append(Text(text))
        elif kind == "input_image" and isinstance(part.get("image_url"), str):
            out.append(Image("", "", part["image_url"]))
        else:
            raise BadRequest(f"{where}: a part of type {str(kind)[:60]!r} is not supported", where)
    return tuple(out)
