"""Training rows: what one role's branch of one episode gives to the optimiser.

`rows = rows_of(group, "step3/arithmetic/7", tokenizers)`; `weigh(rows, ALGORITHMS["grpo"], {})`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from puna.core.outcome import Outcome, Scored
from puna.gym.credit import placed
from puna.gym.loop import Group
from puna.gym.passes import VERIFIER
from puna.gym.trajectory import Branch, Trajectory
from puna.text.tokenizer import Tokenizer
from puna.train.rl.advantages import Advantages


@dataclass(frozen=True)
class Deferred:
    """An outcome known only from a child group (a proposer is paid for how its task fared).

    `reward` turns the rewards that `role` earned in group `child`, one an episode, into this row's.
    """

    child: str
    role: str
    reward: Callable[[Sequence[float]], float]


@dataclass
class Row:
    """One branch to learn from. Baselines are taken within (role, group) and nowhere else.

    Of an answer whose messages have credits of their own, each message is a row: `message` is the
    credit's name, `group` that of these messages alone, `whole` the outcome of the answer.
    """

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
    message: str = ""
    whole: Scored | None = None

    @property
    def answers(self) -> str:
        """The group of the answers that this row, or the answer it is a message of, is among."""
        return self.group.removesuffix(f"/{self.message}")


def rows_of(
    group: Group, name: str, tokenizers: Mapping[str, Tokenizer] | None = None, parent: str = ""
) -> list[Row]:
    """Rows of a judged group; an episode that was not `Scored` gives none.

    Nor does a branch without a sampled token: it was opened only to find the context full.
    `tokenizers` by role are needed where outcomes have credits.
    """
    out = []
    for number, trajectory in enumerate(group.trajectories):
        for role, branches in trajectory.branches.items():
            outcome = trajectory.outcomes[role]
            if isinstance(outcome, Scored) and outcome.credits:
                first = Row(role, name, parent, outcome, 0, Branch(), number, whole=outcome)
                out += _messages(trajectory, first, outcome, (tokenizers or {})[role])
            elif isinstance(outcome, Scored):
                out += [
                    Row(role, name, parent, outcome, max(b.versions), b, number)
                    for b in branches
                    if any(b.mask)
                ]
    return out


def _messages(trajectory: Trajectory, row: Row, outcome: Scored, tokenizer: Tokenizer) -> list[Row]:
    """`row` for each message that has a token, with what that message earned."""
    found = placed(trajectory, row.role, tokenizer)
    if found is None:
        return []
    return [
        replace(
            row,
            group=f"{row.group}/{credit.name}",
            message=credit.name,
            outcome=Scored(credit.reward, credit.reward > 0),
            version=max(found.branch.versions),
            branch=replace(found.branch, mask=mask),
        )
        for credit, mask in zip(outcome.credits, found.masks, strict=True)
        if any(mask)
    ]


def settle(rows: Sequence[Row]) -> int:
    """Give every row of a step its reward; a deferred one from its child group's rows.

    Returns how many cannot be used and keep the reward None: nothing in their child was scored.
    """
    earned: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        if isinstance(row.outcome, Scored):
            row.reward = row.outcome.value
            # By episode: it counts once, however many branches it has.
            earned.setdefault((row.role, row.group), {})[row.episode] = row.reward
    for row in rows:
        if isinstance(row.outcome, Deferred):
            found = earned.get((row.outcome.role, row.outcome.child))
            row.reward = row.outcome.reward(list(found.values())) if found else None
    return sum(row.reward is None for row in rows)


def useful(groups: Sequence[Sequence[Row]], roles: Set[str]) -> tuple[dict[int, list[Row]], int]:
    """Settle a step's groups: number -> rows to learn from, of those groups that hold a signal.

    `roles` are those in training; the others' rewards still settle what is deferred to them.
    Also returns how many rows could not be settled.
    """
    unsettled = settle([row for rows in groups for row in rows])
    out = {}
    for number, rows in enumerate(groups):
        mine = [r for r in rows if r.role in roles and r.reward is not None]
        if has_signal(mine):
            out[number] = mine
    return out, unsettled


def has_signal(rows: Sequence[Row]) -> bool:
    """Whether some (role, group) among settled rows holds two different rewards."""
    seen: dict[tuple[str, str], set[float | None]] = {}
    for row in rows:
        seen.setdefault((row.role, row.group), set()).add(row.reward)
    return any(len(rewards) > 1 for rewards in seen.values())


def weigh(
    rows: Sequence[Row],
    algorithm: Advantages,
    weights: Mapping[str, float],
    rejects: bool = False,
) -> list[Row]:
    """Set advantages within (role, group) and weights by role; returns the rows that count.

    Those are all rows, whose tokens the loss is divided by, even where the advantage is 0. With
    `rejects` (RAFT) an advantage of 0 means rejected: such rows are left out and not counted.
    An episode counts once in its baseline, however many branches it has. Of answers made of
    messages, those of the best are taken (see `best_answers`).
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
    if rejects:
        best_answers([row for row in out if row.message])
    return [row for row in out if row.advantage != 0] if rejects else out


def best_answers(messages: Sequence[Row]) -> None:
    """RAFT over answers that are made of messages (SPOC, 3.2): the right messages of the best one.

    Sets each row's advantage to 1 or 0. The best has the highest value and, of those, the largest
    share of what its messages could earn; of equals the first. A task is left out where no answer
    succeeded, or no verdict was right.
    """
    tasks: dict[tuple[str, str], dict[int, list[Row]]] = {}
    for row in messages:
        row.advantage = 0.0
        tasks.setdefault((row.role, row.answers), {}).setdefault(row.episode, []).append(row)
    for episodes in tasks.values():
        rows = [row for mine in episodes.values() for row in mine]
        succeeded = any(row.whole and row.whole.success for row in rows)
        if succeeded and any(row.message.startswith(VERIFIER) and row.reward for row in rows):
            for row in max(episodes.values(), key=_merit):
                row.advantage = float((row.reward or 0) > 0)


def _merit(answer: Sequence[Row]) -> tuple[float, float]:
    value = answer[0].whole.value if answer[0].whole else 0.0
    return value, sum(row.reward or 0 for row in answer) / len(answer)


def sampled_tokens(rows: Sequence[Row]) -> int:
    """How many tokens of these rows were sampled: the M that the loss is divided by."""
    return sum(sum(row.branch.mask) for row in rows)
