"""Baselines: xz at its limits, the n-gram against a slow Kneser-Ney and a known entropy."""

from __future__ import annotations

import math
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.text.baselines import NGram, _discounts, xz_bits_per_byte
from puna.text.corpus import read_corpus

symbols = st.lists(st.integers(0, 4), min_size=1, max_size=80)


@given(symbols, st.lists(st.integers(0, 4), max_size=6), st.integers(1, 5))
def test_distributions_sum_to_one_and_exclude_nothing(
    data: list[int], context: list[int], order: int
) -> None:
    p = NGram.train(data, 5, order).distribution(context)
    assert p.shape == (5,)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert (p > 0).all()


@given(symbols, symbols, st.integers(1, 5))
def test_a_sequence_costs_what_its_distributions_say(
    data: list[int], text: list[int], order: int
) -> None:
    model = NGram.train(data, 5, order)
    chained = [model.distribution(text[:i])[t] for i, t in enumerate(text)]
    assert 2 ** model.log2_probabilities(text) == pytest.approx(np.array(chained), rel=1e-9)
    assert model.bits(text) == pytest.approx(-sum(map(math.log2, chained)))


def slow_kneser_ney(data: list[int], context: list[int], vocab: int, order: int) -> list[float]:
    """The textbook recursion over dictionaries."""
    tables = [Counter(tuple(data[i : i + order]) for i in range(len(data) - order + 1))]
    for _ in range(order - 1):
        tables.append(Counter(gram[1:] for gram in tables[-1]))
    p = [1 / vocab] * vocab
    for k, table in enumerate(reversed(tables), 1):
        if k - 1 > len(context):
            break
        head = tuple(context[len(context) - k + 1 :])
        after = [table[(*head, w)] for w in range(vocab)]
        if sum(after):
            d = _discounts(np.array(list(table.values())))
            rest = sum(d[min(c, 3)] for c in after)
            p = [(c - d[min(c, 3)] + rest * q) / sum(after) for c, q in zip(after, p, strict=True)]
    return p


@given(symbols, st.lists(st.integers(0, 4), max_size=4), st.integers(1, 4))
def test_probabilities_equal_the_textbook_recursion(
    data: list[int], context: list[int], order: int
) -> None:
    order = min(order, len(data))
    fast = NGram.train(data, 5, order).distribution(context)
    assert fast == pytest.approx(slow_kneser_ney(data, context, 5, order), rel=1e-9)


def test_discounts_by_hand() -> None:
    # n1..n4 = 4, 2, 1, 1: y = 1/2, so 1 - 2/4, 2 - 3/4 and 3 - 2.
    counts = np.array([1, 1, 1, 1, 2, 2, 3, 4])
    assert _discounts(counts).tolist() == [0, 0.5, 1.25, 1.0]


def test_a_chain_of_known_entropy_is_learned() -> None:
    # Each symbol repeats with probability 0.9: H = 0.469 bits, but 1 bit without context.
    rng = np.random.default_rng(0)
    data = np.cumsum(rng.random(40_000) < 0.1) % 2
    train, test = data[:30_000], data[30_000:]
    entropy = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    assert NGram.train(train, 2, 3).bits(test) / len(test) == pytest.approx(entropy, abs=0.03)
    assert NGram.train(train, 2, 1).bits(test) / len(test) == pytest.approx(1, abs=0.03)


def test_higher_orders_help_on_real_text_and_it_is_quick() -> None:
    corpus = read_corpus(None, max_bytes=2_000_000)
    train = np.frombuffer("".join(d.text for d in corpus.train).encode(), np.uint8)
    held_out = np.frombuffer("".join(d.text for d in corpus.held_out).encode(), np.uint8)
    begin = time.process_time()
    cost = [NGram.train(train, 256, k).bits(held_out) / len(held_out) for k in (1, 3, 5)]
    assert time.process_time() - begin < 20
    assert 4 < cost[0] < 5.5
    assert cost[2] < cost[1] - 0.3 < cost[0] - 1
    assert 1.5 < cost[2] < 3


def test_too_wide_a_gram_is_refused() -> None:
    with pytest.raises(AssertionError, match="63 bits"):
        NGram.train([1, 2], 8192, 5)


def test_xz_by_its_limits() -> None:
    noise = np.random.default_rng(0).bytes(20_000)
    other = np.random.default_rng(1).bytes(20_000)
    unlike = xz_bits_per_byte(other, noise)
    assert unlike.alone == pytest.approx(8, abs=0.05)
    assert unlike.given_train == pytest.approx(8, abs=0.05)
    same = xz_bits_per_byte(noise, noise)
    assert same.alone == unlike.alone
    assert same.given_train < 0.2
    assert xz_bits_per_byte(b"", b"a" * 20_000).alone < 0.1
