"""The numbers of an experiment: read from what a command prints, and held against the right ones.

`compare({"loss": 2.0}, {"loss": 2.05}).right` is True: off by less than 5 %. The score is that of
AutoExperiment (arXiv 2506.19724), with |gold| and a floor in the denominator.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

TOLERANCE, FLOOR = 0.05, 1e-6
MOST = 10_000  # numbers of one experiment
Number = float | tuple[float, ...]
Numbers = Mapping[str, Number]


class NoNumbersError(ValueError):
    """A text that holds no results; the message says why."""


@dataclass(frozen=True)
class Compared:
    """How found numbers stand to the right ones: the loss of each name, 0 to 1, and the verdict."""

    losses: Mapping[str, float]
    tolerance: float

    @property
    def wrong(self) -> list[str]:
        """The names that are off by more than the tolerance."""
        return [name for name, loss in self.losses.items() if not loss <= self.tolerance]

    @property
    def right(self) -> bool:
        """Whether all are within it."""
        return not self.wrong

    @property
    def share(self) -> float:
        """The share of names that are."""
        return 1 - len(self.wrong) / len(self.losses)


def parse(text: str) -> dict[str, Number]:
    """The numbers of a JSON object: nested keys joined by dots, lists of numbers kept as lists.

    Texts, nulls and other lists are no results and are left out. Raises NoNumbersError.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise NoNumbersError("it is no JSON") from None
    if not isinstance(data, dict):
        raise NoNumbersError("it is no JSON object")
    try:
        found = dict(_flat(data, ""))
    except RecursionError:
        raise NoNumbersError("it nests too deep") from None
    if not found:
        raise NoNumbersError("the object holds no numbers")
    if sum(len(x) if isinstance(x, tuple) else 1 for x in found.values()) > MOST:
        raise NoNumbersError(f"it holds more than {MOST:,} numbers")
    return found


def last_line(output: str) -> str:
    """The last line of an output that is not empty. Raises NoNumbersError where it has none."""
    lines = [line for line in output.splitlines() if line.strip()]
    if not lines:
        raise NoNumbersError("it prints nothing")
    return lines[-1]


def _flat(data: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Number]]:
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, int | float):
            yield name, _float(value)
        elif isinstance(value, list) and value and all(isinstance(x, int | float) for x in value):
            yield name, tuple(map(_float, value))


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # JSON's whole numbers have no bounds
        return math.inf if value > 0 else -math.inf


def compare(gold: Numbers, found: Numbers, tolerance: float = TOLERANCE) -> Compared:
    """Each number of `gold` beside the one found: |g - p| / max(|g|, FLOOR), at most 1.

    Lists are averaged; what is missing, or of another length, has loss 1.
    """
    losses = {}
    for name, right in gold.items():
        wanted = right if isinstance(right, tuple) else (right,)
        other = found.get(name, ())
        given = other if isinstance(other, tuple) else (other,)
        same = isinstance(right, tuple) == isinstance(other, tuple) and len(given) == len(wanted)
        each = [loss(g, p) for g, p in zip(wanted, given, strict=True)] if same else [1.0]
        losses[name] = sum(each) / len(each)
    return Compared(losses, tolerance)


def loss(gold: float, found: float) -> float:
    """How far a number is off, 0 to 1; NaN is right for NaN alone, and an infinity for itself."""
    if math.isnan(gold) or math.isnan(found):
        return float(math.isnan(gold) != math.isnan(found))
    if math.isinf(gold) or math.isinf(found):
        return float(gold != found)
    return min(1.0, abs(gold - found) / max(abs(gold), FLOOR))


def to_json(numbers: Numbers) -> dict[str, Any]:
    """A plain dictionary; NaN and infinities as Python's JSON has them."""
    return {name: list(x) if isinstance(x, tuple) else x for name, x in numbers.items()}
