"""The method as a small library that others import: arrays in, arrays out.

`james_stein(observed, 1.0)` is nearer to the means, on the average, than `observed` itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def james_stein(observed: Floats, variance: float) -> Floats:
    """Shrink d observations of one variance towards 0: (1 - (d - 2) variance / |x|^2)+ x.

    `observed` is (d,), one observation of each mean. James & Stein 1961, eq. 2, with the positive
    part. Raises ValueError for fewer than three: there the estimator has no advantage.
    """
    if len(observed) < 3:
        raise ValueError(f"{len(observed)} observations; shrinking helps from 3 on")
    length = float(observed @ observed)
    factor = 1.0 - (len(observed) - 2) * variance / length if length else 0.0
    return max(0.0, factor) * observed


def error(estimate: Floats, means: Floats) -> float:
    """Mean squared error of an estimate of `means`, both (d,)."""
    return float(np.mean((estimate - means) ** 2))
