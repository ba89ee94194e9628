"""The chat formats: how messages become turns of text and special tokens.

`detect(tokens)` is the `Format` of a vocabulary; `LLAMA4.turns(messages, tools, True)` its turns.

| name | text | after the header's line breaks | calls |
|---|---|---|---|
| puna | as given | a new piece | JSON between python marks |
| llama3.1 | trimmed | one text with them | bare JSON |
| llama4 | system turn and first user turn with tools trimmed | one text with them | bare JSON |
| llama4-meta | as given | a new piece | bare JSON, turn ends with eom |

llama3.1 and llama4 are the templates published with the Hugging Face checkpoints, llama4-meta is
how Meta's own code encodes (llama-models 0.3.0); it leaves the listing of tools to its caller, so
that is llama4's. A published template drops what is said beside a call (3.1), and so do these;
reasoning, which none has a place for, stands between think marks before the text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from puna.core.messages import Image, Message, Part, Reasoning, Text, ToolCall, ToolResult

TODAY = "26 Jul 2024"  # what Llama 3.1's template says where nobody passes a date
TOOLS = 'Tools, as JSON; call one with {"name": ..., "parameters": {...}}:'
FUNCTIONS = (
    "Given the following functions, please respond with a JSON for a function call"
    " with its proper arguments that best answers the given prompt.\n\n"
    'Respond in the format {"name": function name, "parameters": dictionary of argument name'
    " and its value}.Do not use variables.\n\n"
)


@dataclass(frozen=True)
class Special:
    """A special token among text, by the name that `Tokenizer.special` knows."""

    name: str


Piece = str | Special | Image
Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Turn:
    """One turn between its header and the token that ends it."""

    role: str
    pieces: tuple[Piece, ...]
    end: str = "eot"


@dataclass(frozen=True)
class Format:
    """How messages become turns.

    `joined`: the line breaks of a header are tokenised together with the text behind them.
    `bare_calls`: a call of a known tool counts without marks around it. `date` is what Llama 3.1's
    system turn calls today: `replace(tokenizer.format, date="01 Jan 2026")` for another. `sign`
    stands in every Jinja template of the format.
    """

    name: str
    write: Callable[[Format, Sequence[Message], Tools, bool], Iterator[Turn]]
    joined: bool = False
    bare_calls: bool = False
    date: str = TODAY
    sign: str = ""

    def turns(self, messages: Sequence[Message], tools: Tools, first: bool) -> Iterator[Turn]:
        """The turns of `messages`; where `first` they begin a conversation, with `tools`."""
        return self.write(self, messages, tools, first)


def detect(tokens: Collection[str]) -> Format:
    """The format of a vocabulary, by its special tokens: of Llama 3.1, of Llama 4, or Puna's."""
    if {"<|start_header_id|>", "<|eom_id|>", "<|python_tag|>"} <= set(tokens):
        return LLAMA3_1
    if {"<|header_start|>", "<|eom|>", "<|python_start|>", "<|fim_prefix|>"} <= set(tokens):
        return LLAMA4
    return PUNA


def merged(parts: Sequence[Part]) -> list[Part]:
    """Neighbouring texts as one and none empty: how a text was cut must not change its ids."""
    out: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and out and isinstance(out[-1], Text):
            out[-1] = Text(out[-1].text + part.text)
        elif not isinstance(part, Text) or part.text:
            out.append(part)
    return out


def _puna(_: Format, messages: Sequence[Message], tools: Tools, __: bool) -> Iterator[Turn]:
    for message in _with_tools(messages, tools):
        if message.role != "tool":
            yield Turn(message.role, tuple(_in_order(message.parts)))
            continue
        for part in message.parts:
            parts = part.parts if isinstance(part, ToolResult) else (part,)
            yield Turn("ipython", tuple(_in_order(parts)))


def _with_tools(messages: Sequence[Message], tools: Tools) -> Sequence[Message]:
    if not tools:
        return messages
    lines = [json.dumps(spec.get("function", spec), ensure_ascii=False) for spec in tools]
    text = "\n".join([TOOLS, *lines])
    if not messages or messages[0].role != "system":
        return [Message.system(text), *messages]
    head = messages[0]
    gap = "\n\n" if merged(head.parts) else ""
    return [replace(head, parts=(*head.parts, Text(gap + text))), *messages[1:]]


def _in_order(parts: Sequence[Part]) -> Iterator[Piece]:
    for part in merged(parts):
        match part:
            case Text(text):
                yield text
            case Reasoning(text):
                yield from _between("think", text)
            case ToolCall():
                yield from _between("python", f'{{"name": {_called(part)}')
            case ToolResult():
                yield from _in_order(part.parts)
            case Image():
                yield part


def _between(mark: str, *pieces: Piece) -> list[Piece]:
    return [Special(f"{mark}_start"), *pieces, Special(f"{mark}_end")]


def _called(call: ToolCall) -> str:
    return f'{json.dumps(call.name, ensure_ascii=False)}, "parameters": {call.arguments}}}'


