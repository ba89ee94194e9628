"""What tells a good instrument from a bad one: agreement, rank and prediction, in plain numpy.

`icc(x_NWD)`, `reciprocal_ranks(a_ND, b_ND)`, `auc(scores_N, labels_N)`.

N users or rows, W windows a user, D dimensions, C columns to predict.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from puna.core.ranks import auc, ranks_of_own
from puna.core.rng import stream

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FOLDS = 5
PENALTIES = np.logspace(-4, 3, 15)


def spread(x_ND: Floats) -> Floats:
    """Standard deviation of each column, (D,); 0 where there is no more than rounding leaves."""
    found = x_ND.std(0)
    return np.where(found > 1e-9 * np.abs(x_ND).max(0), found, 0.0)


def correlations(a_ND: Floats, b_ND: Floats) -> Floats:
    """Pearson's r of each dimension, (D,); 0 where one side does not vary."""
    products = ((a_ND - a_ND.mean(0)) * (b_ND - b_ND.mean(0))).mean(0)
    scale = spread(a_ND) * spread(b_ND)
    return np.asarray(np.divide(products, scale, out=np.zeros(len(scale)), where=scale > 0))


def spearman_brown(r: Floats) -> Floats:
    """Reliability of the whole from the correlation of its halves, 2r / (1 + r).

    The formula is for halves that agree at all; r below 0 stays what it is.
    """
    return np.where(r > 0, 2 * r / (1 + np.abs(r)), r)


def icc(x_NWD: Floats) -> float:
    """ICC(2,1): two-way random effects, one measurement, absolute agreement.

    Shrout and Fleiss 1979, with mean squares summed over dimensions, so that turning the space
    changes nothing; 0 where nothing varies. N and W from 2.
    """
    n, k = x_NWD.shape[:2]
    users, windows, grand = x_NWD.mean(1), x_NWD.mean(0), x_NWD.mean((0, 1))
    between = k * ((users - grand) ** 2).sum() / (n - 1)
    over_time = n * ((windows - grand) ** 2).sum() / (k - 1)
    rest = x_NWD - users[:, None] - windows + grand
    error = (rest**2).sum() / ((n - 1) * (k - 1))
    total = between + (k - 1) * error + k * (over_time - error) / n
    varies = total > 1e-18 * (x_NWD**2).sum((1, 2)).mean()  # or it is what rounding leaves
    return float((between - error) / total) if varies else 0.0


def directions(x_ND: Floats) -> Floats:
    """Vectors about their mean, each of length 1 (or 0): their products are cosines.

    The mean is taken off because what all users share says nothing about any of them.
    """
    x = x_ND - x_ND.mean(0)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(np.divide(x, length, out=np.zeros_like(x), where=length > 0))


def reciprocal_ranks(query_ND: Floats, gallery_ND: Floats) -> Floats:
    """1 / rank, by cosine, of each user's own vector in the gallery, (N,).

    Ties share the mean of their ranks, so vectors that are all alike earn no more than chance.
    """
    cosines = directions(query_ND) @ directions(gallery_ND).T
    return ranks_of_own(cosines)


def chance_mrr(users: int) -> float:
    """The mean reciprocal rank of a random order, (1 + 1/2 + ... + 1/N) / N."""
    return float((1 / np.arange(1, users + 1)).sum() / users)


def linear_cka(x_ND: Floats, y_ND: Floats) -> float:
    """Centred kernel alignment without its bias (Kornblith et al. 2019; Song et al. 2012, eq. 5).

    1 for the same space turned or scaled, about 0 for unrelated ones. N from 4.
    """
    x, y = x_ND - x_ND.mean(0), y_ND - y_ND.mean(0)
    k, m = x @ x.T, y @ y.T
    both, own, other = _hsic(k, m), _hsic(k, k), _hsic(m, m)
    return float(both / np.sqrt(own) / np.sqrt(other)) if own > 0 and other > 0 else 0.0


def _hsic(k: Floats, m: Floats) -> float:
    n = len(k)
    k, m = k - np.diag(np.diagonal(k)), m - np.diag(np.diagonal(m))
    trace = (k * m).sum()
    sums = k.sum() * m.sum() / ((n - 1) * (n - 2))
    cross = 2 * (k.sum(0) @ m.sum(0)) / (n - 2)
    return float((trace + sums - cross) / (n * (n - 3)))


def mantel(x_ND: Floats, y_NC: Floats) -> float:
    """Correlation of the users' cosine distances in two spaces (Mantel 1967)."""
    upper = np.triu_indices(len(x_ND), 1)
    pairs = [(d @ d.T)[upper][:, None] for d in (directions(x_ND), directions(y_NC))]
    return float(correlations(*pairs)[0])


