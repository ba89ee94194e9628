"""Chat messages to token ids and back, in the chat format of the tokenizer (see `formats`).

`render(tokenizer, [Message.user("2+2=")], open_turn=True).ids` is a prompt to sample from;
`parse_assistant(tokenizer, sampled_ids)` is the Message it became.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from puna.core.messages import Image, Message, Part, Reasoning, Text, ToolCall
from puna.text.calls import final_calls, parse_calls
from puna.text.images import image_ids
from puna.text.turns import Fixed, Piece, Special, Turn, merged

if TYPE_CHECKING:
    from puna.text.tokenizer import Tokenizer

_STOPS = ("eot", "eom", "end_of_text")
_BREAKS = "\n\n"


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

    With a Llama format `a` has to hold what the beginning is made of: the system message, and with
    tools the first user message; with Mistral's the last question (`Format.goes_on`); with Qwen 3's
    no answer that a question follows. Ids are those of transformers' `apply_chat_template`, save
    that text never becomes an added token, that a call's arguments keep their spelling, and that
    ChatML has no line break in the end. What was sampled stays as it was in a conversation that
    goes on; rendered anew its white space is trimmed, where the format trims.

    `tools` are OpenAI function dictionaries. `open_turn` ends with an assistant header to sample
    after. `first=False` renders a continuation: no begin_of_text, system block or tools. The mask
    is True on the assistant's content and the token that closes it. Raises UserError where the
    vocabulary lacks a token it needs.
    """
    assert first or not tools, "tools belong to the beginning of a conversation"
    out = Rendered([], [])
    form = tokenizer.format
    if first and form.begins:
        _extend(out, tokenizer.opening, False)
    gap, between = tokenizer.encode_fixed(form.gap), not first
    for turn in form.turns(messages, tools, first):
        head, body = _content(tokenizer, turn)
        end = [tokenizer.special(turn.end)] if turn.end else []
        _extend(out, [*(gap if between else ()), *head], False)
        _extend(out, [*body, *end], turn.role == "assistant")
        between = True
    if open_turn:
        _extend(out, [*(gap if between else ()), *_opened(tokenizer)], False)
    return out


def parse_assistant(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    first_call: int = 0,
) -> Message:
    """The Message that sampled `ids` spell, whatever they are: truncated, garbage or empty.

    Reads up to the first token that ends a turn. Calls are named call_0, call_1, ... from
    `first_call`. What stands between python marks is a call in any form of `parse_calls`, and by
    any name; without marks only a call of one of `tools`, and only in a format whose calls are
    bare: an answer in JSON stays text. What is no call stays text, with the marks around it; any
    other special token stays in the text, spelt out, so that no verifier takes "4<|pad|>2" for
    "42". Never raises on ids of a vocabulary with turn tokens.
    """
    names = {str(spec.get("function", spec).get("name")) for spec in tools}
    form = tokenizer.format
    bare = form.bare_calls
    parts: list[Part] = []
    runs = list(_runs(tokenizer, ids))
    called = False  # whether what follows is a call
    for at, (kind, text) in reversed(list(enumerate(runs))):
        prose, calls = text, list[ToolCall]()
        if kind == "think":
            thought = text.strip("\n") if form.gap else text
            parts += [Reasoning(thought)] if thought or not form.gap else []
            continue
        if kind == "python":
            prose, calls = final_calls(text)
            # Llama 4's published template has the prose in the marks and the calls behind them.
            behind = bare and any(isinstance(p, ToolCall) for p in parts)
            if not calls and not behind:
                prose = f"{form.marks[0]}{text}{form.marks[1]}"
        elif bare and names:
            prose, calls = parse_calls(text, names)
        if kind == "text" and form.gap:  # line breaks that the format puts around what is said
            prose = prose.removesuffix("\n") if called else prose
            prose = prose.lstrip("\n") if at and runs[at - 1][0] == "think" else prose
        if at == 0 and form.space:
            prose = prose.removeprefix(form.space)
        parts += [*reversed(calls), Text(prose)]
        called = bool(calls)
    return Message("assistant", _numbered(merged(parts[::-1]), first_call, keep=form.moves))


