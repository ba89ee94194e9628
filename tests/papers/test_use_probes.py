"""Probes and ranks by hand and against brute force."""

import numpy as np
import pytest

from puna.core.ranks import auc, ranks_of_own
from puna.papers.use.probes import (
    PENALTIES,
    one_hot,
    probe_scores,
    r2,
    reciprocal_ranks,
    ridge,
    shares,
)


def test_auc_by_hand():
    y = np.array([0, 0, 1, 1.0])
    assert auc(np.array([0.1, 0.4, 0.35, 0.8]), y) == 0.75
    assert auc(np.array([1.0, 1.0, 1.0, 2.0]), y) == 0.75  # ties count half
    assert auc(np.array([3.0, 3.0, 3.0, 3.0]), y) == 0.5
    assert auc(np.array([1.0, 2.0]), np.array([1.0, 1.0])) == 0.5


def test_reciprocal_ranks_by_hand():
    scores = np.array([[3.0, 1.0, 2.0], [5.0, 4.0, 6.0], [1.0, 1.0, 1.0]])
    assert ranks_of_own(scores).tolist() == [1.0, pytest.approx(1 / 3), 0.5]


def test_ranks_are_by_cosine_about_the_mean():
    known = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    assert reciprocal_ranks(7 * known, known).tolist() == [1.0, 1.0, 1.0]
    moved = known + 100  # what all have in common tells nothing
    assert reciprocal_ranks(moved, moved).tolist() == [1.0, 1.0, 1.0]


def test_shares_by_hand():
    assert shares(np.array([[2.0, 2.0, 0.0], [0.0, 0.0, 0.0]])).tolist() == [
        [0.5, 0.5, 0],
        [0, 0, 0],
    ]


def test_ridge_is_the_one_with_the_least_error_of_leaving_one_out():
    random = np.random.default_rng(0)
    x = random.normal(size=(30, 6))
    y = x[:, :2] @ np.array([[1.0], [-2.0]]) + 2 * random.normal(size=(30, 1)) + 5

    def fitted(rows, penalty, to):
        z = (x - x.mean(axis=0)) / x.std(axis=0)
        a, b = z[rows], y[rows]
        centre, level = a.mean(axis=0), b.mean(axis=0)
        gram = (a - centre).T @ (a - centre) + penalty * 30 * np.eye(6)
        return (z[to] - centre) @ np.linalg.solve(gram, (a - centre).T @ (b - level)) + level

    def press(penalty):
        rows = np.arange(30)
        return sum(((y[i] - fitted(rows != i, penalty, i)) ** 2).item() for i in rows)

    best = min(PENALTIES, key=press)
    assert PENALTIES[0] < best < PENALTIES[-1]
    assert np.allclose(ridge(x, y, x), fitted(np.arange(30), best, np.arange(30)), atol=1e-10)


def test_a_probe_finds_what_is_there_and_nothing_else():
    random = np.random.default_rng(1)
    x = random.normal(size=(400, 20))
    y = (x[:, 3] + 0.5 * random.normal(size=400) > 0).astype(float)
    noise = (random.random(400) < 0.5).astype(float)
    assert auc(probe_scores(x, one_hot(y))[:, 1], y) > 0.9
    assert abs(auc(probe_scores(x, one_hot(noise))[:, 1], noise) - 0.5) < 0.1
    # A probe that saw the row it scores would find the noise too.
    seen = ridge(x[:40], one_hot(noise)[:40], x[:40])[:, 1]
    assert auc(seen, noise[:40]) > auc(probe_scores(x[:40], one_hot(noise[:40]))[:, 1], noise[:40])


def test_columns_that_never_change_are_no_trouble():
    x = np.ones((10, 3))
    assert np.allclose(ridge(x, np.arange(10.0)[:, None], x), 4.5)


def test_r2_by_hand():
    truth = np.array([[1.0], [2.0], [3.0]])
    assert r2(truth, truth) == 1.0
    assert r2(np.array([[1.0], [2.0], [2.0]]), truth) == 0.5
    assert r2(-truth, truth) == 0.0
    assert r2(truth, np.ones((3, 1))) == 0.0