def _llama3_1(
    form: Format, messages: Sequence[Message], tools: Tools, first: bool
) -> Iterator[Turn]:
    if first:
        system, messages = _system(messages)
        dates = f"Cutting Knowledge Date: December 2023\nToday Date: {form.date}\n\n"
        yield Turn("system", (_environment(tools) + dates, *_trimmed(system)))
        user, messages = _asked(messages, tools)
        yield from user
    for message in messages:
        if calls := message.tool_calls:
            spoken = "; ".join(f'{{"name": {_called(c)}' for c in calls)
            yield Turn(message.role, (*_thoughts(message), spoken))
        elif message.role == "tool":
            yield from (Turn("ipython", _result(p)) for p in message.parts)
        else:
            yield Turn(message.role, (*_thoughts(message), *_trimmed(_said(message))))


def _llama4(form: Format, messages: Sequence[Message], tools: Tools, first: bool) -> Iterator[Turn]:
    if first:
        system, messages = _system(messages)
        if system is not None:
            yield Turn("system", (_environment(tools), *_trimmed(system)))
        user, messages = _asked(messages, tools)
        yield from user
    for message in messages:
        if calls := message.tool_calls:
            said = _between("python", *_said(message))
            spoken = "".join(f'{{"name": {_called(c)}' for c in calls)
            yield Turn(message.role, (*_thoughts(message), *said, spoken))
        elif message.role == "tool":
            yield from (Turn("ipython", _result(p)) for p in message.parts)
        else:
            yield Turn(message.role, (*_thoughts(message), *_said(message)))


def _llama4_meta(
    _: Format, messages: Sequence[Message], tools: Tools, first: bool
) -> Iterator[Turn]:
    if first and tools:
        head = messages[:1] if messages and messages[0].role == "system" else ()
        yield from (Turn("system", tuple(_said(m))) for m in head)
        user, messages = _asked(messages[len(head) :], tools)
        yield from user
    for message in messages:
        if message.role == "tool":
            for part in message.parts:
                parts = part.parts if isinstance(part, ToolResult) else (part,)
                yield Turn("ipython", tuple(_in_order(parts)), "eom")
            continue
        calls = [f'{{"type": "function", "name": {_called(c)}' for c in message.tool_calls]
        pieces = (*_thoughts(message), *_said(message), *calls)
        yield Turn(message.role, pieces, "eom" if calls else "eot")


def _environment(tools: Tools) -> str:
    return "Environment: ipython\n" if tools else ""


def _system(messages: Sequence[Message]) -> tuple[list[Piece] | None, Sequence[Message]]:
    """What the leading system message says (None where there is none), and the rest."""
    if messages and messages[0].role == "system":
        return _said(messages[0]), messages[1:]
    return None, messages


def _asked(messages: Sequence[Message], tools: Tools) -> tuple[list[Turn], Sequence[Message]]:
    """The first user turn with the tools, and the messages after it.

    The published templates refuse tools without a user message and take any other for it; here
    the tools then have a user turn of their own.
    """
    if not tools:
        return [], messages
    listed = "".join(json.dumps(t, ensure_ascii=False, indent=4) + "\n\n" for t in tools)
    if not messages or messages[0].role != "user":
        return [Turn("user", (FUNCTIONS + listed,))], messages
    return [Turn("user", (FUNCTIONS + listed, *_trimmed(_said(messages[0]))))], messages[1:]


def _thoughts(message: Message) -> list[Piece]:
    texts = [p.text for p in message.parts if isinstance(p, Reasoning)]
    return [piece for text in texts for piece in _between("think", text)]


def _said(message: Message) -> list[Piece]:
    """Texts and images of a message, in order."""
    return list(_in_order([p for p in message.parts if isinstance(p, Text | Image)]))


def _trimmed(pieces: Sequence[Piece] | None) -> list[Piece]:
    """Without white space at the beginning and the end."""
    out = list(pieces or ())
    if out and isinstance(out[0], str):
        out[0] = out[0].lstrip()
    if out and isinstance(out[-1], str):
        out[-1] = out[-1].rstrip()
    return out


def _result(part: Part) -> tuple[Piece, ...]:
    """A tool's answer: its text as a JSON string; images, which no template has, behind it."""
    parts = part.parts if isinstance(part, ToolResult) else (part,)
    text = "".join(p.text for p in parts if isinstance(p, Text))
    images = [p for p in parts if isinstance(p, Image)]
    return (json.dumps(text, ensure_ascii=False), *images)


PUNA = Format("puna", _puna)
LLAMA3_1 = Format("llama3.1", _llama3_1, joined=True, bare_calls=True, sign="Today Date: ")
LLAMA4 = Format("llama4", _llama4, joined=True, bare_calls=True, sign="<|header_start|>")
LLAMA4_META = Format("llama4-meta", _llama4_meta, bare_calls=True)
FORMATS = {f.name: f for f in (PUNA, LLAMA3_1, LLAMA4, LLAMA4_META)}