def held_out_auc(guess_N: Floats, labels_N: Floats, fold_N: Ints) -> float:
    """AUC over the pairs of a fold, all folds together; not a number where no fold has both labels.

    Pairs across folds are left out: their guesses are of two fits, each with the other's user in
    it, and where nothing can be known they fall below one half.
    """
    won, pairs = 0.0, 0
    for fold in np.unique(fold_N):
        label = labels_N[fold_N == fold]
        count = int(label.sum()) * int((1 - label).sum())
        if count:
            won, pairs = won + count * auc(guess_N[fold_N == fold], label), pairs + count
    return won / pairs if pairs else float("nan")


def explained(truth_NC: Floats, guess_NC: Floats) -> Floats:
    """R2 of each column, (C,): 1 - squared error / variance; 0 where there is none to explain."""
    error = ((truth_NC - guess_NC) ** 2).sum(0)
    there = len(truth_NC) * spread(truth_NC) ** 2
    return np.where(there > 0, 1 - error / np.where(there > 0, there, 1), 0.0)


def kappa(a_N: NDArray[np.bool_], b_N: NDArray[np.bool_]) -> float:
    """Agreement of two yes-or-no judgements beyond chance (Cohen 1960); 0 where chance is all."""
    same, p, q = float((a_N == b_N).mean()), float(a_N.mean()), float(b_N.mean())
    chance = p * q + (1 - p) * (1 - q)
    return (same - chance) / (1 - chance) if chance < 1 else 0.0


def effect_size(scores_N: Floats, in_group_N: NDArray[np.bool_]) -> float:
    """Cohen's d: the groups' distance in pooled standard deviations. Two or more in each."""
    a, b = scores_N[in_group_N], scores_N[~in_group_N]
    pooled = ((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(scores_N) - 2)
    return float((a.mean() - b.mean()) / np.sqrt(pooled)) if pooled > 0 else 0.0


def folds_of(users: int, seed: int) -> Ints:
    """A fold for each user, (N,): sizes differ by one at most."""
    return stream(seed, "folds", users).permutation(users) % FOLDS


def held_out_guesses(x_ND: Floats, y_NC: Floats, fold_N: Ints) -> Floats:
    """What ridge regression says of each row when fitted on the other folds, (N, C).

    The level is the mean of all rows, as in R2's yardstick: the other folds' is low where the
    fold's own is high.
    """
    guesses = np.zeros_like(y_NC)
    for fold in np.unique(fold_N):
        rest = fold_N != fold
        guesses[~rest] = ridge(x_ND[rest], y_NC[rest])(x_ND[~rest])
    return np.asarray(guesses + y_NC.mean(0))


def ridge(x_ND: Floats, y_NC: Floats) -> Callable[[Floats], Floats]:
    """Ridge regression on standardised columns: the distance from y's mean, as a function of rows.

    Each target's penalty is that of `PENALTIES` (per row) with the least generalised
    cross-validation error (Golub, Heath and Wahba 1979).
    """
    n = len(x_ND)
    centre, scale = x_ND.mean(0), spread(x_ND)
    scale = np.where(scale > 0, scale, np.inf)  # a constant column says nothing
    x, y = (x_ND - centre) / scale, y_NC - y_NC.mean(0)
    power, basis = np.linalg.eigh(x.T @ x)
    power = np.maximum(power, 0.0)
    projected = basis.T @ (x.T @ y)  # (D, C)
    seen = np.divide(
        projected**2, power[:, None], out=np.zeros_like(projected), where=power[:, None] > 1e-9 * n
    )
    shrink = power / (power + n * PENALTIES[:, None])  # (penalties, D)
    residual = (y * y).sum(0) - (1 - (1 - shrink) ** 2) @ seen  # (penalties, C)
    freedom = (1 - (1 + shrink.sum(1)) / n)[:, None]
    errors = np.where(freedom > 0, residual / np.where(freedom > 0, freedom, 1) ** 2, np.inf)
    penalty = n * PENALTIES[np.argmin(errors, axis=0)]
    weights = basis @ (projected / (power[:, None] + penalty))
    return lambda rows: (rows - centre) / scale @ weights


def residuals(x_ND: Floats, nuisances_NC: Floats) -> Floats:
    """What of x a straight line in the nuisances does not explain, (N, D)."""
    design = np.column_stack([np.ones(len(x_ND)), nuisances_NC])
    return np.asarray(x_ND - design @ np.linalg.lstsq(design, x_ND, rcond=None)[0])


def bootstrap(
    statistic: Callable[[Ints], float], users: int, seed: int, draws: int = 200
) -> tuple[float, float]:
    """95 % percentile interval of `statistic(indices of users)`, users drawn again and again.

    Draws of which the statistic is not a number (one class alone) are left out.
    """
    random = stream(seed, "bootstrap", users)
    found = [statistic(random.integers(0, users, users)) for _ in range(draws)]
    finite = [value for value in found if np.isfinite(value)]
    if not finite:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)
