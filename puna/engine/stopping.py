"""Texts that end an answer: `Stopping(tokenizer, ["Yes"]).hear(token)` is True at the last token.

Bytes are looked at, not tokens: a text may begin and end within one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from puna.text.aligned import spelled


class Stopping:
    """Listens to one answer for the first of some texts."""

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        """Raises UserError where the bytes of the vocabulary's tokens are unknown."""
        self.letters = spelled(tokenizer)
        self.texts = [text.encode() for text in texts if text]
        self.reach = max(map(len, self.texts), default=1) - 1
        self.tail = b""

    def hear(self, token: int) -> bool:
        """Take the next token; whether one of the texts is complete."""
        heard = self.tail + (self.letters[token] if token < len(self.letters) else b"")
        self.tail = heard[-self.reach :] if self.reach else b""
        return any(text in heard for text in self.texts)
