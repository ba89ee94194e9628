"""RLOO (Kool et al. 2019, Ahmadian et al. 2024): reward minus the others' mean; no scaling."""

from __future__ import annotations

from collections.abc import Sequence


def advantages(rewards: Sequence[float]) -> list[float]:
    """A_i = r_i - mean of the other rewards; 0 for a group of one."""
    n, total = len(rewards), sum(rewards)
    return [0.0 if n == 1 else r - (total - r) / (n - 1) for r in rewards]
