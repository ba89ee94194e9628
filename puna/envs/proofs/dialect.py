"""A specification, and what a dialect (micro-Python, Dafny, Verus) says of a text that meets it.

`MICRO_PYTHON.spec("abs", text)`, then `MICRO_PYTHON.refusal(spec, submission)`: empty, or why the
text is not the specification with a body and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

LONGEST = 1 << 16  # characters of a body
PLAIN = re.compile(r"[ -~\n]*\Z")  # printable ASCII: nothing looks like what it is not


class SpecError(ValueError):
    """A text holds no specification; the message says what it lacks."""


@dataclass(frozen=True)
class Spec:
    """Everything of a program but the body of the function to write.

    `reference`: the whole program where the file had a body, else empty. `admission`: the record of
    how it became a task, where it was proposed.
    """

    name: str
    dialect: str
    header: str
    footer: str = ""
    reference: str = ""
    admission: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def with_body(self, body: str) -> str:
        """A whole program."""
        return self.header + body + self.footer


class Dialect(Protocol):
    """What depends on the language of a specification."""

    @property
    def name(self) -> str:
        """What a `Spec` calls it."""
        ...

    @property
    def suffix(self) -> str:
        """How its files end."""
        ...

    @property
    def fence(self) -> str:
        """What chat messages call it."""
        ...

    def spec(self, name: str, text: str) -> Spec:
        """The specification in a file. Raises SpecError."""
        ...

    def refusal(self, spec: Spec, submission: str) -> str:
        """Why `submission` is not `spec` with a body and nothing else; empty where it is."""
        ...

    def stubs(self, spec: Spec) -> Mapping[str, str]:
        """Programs that do nothing of use, by name: a specification that one meets says nothing."""
        ...

    def contradiction(self, spec: Spec) -> str:
        """A program that is proved only where the preconditions cannot hold together."""
        ...

    def anything(self, spec: Spec) -> str:
        """A program of which nothing is known but that it ends; empty where none can be written."""
        ...


def body_of(spec: Spec, submission: str) -> str | None:
    """What stands between header and footer, which must be there byte for byte; else None."""
    inner = len(submission) - len(spec.header) - len(spec.footer)
    if inner < 0 or not submission.startswith(spec.header) or not submission.endswith(spec.footer):
        return None
    return submission[len(spec.header) : len(spec.header) + inner]


def common_refusal(body: str | None, banned: Sequence[str]) -> str:
    """What no body of any dialect may be; `banned` are patterns, and comments are not spared."""
    if body is None:
        return "the specification is not repeated byte for byte"
    if len(body) > LONGEST:
        return f"the body is longer than {LONGEST:,} characters"
    if not PLAIN.match(body):
        return "the body has characters other than printable ASCII and line ends"
    for pattern in banned:
        if match := re.search(pattern, body):
            return f"the body has {match.group().strip()!r}, which is not allowed"
    return ""


def words(text: str) -> tuple[str, ...]:
    """A pattern for each word of `text`."""
    return tuple(rf"\b{word}\b" for word in text.split())
