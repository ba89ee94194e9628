"""Soup of category experts (SoCE, arXiv 2511.13254): which models, and which weights to try.

`found = correlate(table); weak(found, 0.3); experts(table, ...); grid(3)`.
Shapes: M models, C categories.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puna.core.errors import UserError
from puna.core.rng import stream
from puna.soup.scores import Scores

FEWEST = 4  # models: with three, two random categories correlate by 0.7 and more half of the time
PERMUTATIONS = 2000

Square = NDArray[np.float64]


@dataclass(frozen=True)
class Correlations:
    """Pearson's correlations `rho_CC` between categories over `models` models, the pool.

    `low_CC` to `high_CC`: where 95 % of them lie when the models of one category are permuted, so
    one inside is not told from none. NaN where a category has the same score for every model.
    """

    categories: tuple[str, ...]
    models: tuple[str, ...]
    rho_CC: Square
    low_CC: Square
    high_CC: Square

    @property
    def constant(self) -> tuple[str, ...]:
        """The categories without any correlation."""
        bad = np.isnan(np.diag(self.rho_CC))
        return tuple(c for c, b in zip(self.categories, bad, strict=True) if b)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, None for NaN."""
        squares = {"rho": self.rho_CC, "low": self.low_CC, "high": self.high_CC}
        plain = {
            name: [[None if np.isnan(x) else round(float(x), 6) for x in row] for row in square]
            for name, square in squares.items()
        }
        return {"categories": list(self.categories), "pool": list(self.models), **plain}


def correlate(scores: Scores, seed: int = 0) -> Correlations:
    """The correlations between all categories of a table, with their permutation intervals.

    Raises UserError for fewer than four models, of which a correlation says nothing.
    """
    models, count = scores.values.shape
    if models < FEWEST:
        what = f"correlations over {models} models say nothing"
        raise UserError(what, f"give scores of {FEWEST} or more, or --method greedy")
    centred = scores.values - scores.values.mean(0)
    spread = np.sqrt((centred**2).sum(0))
    still = np.ptp(scores.values, 0) <= 1e-12 * np.abs(scores.values).max(0, initial=0)
    unit = np.where(still, np.nan, centred / np.where(still, 1, spread))  # [M, C], of length 1
    random = stream(seed, "soup", "correlate")
    shuffled = random.permuted(np.tile(np.arange(models), (PERMUTATIONS, 1)), axis=1)
    low, high = np.empty((count, count)), np.empty((count, count))
    with np.errstate(invalid="ignore"):  # NaN is meant
        rho = (unit.T @ unit).clip(-1, 1)
        for i in range(count):
            low[i], high[i] = np.quantile(unit[shuffled, i] @ unit, (0.025, 0.975), axis=0)
    low, high = (low + low.T) / 2, (high + high.T) / 2  # two draws of the same
    return Correlations(scores.categories, scores.models, rho, low, high)


def weak(found: Correlations, tau: float) -> list[str]:
    """The categories that correlate with some other by less than `tau`, either way."""
    below = np.abs(found.rho_CC) < tau  # never where it is NaN
    np.fill_diagonal(below, False)
    return [c for c, row in zip(found.categories, below, strict=True) if row.any()]


def experts(scores: Scores, categories: Sequence[str]) -> dict[str, str]:
    """Category -> its best model; of equals the one that is better on average, then the first."""
    averages = scores.values.mean(1)
    out = {}
    for category in categories:
        column = scores.values[:, scores.categories.index(category)]
        best = np.flatnonzero(column == column.max())
        out[category] = scores.models[int(best[averages[best].argmax()])]
    return out


def selected(chosen: Mapping[str, str], models: Sequence[str]) -> list[str]:
    """The models that are an expert of something, in the order of `models`."""
    return [m for m in models if m in set(chosen.values())]


def grid(count: int) -> list[tuple[float, ...]]:
    """All weights in tenths, 0.1 or more each, that sum to 1: C(9, count - 1) of them."""
    return [tuple(n / 10 for n in parts) for parts in _parts(10, count)]


def _parts(total: int, count: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `total` as a sum of `count` positive whole numbers, in order."""
    if count == 1:
        yield from [(total,)] if total > 0 else []
        return
    for first in range(1, total - count + 2):
        yield from ((first, *rest) for rest in _parts(total - first, count - 1))
