"""The one error a user's mistake becomes: what, where, and what to type next.

`raise UserError("no file data.jsonl", fix="give --set sft.data=FILE")` prints one line and exits 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend: printed as one line, exit status 2, nothing lost."""

    def __init__(self, what: str, fix: str = "") -> None:
        self.what, self.fix = what, fix
        line = f"{what}; {fix}" if fix else what
        super().__init__(" ".join(line.split()))


class FieldError(UserError):
    """A value that a field of ours does not take; a reader of files says it in their names."""

    def __init__(self, owner: str, field: str, value: object, wanted: str) -> None:
        self.field, self.wanted = field, wanted
        super().__init__(f"{owner}: {field} = {value!r}", f"give {field} {wanted}")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint naming the nearest known word, or the whole list where nothing is near."""
    words = sorted(known)
    close = difflib.get_close_matches(name, words, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known: " + ", ".join(words) if words else "none is known"
