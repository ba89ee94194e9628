"""The one episode loop: agents speak through seats, the session hands out turns, groups are judged.

`async for group in Rollout(env, {"agent": policy}).run([Job("test", 0, k=4)]): ...`
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.outcome import Infra, Outcome
from puna.core.rng import Key
from puna.engine.policy import EndpointError, SamplingParams
from puna.gym.environment import Environment, Session, Turn
from puna.gym.seat import ChatSeat, ContextFullError, Policy, Scripted, Seat, take_seat
from puna.gym.task import Script, Task
from puna.gym.trajectory import Episode, Trajectory
from puna.gym.verify import judge_group
from puna.gym.workers import Workers


class Agent(Protocol):
    """How a policy acts: given a turn, speak one message, asking the seat as often as needed."""

    async def act(self, turn: Turn, ctx: Context) -> Any:
        """The message to hand to the session."""
        ...


@dataclass
class Context:
    """What environments and agents receive: policies by role and the judge. Never engines."""

    seats: Mapping[str, Seat] = field(default_factory=dict)
    judge_policy: Any = None

    def policy(self, role: str) -> Seat:
        """The seat of `role` in this episode."""
        return self.seats[role]

    async def judge(self, rubric: str, parts: Sequence[str]) -> Mapping[str, Any]:
        """Ask the judge model. Raises EndpointError where none is configured."""
        if self.judge_policy is None:
            raise EndpointError("no judge is configured for this run")
        verdict: Mapping[str, Any] = await self.judge_policy.judge(rubric, parts)
        return verdict


class _Plain:
    """The plainest agent: one reply a turn."""

    async def act(self, turn: Turn, ctx: Context) -> Any:
        return await ctx.policy(turn.role).reply(turn.messages, turn.tools)


@dataclass(frozen=True)
class Job:
    """`k` episodes of one task; `key` goes before (env, split, index, sample) in every stream."""

    split: str
    index: int
    k: int = 1
    key: tuple[Key, ...] = ()


@dataclass
class Group:
    """The judged episodes of one job."""

    job: Job
    task: Task
    trajectories: list[Trajectory]


class Rollout:
    """Plays jobs with one policy per role and judges each task's episodes as a group.

    `meet` is the engine's rendezvous where a local Sampler plays; `wave` bounds live episodes then,
    `concurrency` bounds them elsewhere. Results depend on none of them.
    """

    def __init__(
        self,
        env: Environment,
        policies: Mapping[str, Policy],
        params: SamplingParams | None = None,
        *,
        agents: Mapping[str, Agent] | None = None,
        meet: Any = None,
        wave: int = 256,
        concurrency: int = 64,
        workers: int = 2,
        judge_policy: Any = None,
    ) -> None:
        missing = [role for role in env.roles if role not in policies]
        assert not missing, f"no policy for {missing}"
        self.env, self.policies, self.meet = env, policies, meet
        self.params = params or SamplingParams()
        self.agents = agents or {}
        self.wave, self.concurrency = wave, concurrency
        self.workers = Workers(workers)
        self.judge_policy = judge_policy
        self.resources = env.setup()
        self.identity = identity(env)

    def close(self) -> None:
        """Let the workers end."""
        self.workers.close()

    async def run(self, jobs: Sequence[Job]) -> AsyncIterator[Group]:
        """Judged groups, in the order of `jobs`."""
        if self.meet is None:
            async for group in self._stream(jobs):
                yield group
            return
        start = 0
        while start < len(jobs):
            stop, live = start, 0
            while stop < len(jobs) and (stop == start or live + jobs[stop].k <= self.wave):
                live += jobs[stop].k
                stop += 1
            wave = [(job, self.env.task(job.split, job.index)) for job in jobs[start:stop]]
            names = [self._name(job, s) for job, _ in wave for s in range(job.k)]
            self.meet.expect(names)
            tasks = [asyncio.ensure_future(self._group(*each)) for each in wave]
            try:
                for task in tasks:
                    yield await task
            finally:
                for task in tasks:
                    task.cancel()
                self.meet.forget(names)
            start = stop

    async def _stream(self, jobs: Sequence[Job]) -> AsyncIterator[Group]:
        largest = max((j.k for j in jobs), default=1)
        gate = asyncio.Semaphore(max(1, self.concurrency // max(1, largest)))

        async def one(job: Job) -> Group:
            async with gate:
                return await self._group(job, self.env.task(job.split, job.index))

        tasks = [asyncio.ensure_future(one(job)) for job in jobs]
        try:
            for task in tasks:
                yield await task
        finally:
            for task in tasks:
                task.cancel()

    def _name(self, job: Job, sample: int) -> str:
        return "/".join(map(str, (*job.key, self.env.name, job.split, job.index, sample)))

    async def _group(self, job: Job, task: Task) -> Group:
        played = await asyncio.gather(*(self._play(job, task, s) for s in range(job.k)))
        trajectories = list(played)
        fine = [t for t in trajectories if not t.outcomes]
        ctx = Context(judge_policy=self.judge_policy)
        if fine:
            episodes = [t.episode for t in fine]
            verdicts = await judge_group(self.env, task, episodes, ctx, self.workers)
            for trajectory, outcomes in zip(fine, verdicts, strict=True):
                trajectory.outcomes = dict(outcomes)
        return Group(job, task, trajectories)

    async def _play(self, job: Job, task: Task, sample: int) -> Trajectory:
        key = (*job.key, self.env.name, job.split, job.index, sample)
        seats = {r: take_seat(p, self.params, (*key, r)) for r, p in self.policies.items()}
        ctx = Context(seats, self.judge_policy)
        if self.meet is None:
            episode, outcomes = await self._episode(task, ctx)
        else:
            async with self.meet.episode(self._name(job, sample)):
                episode, outcomes = await self._episode(task, ctx)
        return Trajectory(
            env=self.identity,
            task_id=task.id,
            split=job.split,
            index=job.index,
            sample=sample,
            episode=episode,
            branches={r: s.branches for r, s in seats.items() if s.branches},
            outcomes=outcomes,
            tags=task.tags,
            usage=_usage(seats),
        )

    async def _episode(self, task: Task, ctx: Context) -> tuple[Episode, dict[str, Outcome]]:
        """Play to the end; a failure of the machinery gives Infra and what was said.

        Raises UserError where a policy says that no call can succeed (a wrong key, a spent budget).
        """
        spoken: list[tuple[str, Any]] = [("env", m) for m in task.messages]
        try:
            with contextlib.closing(self.env.start(task, self.resources, ctx)) as session:
                ended = await self._turns(session, ctx, spoken)
                artifacts = dict(session.artifacts())
            if not all(isinstance(data, bytes) for data in artifacts.values()):
                raise TypeError("an artifact is not bytes")
            return Episode(task.id, tuple(spoken), artifacts, ended), {}
        except UserError:
            raise
        except (EndpointError, OSError) as error:
            outcome: Outcome = Infra(f"{error}")
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            at = f"{where.filename.rsplit('/', 1)[-1]}:{where.lineno}"
            outcome = Infra(f"{self.env.name} raised {error!r:.300} at {at}")
        return Episode(task.id, tuple(spoken), {}, "failed"), dict.fromkeys(self.env.roles, outcome)

    async def _turns(self, session: Session, ctx: Context, spoken: list[tuple[str, Any]]) -> str:
        limits = self.env.limits
        loop = asyncio.get_running_loop()
        env_seconds, plain = 0.0, _Plain()
        for _ in range(limits.turns):
            begun = loop.time()
            turn = session.next()
            env_seconds += loop.time() - begun
            if turn is None:
                return "done"
            if env_seconds > limits.seconds:
                return "seconds"
            try:
                message = await self.agents.get(turn.role, plain).act(turn, ctx)
            except ContextFullError:
                return "tokens"
            if not isinstance(message, Message):
                raise TypeError(f"{turn.role} spoke {type(message).__name__}, not a Message")
            spoken.append((turn.role, message))
            begun = loop.time()
            session.take(turn, message)
            env_seconds += loop.time() - begun
            if limits.tokens and sum(s.tokens for s in ctx.seats.values()) >= limits.tokens:
                return "tokens" if session.next() is not None else "done"
        return "done" if session.next() is None else "turns"


def identity(env: Environment) -> dict[str, str]:
    """Name, version and content hash of an environment, as every result carries them."""
    return {"name": env.name, "version": env.version, "hash": getattr(env, "content_hash", "")}


def _usage(seats: Mapping[str, Seat]) -> dict[str, float]:
    out: dict[str, float] = {"sampled_tokens": sum(s.tokens for s in seats.values())}
    usages = [u for s in seats.values() if isinstance(s, ChatSeat) for u in s.usages]
    if usages:
        out["prompt_tokens"] = sum(u.prompt_tokens for u in usages)
        costs = [u.cost for u in usages]
        if all(c is not None for c in costs):
            out["cost"] = sum(c for c in costs if c is not None)
    return out


async def play_scripts(
    env: Environment, task: Task, scripts: Mapping[str, Script], ctx: Any
) -> Episode:
    """One unjudged episode played by scripts. Raises RuntimeError where the environment fails."""
    rollout = Rollout(env, {role: Scripted(s) for role, s in scripts.items()}, workers=1)
    try:
        seats = {r: take_seat(p, rollout.params, (r,)) for r, p in rollout.policies.items()}
        episode, outcomes = await rollout._episode(task, Context(seats))
    finally:
        rollout.close()
    if outcomes:
        raise RuntimeError(str(next(iter(outcomes.values()))))
    return episode
