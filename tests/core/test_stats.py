"""Intervals cover what they claim, estimators match hand-worked numbers and scipy."""

import json
import math
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.core.errors import UserError
from puna.core.outcome import Infra, Invalid, Scored
from puna.core.rng import stream
from puna.core.stats import (
    _interval,
    _paired_interval,
    holm,
    mean_interval,
    paired_difference,
    pass_at_k,
    pass_at_k_tasks,
    pass_hat_k,
    pass_hat_k_tasks,
    summarize,
    t_quantile,
    task_means,
)

Cell = Callable[[np.random.Generator, int, int], float]  # (stream, repeats, tasks) -> coverage
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


def tries(random: np.random.Generator, shape: tuple[int, int], k: int, p: Any, rho: float) -> Any:
    """Successes in k tries of each task; the tries of a task have correlation `rho`."""
    rates = random.beta(p * (1 - rho) / rho, (1 - p) * (1 - rho) / rho, shape)
    return random.binomial(k, rates)


def share_covered(spans: Iterable[tuple[float, float]], truth: Any) -> float:
    low, high = np.array(list(spans)).T
    return float(((low <= truth) & (truth <= high)).mean())


def means(k: int, p: float | None, rho: float) -> Cell:
    """Mean of k tries a task; p None: drawn anew for each repeat, from 0 to 1."""

    def cell(random: np.random.Generator, repeats: int, n: int) -> float:
        truth = random.random((repeats, 1)) if p is None else np.full((repeats, 1), p)
        rows = tries(random, (repeats, n), k, truth, rho) / k
        return share_covered((_interval(r, 0.95, k == 1, 0.0, 1.0)[:2] for r in rows), truth[:, 0])

    return cell


def partial(a: float, b: float) -> Cell:
    """One value in 0..1 a task, from a beta distribution."""

    def cell(random: np.random.Generator, repeats: int, n: int) -> float:
        rows = random.beta(a, b, (repeats, n))
        return share_covered((_interval(r, 0.95, False, 0.0, 1.0)[:2] for r in rows), a / (a + b))

    return cell


def pass_k(over: Any, k: int, p: float, rho: float) -> Cell:
    """pass@k or pass^k from 8 tries; the truth is a moment of the beta distribution of rates."""
    right, wrong = p * (1 - rho) / rho, (1 - p) * (1 - rho) / rho
    mass = wrong if over is pass_at_k_tasks else right
    moment = math.prod((mass + i) / (right + wrong + i) for i in range(k))
    truth = 1 - moment if over is pass_at_k_tasks else moment

    def cell(random: np.random.Generator, repeats: int, n: int) -> float:
        found = (over(np.full(n, 8), r, k) for r in tries(random, (repeats, n), 8, p, rho))
        return share_covered(((e.low, e.high) for e in found), truth)

    return cell


def paired(draw: Callable[[np.random.Generator, tuple[int, int]], Any], truth: float) -> Cell:
    def cell(random: np.random.Generator, repeats: int, n: int) -> float:
        return share_covered(map(_paired_interval, draw(random, (repeats, n))), truth)

    return cell


def flipped(up: float, down: float) -> Cell:
    """Single 0/1 values: B alone solves a share `up` of the tasks, A alone a share `down`."""

    def draw(random: np.random.Generator, shape: tuple[int, int]) -> Any:
        u = random.random(shape)
        return (u < up) * 1.0 - (u > 1 - down)

    return paired(draw, up - down)


def learnt(k: int, p: float, rho: float, gain: float) -> Cell:
    """B solves every task with the rate of A, and a share `gain` of what A lacks."""

    def draw(random: np.random.Generator, shape: tuple[int, int]) -> Any:
        rates = random.beta(p * (1 - rho) / rho, (1 - p) * (1 - rho) / rho, shape)
        both = (random.binomial(k, r) for r in (rates + gain * (1 - rates), rates))
        return np.subtract(*both) / k

    return paired(draw, gain * (1 - p))


def partial_pair(random: np.random.Generator, shape: tuple[int, int]) -> Any:
    return random.beta(0.3, 1.5, shape) - random.beta(0.3, 3, shape)


def rarely_ahead(random: np.random.Generator, shape: tuple[int, int]) -> Any:
    return (random.random(shape) < 0.1) * random.random(shape)


