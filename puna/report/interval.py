"""Figures with intervals, and what may be claimed: `verdict_of(Interval(0.1, -0.1, 0.3))`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from puna.core.stats import t_quantile
from puna.report.markup import number
from puna.report.read import mapping

NO_GAIN, WORSE, GAIN = "no gain shown", "worse", "better"
NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Interval:
    """A figure and, where one was measured, its 95 % interval."""

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def negative(self) -> Interval:
        """The same difference taken the other way round."""
        low, high = (None if v is None else -v for v in (self.high, self.low))
        return Interval(-self.mean, low, high)

    def text(self, sign: str = "") -> str:
        """`0.812 [0.780, 0.841]`; with sign "+" every number carries one."""
        if self.low is None or self.high is None:
            return f"{self.mean:{sign}.3f}"
        return f"{self.mean:{sign}.3f} [{self.low:{sign}.3f}, {self.high:{sign}.3f}]"


def interval(data: object, mean: str = "mean") -> Interval | None:
    """An interval from JSON with `mean`, `low` and `high`, or None where there is no mean."""
    value = number(mapping(data).get(mean))
    if value is None:
        return None
    return Interval(value, *(number(mapping(data).get(k)) for k in ("low", "high")))


def verdict_of(difference: Interval | None) -> str:
    """In words: better or worse only where the whole interval is on one side of zero."""
    if difference is None or difference.low is None or difference.high is None:
        return NOT_COMPARED
    if difference.low <= 0 <= difference.high:
        return NO_GAIN
    return GAIN if difference.low > 0 else WORSE


def over_seeds(values: Sequence[float]) -> Interval | None:
    """The mean over seeds with its 95 % t interval (none for fewer than two seeds)."""
    if not values:
        return None
    n, mean = len(values), sum(values) / len(values)
    if n < 2:
        return Interval(mean)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    half = t_quantile(0.975, n - 1) * spread / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)
