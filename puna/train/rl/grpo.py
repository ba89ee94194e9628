"""GRPO (Shao et al. 2024): reward minus the group's mean, over the group's population deviation."""

from __future__ import annotations

from collections.abc import Sequence

EPSILON = 1e-6


def advantages(rewards: Sequence[float]) -> list[float]:
    """A_i = (r_i - mean) / (std + 1e-6) within one group."""
    mean = sum(rewards) / len(rewards)
    variance = sum((r - mean) ** 2 for r in rewards) / len(rewards)
    return [(r - mean) / (variance**0.5 + EPSILON) for r in rewards]
