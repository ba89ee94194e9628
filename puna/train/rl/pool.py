"""Which train tasks RL plays: those that the policy of the day solves now and then.

`pool = { size = 1024, every = 25, k = 4, by = "skill" }` in an rl stage; docs/order.md says why.
As Llama 4 was disclosed to: pass rates with the moving policy, hardness by pass@k that rises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from puna.core.errors import UserError, nearest
from puna.core.rng import stream
from puna.core.stats import pass_at_k
from puna.evals.playing import fared
from puna.gym.environment import Environment
from puna.gym.loop import Group
from puna.train.data import train_tasks
from puna.train.optim import require

Kind = tuple[str, bool]  # a capability, and whether it is solved too often by now

_STATE = ("passed", "tried", "when", "tested", "played", "silent")
_SILENT = 3  # steps in a row without a signal: a capability has none to give


@dataclass(frozen=True)
class PoolConfig:
    """Of the first `size` train tasks those that more than `low`, less than `high` of answers pass.

    That share is measured on `samples` answers at the stage's beginning (0: not at all, all tasks
    are kept) and every `every` steps again, also of what was left out (0: never again). With `k` a
    step's tasks come from the half of those kept in which hardness, 1 - pass@k, is due: it rises
    over the stage. `easy` is the share of a step's tasks from `high` on. Capabilities, the values
    of the tag `by`, have equal shares of a step, or with `cycles` so many times a part of the stage
    each in turn. The stage ends with the step in which `episodes` are played, those of the tests
    among them (0: no limit).
    """

    size: int = 1024
    samples: int = 8
    every: int = 0
    low: float = 0.05
    high: float = 0.75
    k: int = 0
    easy: float = 0.0
    by: str = ""
    cycles: int = 0
    episodes: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that leaves nothing to play."""
        require(self.size >= 1, self, "size", "at least 1")
        for name in ("samples", "every", "cycles", "episodes"):
            require(getattr(self, name) >= 0, self, name, "0 or more")
        require(0 <= self.low < self.high <= 1, self, "low", f"0 to less than high = {self.high}")
        require(0 <= self.k <= self.samples, self, "k", f"0 to samples = {self.samples}")
        require(0 <= self.easy < 1, self, "easy", "0 or more and less than 1")
        require(not self.cycles or bool(self.by), self, "cycles", "0 where `by` names no tag")
        tests = self.size * self.samples
        enough = not self.episodes or self.episodes > tests
        require(
            enough, self, "episodes", f"0 or more than size * samples = {tests}, the first test"
        )


class InOrder:
    """Every train task in its turn: step t asks for the same ones whatever came before."""

    def __init__(self, size: int, prompts: int, refills: int) -> None:
        self.size, self.prompts, self.refills = size, prompts, refills

    def more(self, step: int, refill: int, used: Sequence[int]) -> list[int]:
        """The tasks of a step's round `refill`, to replace what is missing among the `used`."""
        begin = (step * (1 + self.refills) + refill) * self.prompts
        return [i % self.size for i in range(begin, begin + self.prompts - len(used))]


