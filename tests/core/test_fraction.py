"""Fractions of a factorial: any two axes have each pair of their levels equally often."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product
from math import prod

import numpy as np
import pytest

from puna.core.fraction import fraction, most_parts


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ([3, 4, 2, 2], 2), ([2] * 3, 2), ([2] * 7, 16), ([2] * 12, 256), ([3] * 4, 9),
        ([4] * 5, 64), ([2, 2, 2, 3], 2), ([6, 2, 2], 2), ([3, 3, 3, 2], 3), ([8, 8, 8], 8),
        ([6, 6, 6], 6), ([2, 3], 1), ([1, 2, 2, 2], 2),
    ],
)  # fmt: skip
def test_every_pair_of_levels_is_equally_frequent(sizes: list[int], parts: int) -> None:
    rows = fraction(sizes, parts)
    assert rows is not None
    assert len(set(rows)) == len(rows) == prod(sizes) // parts
    for a, b in combinations(range(len(sizes)), 2):
        counts = Counter((row[a], row[b]) for row in rows)
        assert len(counts) == sizes[a] * sizes[b]
        assert len(set(counts.values())) == 1


def test_the_half_of_three_switches_by_hand() -> None:
    """Those with an even number of switches on: 000, 011, 101, 110."""
    assert fraction([2, 2, 2], 2) == [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)]


def test_main_effects_come_out_as_they_were_put_in() -> None:
    """And would not where every second combination is taken as it comes."""
    sizes = [3, 4, 2, 2]
    truth = [np.array(x) for x in ([0, 1, 5], [0, -2, 0.5, 3], [0, 7], [0, -4])]

    def effects(rows: list[tuple[int, ...]]) -> list[list[float]]:
        y = np.array([sum(t[i] for t, i in zip(truth, row, strict=True)) for row in rows])
        levels = np.array(rows)
        means = [
            [y[levels[:, axis] == i].mean() for i in range(size) if (levels[:, axis] == i).any()]
            for axis, size in enumerate(sizes)
        ]
        return [[float(m - mine[0]) for m in mine] for mine in means]

    rows = fraction(sizes, 2)
    assert rows is not None
    for found, wanted in zip(effects(rows), truth, strict=True):
        assert found == pytest.approx(wanted.tolist())
    naive = effects(list(product(*map(range, sizes)))[:24])
    assert max(abs(x - y) for x, y in zip(naive[0], [0, 1, 5], strict=False)) > 0.2


@pytest.mark.parametrize(
    ("sizes", "parts", "most"),
    [([2, 2], 2, 1), ([3, 4, 2, 2], 4, 2), ([3, 4, 2, 2], 3, 2), ([2] * 7, 32, 16),
     ([2] * 12, 512, 256), ([2, 2, 2], 5, 2)],
)  # fmt: skip
def test_what_would_confuse_main_effects_is_none(sizes: list[int], parts: int, most: int) -> None:
    assert fraction(sizes, parts) is None
    assert most_parts(sizes) == most
