"""Baselines within a group: rewards of one (role, group) in, one advantage per row out.

`ALGORITHMS["grpo"]([1, 0, 0, 0])` -> [1.732, -0.577, -0.577, -0.577].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from puna.train.rl import grpo, raft, rloo

Advantages = Callable[[Sequence[float]], list[float]]

ALGORITHMS: dict[str, Advantages] = {
    "grpo": grpo.advantages,
    "rloo": rloo.advantages,
    "raft": raft.advantages,
}

REJECTING = frozenset({"raft"})
"""Those whose advantage 0 means "rejected": such rows are not in the loss's mean either."""
