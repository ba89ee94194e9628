"""Chat messages: a role and typed parts, to and from JSON and the OpenAI form.

`Message.user("2+2=").to_openai()` -> `{"role": "user", "content": "2+2="}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA = 1
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Text:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class Reasoning:
    """Thinking kept apart from the answer."""

    text: str


@dataclass(frozen=True)
class Image:
    """An image by content hash; `ref` says where the bytes are (a path or data URL)."""

    sha256: str
    mime: str
    ref: str = ""


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool; `arguments` is JSON text exactly as the policy wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ToolResult:
    """What a tool answered to the call named `id`."""

    id: str
    parts: tuple[Text | Image, ...]
    is_error: bool = False


Part = Text | Reasoning | Image | ToolCall | ToolResult
_KINDS: dict[str, type] = {
    "text": Text,
    "reasoning": Reasoning,
    "image": Image,
    "tool_call": ToolCall,
    "tool_result": ToolResult,
}
_NAMES = {cls: name for name, cls in _KINDS.items()}


@dataclass(frozen=True)
class Message:
    """One turn: `role` is one of system, user, assistant, tool."""

    role: str
    parts: tuple[Part, ...]

    @staticmethod
    def system(text: str) -> Message:
        """A system message of one text part."""
        return Message("system", (Text(text),))

    @staticmethod
    def user(text: str) -> Message:
        """A user message of one text part."""
        return Message("user", (Text(text),))

    @staticmethod
    def assistant(text: str) -> Message:
        """An assistant message of one text part."""
        return Message("assistant", (Text(text),))

    @property
    def text(self) -> str:
        """The text parts joined; reasoning and tool traffic left out."""
        return "".join(p.text for p in self.parts if isinstance(p, Text))

    @property
    def thought(self) -> str:
        """The reasoning parts joined."""
        return "".join(p.text for p in self.parts if isinstance(p, Reasoning))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls in order."""
        return tuple(p for p in self.parts if isinstance(p, ToolCall))

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; `Message.from_json` reads it back."""
        return {"role": self.role, "parts": [_part_json(p) for p in self.parts]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Message:
        """The inverse of `to_json`. Raises ValueError on an unknown part kind."""
        return Message(str(data["role"]), tuple(_part(p) for p in data["parts"]))

    def to_openai(self) -> dict[str, Any]:
        """The chat-completions form (one dictionary; a tool result keeps its call id)."""
        result = next((p for p in self.parts if isinstance(p, ToolResult)), None)
        if result is not None:
            text = "".join(p.text for p in result.parts if isinstance(p, Text))
            return {"role": "tool", "tool_call_id": result.id, "content": text}
        out: dict[str, Any] = {"role": self.role, "content": self.text}
        if any(isinstance(p, Image) for p in self.parts):
            out["content"] = [_content(p) for p in self.parts if isinstance(p, Text | Image)]
        if self.thought:
            out["reasoning_content"] = self.thought
        if self.tool_calls:
            out["tool_calls"] = [
                {
                    "id": c.id,
                    "type": "function",
                    "function": {"name": c.name, "arguments": c.arguments},
                }
                for c in self.tool_calls
            ]
        return out

    @staticmethod
    def from_openai(data: Mapping[str, Any]) -> Message:
        """A chat-completions message. Raises ValueError naming the field that is wrong."""
        role = data.get("role")
        if role == "developer":
            role = "system"
        if role not in ROLES:
            raise ValueError(f"role is {role!r}, not one of {', '.join(ROLES)}")
        content = _from_content(data.get("content"))
        if role == "tool":
            call_id = data.get("tool_call_id", "")
            inner = tuple(p for p in content if isinstance(p, Text | Image))
            return Message("tool", (ToolResult(str(call_id), inner),))
        parts: list[Part] = []
        if isinstance(data.get("reasoning_content"), str) and data["reasoning_content"]:
            parts.append(Reasoning(data["reasoning_content"]))
        parts.extend(content)
        calls = data.get("tool_calls") or ()
        if not isinstance(calls, Sequence) or isinstance(calls, str):
            raise ValueError(f"tool_calls is {type(calls).__name__}, not a list")
        if calls:  # beside calls, an empty content says that there is none
            parts = [p for p in parts if p != Text("")]
        parts.extend(_from_call(call) for call in calls)
        return Message(str(role), tuple(parts))


def _part_json(part: Part) -> dict[str, Any]:
    out: dict[str, Any] = {"kind": _NAMES[type(part)], **part.__dict__}
    if isinstance(part, ToolResult):
        out["parts"] = [_part_json(p) for p in part.parts]
    return out


def _part(data: Mapping[str, Any]) -> Part:
    fields = dict(data)
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"part kind is {kind!r}, not one of {', '.join(_KINDS)}")
    if kind == "tool_result":
        fields["parts"] = tuple(_part(p) for p in fields["parts"])
    part: Part = _KINDS[kind](**fields)
    return part


def _content(part: Text | Image) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    return {"type": "image_url", "image_url": {"url": part.ref}}


def _from_content(content: object) -> tuple[Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(content),)
    if not isinstance(content, Sequence):
        raise ValueError(f"content is {type(content).__name__}, not text or a list of parts")
    parts: list[Part] = []
    for item in content:
        kind = item.get("type") if isinstance(item, Mapping) else None
        if kind == "text" and isinstance(item.get("text"), str):
            parts.append(Text(item["text"]))
        elif kind == "image_url" and isinstance(item.get("image_url"), Mapping):
            parts.append(Image("", "", str(item["image_url"].get("url", ""))))
        else:
            raise ValueError(f"content part of type {kind!r} is not supported")
    return tuple(parts)


def _from_call(call: object) -> ToolCall:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise ValueError("a tool call has no function")
    arguments = function.get("arguments", "{}")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(str(call.get("id", "")), str(function.get("name", "")), arguments)
