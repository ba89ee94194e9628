"""ChatML as Qwen writes it: `<|im_start|>role`, the text, `<|im_end|>`.

| name | without a system message | before an answer |
|---|---|---|
| chatml | nothing | nothing |
| qwen2.5 | "You are Qwen, created by Alibaba Cloud. ..." | nothing |
| qwen3 | nothing | an empty thought: the no-thinking mode |

The templates published with Qwen 2.5, Qwen 3 and, for chatml, Qwen 3 Instruct 2507. As there, qwen3
has thoughts only behind the last question, and an answer that others follow has no empty one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from puna.core.messages import Message
from puna.text.turns import Fixed, Format, Piece, Tools, Turn, said

QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
LIST = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
HOW = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments"
    ' within <tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>,'
    ' "arguments": <args-json-object>}\n</tool_call>'
)
_ANSWER = "<|im_start|>assistant\n"
NO_THOUGHT = "<think>\n\n</think>\n\n"


def _write(form: Format, messages: Sequence[Message], tools: Tools, first: bool) -> Iterator[Turn]:
    if first:
        system, messages = _system(form, messages)
        if tools:
            gap = "\n\n" if system is not None else ""
            specs = "".join("\n" + json.dumps(t, ensure_ascii=False) for t in tools)
            yield _turn("system", *(system or ()), gap, Fixed(LIST), specs, Fixed(HOW))
        elif system is not None:
            yield _turn("system", *system)
    # A continuation without a question goes on behind one.
    none = len(messages) - 1 if first else -1
    asked = max((i for i, m in enumerate(messages) if m.role == "user"), default=none)
    at = 0
    while at < len(messages):
        message = messages[at]
        if message.role == "tool":
            end = at
            while end < len(messages) and messages[end].role == "tool":
                end += 1
            yield _results(messages[at:end])
            at = end
            continue
        if message.role == "assistant":
            last = at == len(messages) - 1
            yield _answer(form, message, at > asked, last)
        else:
            yield _turn(message.role, *said(message.parts))
        at += 1


def _system(
    form: Format, messages: Sequence[Message]
) -> tuple[Sequence[Piece] | None, Sequence[Message]]:
    """What the system turn says, None for no such turn, and the messages behind it."""
    if messages and messages[0].role == "system":
        return said(messages[0].parts), messages[1:]
    return ((form.system,) if form.system else None), messages


def _turn(role: str, *pieces: Piece) -> Turn:
    return Turn(role, pieces, head=(Fixed(f"<|im_start|>{role}\n"),))


def _answer(form: Format, message: Message, behind: bool, last: bool) -> Turn:
    """An assistant's turn, `behind` the last question or before it."""
    head, pieces = _ANSWER, list[Piece](said(message.parts))
    thought = message.thought.strip("\n")
    opened = behind and (last or bool(thought)) if form.thinks else bool(thought)
    if opened and pieces and isinstance(pieces[0], str):
        pieces[0] = pieces[0].lstrip("\n")
    if opened and thought:
        pieces = [Fixed("<think>\n"), thought, Fixed("\n</think>\n\n"), *pieces]
    elif opened:
        head += NO_THOUGHT
    spoken = bool(said(message.parts))
    for call in message.tool_calls:
        gap = "\n" if spoken else ""
        pieces += [Fixed(f"{gap}<tool_call>\n"), f'{{"name": "{call.name}", "arguments": ']
        pieces += [call.arguments, Fixed("}\n</tool_call>")]
        spoken = True
    return Turn("assistant", tuple(pieces), head=(Fixed(head),))


def _results(messages: Sequence[Message]) -> Turn:
    """The answers of tools that follow each other are one turn of the user."""
    pieces: list[Piece] = []
    for message in messages:
        for part in message.parts:
            opening = Fixed("\n<tool_response>\n")
            pieces += [opening, *said([part]), Fixed("\n</tool_response>")]
    return Turn("user", tuple(pieces), head=(Fixed("<|im_start|>user"),))


def _format(
    name: str, thinks: bool = False, system: str = "", sign: str = "<|im_start|>"
) -> Format:
    return Format(
        name,
        _write,
        sign=sign,
        answer=(Fixed(_ANSWER + (NO_THOUGHT if thinks else "")),),
        gap="\n",
        begins=False,
        marks=("<tool_call>", "</tool_call>"),
        system=system,
        thinks=thinks,
    )


CHATML = _format("chatml")
QWEN2_5 = _format("qwen2.5", system=QWEN)
QWEN3 = _format("qwen3", thinks=True, sign="enable_thinking")
