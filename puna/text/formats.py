"""The chat formats: how messages become turns of text and special tokens.

`detect(tokens)` is the `Format` of a vocabulary; `LLAMA4.turns(messages, tools, True)` its turns.

| name | text | after the header's line breaks | calls |
|---|---|---|---|
| puna | as given | a new piece | JSON between python marks |
| llama3.1 | trimmed | one text with them | bare JSON |
| llama4 | system turn and first user turn with tools trimmed | one text with them | bare JSON |
| llama4-meta | as given | a new piece | bare JSON, turn ends with eom |

Those of Qwen and of Mistral are in `chatml` and `mistral`.

llama3.1 and llama4 are the templates published with the Hugging Face checkpoints, llama4-meta is
how Meta's own code encodes (llama-models 0.3.0); it leaves the listing of tools to its caller, so
that is llama4's. A published template drops what is said beside a call (3.1), and so do these;
reasoning, which none has a place for, stands between think marks before the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from puna.core.errors import UserError
from puna.core.messages import Image, Message, Part, Reasoning, Text, ToolCall, ToolResult
from puna.text import chatml, mistral
from puna.text.turns import Format, Piece, Special, Tools, Turn, merged, said, trimmed

# What a ChatML template says where a conversation has no system message.
_DEFAULT = re.compile(r"<\|im_start\|>system\\n([^'<]+)<\|im_end\|>")
REFUSED = "take one of Llama 3 or 4, Qwen 2.5 or 3, Mistral 7B v0.3 or Nemo, or train one here"
TOOLS = 'Tools, as JSON; call one with {"name": ..., "parameters": {...}}:'
FUNCTIONS = (
    "Given the following functions, please respond with a JSON for a function call"
    " with its proper arguments that best answers the given prompt.\n\n"
    'Respond in the format {"name": function name, "parameters": dictionary of argument name'
    " and its value}.Do not use variables.\n\n"
)


def detect(tokens: Collection[str]) -> Format:
    """The format of a vocabulary, by its special tokens; NONE where it is of no known family."""
    known = set(tokens)
    if {"<|start_header_id|>", "<|eom_id|>", "<|python_tag|>"} <= known:
        return LLAMA3_1
    if {"<|header_start|>", "<|eom|>", "<|python_start|>", "<|fim_prefix|>"} <= known:
        return LLAMA4
    if {"<|begin_of_text|>"} <= known and known & {"<|header_start|>", "<|start_header_id|>"}:
        return PUNA
    if {"<|im_start|>", "<|im_end|>"} <= known:
        form = chatml.QWEN3 if "<think>" in known else chatml.CHATML
        form = chatml.QWEN2_5 if "<tool_call>" in known and form is chatml.CHATML else form
        # Where the mark of a call is no token of its own, text is all that a call has.
        return replace(form, bare_calls="<tool_call>" not in known)
    version = {"[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "</s>"}
    if version <= known and "[SYSTEM_PROMPT]" not in known:
        return mistral.MISTRAL if "\u2581" in known else mistral.NEMO
    return NONE


def adapted(form: Format, template: str) -> Format:
    """The format among those of `form`'s vocabulary that a Jinja `template` of its model writes."""
    if form.answer is None or (form.sign not in template and not _chatml(form)):
        return form
    if _chatml(form):
        found = chatml.QWEN3 if chatml.QWEN3.sign in template else chatml.CHATML
        default = _DEFAULT.search(template)
        if default and not found.thinks:
            said_first = default[1].replace("\\n", "\n").replace("\\\\", "\\")
            name = "qwen2.5" if said_first == chatml.QWEN else "chatml"
            found = replace(found, name=name, system=said_first)
        return replace(found, bare_calls=form.bare_calls)
    return mistral.MISTRAL if "[INST] " in template else mistral.NEMO


def fits(form: Format, template: str) -> bool:
    """Whether a Jinja template may be that of `form`."""
    if _chatml(form):  # an opened thought in every prompt is a mode that Puna has not
        opened = "assistant\\n<think>\\n'" in template and "enable_thinking" not in template
        return "<|im_start|>" in template and not opened
    return form.sign in template and "[SYSTEM_PROMPT]" not in template


def _chatml(form: Format) -> bool:
    return form.gap != ""


def _refuse(*_: object) -> Iterator[Turn]:
    raise UserError("this tokenizer has no turn tokens of a known chat format", REFUSED)


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
        yield Turn("system", (_environment(tools) + dates, *trimmed(system)))
        user, messages = _asked(messages, tools)
        yield from user
    for message in messages:
        if calls := message.tool_calls:
            spoken = "; ".join(f'{{"name": {_called(c)}' for c in calls)
            yield Turn(message.role, (*_thoughts(message), spoken))
        elif message.role == "tool":
            yield from (Turn("ipython", _result(p)) for p in message.parts)
        else:
            yield Turn(message.role, (*_thoughts(message), *trimmed(_said(message))))


def _llama4(form: Format, messages: Sequence[Message], tools: Tools, first: bool) -> Iterator[Turn]:
    if first:
        system, messages = _system(messages)
        if system is not None:
            yield Turn("system", (_environment(tools), *trimmed(system)))
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
    return [Turn("user", (FUNCTIONS + listed, *trimmed(_said(messages[0]))))], messages[1:]


def _thoughts(message: Message) -> list[Piece]:
    texts = [p.text for p in message.parts if isinstance(p, Reasoning)]
    return [piece for text in texts for piece in _between("think", text)]


def _said(message: Message) -> list[Piece]:
    """Texts and images of a message, in order."""
    return list(said(message.parts))


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
NONE = Format("none", _refuse)
_KNOWN = (PUNA, LLAMA3_1, LLAMA4, LLAMA4_META, chatml.CHATML, chatml.QWEN2_5, chatml.QWEN3)
FORMATS = {f.name: f for f in (*_KNOWN, mistral.MISTRAL, mistral.NEMO)}
