"""Collecting: rollouts of a step, groups without signal dropped and replaced, in a fixed order.

Which tasks step t asks for is a function of t, or where a pool chooses them of its state too, which
is handed on with what was collected.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from puna.core.stage import StageError
from puna.evals.playing import figures, first_failure
from puna.gym.loop import Group, Job, Rollout
from puna.train.rl.pool import InOrder, Pool
from puna.train.rl.rows import Row, rows_of, useful


@dataclass
class Collected:
    """Useful groups of a step, and what the step saw."""

    groups: list[Group] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    seen: list[Group] = field(default_factory=list)
    """All of the step's groups, in order."""
    failure: str = ""
    """Why the first outcome that is not Scored is not."""
    pool: dict[str, Any] = field(default_factory=dict)
    """The state of the pool after the step."""
    ended: str = ""
    """Why there was nothing to play any more."""


class Collector:
    """Plays `prompts` tasks x `samples` episodes a step, replacing in up to `refills` rounds.

    Tasks come in their order, or from a `pool`.
    """

    def __init__(
        self,
        rollout: Rollout,
        prompts: int,
        samples: int,
        refills: int,
        roles: Sequence[str],
        pool: Pool | None = None,
    ) -> None:
        self.rollout, self.samples, self.refills, self.pool = rollout, samples, refills, pool
        self.tasks = pool or InOrder(rollout.env.count("train"), prompts, refills)
        self.roles = set(roles)  # those in training: a frozen policy's tokens teach nothing
        samplers = {r: p for r, p in rollout.policies.items() if hasattr(p, "tokenizer")}
        self.tokenizers = {role: sampler.tokenizer for role, sampler in samplers.items()}
        self.runner = asyncio.Runner()
        self.running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    def collect(self, step: int) -> Collected:
        """The rollouts of `step` under the weights the policies hold now."""
        out = Collected()
        # Filled, not returned: asyncio's handler for Ctrl-C prints the task, its result included,
        # at each call, and a step's episodes make a very long text.
        try:
            self.runner.run(self._collect(step, out))
        finally:
            self.running = None
        return out

    def cancel(self) -> None:
        """From another thread: end the `collect` in progress, if one is, with CancelledError."""
        if (running := self.running) is not None:
            loop, task = running
            loop.call_soon_threadsafe(task.cancel)

    async def _collect(self, step: int, out: Collected) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.running = asyncio.get_running_loop(), task
        seen: list[Group] = []
        rows: list[list[Row]] = []
        used: dict[int, list[Row]] = {}
        unsettled = 0
        asked: Counter[int] = Counter()
        if self.pool is not None and await self._test(self.pool, step, out):
            return
        for refill in range(1 + self.refills):
            jobs = []
            for i in self.tasks.more(step, refill, [seen[n].job.index for n in used]):
                again = asked[i]  # few tasks: the same one anew, with draws of its own
                key = ("rl", step, again) if again else ("rl", step)
                jobs.append(Job("train", i, self.samples, key))
                asked[i] += 1
            if not jobs:
                break
            async for group in self.rollout.run(jobs):
                seen.append(group)
                if self.pool is not None:
                    self.pool.hear(group, step)
                name = "/".join(map(str, (*group.job.key, group.task.id)))
                rows.append(rows_of(group, name, self.tokenizers))
            used, unsettled = useful(rows, self.roles)  # all: an outcome may wait for any group
        out.groups = [seen[i] for i in used]
        out.rows = [row for mine in used.values() for row in mine]
        out.seen, out.failure = seen, first_failure(seen)
        out.figures = figures(seen, self.roles) | {
            "rows_unsettled": unsettled,
            "groups_seen": len(seen),
            "groups_used": len(out.groups),
            "zero_signal": 1 - len(out.groups) / len(seen),
        }
        if self.pool is not None:
            self.pool.close([seen[n].job.index for n in used])
            out.figures |= self.pool.figures()
            out.pool = self.pool.state_dict()

    async def _test(self, pool: Pool, step: int, out: Collected) -> bool:
        """Play what the pool wants tested before `step`; whether the stage is at its end."""
        samples, due = pool.config.samples, pool.due(step)
        jobs = [Job("train", i, samples, ("pool", step)) for i in due]
        failures = []
        async for group in self.rollout.run(jobs):
            pool.hear(group, step - 1)  # before what is played in the step
            failures += [first_failure([group])] if not pool.tried[group.job.index] else []
        if due and len(failures) == len(due):
            raise StageError(f"no answer to a task of the pool was scored: {failures[0]}")
        out.ended, out.pool, out.figures = pool.ended(), pool.state_dict(), pool.figures()
        return bool(out.ended)

    def close(self) -> None:
        """End the event loop and the workers."""
        self.runner.close()
        self.rollout.close()
