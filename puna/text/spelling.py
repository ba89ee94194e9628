"""What the tokens of a vocabulary spell, byte by byte: `Tokenizer.load(path).spelling()[65]`.

Only whole texts can be decoded; a single token may be half a character.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from puna.core.errors import UserError
from puna.text.tiktoken import letters

_WHOLE_TEXT = ("Fuse", "Strip")  # what a decoder does to a text once its tokens are joined


def spelling(hf: Any) -> list[bytes | None]:
    """The bytes of every id of a `tokenizers.Tokenizer`; None for added tokens and unused ids.

    As its decoder joins them: byte-level BPE, and SentencePiece with a visible space and tokens
    such as <0x0A>. Raises UserError for any other.
    """
    decoder = json.loads(hf.to_str())["decoder"] or {"type": "none"}
    steps = decoder.get("decoders", [decoder])
    kinds = {step["type"] for step in steps}
    known = kinds - set(_WHOLE_TEXT)
    spell: Callable[[str], bytes]
    if known == {"ByteLevel"}:
        values = {letter: byte for byte, letter in enumerate(letters())}
        spell = partial(_byte_level, values)
    elif known and known <= {"Replace", "ByteFallback", "Metaspace"}:
        replaced = [s for s in steps if s["type"] == "Replace"]
        signs = [(s["pattern"].get("String", ""), s["content"]) for s in replaced]
        signs += [(s["replacement"], " ") for s in steps if s["type"] == "Metaspace"]
        spell = partial(_sentencepiece, signs, "ByteFallback" in kinds)
    else:
        what = f"the bytes of tokens are unknown for a tokenizer with decoder {', '.join(kinds)}"
        raise UserError(what, "use byte-level BPE or SentencePiece")
    vocabulary = hf.get_vocab(with_added_tokens=True)
    out: list[bytes | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
    added = hf.get_added_tokens_decoder()
    for token, i in vocabulary.items():
        out[i] = None if i in added else spell(token)
    return out


def _byte_level(values: dict[str, int], token: str) -> bytes:
    if all(letter in values for letter in token):
        return bytes(values[letter] for letter in token)
    return token.encode()


def _sentencepiece(signs: list[tuple[str, str]], bytes_named: bool, token: str) -> bytes:
    for sign, text in signs:
        token = token.replace(sign, text)
    if bytes_named and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass
    return token.encode()
