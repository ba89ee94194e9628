"""Codes in which a prompt may give an answer away without showing it.

`codes("oak")["reversed"]`.
"""

from __future__ import annotations

import base64
import hashlib
import re
import urllib.parse
import zlib

LEAST = 4  # characters that do not stand somewhere by chance
_DIGESTS = ("md5", "sha1", "sha224", "sha256", "sha512", "blake2b")
_DOTS = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- "
    "-..- -.-- --.. ----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----."
)
_MORSE = dict(zip("abcdefghijklmnopqrstuvwxyz0123456789", _DOTS.split(" "), strict=True))


def codes(reference: str) -> dict[str, str]:
    """Forms of the reference that a prompt may give away without showing it."""
    raw = reference.encode(errors="replace")
    letters = re.search("[a-z]{4}", reference, re.I) is not None
    out = {
        "base64": base64.b64encode(raw).decode().rstrip("="),
        "base32": base64.b32encode(raw).decode().rstrip("="),
        "hexadecimal": raw.hex(),
        "spaced hexadecimal": raw.hex(" "),
        "percent signs": "".join(f"%{b:02x}" for b in raw),
        "a quoted address": urllib.parse.quote(reference),
        "entities": "".join(f"&#{ord(c)};" for c in reference),
        "reversed": reference[::-1] if len(reference) >= LEAST + 1 else "",
        "binary": " ".join(f"{b:08b}" for b in raw[:16]),
        "letters apart": " ".join(reference) if len(reference) >= LEAST - 1 else "",
        "letters and dashes": "-".join(reference) if len(reference) >= LEAST - 1 else "",
        "crc32": f"{zlib.crc32(raw):08x}",
    }
    for name, mark in (("commas", ", "), ("spaces", " "), ("dashes", "-")):
        out[f"character codes, {name}"] = mark.join(map(str, raw[:64])) if len(raw) > 2 else ""
        places = [str(ord(c) - 96) for c in reference.lower() if "a" <= c <= "z"]
        out[f"places of letters, {name}"] = mark.join(places) if letters else ""
    if letters:
        out |= {f"letters moved by {k}": _moved(reference, k) for k in range(1, 26)}
        out["letters mirrored"] = "".join(_mirrored(c) for c in reference)
        out["morse"] = " ".join(_MORSE.get(c, "") for c in reference.lower()).strip()
    if re.fullmatch(r"\d{1,15}", reference):
        value = int(reference)
        out["number as hexadecimal"] = f"{value:x}"
        out["number as binary"] = f"{value:b}" if value >= 128 else ""
    for name in _DIGESTS:
        out[name] = hashlib.new(name, raw, usedforsecurity=False).hexdigest()[:8]
    return {name: text for name, text in out.items() if len(text) >= LEAST and text != reference}


def holds(text: str, how: str, code: str) -> bool:
    """Whether a code stands in a text as a word of its own, or a digest begins one."""
    right = "" if how in _DIGESTS else "(?![0-9a-z])"
    return re.search(rf"(?<![0-9a-z]){re.escape(code)}{right}", text, re.I) is not None


def _moved(text: str, by: int) -> str:
    def moved(c: str) -> str:
        first = ord("a" if c.islower() else "A")
        return chr(first + (ord(c) - first + by) % 26) if c.isascii() and c.isalpha() else c

    return "".join(map(moved, text))


def _mirrored(c: str) -> str:
    if not (c.isascii() and c.isalpha()):
        return c
    return chr((219 if c.islower() else 155) - ord(c))
