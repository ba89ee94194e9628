"""What a chat format is made of: pieces of text and tokens, turns of them, and who writes them.

`formats` has the formats; `Format.turns(messages, tools, True)` gives the turns of a conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from puna.core.messages import Image, Message, Part, Text, ToolResult

TODAY = "26 Jul 2024"  # what Llama 3.1's template says where nobody passes a date


@dataclass(frozen=True)
class Special:
    """A special token among text, by the name that `Tokenizer.special` knows."""

    name: str


@dataclass(frozen=True)
class Fixed:
    """Words of the template: where they spell a token of the vocabulary, they are that token."""

    text: str


Piece = str | Special | Fixed | Image
Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Turn:
    """One turn between what opens it and the token that ends it ("" for none).

    `head` opens it; None is Llama's header with the role.
    """

    role: str
    pieces: tuple[Piece, ...]
    end: str = "eot"
    head: tuple[Piece, ...] | None = None


@dataclass(frozen=True)
class Format:
    """How messages become turns.

    `joined`: the line breaks of a header are tokenised together with the text behind them.
    `bare_calls`: a call of a known tool counts without marks around it. `date` is what Llama 3.1's
    system turn calls today: `replace(tokenizer.format, date="01 Jan 2026")` for another. `sign`
    stands in every Jinja template of the format.

    `answer` opens a turn to sample; None is Llama's header. `gap` stands between turns, `begins`
    says whether a conversation begins with begin_of_text. `marks` spell a call's beginning and end.
    `system` is said where a conversation has no system message. `thinks`: an answer has a place for
    reasoning, here an empty one. `moves`: tools and system message stand with the last question, so
    that one more moves them. `space` is behind Mistral's tokens.
    """

    name: str
    write: Callable[[Format, Sequence[Message], Tools, bool], Iterator[Turn]]
    joined: bool = False
    bare_calls: bool = False
    date: str = TODAY
    sign: str = ""
    answer: tuple[Piece, ...] | None = None
    gap: str = ""
    begins: bool = True
    marks: tuple[str, str] = ("<|python_start|>", "<|python_end|>")
    system: str = ""
    thinks: bool = False
    moves: bool = False
    space: str = ""

    def turns(self, messages: Sequence[Message], tools: Tools, first: bool) -> Iterator[Turn]:
        """The turns of `messages`; where `first` they begin a conversation, with `tools`."""
        return self.write(self, messages, tools, first)

    def goes_on(self, seen: Sequence[Message], tools: Tools, new: Sequence[Message]) -> bool:
        """Whether `new` only adds to what `seen` became, and moves nothing of it."""
        told = bool(tools) or any(m.role == "system" for m in seen[:1])
        return not (self.moves and told and any(m.role == "user" for m in new))


def merged(parts: Sequence[Part]) -> list[Part]:
    """Neighbouring texts as one and none empty: how a text was cut must not change its ids."""
    out: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and out and isinstance(out[-1], Text):
            out[-1] = Text(out[-1].text + part.text)
        elif not isinstance(part, Text) or part.text:
            out.append(part)
    return out


def said(parts: Sequence[Part]) -> list[str | Image]:
    """Texts and images, in order; those of a tool's result too."""
    flat: list[Part] = []
    for part in parts:
        flat += part.parts if isinstance(part, ToolResult) else (part,)
    kept = merged([p for p in flat if isinstance(p, Text | Image)])
    return [p.text if isinstance(p, Text) else p for p in kept if isinstance(p, Text | Image)]


def trimmed(pieces: Sequence[Piece] | None) -> list[Piece]:
    """Without white space at the beginning and the end."""
    out = list(pieces or ())
    if out and isinstance(out[0], str):
        out[0] = out[0].lstrip()
    if out and isinstance(out[-1], str):
        out[-1] = out[-1].rstrip()
    return out
