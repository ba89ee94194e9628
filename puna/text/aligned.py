"""Which tokens spell which part of a text: `begins(tokenizer, sampled_ids, message.text)`.

Token ids are never made again from text: places in a text are found among the ids that are there.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from puna.text.template import signs

if TYPE_CHECKING:
    from puna.text.tokenizer import Tokenizer


@lru_cache(maxsize=8)
def spelled(tokenizer: Tokenizer) -> tuple[bytes, ...]:
    """The bytes of every id as a message has them: special tokens spelt out, those of no id empty.

    Raises UserError where the tokenizer is neither byte-level BPE nor SentencePiece.
    """
    found = tokenizer.spelling()
    return tuple(
        tokenizer.decode([i], skip_special=False).encode() if letters is None else letters
        for i, letters in enumerate(found)
    )


def begins(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> list[int] | None:
    """For each of the ids of one turn the character of its `text` at which it begins.

    A token that ends the turn, a thought or a mark begins where what stands before it ends. White
    space around the text may be more on either side, since formats trim it. None where the ids
    spell another text.
    """
    stops, marks = signs(tokenizer)
    letters, reader = spelled(tokenizer), codecs.getincrementaldecoder("utf-8")("replace")
    out: list[int] = []
    said, kind = "", "text"
    length = 0
    pieces: list[str] = []
    ended = False
    for i in ids:
        out.append(length)
        ended = ended or i in stops
        if ended:
            continue
        if i in marks and not (kind == "text" and marks[i] == "text"):
            kind = marks[i]
        elif kind == "text":
            pieces.append(reader.decode(letters[i] if i < len(letters) else b""))
            length += len(pieces[-1])
    said = "".join([*pieces, reader.decode(b"", final=True)])
    if text.strip() != said.strip():
        return None
    shift = _leading(text) - _leading(said)
    return [max(0, at + shift) for at in out]


def _leading(text: str) -> int:
    """How much white space a text begins with."""
    return len(text) - len(text.lstrip())
