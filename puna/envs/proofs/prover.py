"""What every prover offers, and the four answers one may give.

`Fast().prove(text, deadline=10)` is a `Verdict`; why3.py, dafny.py and verus.py have the same form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["valid", "refuted", "unknown", "failed"]


@dataclass(frozen=True)
class Verdict:
    """`valid`: every condition is proved. `refuted`: the text is no proof, or no program.

    `unknown`: the prover could neither prove nor refute it within its limits; that says nothing of
    the program, so it is never counted against one. `failed`: the prover itself is missing, died
    or said what is not understood. `evidence`: the first reason, for people.
    """

    kind: Kind
    evidence: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.evidence}" if self.evidence else self.kind


class Prover(Protocol):
    """A program or a library that says whether a program meets its specification."""

    name: str

    def version(self) -> str:
        """As the prover says it; empty where it is not installed."""
        ...

    def prove(self, source: str, deadline: float) -> Verdict:
        """Judge `source`, in about `deadline` seconds. Total: any text gets a verdict."""
        ...


def decided(prover: Prover, source: str, deadline: float) -> Verdict:
    """`prove`, and where it is unknown once more with three times as long."""
    verdict = prover.prove(source, deadline)
    return prover.prove(source, 3 * deadline) if verdict.kind == "unknown" else verdict
