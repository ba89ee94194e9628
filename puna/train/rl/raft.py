"""RAFT (Dong et al. 2023), rejection sampling: learn the group's best answers and no others."""

from __future__ import annotations

from collections.abc import Sequence


def advantages(rewards: Sequence[float]) -> list[float]:
    """1 for each row whose reward is the group's best, 0 for the rest."""
    best = max(rewards)
    return [1.0 if r == best else 0.0 for r in rewards]
