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
from puna.text.formats import Piece, Special, Turn, merged
from puna.text.images import image_ids

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
    tools the first user message. Ids are those of transformers' `apply_chat_template`, save that
    text never becomes a special token, and that a call's arguments keep their spelling. What was
    sampled stays as it was in a conversation that goes on; rendered anew its white space is
    trimmed, where the format trims.

    `tools` are OpenAI function dictionaries. `open_turn` ends with an assistant header to sample
    after. `first=False` renders a continuation: no begin_of_text, system block or tools. The mask
    is True on the assistant's content and the token that closes it. Raises UserError where the
    vocabulary lacks a token it needs.
    """
    assert first or not tools, "tools belong to the beginning of a conversation"
    out = Rendered([], [])
    if first:
        _extend(out, [tokenizer.special("begin_of_text")], False)
    for turn in tokenizer.format.turns(messages, tools, first):
        _extend(out, _header(tokenizer, turn.role), False)
        breaks, body = _content(tokenizer, turn)
        _extend(out, breaks, False)
        _extend(out, [*body, tokenizer.special(turn.end)], turn.role == "assistant")
    if open_turn:
        _extend(out, [*_header(tokenizer, "assistant"), *tokenizer.encode_fixed(_BREAKS)], False)
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
    bare = tokenizer.format.bare_calls
    parts: list[Part] = []
    for kind, text in reversed(list(_runs(tokenizer, ids))):
        prose, calls = text, list[ToolCall]()
        if kind == "think":
            parts.append(Reasoning(text))
            continue
        if kind == "python":
            prose, calls = final_calls(text)
            # Llama 4's published template has the prose in the marks and the calls behind them.
            behind = bare and any(isinstance(p, ToolCall) for p in parts)
            if not calls and not behind:
                prose = f"<|python_start|>{text}<|python_end|>"
        elif bare and names:
            prose, calls = parse_calls(text, names)
        parts += [*reversed(calls), Text(prose)]
    return Message("assistant", _numbered(merged(parts[::-1]), first_call))


def stop_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids of the tokens that end a turn: eot, eom and end_of_text, those that it has."""
    return [tokenizer.special(n) for n in _STOPS if tokenizer.token(n) is not None]


def _header(tokenizer: Tokenizer, role: str) -> list[int]:
    start, end = tokenizer.special("header_start"), tokenizer.special("header_end")
    return [start, *tokenizer.encode_fixed(role), end]


def _content(tokenizer: Tokenizer, turn: Turn) -> tuple[list[int], list[int]]:
    """Ids of the header's line breaks and of what follows them; merged, they count as breaks."""
    breaks = tokenizer.encode_fixed(_BREAKS)
    if not tokenizer.format.joined:
        return breaks, [i for piece in turn.pieces for i in _piece(tokenizer, piece)]
    together: list[Piece] = [_BREAKS]
    for piece in turn.pieces:
        if isinstance(piece, str) and isinstance(together[-1], str):
            together[-1] += piece
        else:
            together.append(piece)
    ids = [i for piece in together for i in _piece(tokenizer, piece)]
    return ids[: len(breaks)], ids[len(breaks) :]


def _piece(tokenizer: Tokenizer, piece: Piece) -> list[int]:
    if isinstance(piece, Special):
        return [tokenizer.special(piece.name)]
    return image_ids(tokenizer, piece) if isinstance(piece, Image) else tokenizer.encode(piece)


def _extend(out: Rendered, ids: Sequence[int], learn: bool) -> None:
    out.ids.extend(ids)
    out.mask.extend([learn] * len(ids))


def _runs(tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[tuple[str, str]]:
    """(kind, text) of each stretch of a turn between the marks of reasoning and of calls."""
    stops, marks = _signs(tokenizer)
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
def _signs(tokenizer: Tokenizer) -> tuple[frozenset[int], dict[int, str]]:
    """The ids that end a turn, and those that begin or end reasoning or a call."""
    kinds = {"think_start": "think", "python_start": "python"}
    kinds |= {"think_end": "text", "python_end": "text"}
    known = {n: k for n, k in kinds.items() if tokenizer.token(n) is not None}
    return frozenset(stop_ids(tokenizer)), {tokenizer.special(n): k for n, k in known.items()}


def _numbered(parts: Sequence[Part], first_call: int) -> tuple[Part, ...]:
    out: list[Part] = []
    for part in parts:
        if isinstance(part, ToolCall):
            part = replace(part, id=f"call_{first_call}")
            first_call += 1
        out.append(part)
    return tuple(out)