# Coverage of a proportion swings with p (Brown, Cai & DasGupta 2001): single tries are judged by
# their average over p, tries in clusters at each p.
COVERED = {
    "single tries, any p": means(1, None, 0.3),
    **{
        f"{k} tries, p {p}, correlation {rho}": means(k, p, rho)
        for k in (4, 8)
        for p in (0.5, 0.2)
        for rho in (0.05, 0.3, 0.8)
    },
    "8 tries, any p, correlation 0.3": means(8, None, 0.3),
    "partial credit": partial(2, 5),
    "partial credit, mostly all or nothing": partial(0.3, 0.3),
    "partial credit, skewed": partial(0.5, 2.5),
    "pass@2": pass_k(pass_at_k_tasks, 2, 0.3, 0.3),
    "pass@4": pass_k(pass_at_k_tasks, 4, 0.3, 0.3),
    "pass@8, strong clusters": pass_k(pass_at_k_tasks, 8, 0.5, 0.8),
    "pass^2": pass_k(pass_hat_k_tasks, 2, 0.6, 0.3),
    "pass^4": pass_k(pass_hat_k_tasks, 4, 0.6, 0.3),
    "pass^8, strong clusters": pass_k(pass_hat_k_tasks, 8, 0.5, 0.8),
    "paired, single tries, gain": flipped(0.3, 0.1),
    "paired, single tries, small gain": flipped(0.15, 0.05),
    "paired, single tries, no gain": flipped(0.1, 0.1),
    "paired, 4 tries, weak clusters": learnt(4, 0.5, 0.05, 0.2),
    "paired, 8 tries, strong clusters": learnt(8, 0.5, 0.8, 0.2),
    "paired, 8 tries, rarely solved": learnt(8, 0.05, 0.3, 0.2),
    "paired, partial credit, skewed": paired(partial_pair, 0.3 / 1.8 - 0.3 / 3.3),
}
# What no method tried holds: a few tasks carry all there is to see, so some samples miss them.
RARE = {
    "8 tries, p 0.03, correlation 0.3": means(8, 0.03, 0.3),
    "8 tries, p 0.03, correlation 0.8": means(8, 0.03, 0.8),
    "partial credit, nearly always nothing": partial(0.1, 2),
    "pass^4 of 0.04": pass_k(pass_hat_k_tasks, 4, 0.2, 0.3),
    "paired, B ahead on a tenth of the tasks, A on none": paired(rarely_ahead, 0.05),
}


@pytest.mark.parametrize("n", [30, 200])
@pytest.mark.parametrize("name", COVERED)
def test_intervals_cover_95_percent(name: str, n: int) -> None:
    assert 0.93 <= COVERED[name](stream(0, "coverage", name, n), 2_000, n) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("n", [30, 50, 100, 200, 500])
@pytest.mark.parametrize("name", COVERED)
def test_intervals_cover_95_percent_in_many_repeats(name: str, n: int) -> None:
    assert 0.93 <= COVERED[name](stream(1, "coverage", name, n), 10_000, n) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("name", RARE)
def test_coverage_comes_with_tasks_where_success_is_rare(name: str) -> None:
    found = {n: RARE[name](stream(1, "coverage", name, n), 4_000, n) for n in (30, 500)}
    assert 0.75 <= found[30] < 0.95
    assert 0.925 <= found[500] <= 0.97


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
@settings(max_examples=100)
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
@settings(max_examples=60)
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


def test_holm_by_hand() -> None:
    # 0.01 * 4, 0.02 * 3, then 0.03 * 2 no less than that, 0.6 * 1.
    assert holm([0.03, 0.01, 0.6, 0.02]) == pytest.approx([0.06, 0.04, 0.6, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    for wrong in ([-0.1], [1.1], [float("nan")]):
        with pytest.raises(ValueError, match="p-value"):
            holm(wrong)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=100)
def test_holm_never_helps_and_keeps_the_order(p: list[float]) -> None:
    adjusted = holm(p)
    m = len(p)
    assert all(a <= b <= 1 and b <= max(a * m, 0) + 1e-12 for a, b in zip(p, adjusted, strict=True))
    ranked = sorted(range(m), key=p.__getitem__)
    assert all(adjusted[i] <= adjusted[j] for i, j in pairwise(ranked))


@pytest.mark.parametrize("shared", [0.0, 0.7])
def test_holm_rarely_finds_anything_where_there_is_nothing(shared: float) -> None:
    random = stream(0, "families")
    z = math.sqrt(1 - shared) * random.normal(size=(4_000, 8))
    z += math.sqrt(shared) * random.normal(size=(4_000, 1))
    p = 2 * scipy_stats.norm.sf(np.abs(z))
    assert np.mean([min(holm(row)) <= 0.05 for row in p]) <= 0.057
    assert np.mean(p.min(axis=1) <= 0.05) > 0.15  # what unadjusted p-values would find


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
    rest = "] (n=2 tasks, k=2; 1 infra, 2 invalid; 0.375 with those counted 0), pass@2 1.000 ["
    assert rest in score.line()
    assert score.line().endswith("] (n=1 tasks)")
    assert score.line().startswith("0.812 [")
    assert [name for name, _ in score.pass_k()] == ["pass@2", "pass^2"]
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


def seconds(n: int, k: int) -> float:
    """Processor time of summing up `n` tasks of `k` episodes twice, and comparing the two."""
    draws = stream(0, "speed").random((2, n, k))
    sides = [
        {f"t{i}": [Scored(float(x), bool(x > 0.5)) for x in row] for i, row in enumerate(side)}
        for side in draws
    ]
    start = time.process_time()
    for side in sides:
        summarize(side, k=k)
    paired_difference(task_means(sides[1]), task_means(sides[0]))
    return time.process_time() - start


def test_time_grows_as_the_number_of_episodes() -> None:
    small, large = min(seconds(3_000, 1) for _ in range(3)), seconds(30_000, 1)
    assert large < 40 * small + 0.05  # quadratic is 100 times


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k"), [(100_000, 1), (10_000, 10)])
def test_a_hundred_thousand_episodes_in_under_five_seconds(n: int, k: int) -> None:
    assert seconds(n, k) < 5
