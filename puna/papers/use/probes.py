"""What is read off embeddings: linear probes, their scores, and ranks by cosine.

`auc(probe_scores(x_ND, y_N), y_N)`; `reciprocal_ranks(query_ND, known_ND).mean()` is the MRR.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from puna.core.ranks import ranks_of_own

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
    """(N, C): what ridge regression on the other folds says of each row.

    Rows are dealt to the folds in the order of their targets: with unlike folds, the rows of one
    have high targets where the others' mean is low, and knowing nothing would look like less.
    """
    out, fold_N = np.zeros_like(y_NC), np.empty(len(y_NC), dtype=np.int64)
    fold_N[np.lexsort(y_NC.T)] = np.arange(len(y_NC)) % folds
    for fold in range(folds):
        held = fold_N == fold
        out[held] = ridge(x_ND[~held], y_NC[~held], x_ND[held])
    return out


def one_hot(y_N: Floats) -> Floats:
    """(N, C) of a label 0, 1, ..., C - 1 a row."""
    hot: Floats = np.eye(int(y_N.max()) + 1)[y_N.astype(int)]
    return hot


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


def _unit(x_ND: Floats) -> Floats:
    unit: Floats = x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12)
    return unit


def shares(counts_ND: Floats) -> Floats:
    """(N, V): the share of each event; 0 where there was none."""
    share: Floats = counts_ND / np.maximum(counts_ND.sum(axis=1, keepdims=True), 1)
    return share
