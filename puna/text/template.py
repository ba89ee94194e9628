"""Chat messages to token ids and back, in Llama 4's turn format; append-only by construction.

`render(tokenizer, [Message.user("2+2=")], open_turn=True).ids` is a prompt to sample from;
`parse_assistant(tokenizer, sampled_ids)` is the Message it became.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from puna.core.messages import Image, Message, Part, Reasoning, Text, ToolCall, ToolResult
from puna.text.images import image_ids

if TYPE_CHECKING:
    from puna.text.tokenizer import Tokenizer

_TOOLS = 'Tools, as JSON; call one with {"name": ..., "parameters": {...}}:'
_NAME_FIRST = re.compile(
    r'\s*\{\s*"name"\s*:\s*"(?:[^"\\]|\\.)*"\s*,\s*"(?:parameters|arguments)"\s*:\s*'
)
_NAMES = ("begin_of_text", "header_start", "header_end", "eot", "image")
_MARKS = ("python_start", "python_end", "think_start", "think_end")
_STOPS = ("eot", "eom", "end_of_text")


@dataclass(frozen=True)
class Rendered:
    """Token ids, and for each whether the assistant wrote it (so that SFT learns it)."""

    ids: list[int]
    mask: list[bool]

    def __add__(self, other: Rendered) -> Rendered:
        """One after the other."""
        return Rendered(self.ids + other.ids, self.mask + other.mask)


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    open_turn: bool = False,
    first: bool = True,
) -> Rendered:
    """Ids of a conversation, `render(a + b) == render(a) + render(b, first=False)`.

    `tools` (OpenAI function dictionaries) stand as JSON at the end of the first system turn, or
    in one of their own. `open_turn` ends with an assistant header to sample after. `first=False`
    renders a continuation: no begin_of_text, and no tools. The mask is True on the assistant's
    content and its closing eot. Raises UserError where the vocabulary lacks a token it needs.
    """
    assert first or not tools, "tools belong to the beginning of a conversation"
    out = Rendered([], [])
    if first:
        _extend(out, [tokenizer.special("begin_of_text")], False)
    for message in _with_tools(messages, tools):
        for role, parts in _turns(message):
            _extend(out, _header(tokenizer, role), False)
            body = _content(tokenizer, parts)
            _extend(out, [*body, tokenizer.special("eot")], role == "assistant")
    if open_turn:
        _extend(out, _header(tokenizer, "assistant"), False)
    return out


def parse_assistant(tokenizer: Tokenizer, ids: Sequence[int], *, first_call: int = 0) -> Message:
    """The Message that sampled `ids` spell, whatever they are: truncated, garbage or empty.

    Reads up to the first token that ends a turn. Calls are named call_0, call_1, ... from
    `first_call`. A call that is not a JSON object with a name and an object of parameters stays
    text, with the marks around it; any other special token stays in the text, spelt out, so that
    no verifier takes "4<|pad|>2" for "42". Never raises on ids of a vocabulary with turn tokens.
    """
    stops, marks = _signs(tokenizer)
    parts: list[Part] = []
    kind, run = "text", list[int]()
    for i in ids:
        if i in stops:
            break
        if i not in marks or (kind == "text" and marks[i] == "text"):
            run.append(i)
            continue
        _flush(tokenizer, kind, run, parts)
        kind, run = marks[i], []
    _flush(tokenizer, kind, run, parts)
    return Message("assistant", _numbered(_merged(parts), first_call))


def stop_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids of the tokens that end a turn: eot, eom and end_of_text, those that it has."""
    return [tokenizer.special(n) for n in _STOPS if tokenizer.token(n) is not None]


def chat_template(tokenizer: Tokenizer) -> str:
    """The same format as a Jinja chat template for Hugging Face's `apply_chat_template`.

    Renders text that is tokenised as a whole, so ids equal `render`'s only where no content
    begins with a line break or spells a special token.
    """
    pairs = [f"{name} = {json.dumps(tokenizer.token(name) or '')}" for name in _NAMES + _MARKS]
    pairs.append(f"tools_head = {json.dumps(_TOOLS)}")
    return "".join(f"{{%- set {pair} %}}" for pair in pairs) + _JINJA