def stop_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids of the tokens that end a turn: eot, eom and end_of_text, those that it has."""
    return [tokenizer.special(n) for n in _STOPS if tokenizer.token(n) is not None]


def _header(tokenizer: Tokenizer, role: str) -> list[int]:
    start, end = tokenizer.special("header_start"), tokenizer.special("header_end")
    return [start, *tokenizer.encode_fixed(role), end]


def _opened(tokenizer: Tokenizer) -> list[int]:
    """What an answer is sampled after."""
    if (answer := tokenizer.format.answer) is not None:
        return _joined(tokenizer, answer)
    return [*_header(tokenizer, "assistant"), *tokenizer.encode_fixed(_BREAKS)]


def _content(tokenizer: Tokenizer, turn: Turn) -> tuple[list[int], list[int]]:
    """Ids of what opens a turn and of what follows; a token of both counts to the first."""
    if turn.head is not None:
        head = _joined(tokenizer, turn.head)
        ids = _joined(tokenizer, (*turn.head, *turn.pieces))
        return ids[: len(head)], ids[len(head) :]
    header, breaks = _header(tokenizer, turn.role), tokenizer.encode_fixed(_BREAKS)
    if not tokenizer.format.joined:
        return header + breaks, [i for piece in turn.pieces for i in _piece(tokenizer, piece)]
    ids = _joined(tokenizer, (_BREAKS, *turn.pieces))
    return header + ids[: len(breaks)], ids[len(breaks) :]


def _joined(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> list[int]:
    """Ids of pieces, neighbouring texts tokenised as one."""
    together: list[Piece | int] = []
    for piece in pieces:
        for part in tokenizer.cut(piece.text) if isinstance(piece, Fixed) else [piece]:
            last = together[-1] if together else None
            if isinstance(part, str) and isinstance(last, str):
                together[-1] = last + part
            else:
                together.append(part)
    return [i for p in together for i in ([p] if isinstance(p, int) else _piece(tokenizer, p))]


def _piece(tokenizer: Tokenizer, piece: Piece) -> list[int]:
    assert not isinstance(piece, Fixed), "only a format with heads has them"
    if isinstance(piece, Special):
        return [tokenizer.special(piece.name)]
    return image_ids(tokenizer, piece) if isinstance(piece, Image) else tokenizer.encode(piece)


def _extend(out: Rendered, ids: Sequence[int], learn: bool) -> None:
    out.ids.extend(ids)
    out.mask.extend([learn] * len(ids))


def _runs(tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[tuple[str, str]]:
    """(kind, text) of each stretch of a turn between the marks of reasoning and of calls."""
    stops, marks = signs(tokenizer)
    kind, run = "text", list[int]()
    for i in ids:
        if i in stops:
            break
        if i not in marks or (kind == "text" and marks[i] == "text"):
            run.append(i)
            continue
        yield kind, tokenizer.decode(run, skip_special=False)
        kind, run = marks[i], []
    yield kind, tokenizer.decode(run, skip_special=False)


@lru_cache(maxsize=64)
def signs(tokenizer: Tokenizer) -> tuple[frozenset[int], dict[int, str]]:
    """The ids that end a turn, and those that begin or end reasoning or a call."""
    kinds = {"think_start": "think", "python_start": "python"}
    kinds |= {"think_end": "text", "python_end": "text"}
    known = {n: k for n, k in kinds.items() if tokenizer.token(n) is not None}
    return frozenset(stop_ids(tokenizer)), {tokenizer.special(n): k for n, k in known.items()}


def _numbered(parts: Sequence[Part], first_call: int, keep: bool) -> tuple[Part, ...]:
    """Calls named by their number; where `keep`, by the name that they were given if it is one."""
    out: list[Part] = []
    taken: set[str] = set()
    for part in parts:
        if isinstance(part, ToolCall):
            named = keep and part.id and part.id not in taken
            part = replace(part, id=part.id if named else f"call_{first_call}")
            taken.add(part.id)
            first_call += 1
        out.append(part)
    return tuple(out)