class Pool:
    """The tasks, how each fared when it was last played, and what a step asks for."""

    def __init__(
        self, config: PoolConfig, env: Environment, role: str, prompts: int, steps: int
    ) -> None:
        self.config, self.role, self.prompts, self.steps = config, role, prompts, steps
        self.seed, size = env.seed, train_tasks(env, config.size)
        self.names = [_tag(env, i, config.by) for i in range(size)]
        self.capabilities = sorted(set(self.names))
        self.passed, self.tried, self.when = [0] * size, [0] * size, [-1] * size
        self.tested, self.played, self.silent = -1, 0, dict.fromkeys(self.capabilities, 0)
        self.kinds: dict[int, Kind] = {}
        self.queues: dict[Kind, list[int]] = {}
        self.wanted: dict[Kind, int] = {}

    def state_dict(self) -> dict[str, Any]:
        """What a step depends on besides its number, as plain data."""
        return {name: copy(getattr(self, name)) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        for name, value in state.items():
            setattr(self, name, copy(value))

    def rate(self, task: int) -> float:
        """The share of its answers that passed when it was last played."""
        return self.passed[task] / self.tried[task] if self.tried[task] else -1.0

    def kept(self, task: int) -> bool:
        """Whether it is in the pool now."""
        return not self.config.samples or self.config.low < self.rate(task) < self.config.high

    def too_easy(self, task: int) -> bool:
        """Whether it is left out because it is solved too often."""
        return bool(self.config.samples) and self.rate(task) >= self.config.high

    def hardness(self, task: int) -> float:
        """1 - pass@k."""
        k = min(self.config.k, self.tried[task])
        return 1 - float(pass_at_k(self.tried[task], self.passed[task], k)) if k else 1.0

    def due(self, step: int) -> list[int]:
        """The tasks to test before `step`: at a test all but those kept and played since the last.

        So nothing is removed for good: an estimate from few answers may be bad luck. A test that
        would leave no episode for training is left out.
        """
        config, tasks = self.config, range(len(self.names))
        if not config.samples or self.tested == step:
            return []
        again = config.every and (step % config.every == 0 or not any(map(self.kept, tasks)))
        found = [i for i in tasks if not self.kept(i) or self.when[i] < self.tested]
        fits = not config.episodes or self.played + len(found) * config.samples < config.episodes
        if not fits or (self.tested >= 0 and not again):
            return []
        self.tested = step
        return found

    def hear(self, group: Group, step: int) -> None:
        """Note how the task of a judged group fared; without `every` the first test stands."""
        self.played += len(group.trajectories)
        task, (passed, tried) = group.job.index, fared(group, self.role)
        if tried and (self.config.every or not self.tried[task]):
            self.passed[task], self.tried[task], self.when[task] = passed, tried, step

    def ended(self) -> str:
        """Why there is no further step; "" where there is one."""
        if 0 < self.config.episodes <= self.played:
            return f"{self.played:,} episodes are played"
        if min(self.silent.values()) >= _SILENT:
            return f"in {_SILENT} steps in a row no task gave a signal, nor did those in its place"
        if not any(map(self.kept, range(len(self.names)))):
            low, high = self.config.low, self.config.high
            return f"no task of the pool is solved more often than {low} and less than {high}"
        return ""

    def more(self, step: int, refill: int, used: Sequence[int]) -> list[int]:
        """As `InOrder.more`, no task twice in a step; a task is replaced by one of its kind."""
        if refill == 0:
            self._begin(step)
        got = Counter(self.kinds[task] for task in used)
        out = []
        for kind, wanted in self.wanted.items():
            queue = self.queues[kind]
            some, self.queues[kind] = queue[: wanted - got[kind]], queue[wanted - got[kind] :]
            self.kinds |= dict.fromkeys(some, kind)
            out += some
        return out

    def close(self, used: Sequence[int]) -> None:
        """Note which of the capabilities that a step played had a task with a signal."""
        heard = {self.kinds[task][0] for task in used}
        for name in {name for name, _ in self.kinds.values()}:
            self.silent[name] = 0 if name in heard else self.silent[name] + 1

    def figures(self) -> dict[str, float]:
        """How many tasks are kept, how many too easy and too hard now, what has been played."""
        tasks = range(len(self.names))
        kept, easy = sum(map(self.kept, tasks)), sum(map(self.too_easy, tasks))
        sizes = {"pool_kept": kept, "pool_easy": easy, "pool_hard": len(tasks) - kept - easy}
        return {**sizes, "episodes": self.played}

    def _begin(self, step: int) -> None:
        """Queues of tasks for a step, and how many it wants of each."""
        config, self.kinds = self.config, {}
        tasks: dict[Kind, list[int]] = {}
        for task, name in enumerate(self.names):
            if self.too_easy(task) or self.kept(task):
                tasks.setdefault((name, self.too_easy(task)), []).append(task)
        names = self.capabilities
        if config.cycles:  # the one whose turn it is, or the next one that has tasks
            turn = int(self._over(step) * len(names) * config.cycles) % len(names)
            names = [n for n in names[turn:] + names[:turn] if (n, False) in tasks][:1]
        easy_ones = [(n, True) for n in names if (n, True) in tasks]
        spare = round(config.easy * self.prompts) if easy_ones else 0
        kept = [(n, False) for n in names if (n, False) in tasks]
        self.wanted = _even(self.prompts - spare, kept, step) | _even(spare, easy_ones, step)
        self.queues = {kind: self._order(tasks[kind], kind, step) for kind in self.wanted}

    def _order(self, tasks: Sequence[int], kind: Kind, step: int) -> list[int]:
        """In random order, the half whose hardness is due first and the nearest ones after it."""
        rng = stream(self.seed, "pool", step, *map(str, kind))
        order = [tasks[i] for i in rng.permutation(len(tasks))]
        if not self.config.k or kind[1]:
            return order
        order.sort(key=self.hardness)  # of equals in the random order
        half = (len(order) + 1) // 2
        middle = half / 2 + self._over(step) * (len(order) - half)
        ranks = sorted(range(len(order)), key=lambda rank: abs(rank + 0.5 - middle))
        first = [ranks[i] for i in rng.permutation(half)]
        return [order[rank] for rank in (*first, *ranks[half:])]

    def _over(self, step: int) -> float:
        """How much of the stage is over, the first test left out."""
        if not self.config.episodes:
            return step / self.steps
        first = len(self.names) * self.config.samples
        return (self.played - first) / (self.config.episodes - first)


def _even(total: int, kinds: Sequence[Kind], step: int) -> dict[Kind, int]:
    """`total` in equal shares; what is left over goes round from step to step."""
    n = len(kinds)
    return {kind: total // n + ((i - step) % n < total % n) for i, kind in enumerate(kinds)}


def _tag(env: Environment, index: int, by: str) -> str:
    if not by:
        return ""
    tags = env.task("train", index).tags
    if by not in tags:
        raise UserError(f"{env.name} has no tag '{by}' for its tasks", nearest(by, tags))
    return str(tags[by])
