"""What is read off embeddings: linear probes, their scores, and ranks by cosine.

`auc(probe_scores(x_ND, y_N), y_N)`; `reciprocal_ranks(query_ND, known_ND).mean()` is the MRR.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PENALTIES = 10.0 ** np.arange(-3, 5)


def ridge(x_ND: Floats, y_NC: Floats, to_MD: Floats) -> Floats:
    """(M, C): ridge regression's values at `to_MD`, features standardised on `x_ND`.

    The penalty is the one with the least exact leave-one-out error (Allen's PRESS, through the
    singular values), the same for all C targets.
    """
    mean, spread = x_ND.mean(axis=0), x_ND.std(axis=0)
    spread = np.where(spread > 1e-9, spread, np.inf)
    x, to = (x_ND - mean) / spread, (to_MD - mean) / spread
    y = y_NC - y_NC.mean(axis=0)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    uy, best, least = u.T @ y, np.zeros((x.shape[1], y.shape[1])), np.inf
    for penalty in PENALTIES * len(x):
        kept = s**2 / (s**2 + penalty)
        # One row of the hat matrix is the mean's, which is fitted too.
        lever = 1.0 / len(x) + (u**2) @ kept
        press = np.mean(((y - u @ (kept[:, None] * uy)) / (1.0 - lever)[:, None]) ** 2)
        if press < least:
            least, best = float(press), vt.T @ ((s / (s**2 + penalty))[:, None] * uy)
    values: Floats = to @ best + y_NC.mean(axis=0)
    return values


def probe_scores(x_ND: Floats, y_NC: Floats, folds: int = 5) -> Floats:
    """(N, C): what ridge regression on the other folds says of each row (fold = row modulo 5)."""
    out = np.zeros_like(y_NC)
    for fold in range(folds):
        held = np.arange(len(x_ND)) % folds == fold
        out[held] = ridge(x_ND[~held], y_NC[~held], x_ND[held])
    return out


def one_hot(y_N: Floats) -> Floats:
    """(N, C) of a label 0, 1, ..., C - 1 a row."""
    hot: Floats = np.eye(int(y_N.max()) + 1)[y_N.astype(int)]
    return hot


def auc(scores_N: Floats, y_N: Floats) -> float:
    """Chance that a row of 1 scores higher than a row of 0, ties counting half; 0.5 if none."""
    order = np.argsort(scores_N, kind="stable")
    ranks = np.empty(len(order))
    ranks[order] = np.arange(1, len(order) + 1)
    for value in np.unique(scores_N):
        same = scores_N == value
        ranks[same] = ranks[same].mean()
    ones = int((y_N > 0).sum())
    zeros = len(y_N) - ones
    if not ones or not zeros:
        return 0.5
    return float((ranks[y_N > 0].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def r2(values: Floats, truth: Floats) -> float:
    """Share of the variance that is explained, over all columns together; 0 at least."""
    rest = float(((truth - values) ** 2).sum())
    whole = float(((truth - truth.mean(axis=0)) ** 2).sum())
    return max(0.0, 1.0 - rest / whole) if whole else 0.0


def reciprocal_ranks(query_ND: Floats, known_ND: Floats) -> Floats:
    """(N,): 1 / rank of each query's own row among the known ones, by cosine.

    Both are taken about the known rows' mean. Ties are taken at their middle rank.
    """
    mean = known_ND.mean(axis=0)
    query, known = _unit(query_ND - mean), _unit(known_ND - mean)
    return ranks_of_own(query @ known.T)


def ranks_of_own(scores_NN: Floats) -> Floats:
    """(N,): 1 / rank of the diagonal within each row, high first."""
    own = np.diag(scores_NN)[:, None]
    above, same = (scores_NN > own).sum(axis=1), (scores_NN == own).sum(axis=1)
    inverse: Floats = 1.0 / (above + (same + 1) / 2)
    return inverse


def _unit(x_ND: Floats) -> Floats:
    unit: Floats = x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12)
    return unit


def tf_idf(counts_ND: Floats, known_ND: Floats) -> Floats:
    """(N, V): shares of each event, weighed by log(N / users who have it) among the known rows."""
    share = counts_ND / np.maximum(counts_ND.sum(axis=1, keepdims=True), 1)
    having = (known_ND > 0).sum(axis=0)
    weighed: Floats = share * np.log((1 + len(known_ND)) / (1 + having))
    return weighed
