"""Streams depend on their key alone: not on order, process, or kind of integer."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from puna.core.rng import derive, digest, stream

keys = st.lists(st.integers() | st.text(), max_size=4).map(tuple)


def test_independent_of_the_order_of_calls() -> None:
    names = [("rl", step, task) for step in range(3) for task in range(3)]
    forward = {n: stream(5, *n).random(4).tolist() for n in names}
    backward = {n: stream(5, *n).random(4).tolist() for n in reversed(names)}
    assert forward == backward
    assert len({tuple(v) for v in forward.values()}) == len(names)


def test_the_same_in_another_process() -> None:
    code = (
        "from puna.core.rng import stream, derive;"
        "print(stream(1, 'a', 2).random(3).tolist(), derive(1, 'a', 2))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = f"{stream(1, 'a', 2).random(3).tolist()} {derive(1, 'a', 2)}"
    assert done.stdout.strip() == expected


def test_a_longer_draw_begins_with_the_shorter() -> None:
    short = stream(0, "x").random(5, dtype=np.float32)
    assert np.array_equal(stream(0, "x").random(64, dtype=np.float32)[:5], short)


@given(st.integers(0, 2**40), keys, keys)
def test_other_keys_other_streams(seed: int, a: tuple[int | str, ...], b: tuple[int | str, ...]):
    assert (digest(seed, *a) == digest(seed, *b)) == (a == b)
    assert digest(seed, *a) != digest(seed + 1, *a)


def test_words_and_numbers_do_not_meet() -> None:
    assert digest(0, "1") != digest(0, 1)
    assert digest(0, 1, 2) != digest(0, 12)
    assert digest(0, np.int64(3)) == digest(0, 3)  # type: ignore[arg-type]
    assert digest(0, "\ud800") != digest(0, "")


def test_a_derived_seed_fits_in_63_bits() -> None:
    seeds = {derive(0, i) for i in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= s < 2**63 for s in seeds)


def test_the_draws_are_uniform() -> None:
    """One draw from each of many streams: neighbours in key must not be neighbours in value."""
    first = np.array([stream(0, "u", i).random() for i in range(4000)])
    counts = np.histogram(first, bins=20, range=(0, 1))[0]
    assert ((counts - 200) ** 2 / 200).sum() < 45  # chi-square, 19 degrees, p = 0.0007
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.06
