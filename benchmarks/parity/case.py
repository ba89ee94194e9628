"""What a case of parity is, and the list of all of them.

`@case("packed documents", tolerance=2e-6)` above a function that returns what it `Found`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.parity.models import CLOSE, rows_matter

MARGIN = 100


@dataclass(frozen=True)
class Found:
    """The largest difference to the peer, and what it becomes with each feature left out."""

    difference: float
    off: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Case:
    """One comparison. A tolerance of 0 means equal to the bit, where the processor allows it.

    On a processor whose products depend on the number of rows, `loose` stands in for 0; where it
    is None, nothing smaller than what a missing feature makes is left to ask for there. With a
    `unit` differences are counts of it, and one is enough to be seen.
    """

    name: str
    measure: Callable[[], Found]
    tolerance: float
    peer: str
    dtype: str
    slow: bool
    loose: float | None
    unit: str = ""

    @property
    def allowed(self) -> float:
        """The largest difference that passes."""
        if self.unit or not rows_matter(self.dtype):
            return self.tolerance
        return self.tolerance or self.loose or 0.0

    @property
    def incomparable(self) -> str:
        """Why this case says nothing on this processor; empty where it does."""
        if self.tolerance or self.loose is not None or not rows_matter(self.dtype):
            return ""
        return f"{self.dtype} products depend on the number of rows on this processor"

    @property
    def needed(self) -> float:
        """The difference that leaving out a feature must make, so that the case can see it."""
        return 1.0 if self.unit else MARGIN * (self.allowed or CLOSE)

    def blind(self, found: Found) -> list[str]:
        """The features that could be left out without being noticed."""
        return [name for name, seen in found.off.items() if not seen >= self.needed]

    def passes(self, found: Found) -> bool:
        """Whether the numbers agree, and would not have if a feature were missing.

        A case that leaves no feature out proves nothing, and does not pass.
        """
        agrees = found.difference <= self.allowed
        return agrees and bool(found.off) and not self.blind(found)


CASES: dict[str, Case] = {}


def case(
    name: str,
    tolerance: float = CLOSE,
    peer: str = "transformers",
    dtype: str = "fp32",
    slow: bool = False,
    loose: float | None = CLOSE,
    unit: str = "",
) -> Callable[[Callable[[], Found]], Callable[[], Found]]:
    """Put the function below into the list."""

    def keep(measure: Callable[[], Found]) -> Callable[[], Found]:
        assert name not in CASES, name
        CASES[name] = Case(name, measure, tolerance, peer, dtype, slow, loose, unit)
        return measure

    return keep
