"""What a language model has to beat: xz and an interpolated Kneser-Ney n-gram, in bits per byte.

`NGram.train(np.frombuffer(train, np.uint8), 256).bits(np.frombuffer(held_out, np.uint8))`.
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_XZ_TRAIN_BYTES = 8_000_000

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]


@dataclass(frozen=True)
class Baseline:
    """Bits per byte of held-out text compressed by itself, and after the training text."""

    alone: float
    given_train: float


def xz_bits_per_byte(train: bytes, held_out: bytes) -> Baseline:
    """What `xz -9` needs for `held_out`, alone and as an addition to the last 8 MB of `train`."""
    assert held_out, "nothing to compress"
    tail = train[-_XZ_TRAIN_BYTES:]
    bits = 8 / len(held_out)
    given_train = _xz_size(tail + held_out) - _xz_size(tail)
    return Baseline(bits * _xz_size(held_out), bits * given_train)


def _xz_size(data: bytes) -> int:
    # The raw stream: a container's header and checksum would count against a short text.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9}]
    return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters))


@dataclass(frozen=True)
class _Level:
    """Discounted counts of one order: grams with P(gram's last | rest), and each context's rest.

    A gram's key is its symbols as digits in base `vocab`, the oldest first; both keys are sorted.
    """

    grams: Keys
    shares: Floats
    contexts: Keys
    leftovers: Floats

    def mix(self, keys: Keys, contexts: Keys, lower: Floats) -> Floats:
        """P(symbol | context) from the order below's; a context never seen leaves it as it is."""
        leftover = _look_up(self.contexts, self.leftovers, contexts, absent=1.0)
        return _look_up(self.grams, self.shares, keys, absent=0.0) + leftover * lower


class NGram:
    """Interpolated modified Kneser-Ney (Chen and Goodman 1999, section 3) over any integers."""

    def __init__(self, levels: list[_Level], vocab: int) -> None:
        self._levels, self._vocab = levels, vocab

    @staticmethod
    def train(symbols: ArrayLike, vocab: int, order: int = 5) -> NGram:
        """Counts `symbols`, integers from 0 below `vocab`; an n-gram must fit into 63 bits."""
        assert vocab**order < 2**63, f"{order}-grams over {vocab} symbols do not fit into 63 bits"
        data = np.asarray(symbols, dtype=np.int64)
        order = max(1, min(order, len(data)))
        grams, counts = np.unique(_keys(data, vocab, order), return_counts=True)
        levels = [_level(grams, counts, vocab)]
        for k in range(order - 1, 0, -1):
            # Below the highest order a gram counts the different symbols seen before it.
            grams, counts = np.unique(grams % vocab**k, return_counts=True)
            levels.append(_level(grams, counts, vocab))
        return NGram(levels[::-1], vocab)

    def log2_probabilities(self, symbols: ArrayLike) -> Floats:
        """Of each symbol given those before it, shape as `symbols`."""
        data = np.asarray(symbols, dtype=np.int64)
        p = np.full(len(data), 1 / self._vocab)
        for k, level in enumerate(self._levels, 1):
            keys = _keys(data, self._vocab, k)
            p[k - 1 :] = level.mix(keys, keys // self._vocab, p[k - 1 :])
        return np.asarray(np.log2(p))

    def bits(self, symbols: ArrayLike) -> float:
        """Bits that all of `symbols` take."""
        return float(-self.log2_probabilities(symbols).sum())

    def distribution(self, context: ArrayLike) -> Floats:
        """P(next symbol | context), shape (vocab,); sums to one."""
        data = np.asarray(context, dtype=np.int64)
        p = np.full(self._vocab, 1 / self._vocab)
        for k, level in enumerate(self._levels[: len(data) + 1], 1):
            head = int(_keys(data[len(data) - k + 1 :], self._vocab, k - 1)[0]) if k > 1 else 0
            keys = head * self._vocab + np.arange(self._vocab)
            p = level.mix(keys, keys // self._vocab, p)
        return p


def _keys(data: Keys, vocab: int, length: int) -> Keys:
    count = max(0, len(data) - length + 1)
    keys = np.zeros(count, dtype=np.int64)
    for i in range(length):
        keys = keys * vocab + data[i : i + count]
    return keys


def _level(grams: Keys, counts: NDArray[np.int64], vocab: int) -> _Level:
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    contexts, starts = np.unique(grams // vocab, return_index=True)
    if not len(grams):
        return _Level(grams, discounts, contexts, discounts)
    totals = np.add.reduceat(counts, starts)
    each_total = np.repeat(totals, np.diff(starts, append=len(grams)))
    leftovers = np.add.reduceat(discounts, starts) / totals
    return _Level(grams, (counts - discounts) / each_total, contexts, leftovers)


def _discounts(counts: NDArray[np.int64]) -> Floats:
    """What grams seen 0, 1, 2, 3 or more times give away (equation 26 of the paper).

    Kept inside (0, count): a small text can have no gram seen exactly twice, and a discount of 0
    would make what was never seen impossible.
    """
    n1, n2, n3, n4 = (max(int((counts == k).sum()), 1) for k in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    raw = [0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
    return np.clip(raw, [0, 0.1, 0.1, 0.1], [0, 0.9, 1.9, 2.9])


def _look_up(keys: Keys, values: Floats, wanted: Keys, absent: float) -> Floats:
    if not len(keys):
        return np.full(len(wanted), absent)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], absent)
