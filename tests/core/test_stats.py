"""Intervals cover what they claim, estimators match hand-worked numbers and scipy."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.core.errors import UserError
from puna.core.outcome import Infra, Invalid, Scored
from puna.core.rng import stream
from puna.core.stats import (
    _interval,
    mean_interval,
    paired_difference,
    pass_at_k,
    pass_at_k_tasks,
    pass_hat_k,
    pass_hat_k_tasks,
    summarize,
    t_quantile,
)

scipy_stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("df", [1, 2, 3, 9, 29, 199, 200, 201, 500, 10_000])
@pytest.mark.parametrize("p", [0.8, 0.95, 0.975, 0.995])
def test_t_quantile_is_scipys(df: int, p: float) -> None:
    assert t_quantile(p, df) == pytest.approx(scipy_stats.t.ppf(p, df), rel=1e-6)


def test_t_interval_of_an_open_scale_is_scipys() -> None:
    values = [2.0, 4.0, 4.0, 7.0]
    e = mean_interval([[v] for v in values])
    peer = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (e.low, e.high) == pytest.approx((peer.low, peer.high), rel=1e-6)
    assert (e.mean, e.n_tasks, e.k, e.n, e.method) == (4.25, 4, 1, 4, "t")


@pytest.mark.parametrize(("right", "n"), [(0, 20), (20, 20), (3, 20), (50, 100), (1, 1), (0, 1)])
def test_single_binary_values_get_scipys_wilson_interval(right: int, n: int) -> None:
    e = mean_interval([[1.0]] * right + [[0.0]] * (n - right))
    peer = scipy_stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert (e.low, e.high) == pytest.approx((peer.low, peer.high), abs=1e-9)
    assert e.high - e.low > 0.1


@pytest.mark.parametrize("p", [0.5, 0.1])
@pytest.mark.parametrize("n", [30, 100, 500])
@pytest.mark.parametrize("k", [1, 8])
def test_coverage_is_95_percent_clustered_by_task(n: int, k: int, p: float) -> None:
    repeats, random = 2_000, stream(0, "coverage", n, k, int(10 * p))
    rates = random.beta(p * 7 / 3, (1 - p) * 7 / 3, (repeats, n))  # correlation 0.3 within a task
    rows = random.binomial(k, rates) / k
    spans = np.array([_interval(row, 0.95, k == 1, 0.0, 1.0)[:2] for row in rows])
    covered = float(((spans[:, 0] <= p) & (p <= spans[:, 1])).mean())
    # Two standard errors of the simulation (0.005) beyond 0.93 and 0.97: a proportion of 30 single
    # tries is discrete, and Wilson's exact coverage at p = 0.1 is 0.974.
    assert 0.92 <= covered <= 0.98


def test_pooling_the_tries_would_not_cover() -> None:
    random = stream(0, "pooled")
    rates = random.beta(0.5, 0.5, (1_000, 100))
    rows = random.binomial(8, rates)
    pooled, clustered = 0, 0
    for row in rows:
        single = _interval(np.repeat([1.0, 0.0], [row.sum(), 800 - row.sum()]), 0.95, True, 0, 1)
        ours = _interval(row / 8, 0.95, False, 0.0, 1.0)
        pooled += single[0] <= 0.5 <= single[1]
        clustered += ours[0] <= 0.5 <= ours[1]
    assert clustered >= 930
    assert pooled <= 750


def test_mean_interval_and_the_simulated_formula_are_one() -> None:
    rows = stream(1, "rows").integers(0, 2, (40, 5)).astype(float)
    e = mean_interval(rows.tolist())
    assert (e.low, e.high, e.method) == _interval(rows.mean(1), 0.95, False, 0.0, 1.0)
    assert e.mean == pytest.approx(rows.mean())
    assert (e.n_tasks, e.k, e.n) == (40, 5, 200)


def test_tasks_weigh_the_same_however_often_tried() -> None:
    assert mean_interval([[1.0] * 9, [0.0]]).mean == 0.5


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, -1.0, 7.0])
@pytest.mark.parametrize("n", [1, 20])
def test_equal_task_means_never_give_zero_width(value: float, n: int) -> None:
    e = mean_interval([[value, value]] * n)
    assert e.low <= value <= e.high
    assert e.high - e.low > 0.1


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_interval_holds_the_mean_and_stays_in_the_range(rows: list[list[float]]) -> None:
    e = mean_interval(rows)
    assert -1e-9 <= e.low <= e.mean + 1e-9
    assert e.mean - 1e-9 <= e.high <= 1 + 1e-9


@pytest.mark.parametrize("rows", [[], [[]], [[1.0], []], [[float("nan")]], [[float("inf")]]])
def test_refuses_what_has_no_mean(rows: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"no task to|no values|not a finite"):
        mean_interval(rows)


def test_pass_k_hand_worked() -> None:
    assert float(pass_at_k(10, 3, 5)) == pytest.approx(1 - 21 / 252)  # 0.916667
    assert float(pass_hat_k(4, 3, 2)) == pytest.approx(0.5)
    assert pass_at_k([4, 4, 4], [0, 1, 4], 4).tolist() == [0.0, 1.0, 1.0]
    assert float(pass_at_k(100_000, 1, 50_000)) == pytest.approx(0.5)


@given(st.integers(1, 12), st.data())
@settings(max_examples=60, deadline=None)
def test_pass_k_is_the_share_of_subsets(n: int, data: st.DataObject) -> None:
    from itertools import combinations

    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    picks = list(combinations([True] * c + [False] * (n - c), k))
    assert float(pass_at_k(n, c, k)) == pytest.approx(sum(map(any, picks)) / len(picks))
    assert float(pass_hat_k(n, c, k)) == pytest.approx(sum(map(all, picks)) / len(picks))


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_pass_k_refuses_impossible_counts(n: int, c: int, k: int) -> None:
    for formula in (pass_at_k, pass_hat_k):
        with pytest.raises(ValueError, match=r"k is|successes must"):
            formula(n, c, k)


def test_pass_k_over_tasks_leaves_out_the_short_ones() -> None:
    e = pass_at_k_tasks([4, 4, 1], [2, 0, 1], 2)
    assert e.mean == pytest.approx((5 / 6 + 0) / 2)
    assert (e.n_tasks, e.n) == (2, 8)
    assert pass_hat_k_tasks([4, 4], [2, 4], 2).mean == pytest.approx((1 / 6 + 1) / 2)
    assert pass_at_k_tasks([1] * 20, [1] * 20, 1).low == pytest.approx(0.8389, abs=1e-4)
    with pytest.raises(ValueError, match="no task has 2 tries"):
        pass_at_k_tasks([1], [1], 2)


def test_paired_difference_is_scipys_paired_t_test() -> None:
    random = stream(0, "paired")
    a = {f"t{i}": float(x) for i, x in enumerate(random.random(60))}
    b = {t: x - 0.1 + 0.3 * float(random.normal()) for t, x in a.items()}
    d = paired_difference({**a, "only-a": 5.0}, b)
    peer = scipy_stats.ttest_rel(list(a.values()), list(b.values()))
    span = peer.confidence_interval(0.95)
    assert (d.low, d.high) == pytest.approx((span.low, span.high), rel=1e-6)
    assert d.n == 60
    assert d.p_value == pytest.approx(peer.pvalue, abs=0.01)
    half = (span.high - span.low) / 2
    power = scipy_stats.t.ppf(0.8, 59) / scipy_stats.t.ppf(0.975, 59)
    assert d.detectable == pytest.approx(half * (1 + power), rel=1e-6)
    assert d == paired_difference({**a, "only-a": 5.0}, b)


def test_sign_flip_p_value_is_the_exact_one() -> None:
    # All 8 moved tasks one way: only 2 of 2**8 sign patterns reach the sum.
    a = {f"t{i}": float(i < 8) for i in range(20)}
    p = paired_difference(a, dict.fromkeys(a, 0.0)).p_value
    assert p == pytest.approx(2 / 256, abs=0.003)


def test_p_values_are_uniform_when_nothing_differs_and_power_is_as_promised() -> None:
    random = stream(0, "null")
    draws = random.normal(size=(300, 50))
    tasks = [str(i) for i in range(50)]
    zero = dict.fromkeys(tasks, 0.0)
    null = [paired_difference(dict(zip(tasks, r, strict=True)), zero).p_value for r in draws[:150]]
    assert np.mean(np.array(null) < 0.05) < 0.12
    assert 0.4 < np.mean(null) < 0.6
    shift = 0.4045  # (t_0.975 + t_0.8) / sqrt(50) at 49 degrees of freedom and unit spread
    moved = [paired_difference(dict(zip(tasks, r + shift, strict=True)), zero) for r in draws[150:]]
    assert np.mean([d.detectable for d in moved]) == pytest.approx(shift, rel=0.05)
    assert 0.7 < np.mean([d.p_value < 0.05 for d in moved]) < 0.9


def test_paired_difference_edges() -> None:
    same = paired_difference({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 0.0})
    assert same.mean == 0
    assert same.p_value == 1.0
    assert same.low < -0.1
    assert same.high > 0.1
    one = paired_difference({"a": 1.0}, {"a": 0.0})
    assert one.low < 1.0 == one.mean
    assert one.p_value == 1.0
    assert np.isfinite(one.detectable)
    assert json.loads(json.dumps(one.to_json(), allow_nan=False))["n"] == 1
    with pytest.raises(UserError, match="no task in common"):
        paired_difference({"a": 1.0}, {"b": 1.0})
    with pytest.raises(ValueError, match="not a finite number"):
        paired_difference({"a": float("nan")}, {"a": 1.0})


def test_summarize_by_hand() -> None:
    good, bad = Scored(1.0, True), Scored(0.25, False)
    score = summarize({"a": [good, bad], "b": [good, Infra("down")], "c": [Invalid("x")] * 2}, k=2)
    assert score.value is not None
    assert score.success is not None
    assert score.value.mean == pytest.approx((0.625 + 1) / 2)
    assert score.success.mean == pytest.approx((0.5 + 1) / 2)
    assert score.counted_zero == pytest.approx((0.625 + 0.5 + 0) / 3)
    assert (score.n_tasks, score.n_scored, score.n_invalid, score.n_infra) == (3, 3, 2, 1)
    assert score.pass_at[1].mean == pytest.approx(0.75)
    assert score.pass_at[2].mean == 1.0
    assert score.pass_at[2].n_tasks == 1
    assert score.pass_hat[2].mean == 0.0
    assert score.line().endswith(
        "] (n=2 tasks, k=2; 1 infra, 2 invalid; 0.375 with those counted 0)"
    )
    assert score.line().startswith("0.812 [")
    data = json.loads(json.dumps(score.to_json(), allow_nan=False))
    assert data["pass_at"]["2"]["mean"] == 1.0
    assert data["counted_zero"] == 0.375


def test_summarize_with_nothing_scored_and_with_nothing_at_all() -> None:
    score = summarize({"a": [Infra("down")]}, k=1)
    assert score.value is None
    assert not score.pass_at
    assert score.line() == (
        "no score (n=0 tasks, k=1; 1 infra, 0 invalid; 0.000 with those counted 0)"
    )
    full = summarize({"a": [Scored(1.0, True)]}, k=1)
    assert full.line() == "1.000 [0.207, 1.000] (n=1 tasks, k=1; 0 infra, 0 invalid)"
    for empty in ({}, {"a": []}):
        with pytest.raises(ValueError, match="at least one outcome"):
            summarize(empty, k=1)


def test_a_hundred_thousand_episodes_in_under_five_seconds() -> None:
    random = stream(0, "speed")
    draws = random.random(100_000)
    outcomes = {f"t{i}": [Scored(float(x), bool(x > 0.5))] for i, x in enumerate(draws)}
    means = dict(zip(outcomes, draws.tolist(), strict=True))
    shifted = {t: x + 0.1 * float(n) for (t, x), n in zip(means.items(), draws[::-1], strict=True)}
    start = time.process_time()
    summarize(outcomes, k=1)
    paired_difference(means, shifted)
    assert time.process_time() - start < 5
