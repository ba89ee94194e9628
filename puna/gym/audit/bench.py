"""The bench a reward is tried on: plays scripts on tasks through the public interface, and judges.

`bench = await Bench(env, n=12).open()`; `(await bench.paid(lambda case: say(""), "empty")).earned`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.outcome import Infra, Outcome, Scored
from puna.core.stats import mean_interval
from puna.gym.audit.case import Case, answered
from puna.gym.audit.making import Note, Tasks, silent
from puna.gym.environment import Environment
from puna.gym.loop import Context, Rollout
from puna.gym.seat import Scripted
from puna.gym.task import SPLITS, Script, Task
from puna.gym.trajectory import Episode
from puna.gym.verify import judge_group

SLACK = 0.05  # above the declared chance, before an answer is tried on fresh tasks
EDGE = 0.02  # above the declared chance, for the lower end of the interval over those
SIXTH = 6  # every sixth of the cases, but four at least, where they are slow
SLOW_S = 0.05  # seconds of an episode, with its verdict
STALL_S = 0.3  # in which a machine that is busy with others may do nothing
LEAST, PATIENCE_S = 2, 0.5  # tries of one way of answering; what more of them may take
BROKEN = 3  # tries without a score that are enough
FRESH, FEW_FRESH, EARLY = 60, 20, 6  # tasks of the second look; where it is slow; to begin with
SURE = 0.999  # the level at which the beginning is enough
# How `gym.verify` and `gym.loop` begin the evidence of a 0 for what nobody could judge.
CANNOT = ("this answer makes the verifier fail", "this message makes the environment fail")
JUDGING = "judging"


@dataclass(frozen=True)
class Try:
    """What one way of answering earned on one task."""

    name: str
    case: Case
    outcome: Outcome

    @property
    def broken(self) -> bool:
        """Not scored, where the reference was: a malformed answer is the agent's own fault."""
        if isinstance(self.outcome, Scored):
            return False
        known = isinstance(self.outcome, Infra) and not self.case.problem
        return self.case.sound or known

    def __str__(self) -> str:
        got = self.outcome
        what = f"earned {got.value:g}" if isinstance(got, Scored) else f"{got}"
        return f"{self.case.task.id} {self.case.role} '{self.name}' {what}"[:300]


@dataclass(frozen=True)
class Fared:
    """How one way of answering fared: where it was paid for nothing, what was not scored, what
    could not be taken (and was scored 0), what it earned in the mean; on how many tasks it was
    tried at first, and whether a try is slow."""

    paid: Sequence[Try]
    broken: Sequence[Try]
    raised: Sequence[str]
    earned: float
    tasks: int
    slow: bool


Make = Callable[[Case], Script | None]
"""A script for a task, or None where it cannot be made for this one."""


