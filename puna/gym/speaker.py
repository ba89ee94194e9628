"""Speaker: a policy outside of episodes that proposes tasks, and inside of them solves them.

`await Speaker(env, policy, SamplingParams(256)).answer([(("propose", 0), messages)])`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from puna.core.messages import Message
from puna.core.outcome import Infra, Outcome, Scored
from puna.core.rng import Key
from puna.engine.policy import EndpointError, SamplingParams
from puna.engine.rendezvous import Rendezvous
from puna.gym.environment import Environment
from puna.gym.loop import Group, Job, Rollout
from puna.gym.seat import ContextFullError, Policy, take_seat
from puna.gym.task import Task
from puna.gym.trajectory import Episode

Asked = tuple[tuple[Key, ...], Sequence[Message]]


@dataclass(frozen=True)
class Tries:
    """How a task fared: `passed` of the `tried` answers that could be judged, and all episodes.

    `right` are those that passed.
    """

    passed: int
    tried: int
    right: tuple[Episode, ...]
    episodes: tuple[Episode, ...]


class Speaker:
    """One policy for every role of an environment, and how it is sampled.

    `meet` is the engine's rendezvous where the policy is a local Sampler; `wave` bounds what it is
    asked at once, `concurrency` what an endpoint is.
    """

    def __init__(
        self,
        env: Environment,
        policy: Policy,
        params: SamplingParams,
        *,
        meet: Rendezvous | None = None,
        wave: int = 256,
        concurrency: int = 16,
        workers: int = 2,
    ) -> None:
        self.policy, self.params, self.meet = policy, params, meet
        self.wave, self.gate = wave, asyncio.Semaphore(concurrency)
        self.rollout = Rollout(
            env,
            dict.fromkeys(env.roles, policy),
            params,
            meet=meet,
            wave=wave,
            workers=workers,
            concurrency=concurrency,
        )

    def close(self) -> None:
        """Let the workers end, and what the environment holds."""
        self.rollout.close()

    async def answer(self, asked: Sequence[Asked]) -> list[str | None]:
        """What the policy says to each conversation; its key names the random stream.

        None where the answer was cut off or the conversation did not fit. Raises EndpointError.
        """
        out: list[str | None] = []
        for start in range(0, len(asked), self.wave):
            some = asked[start : start + self.wave]
            names = ["/".join(map(str, key)) for key, _ in some]
            if self.meet is not None:
                self.meet.expect(names)
            try:
                out += await asyncio.gather(*map(self._one, names, some))
            finally:
                if self.meet is not None:
                    self.meet.forget(names)
        return out

    async def _one(self, name: str, asked: Asked) -> str | None:
        key, messages = asked
        seat = take_seat(self.policy, self.params, (*key, "proposer"))
        async with contextlib.AsyncExitStack() as stack:
            place = self.gate if self.meet is None else self.meet.episode(name)
            await stack.enter_async_context(place)
            try:
                said = (await seat.reply(messages)).text
            except ContextFullError:
                return None
        return said if seat.finish == "stop" else None

    async def solve(self, tasks: Sequence[Task], k: int, key: tuple[Key, ...]) -> list[Tries]:
        """`k` answers to each task, judged; `key` and the task's place name the random streams.

        Raises EndpointError where an episode could not be played.
        """
        jobs = [Job("proposed", i, k, key, task) for i, task in enumerate(tasks)]
        return [tries_of(group) async for group in self.rollout.run(jobs)]


def tries_of(group: Group) -> Tries:
    """How the task of a judged group fared; what is not Scored (a prover unsure) counts nowhere.

    Raises EndpointError where an episode could not be played: that says nothing of the task.
    """
    for trajectory in group.trajectories:
        if trajectory.episode.ended == "failed" and (why := _failure(trajectory.outcomes)):
            raise EndpointError(why)
    judged = [
        (t.episode, all(o.success for o in t.outcomes.values() if isinstance(o, Scored)))
        for t in group.trajectories
        if all(isinstance(o, Scored) for o in t.outcomes.values())
    ]
    right = tuple(episode for episode, success in judged if success)
    return Tries(len(right), len(judged), right, tuple(t.episode for t in group.trajectories))


def _failure(outcomes: Mapping[str, Outcome]) -> str:
    """The first error of the machinery; "" where there was none."""
    return next((o.error for o in outcomes.values() if isinstance(o, Infra)), "")