def _with_tools(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> Iterable[Message]:
    if not tools:
        return messages
    lines = [json.dumps(spec.get("function", spec), ensure_ascii=False) for spec in tools]
    text = "\n".join([_TOOLS, *lines])
    if not messages or messages[0].role != "system":
        return [Message.system(text), *messages]
    head = messages[0]
    gap = "\n\n" if _merged(head.parts) else ""
    return [replace(head, parts=(*head.parts, Text(gap + text))), *messages[1:]]


def _turns(message: Message) -> Iterable[tuple[str, tuple[Part, ...]]]:
    if message.role != "tool":
        return [(message.role, message.parts)]
    return [("ipython", p.parts if isinstance(p, ToolResult) else (p,)) for p in message.parts]


def _header(tokenizer: Tokenizer, role: str) -> list[int]:
    # The line breaks are encoded apart from the content, which may begin with one itself.
    start, end = tokenizer.special("header_start"), tokenizer.special("header_end")
    return [start, *tokenizer.encode_fixed(role), end, *tokenizer.encode_fixed("\n\n")]


def _content(tokenizer: Tokenizer, parts: Sequence[Part]) -> list[int]:
    ids: list[int] = []
    for part in _merged(parts):
        match part:
            case Text(text):
                ids += tokenizer.encode(text)
            case Reasoning(text):
                ids += _wrapped(tokenizer, "think", text)
            case ToolCall(_, name, arguments):
                named = f'"name": {json.dumps(name, ensure_ascii=False)}'
                call = f'{{{named}, "parameters": {arguments}}}'
                ids += _wrapped(tokenizer, "python", call)
            case ToolResult():
                ids += _content(tokenizer, part.parts)
            case Image():
                ids += image_ids(tokenizer, part)
    return ids


def _wrapped(tokenizer: Tokenizer, mark: str, text: str) -> list[int]:
    start, end = tokenizer.special(f"{mark}_start"), tokenizer.special(f"{mark}_end")
    return [start, *tokenizer.encode(text), end]


def _merged(parts: Sequence[Part]) -> list[Part]:
    """Neighbouring texts as one and none empty: how a text was cut must not change its ids."""
    out: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and out and isinstance(out[-1], Text):
            out[-1] = Text(out[-1].text + part.text)
        elif not isinstance(part, Text) or part.text:
            out.append(part)
    return out


def _extend(out: Rendered, ids: Sequence[int], learn: bool) -> None:
    out.ids.extend(ids)
    out.mask.extend([learn] * len(ids))


@lru_cache(maxsize=64)
def _signs(tokenizer: Tokenizer) -> tuple[frozenset[int], dict[int, str]]:
    """The ids that end a turn, and those that begin or end reasoning or a call."""
    return frozenset(stop_ids(tokenizer)), _marks(tokenizer)


def _marks(tokenizer: Tokenizer) -> dict[int, str]:
    kinds = {"think_start": "think", "python_start": "python"}
    kinds |= {"think_end": "text", "python_end": "text"}
    return {tokenizer.special(n): k for n, k in kinds.items() if tokenizer.token(n) is not None}


def _flush(tokenizer: Tokenizer, kind: str, run: Sequence[int], parts: list[Part]) -> None:
    text = tokenizer.decode(run, skip_special=False)
    if kind == "think":
        parts.append(Reasoning(text))
    elif kind == "python":
        parts.append(_call(text) or Text(f"<|python_start|>{text}<|python_end|>"))
    elif text:
        parts.append(Text(text))


def _call(text: str) -> ToolCall | None:
    try:
        data = json.loads(text)
        if not isinstance(data, dict) or not isinstance(data.get("name"), str):
            return None
        key = "parameters" if "parameters" in data else "arguments"
        if not isinstance(data.get(key), dict):
            return None
        arguments = json.dumps(data[key], ensure_ascii=False)
        # The usual spelling keeps the arguments to the letter; other orders are written anew.
        if head := _NAME_FIRST.match(text):
            _, end = json.JSONDecoder().raw_decode(text, head.end())
            if text[end:].strip() == "}":
                arguments = text[head.end() : end]
    except (ValueError, RecursionError):
        return None
    return ToolCall("", data["name"], arguments)


def _numbered(parts: Sequence[Part], first_call: int) -> tuple[Part, ...]:
    out: list[Part] = []
    for part in parts:
        if isinstance(part, ToolCall):
            part = replace(part, id=f"call_{first_call}")
            first_call += 1
        out.append(part)
    return tuple(out)


_JINJA = r"""
{%- macro body(content) -%}
  {%- if content is string %}{{ content }}
  {%- elif content %}
    {%- for part in content %}{{ part.text if part.type == 'text' else image }}{% endfor %}
  {%- endif -%}
{%- endmacro -%}
{%- macro toolbox() -%}
  {{- tools_head }}
  {%- for tool in tools %}{{ '\n' + ((tool.function if tool.function else tool) | tojson) }}
  {%- endfor -%}
{%- endmacro -%}
{{- begin_of_text }}
{%- if tools and messages[0].role != 'system' %}
  {{- header_start + 'system' + header_end + '\n\n' + toolbox() + eot }}
{%- endif %}
{%- for m in messages %}
  {{- header_start + ('ipython' if m.role == 'tool' else m.role) + header_end + '\n\n' }}
  {%- if m.reasoning_content %}{{ think_start + m.reasoning_content + think_end }}{% endif %}
  {{- body(m.content) }}
  {%- if tools and loop.first and m.role == 'system' %}
    {{- ('\n\n' if m.content else '') + toolbox() }}
  {%- endif %}
  {%- for call in m.tool_calls or [] %}
    {%- set f = call.function %}
    {%- set arguments = f.arguments if f.arguments is string else f.arguments | tojson %}
    {{- python_start + '{"name": ' + (f.name | tojson) + ', "parameters": ' + arguments + '}' }}
    {{- python_end }}
  {%- endfor %}
  {{- eot }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- header_start + 'assistant' + header_end + '\n\n' }}
{%- endif %}
"""