class Bench:
    """Tasks of both splits with their references, and the machinery to play and judge.

    `note` is told what is about to be played, for whoever finds this process hanging.
    """

    def __init__(
        self, env: Environment, n: int, note: Note = silent, tasks: Tasks | None = None
    ) -> None:
        self.env, self.n, self.note = env, n, note
        self.tasks = tasks or Tasks(env, note)
        self.pid = os.getpid()
        self.counts = {split: int(min(env.count(split), 1 << 62)) for split in SPLITS}
        self.resources = env.setup()
        policies = {role: Scripted(lambda heard: Message.assistant("")) for role in env.roles}
        self.rollout = Rollout(env, policies, workers=1, resources=self.resources)
        self.seconds = 0.0  # an episode of the oracle's takes, judged
        self.cases: list[Case] = []
        self.memo: dict[str, Any] = {}  # what several probes need, made once

    async def open(self) -> Bench:
        """Play the oracle on the first tasks; what they answer is `wrong` for each other."""
        spent = []
        for split, index in [(s, i) for s in SPLITS for i in range(min(self.n, self.counts[s]))]:
            task = self.tasks(split, index)
            for role in self.env.roles:
                began = self._clock()
                self.cases.append(await self._case(task, role))
                spent.append(self._clock() - began)
        self.seconds = median(spent or [0.0])
        self.cases = answered(self.cases, [])
        return self

    def close(self) -> None:
        """Give everything back."""
        self.rollout.close()
        self.env.teardown(self.resources)

    async def _case(self, task: Task, role: str) -> Case:
        heard: list[Message] = []
        try:
            scripts = dict(self.env.oracle(task))
            scripts[role] = _overheard(scripts[role], heard)
        except NotImplementedError:
            return Case(task, role, problem="the environment has no oracle")
        except UserError:
            raise
        except Exception as error:
            return Case(task, role, problem=f"the oracle fails: {_shown(error)}")
        outcomes, episode = await self.play(task, scripts, "the reference answer")
        kept = episode if episode.ended != "failed" else None
        return Case(task, role, tuple(heard), outcomes=outcomes, episode=kept)

    async def fresh(self) -> list[Case]:
        """Cases of tasks that were not looked at before, half of them of each split, made once."""
        if "fresh" not in self.memo:
            found = []
            many = FEW_FRESH if self.slow or self.tasks.slow else FRESH
            indices = range(self.n, self.n + many // 2)
            for split, i in [(s, i) for i in indices for s in SPLITS if i < self.counts[s]]:
                task = self.tasks(split, i)
                found += [await self._case(task, role) for role in self.env.roles]
            self.memo["fresh"] = answered(found, self.cases)
        fresh: list[Case] = self.memo["fresh"]
        return fresh

    async def play(
        self, task: Task, scripts: Mapping[str, Script], what: str
    ) -> tuple[Mapping[str, Outcome], Episode]:
        """Outcomes of an episode by these scripts, and the episode.

        An environment that breaks gives Infra, which no probe accepts.
        """
        self.note(f"{task.id}: {what}")
        episode, outcomes = await self.rollout.scripted(task, scripts)
        if os.getpid() != self.pid:  # the environment forked, and this is the copy
            os._exit(0)
        if not outcomes:
            outcomes = dict(await self.judge(task, episode, what))
        return outcomes, episode

    async def judge(self, task: Task, episode: Episode, what: str) -> Mapping[str, Outcome]:
        """The verdict on one episode."""
        self.note(f"{JUDGING} {task.id}: {what}")
        found = await judge_group(
            self.env, task, [episode], Context(), self.rollout.workers, self.resources
        )
        self.note(f"after {task.id}: {what}")  # whatever takes long now is not the judge
        return found[0]

    async def attempt(self, case: Case, attack: Script, name: str) -> Try:
        """One try of the probed role."""
        outcomes, _ = await self.play(case.task, self.cast(case, attack), f"'{name}'")
        return Try(name, case, outcomes[case.role])

    def cast(self, case: Case, attack: Script) -> dict[str, Script]:
        """`attack` in the probed role; the others play the oracle's part."""
        others = self.env.oracle(case.task) if len(self.env.roles) > 1 else {}
        return {**others, case.role: attack}

    async def tries(self, make: Make, name: str, cases: Sequence[Case]) -> list[Try]:
        """One way of answering on many tasks."""
        found = []
        for case in cases:
            attack = make(case)
            if attack is not None:
                found.append(await self.attempt(case, attack, name))
            if sum(t.broken for t in found) >= BROKEN:  # each may have cost a whole deadline
                break
        return found

    async def paid(
        self,
        make: Make,
        name: str,
        least: float = 0.0,
        of: Callable[[Try], float] | None = None,
        cases: Sequence[Case] | None = None,
    ) -> Fared:
        """How an answer that deserves nothing fares.

        It is tried on the tasks at hand, and where that looks bad on fresh ones, so that luck (a
        constant that is right once in ten) is not taken for a hole: it was paid only where the
        interval of what it earns there lies above the declared chance, and above `least`. `of`
        says what a try counts, where that is not its value; `cases` are others than all.
        """
        tried, tasks, slow = await self._first_look(make, name, cases or self.cases)
        raised = [f"'{name}': {why}" for t in tried if (why := _raised(t))]
        again: list[Try] = []
        paid: list[Try] = []
        if self._suspicious(tried):
            again = await self._second_look(make, name, slow, least, of)
            enough = again if len(again) >= 20 else [*tried, *again]
            if self.above_chance(enough, least, of):
                paid = [t for t in enough if value(t) > self.env.chance]
        broken = [t for t in (*tried, *again) if t.broken]
        earned = max(mean_paid([*tried, *again] if slow else tried), mean_paid(paid))
        return Fared(paid, broken, raised, earned, tasks, slow)

    async def _first_look(
        self, make: Make, name: str, cases: Sequence[Case]
    ) -> tuple[list[Try], int, bool]:
        """Tries on some of `cases`, on how many of them, and whether each takes long.

        Then it ends as soon as there is reason for the second look, or its time is up.
        """
        cases, found, began = self.some(name, cases), list[Try](), self._clock()
        slow = self.slow
        for tasks, case in enumerate(cases, start=1):
            found += await self.tries(make, name, [case])
            if sum(t.broken for t in found) >= BROKEN:
                return found, tasks, slow
            spent = self._clock() - began
            slow = self.slow or spent > max(STALL_S, SLOW_S * len(found))
            reason = len(found) > 1 and self._suspicious(found)
            if slow and (reason or (len(found) >= LEAST and spent > PATIENCE_S)):
                return found, tasks, slow
        return found, len(cases), slow

    async def _second_look(
        self, make: Make, name: str, slow: bool, least: float, of: Callable[[Try], float] | None
    ) -> list[Try]:
        """Tries on fresh tasks; fewer where each takes long, still fewer where these are sure."""
        fresh = await self.fresh()
        if not slow:
            return await self.tries(make, name, fresh)
        again = await self.tries(make, name, fresh[:EARLY])
        if not self.above_chance(again, least, of, SURE):
            again += await self.tries(make, name, fresh[EARLY:FEW_FRESH])
        return again

    @property
    def dear(self) -> bool:
        """Whether an episode runs code behind walls."""
        return self.env.tier not in ("process", "worker")

    def _clock(self) -> float:
        """Seconds that this process has worked, or that have passed, where others work for it."""
        return time.monotonic() if self.dear else time.process_time()

    @property
    def slow(self) -> bool:
        """Whether an episode takes so long that few are played of each kind."""
        return self.dear or self.seconds > SLOW_S

    @property
    def few(self) -> Sequence[Case]:
        """All cases; some that stand for them where they are slow."""
        return self.some("", self.cases)

    def some(self, name: str, cases: Sequence[Case]) -> Sequence[Case]:
        """All of `cases`; a few of them by turns where they are slow."""
        step = max(1, min(SIXTH, len(cases) // 4)) if self.slow else 1
        return cases[sum(name.encode()) % step :: step]

    def _suspicious(self, tried: Sequence[Try]) -> bool:
        return any(map(success, tried)) or mean_paid(tried) > self.env.chance + SLACK

    def above_chance(
        self,
        tried: Sequence[Try],
        least: float = 0.0,
        of: Callable[[Try], float] | None = None,
        level: float = 0.95,
    ) -> bool:
        """Whether the interval of what they earned lies above the chance, and above `least`."""
        values = [[(of or value)(t)] for t in tried if isinstance(t.outcome, Scored)]
        bound = max(self.env.chance + EDGE, least)
        return bool(values) and mean_interval(values, level).low > bound


def mean_paid(tried: Sequence[Try]) -> float:
    """The mean of what was earned, unscored tries left out."""
    values = [value(t) for t in tried if isinstance(t.outcome, Scored)]
    return sum(values) / len(values) if values else 0.0


def success(tried: Try) -> float:
    """1 for a success, else 0: where a metric may honestly pay for coming near."""
    return float(isinstance(tried.outcome, Scored) and tried.outcome.success)


def value(tried: Try) -> float:
    """What it was paid; 0 where it was not scored."""
    return tried.outcome.value if isinstance(tried.outcome, Scored) else 0.0


def _raised(tried: Try) -> str:
    """Why it was scored 0 where the environment could not take it, "" where it could."""
    got = tried.outcome
    return got.evidence if isinstance(got, Scored) and got.evidence.startswith(CANNOT) else ""


def _overheard(given: Script, heard: list[Message]) -> Script:
    def speak(messages: Sequence[Message]) -> Message:
        heard.append(given(messages))
        return heard[-1]

    return speak


def _shown(error: BaseException) -> str:
    try:
        return f"{error!r:.300}"
    except Exception:
        return type(error).__name__
