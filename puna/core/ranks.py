"""How well scores order things: the area under the ROC curve, and reciprocal ranks.

`auc(scores_N, labels_N)`; `ranks_of_own(scores_NN).mean()` is the MRR of each row's own column.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def auc(scores_N: Floats, labels_N: Floats) -> float:
    """Chance that a positive scores above a negative, ties half (Mann and Whitney 1947).

    Positive is what is above 0; 0.5 where one of the two is missing.
    """
    _, inverse, counts = np.unique(scores_N, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positive = labels_N > 0
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return 0.5
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def ranks_of_own(scores_NN: Floats) -> Floats:
    """1 / rank of the diagonal entry in each row, (N,); high first, ties at their middle rank."""
    own = np.diagonal(scores_NN)[:, None]
    near = np.abs(scores_NN - own) <= 1e-12
    better = ((scores_NN > own) & ~near).sum(1)
    return np.asarray(1 / (1 + better + (near.sum(1) - 1) / 2))
