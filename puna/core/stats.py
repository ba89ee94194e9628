"""Scores with honest intervals: clustered by task, pass@k and pass^k, paired comparison.

`summarize({"t1": [Scored(1.0, True)], "t2": [Infra("down")]}, k=1).line()` ->
`"1.000 [0.207, 1.000] (n=1 tasks, k=1; 1 infra, 0 invalid; 0.500 with those counted 0)"`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from puna.core.errors import UserError
from puna.core.outcome import Infra, Invalid, Outcome, Scored
from puna.core.rng import stream

Floats = NDArray[np.float64]
POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """A mean over tasks and its interval; `k` values at most per task, `n` values in all."""

    mean: float
    low: float
    high: float
    n_tasks: int
    k: int
    n: int
    method: str

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Difference:
    """`a - b` over `n` common tasks; `detectable`: the difference found in 80 % of repeats."""

    mean: float
    low: float
    high: float
    n: int
    p_value: float
    detectable: float

    def __str__(self) -> str:
        return (
            f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}] (n={self.n} tasks, "
            f"p{p_text(self.p_value)}; detectable {self.detectable:.3f})"
        )

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)


def p_text(p: float) -> str:
    """`=0.012`, or `<0.001`: never a p-value of nothing."""
    return f"={p:.3f}" if p >= 0.001 else "<0.001"


def mean_interval(values_by_task: Sequence[Sequence[float]], level: float = 0.95) -> Estimate:
    """The mean of task means and its interval, tasks being what was sampled (clusters).

    Each task weighs the same however many values it has. Single 0/1 values: Wilson (1927). Other
    values within 0..1: Wilson's formula at the effective sample size p(1-p)/Var(mean) with a t
    quantile (Dean & Pagano 2015), which tends to the t interval and holds its coverage near 0 and
    1, where t does not. Values beyond 0..1: t on task means. All task means equal: the share of
    tasks that could still have differed (Wilson's bound at 0 of n) times the distance to the ends
    of the range, 0..1 widened to hold the data. Raises ValueError: no task, no value, NaN.
    """
    counts = np.array([len(values) for values in values_by_task], dtype=np.int64)
    if not len(counts):
        raise ValueError("no task to take a mean over")
    if not counts.all():
        raise ValueError(f"task {int(np.argmin(counts))} has no values")
    flat = np.concatenate([np.asarray(v, dtype=np.float64) for v in values_by_task])
    if not np.isfinite(flat).all():
        raise ValueError("a value is not a finite number")
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    means = np.add.reduceat(flat, starts) / counts
    single = bool(counts.max() == 1 and np.isin(flat, (0.0, 1.0)).all())
    low, high, method = _interval(means, level, single, 0.0, 1.0)
    sizes = (len(counts), int(counts.max()), len(flat))
    return Estimate(float(means.mean()), low, high, *sizes, method)


def _interval(
    means: Floats, level: float, single: bool, floor: float, ceiling: float
) -> tuple[float, float, str]:
    n, mean = len(means), float(means.mean())
    floor, ceiling = min(floor, float(means.min())), max(ceiling, float(means.max()))
    z = NormalDist().inv_cdf(0.5 + level / 2)
    if np.ptp(means) <= 1e-12 * (ceiling - floor):
        share = z * z / (n + z * z)
        return mean - share * (mean - floor), mean + share * (ceiling - mean), "wilson"
    if single:
        return *_wilson(mean, n, z), "wilson"
    t, variance = t_quantile(0.5 + level / 2, n - 1), float(means.var(ddof=1)) / n
    if floor == 0.0 and ceiling == 1.0:
        return *_wilson(mean, max(n, mean * (1 - mean) / variance), t), "wilson-t"
    half = t * math.sqrt(variance)
    return mean - half, mean + half, "t"


def _wilson(p: float, n: float, z: float) -> tuple[float, float]:
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@lru_cache(maxsize=256)
def t_quantile(p: float, df: int) -> float:
    """Student's t quantile for 0.5 <= p < 1, right to 1e-6 (df from 1).

    t = sqrt(df) tan(a) turns the density into cos(a)^(df-1), integrated by the trapezoid rule;
    above 200 degrees of freedom the Cornish-Fisher series (Abramowitz & Stegun 26.7.5).
    """
    if df > 200:
        z = NormalDist().inv_cdf(p)
        g1 = (z**3 + z) / 4
        g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
        g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
        return z + g1 / df + g2 / df**2 + g3 / df**3
    angle = np.linspace(0.0, math.pi / 2, 100_001)
    density = np.cos(angle) ** (df - 1)
    area = np.concatenate(([0.0], np.cumsum(density[1:] + density[:-1])))
    return math.sqrt(df) * math.tan(float(np.interp((2 * p - 1) * area[-1], area, angle)))


def _choose_ratio(top: ArrayLike, bottom: ArrayLike, k: int) -> Floats:
    """C(top, k) / C(bottom, k), elementwise, as a product of k ratios (no overflow)."""
    a, b = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    ratio: Floats = np.ones(np.broadcast(a, b).shape)
    for i in range(k):
        ratio = ratio * np.maximum(a - i, 0.0) / (b - i)
    return ratio


def _check_counts(n: ArrayLike, c: ArrayLike, k: int) -> tuple[Floats, Floats]:
    tries, right = np.asarray(n, dtype=np.float64), np.asarray(c, dtype=np.float64)
    if k < 1 or np.any(tries < k):
        raise ValueError(f"k is {k}; it must be between 1 and the number of tries")
    if not np.all((right >= 0) & (right <= tries)):
        raise ValueError("successes must lie between 0 and the number of tries")
    return tries, right


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> Floats:
    """Chance that at least one of k tries succeeds, from c successes in n tries, elementwise.

    1 - C(n-c, k) / C(n, k), unbiased (Chen et al. 2021, eq. 1). Raises ValueError where k > n.
    """
    tries, right = _check_counts(n, c, k)
    return np.asarray(1.0 - _choose_ratio(tries - right, tries, k))


def pass_hat_k(n: ArrayLike, c: ArrayLike, k: int) -> Floats:
    """Chance that all of k tries succeed: C(c, k) / C(n, k), unbiased (Yao et al. 2024).

    Elementwise over arrays of n and c. Raises ValueError where k > n.
    """
    tries, right = _check_counts(n, c, k)
    return _choose_ratio(right, tries, k)


def pass_at_k_tasks(n: ArrayLike, c: ArrayLike, k: int, level: float = 0.95) -> Estimate:
    """pass@k over tasks with its interval; tasks with fewer than k tries are left out.

    Arguments: one n and c a task. Raises ValueError where no task has k tries.
    """
    return _over_tasks(pass_at_k, n, c, k, level)


def pass_hat_k_tasks(n: ArrayLike, c: ArrayLike, k: int, level: float = 0.95) -> Estimate:
    """pass^k over tasks with its interval; as `pass_at_k_tasks`."""
    return _over_tasks(pass_hat_k, n, c, k, level)


def _over_tasks(formula: Any, n: ArrayLike, c: ArrayLike, k: int, level: float) -> Estimate:
    tries, right = np.broadcast_arrays(np.atleast_1d(n), np.atleast_1d(c))
    enough = tries >= k
    if not enough.any():
        raise ValueError(f"no task has {k} tries")
    tries, right = tries[enough], right[enough]
    means = formula(tries, right, k)
    low, high, method = _interval(means, level, bool(tries.max() == 1), 0.0, 1.0)
    sizes = (len(means), int(tries.max()), int(tries.sum()))
    return Estimate(float(means.mean()), low, high, *sizes, method)


def paired_difference(a: Mapping[str, float], b: Mapping[str, float], seed: int = 0) -> Difference:
    """`a - b` paired over the common tasks (task -> mean): 95 % t interval, permutation p-value.

    The p-value flips the sign of each task's difference at random (10,000 times; fewer, at least
    2,000, above 20,000 tasks). `detectable` = (t_0.975 + t_0.8) standard errors. Where every task
    differs by the same amount the interval is that of `mean_interval` on -1..1. Raises UserError
    where no task is common, ValueError on NaN.
    """
    common = sorted(a.keys() & b.keys())
    if not common:
        raise UserError(
            "the two results have no task in common",
            fix="compare results of the same environment, version and split",
        )
    differences = np.array([a[t] - b[t] for t in common], dtype=np.float64)
    if not np.isfinite(differences).all():
        raise ValueError("a task's mean is not a finite number")
    n, mean = len(common), float(differences.mean())
    low, high = _paired_interval(differences)
    factor = 1 + t_quantile(POWER, max(n - 1, 1)) / t_quantile(0.975, max(n - 1, 1))
    detectable = factor * (high - low) / 2
    return Difference(mean, low, high, n, _sign_flip(differences, seed), detectable)


def _paired_interval(differences: Floats) -> tuple[float, float]:
    n = len(differences)
    if np.ptp(differences) <= 1e-12:
        return _interval(differences, 0.95, False, -1.0, 1.0)[:2]
    half = t_quantile(0.975, n - 1) * float(differences.std(ddof=1)) / math.sqrt(n)
    mean = float(differences.mean())
    return mean - half, mean + half


def _sign_flip(differences: Floats, seed: int) -> float:
    """Two-sided p-value of the sign-flip test, (1 + hits) / (1 + flips), never 0."""
    moved = differences[differences != 0]
    if not len(moved):
        return 1.0
    flips = max(2_000, min(10_000, 200_000_000 // len(moved)))
    random = stream(seed, "sign-flip", len(moved))
    # A flipped sum that equals the observed one but for rounding must count as reaching it.
    bound = abs(float(moved.sum())) - 1e-9 * float(np.abs(moved).sum())
    hits, block = 0, max(1, 4_000_000 // len(moved))
    for start in range(0, flips, block):
        rows = min(block, flips - start)
        bits = np.frombuffer(random.bytes(rows * (len(moved) // 8 + 1)), dtype=np.uint8)
        signs = np.unpackbits(bits.reshape(rows, -1), axis=1, count=len(moved))
        sums = 2.0 * (signs.astype(np.float64) @ moved) - moved.sum()
        hits += int((np.abs(sums) >= bound).sum())
    return (1 + hits) / (1 + flips)


def correlation(a: ArrayLike, b: ArrayLike) -> float | None:
    """Pearson's, of two rows of numbers; None where one is constant or there are fewer than two."""
    both = np.array([a, b], dtype=np.float64)
    if both.shape[1] < 2 or (np.ptp(both, axis=1) == 0).any():
        return None
    table: Floats = np.asarray(np.corrcoef(both))
    return float(table[0, 1])


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for being several (Holm 1979), in the order given.

    The i-th smallest of m is multiplied by m - i + 1 and is no less than those before it. Calling
    what is then at most 0.05 a difference is wrong once or more in at most 5 % of such families,
    however the tests hang together. Raises ValueError for what is no p-value.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError("a p-value must lie between 0 and 1")
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(raised, 1.0)
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class Score:
    """What an evaluation found; only Scored outcomes are in the estimates (None where none was).

    `pass_at[j]` and `pass_hat[j]` for j = 1..k, over tasks that have j scored tries;
    `counted_zero`: the mean value with every Invalid and Infra counted 0.
    """

    value: Estimate | None
    success: Estimate | None
    pass_at: Mapping[int, Estimate]
    pass_hat: Mapping[int, Estimate]
    k: int
    n_tasks: int
    n_scored: int
    n_invalid: int
    n_infra: int
    counted_zero: float

    def line(self) -> str:
        """One line: value, interval, tasks, tries, what was not scored and what it would change.

        For k > 1 pass@k and pass^k follow, with the number of tasks where some have fewer tries.
        """
        scored_tasks = self.value.n_tasks if self.value else 0
        rest = f"{self.n_infra} infra, {self.n_invalid} invalid"
        if self.n_infra + self.n_invalid:
            rest += f"; {self.counted_zero:.3f} with those counted 0"
        ends = "".join(f", {name} {found}" for name, found in self.pass_k())
        return f"{self.value or 'no score'} (n={scored_tasks} tasks, k={self.k}; {rest}){ends}"

    def pass_k(self) -> list[tuple[str, str]]:
        """pass@k and pass^k by name, as text; nothing for k = 1 or where no task has k tries."""
        out = []
        for sign, known in (("@", self.pass_at), ("^", self.pass_hat)):
            found = known.get(self.k) if self.k > 1 else None
            if found and self.value:
                fewer = found.n_tasks < self.value.n_tasks
                over = f" (n={found.n_tasks} tasks)" if fewer else ""
                out.append((f"pass{sign}{self.k}", f"{found}{over}"))
        return out

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; the keys of `pass_at` and `pass_hat` become text."""
        data = asdict(self)
        for name in ("pass_at", "pass_hat"):
            data[name] = {str(j): estimate for j, estimate in data[name].items()}
        return data


def summarize(outcomes_by_task: Mapping[str, Sequence[Outcome]], k: int) -> Score:
    """The score of an evaluation of up to k episodes a task.

    Raises ValueError where there is no task, a task has no outcome, or k < 1.
    """
    if not outcomes_by_task or not all(outcomes_by_task.values()) or k < 1:
        raise ValueError("a score needs k >= 1 and at least one outcome for each task")
    scored = [[o for o in row if isinstance(o, Scored)] for row in outcomes_by_task.values()]
    totals = [len(row) for row in outcomes_by_task.values()]
    zeroed = [sum(o.value for o in row) / m for row, m in zip(scored, totals, strict=True)]
    kept = [row for row in scored if row]
    n = np.array([len(row) for row in kept])
    c = np.array([sum(o.success for o in row) for row in kept])
    depth = min(k, int(n.max())) if kept else 0
    flat = [o for row in outcomes_by_task.values() for o in row]
    return Score(
        value=mean_interval([[o.value for o in row] for row in kept]) if kept else None,
        success=mean_interval([[float(o.success) for o in row] for row in kept]) if kept else None,
        pass_at={j: pass_at_k_tasks(n, c, j) for j in range(1, depth + 1)},
        pass_hat={j: pass_hat_k_tasks(n, c, j) for j in range(1, depth + 1)},
        k=k,
        n_tasks=len(totals),
        n_scored=sum(len(row) for row in kept),
        n_invalid=sum(isinstance(o, Invalid) for o in flat),
        n_infra=sum(isinstance(o, Infra) for o in flat),
        counted_zero=sum(zeroed) / len(zeroed),
    )


def task_means(outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, float]:
    """Mean value per task, over its Scored episodes; tasks without one are left out."""
    out = {}
    for task, found in outcomes.items():
        values = [o.value for o in found if isinstance(o, Scored)]
        if values:
            out[task] = sum(values) / len(values)
    return out
