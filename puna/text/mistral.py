"""Mistral's chat format with tools (its "v3"): `<s>[INST] text[/INST] answer</s>`.

| name | behind a token | answers |
|---|---|---|
| mistral | a space (SentencePiece: 7B v0.3, Mixtral 8x22B) | trimmed |
| mistral-nemo | nothing (Tekken: Nemo, Ministral 8B) | as given |

The templates published with Mistral 7B Instruct v0.3 and Mistral Nemo Instruct 2407. Tools and the
system message stand with the last question. Those templates drop the system message where anything
follows that question; Mistral's own code keeps it, and so does this. A call's id has nine letters
and digits. What is said beside a call is dropped, as there, and reasoning, which has no place.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence

from puna.core.messages import Message, Part, ToolCall, ToolResult
from puna.text.calls import CALL_ID
from puna.text.turns import Fixed, Format, Piece, Tools, Turn, said, trimmed

_NUMBERED = re.compile(r"call_([0-9]{1,5})")


def nine(call_id: str) -> str:
    """`call_id` in nine letters and digits: itself, "call_12" as "call00012", others hashed."""
    if CALL_ID.fullmatch(call_id):
        return call_id
    if numbered := _NUMBERED.fullmatch(call_id):
        return f"call{int(numbered[1]):05}"
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:9]


def _write(form: Format, messages: Sequence[Message], tools: Tools, first: bool) -> Iterator[Turn]:
    system: list[Piece] = []
    if first and messages and messages[0].role == "system":
        system, messages = [*said(messages[0].parts), "\n\n"], messages[1:]
    listed = _listed(form, tools)
    asked = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)
    if asked < 0 and (system or listed):  # the templates drop them
        yield _question(form, listed, system[:-1])
    for at, message in enumerate(messages):
        if message.role == "tool":
            yield from (_result(form, part) for part in message.parts)
        elif message.role == "assistant":
            yield Turn("assistant", tuple(_answer(form, message)), head=())
        else:
            told = (listed, system) if at == asked else ([], [])
            yield _question(form, told[0], [*told[1], *said(message.parts)])


def _question(form: Format, listed: Sequence[Piece], pieces: Sequence[Piece]) -> Turn:
    head = (*listed, Fixed(f"[INST]{form.space}"))
    return Turn("user", (*pieces, Fixed("[/INST]")), "", head)


def _listed(form: Format, tools: Tools) -> list[Piece]:
    """The tools, whose texts the templates copy between quotes as they are."""
    if not tools:
        return []
    specs = []
    for tool in tools:
        spec = tool.get("function", tool)
        pairs = (f'"{k}": {_value(v)}' for k, v in spec.items() if k != "return")
        specs.append(f'{{"type": "function", "function": {{{", ".join(pairs)}}}}}')
    opening = Fixed(f"[AVAILABLE_TOOLS]{form.space}[")
    return [opening, ", ".join(specs), Fixed("][/AVAILABLE_TOOLS]")]


def _value(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _answer(form: Format, message: Message) -> list[Piece]:
    if not message.tool_calls:
        pieces = list[Piece](said(message.parts))
        return [form.space, *(trimmed(pieces) if form.space else pieces)]
    calls = ", ".join(_called(c) for c in message.tool_calls)
    return [Fixed(f"[TOOL_CALLS]{form.space}["), f"{calls}]"]


def _called(call: ToolCall) -> str:
    name = json.dumps(call.name, ensure_ascii=False)
    return f'{{"name": {name}, "arguments": {call.arguments}, "id": "{nine(call.id)}"}}'


def _result(form: Format, part: Part) -> Turn:
    call_id = part.id if isinstance(part, ToolResult) else ""
    head = Fixed(f'[TOOL_RESULTS]{form.space}{{"content": ')
    behind = (f', "call_id": "{nine(call_id)}"}}', Fixed("[/TOOL_RESULTS]"))
    return Turn("tool", (*said([part]), *behind), "", (head,))


def _format(name: str, space: str) -> Format:
    marks = ("[TOOL_CALLS]", "")
    return Format(name, _write, sign="[INST]", answer=(), marks=marks, moves=True, space=space)


MISTRAL = _format("mistral", " ")
NEMO = _format("mistral-nemo", "")
