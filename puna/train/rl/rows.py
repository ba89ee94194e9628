"""Training rows: what one role's branch of one episode gives to the optimiser.

`rows = rows_of(group, "step3/arithmetic/7")`; `weigh(rows, ALGORITHMS["grpo"], {})`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from puna.core.outcome import Outcome, Scored
from puna.gym.loop import Group
from puna.gym.trajectory import Branch
from puna.train.rl.advantages import Advantages


@dataclass(frozen=True)
class Deferred:
    """An outcome known only from a child group (a proposer is paid for how its task fared).

    `reward` turns the child group's rewards into this row's.
    """

    child: str
    reward: Callable[[Sequence[float]], float]


@dataclass
class Row:
    """One branch to learn from. Baselines are taken within (role, group) and nowhere else."""

    role: str
    group: str
    parent: str
    outcome: Outcome | Deferred
    version: int
    branch: Branch
    episode: int
    advantage: float = 0.0
    weight: float = 1.0
    reward: float | None = field(default=None)


def rows_of(group: Group, name: str, parent: str = "") -> list[Row]:
    """Rows of a judged group; an episode that was not `Scored` gives none."""
    out = []
    for number, trajectory in enumerate(group.trajectories):
        for role, branches in trajectory.branches.items():
            outcome = trajectory.outcomes[role]
            if isinstance(outcome, Scored):
                out += [
                    Row(role, name, parent, outcome, max(b.versions), b, number) for b in branches
                ]
    return out


def settle(rows: Sequence[Row]) -> None:
    """Give every row its reward; a deferred one from its child group's rows.

    Raises KeyError where a child group has no row.
    """
    by_group: dict[str, list[float]] = {}
    for row in rows:
        if isinstance(row.outcome, Scored):
            row.reward = row.outcome.value
            by_group.setdefault(row.group, []).append(row.reward)
    for row in rows:
        if isinstance(row.outcome, Deferred):
            row.reward = row.outcome.reward(by_group[row.outcome.child])


def has_signal(rows: Sequence[Row]) -> bool:
    """Whether some (role, group) among settled rows holds two different rewards."""
    seen: dict[tuple[str, str], set[float | None]] = {}
    for row in rows:
        seen.setdefault((row.role, row.group), set()).add(row.reward)
    return any(len(rewards) > 1 for rewards in seen.values())


def weigh(rows: Sequence[Row], algorithm: Advantages, weights: Mapping[str, float]) -> list[Row]:
    """Set advantages within (role, group), weights by role; leave out rows that teach nothing.

    An episode counts once in its baseline, however many branches it has.
    """
    groups: dict[tuple[str, str], dict[int, list[Row]]] = {}
    for row in rows:
        groups.setdefault((row.role, row.group), {}).setdefault(row.episode, []).append(row)
    out = []
    for (role, _), episodes in groups.items():
        rewards = [branches[0].reward for branches in episodes.values()]
        values = algorithm([r for r in rewards if r is not None])
        for branches, value in zip(episodes.values(), values, strict=True):
            for row in branches:
                row.advantage, row.weight = value, weights.get(role, 1.0)
                out.append(row)
    return [row for row in out if row.advantage * row.weight != 0]
