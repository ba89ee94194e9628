"""Text that others wrote, made safe for a terminal: `printable("\\x1b[2J")` -> `"\\ufffd[2J"`."""

from __future__ import annotations

import re

# C0 and C1 controls but newline and tab, marks and overrides of direction, lone surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """`text` with every character that could steer a terminal, or not be encoded, replaced."""
    return _UNSAFE.sub("\ufffd", text)
