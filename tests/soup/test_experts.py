"""SoCE's choices by hand: correlations with their permutation intervals, experts, the grid."""

from __future__ import annotations

import math

import numpy as np
import pytest

from puna.core.errors import UserError
from puna.soup.experts import correlate, experts, grid, selected, weak
from puna.soup.scores import Scores
from puna.soup.search import alike, soce


def table(values, categories="abcdefgh", notes=()) -> Scores:
    values = np.array(values, dtype=float)
    models = tuple(f"m{i}" for i in range(len(values)))
    return Scores(models, tuple(categories[: values.shape[1]]), values, notes)


# a rises, b falls, c is 2 a + 1, d goes its own way: rho(a, d) = 0 by hand.
FOUR = [[1, 4, 3, 1], [2, 3, 5, 3], [3, 2, 7, 3], [4, 1, 9, 1]]


def test_correlations_by_hand():
    found = correlate(table(FOUR))
    np.testing.assert_allclose(found.rho_CC[0], [1, -1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(found.rho_CC, np.corrcoef(np.array(FOUR).T), atol=1e-12)
    assert weak(found, 0.3) == ["a", "b", "c", "d"]
    assert weak(correlate(table([row[:3] for row in FOUR])), 0.3) == []


def test_permutation_intervals_hold_what_chance_gives_and_not_what_is_there():
    """Under no correlation rho over n models has a standard deviation of 1 / sqrt(n - 1)."""
    random = np.random.default_rng(0)
    base = random.normal(size=(50, 1))
    values = np.hstack(
        [random.normal(size=(50, 3)), base, base + 0.3 * random.normal(size=(50, 1))]
    )
    found = correlate(table(values))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        half = 1.96 / math.sqrt(49)
        assert abs(found.low_CC[i, j] + half) < 0.06
        assert abs(found.high_CC[i, j] - half) < 0.06
        assert found.low_CC[i, j] == found.low_CC[j, i]
    assert found.rho_CC[3, 4] > found.high_CC[3, 4] + 0.5
    again = correlate(table(values))
    assert np.array_equal(again.low_CC, found.low_CC)
    assert not np.array_equal(correlate(table(values), seed=1).low_CC, found.low_CC)


def test_a_constant_category_has_no_correlation_and_is_said():
    values = [[*row, 0.3] for row in FOUR]
    found = correlate(table(values))
    assert found.constant == ("e",)
    assert np.isnan(found.rho_CC[4]).all()
    assert "e" not in weak(found, 1.0)
    assert found.to_json()["rho"][4] == [None] * 5
    choice = soce(table(values), table(values), 0.3, None)
    assert choice.notes == ("e is the same for every model: left out",)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_than_four_models_are_refused(count):
    with pytest.raises(UserError, match=rf"over {count} models say nothing; .*--method greedy"):
        correlate(table(FOUR[:count]))


def test_experts_and_their_ties():
    scores = table([[1, 0, 0.5], [1, 1, 0.5], [0, 1, 0.6]])
    assert experts(scores, ["a", "b", "c"]) == {"a": "m1", "b": "m1", "c": "m2"}
    assert experts(table([[1, 0], [1, 0]]), ["a"]) == {"a": "m0"}
    assert selected({"x": "m2", "y": "m0", "z": "m2"}, scores.models) == ["m0", "m2"]


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 9), (3, 36), (4, 84), (5, 126), (11, 0)])
def test_the_grid_has_the_papers_sizes(count, size):
    found = grid(count)
    assert len(set(found)) == len(found) == size
    for weights in found:
        assert math.isclose(sum(weights), 1.0)
        assert min(weights) >= 0.1


def test_soce_takes_the_weights_that_score_best():
    """The published 70B table has .5, .2, .3: such a top is found, and the equal one is tried."""
    scores = table([[9, 1, 1, 5], [1, 9, 2, 5], [2, 1, 9, 4], [5, 5, 5, 3]])
    best, seen = (0.5, 0.2, 0.3), []

    def score(weights):
        seen.append(dict(weights))
        total = sum(weights.values())
        return -sum((w / total - b) ** 2 for w, b in zip(weights.values(), best, strict=True))

    choice = soce(scores, scores, 0.5, score)
    assert choice.record["experts"] == {"a": "m0", "b": "m1", "c": "m2", "d": "m1"}
    assert choice.weights == dict(zip(("m0", "m1", "m2"), best, strict=True))
    assert len(seen) == len(choice.record["tried"]) == 37
    assert seen[0] == alike(["m0", "m1", "m2"])
    flat = soce(scores, scores, 0.5, lambda weights: 1.0)
    assert flat.weights == alike(["m0", "m1", "m2"])  # the first of equals


def test_without_weak_categories_it_is_the_best_member_alone():
    scores = table([row[:3] for row in FOUR])
    choice = soce(scores, scores, 0.3, lambda weights: 0.0)
    assert choice.weights == {"m3": 1.0}
    assert choice.notes == ("no two categories correlate by less than 0.3: the best member alone",)


def test_the_controls_leave_one_step_out_each():
    """`experts` has the members without the search, `random` the search with other members."""
    scores = table([[9, 1, 1, 5], [1, 9, 2, 5], [2, 1, 9, 4], [5, 5, 5, 3], [1, 1, 1, 1]])
    full = soce(scores, scores, 0.5, lambda w: -next(iter(w.values())) / sum(w.values()))
    asked: list[dict[str, float]] = []

    def score(weights):
        asked.append(dict(weights))
        return float(len(asked))

    plain = soce(scores, scores, 0.5, score, method="experts")
    assert plain.weights == alike(["m0", "m1", "m2"]) != full.weights
    assert not asked
    assert plain.record["experts"] == full.record["experts"]
    drawn = [soce(scores, scores, 0.5, score, seed, "random") for seed in range(200)]
    assert len(asked) == 200 * 37
    assert {len(d.record["drawn"]) for d in drawn} == {3}
    assert all(list(d.weights) == d.record["drawn"] for d in drawn)
    often = [sum(m in d.weights for d in drawn) for m in scores.models]
    assert min(often) > 0.45 * 200  # 0.6 of them each
    assert max(often) < 0.75 * 200
    again = soce(scores, scores, 0.5, None, 3, "random")
    assert list(again.weights) == list(drawn[3].weights)


def test_of_equal_members_one_is_the_expert():
    scores = table([[9, 1, 4], [9, 1, 4], [1, 9, 3], [5, 5, 9]])
    choice = soce(scores, scores, 1.0, None)
    assert list(choice.weights) == ["m0", "m2", "m3"]


def test_the_pool_may_hold_more_models_than_the_members():
    """Over the four a and d do not correlate; over these two alone they would."""
    pool = table(FOUR)
    choice = soce(pool, pool.of(["m2", "m3"]), 0.3, None)
    assert choice.record["correlations"]["pool"] == ["m0", "m1", "m2", "m3"]
    assert choice.weights == {"m2": 1.0, "m3": 1.0}
    assert choice.record["experts"] == {"a": "m3", "b": "m2", "c": "m3", "d": "m2"}
