"""Judging: total, on a worker, within a deadline, and never confusing whose fault a failure is.

A verifier that raises is run again on the same episode and on the reference answer: where it
fails again on this episode and judges the reference well, the agent caused it and the score is
0; anything else is `Infra`. The other episodes of the group are then judged without it. Failures
of the outside world (`OUTSIDE`) and missed deadlines are always `Infra`: neither may decide data.
"""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from puna.core.outcome import Infra, Invalid, Outcome, Scored
from puna.engine.policy import EndpointError
from puna.gym.environment import Environment
from puna.gym.task import Task
from puna.gym.trajectory import Episode
from puna.gym.workers import DeadlineError, Workers
from puna.sandbox import SandboxError

Verdicts = list[Mapping[str, Outcome]]
OUTSIDE = (EndpointError, SandboxError, ConnectionError, TimeoutError, subprocess.TimeoutExpired)


class VerifierError(Exception):
    """The verifier raised, or gave something that is not one Outcome per role and episode."""

    def __init__(self, message: str, outside: bool, kind: str = "") -> None:
        super().__init__(message)
        self.outside, self.kind = outside, kind


async def judge_group(
    env: Environment,
    task: Task,
    episodes: Sequence[Episode],
    ctx: Any,
    workers: Workers,
    resources: Any = None,
) -> Verdicts:
    """An Outcome per role for each episode of one task; never raises for what a verifier does.

    `resources` (of `env.setup()`) serve to play the reference where a verifier failed; without
    them that playing makes its own.
    """
    try:
        return await _judge(env, task, episodes, ctx, workers)
    except VerifierError as error:
        if len(episodes) == 1:
            return [await _blame(env, task, episodes[0], ctx, workers, error, resources)]
    return await _judge_without_the_broken(env, task, episodes, ctx, workers, resources)


async def shadow_group(
    env: Environment, task: Task, episodes: Sequence[Episode], ctx: Any, workers: Workers
) -> Verdicts:
    """What `env.shadow` says of each episode, {} where there is none; never raises.

    Where it fails on the group it is asked for each episode alone, so that one answer that breaks
    it does not hide the others; where it fails again that episode's verdict is Infra.
    """
    if not has_shadow(env):
        return [{} for _ in episodes]
    try:
        return await _judge(env, task, episodes, ctx, workers, shadow=True)
    except VerifierError as error:
        if len(episodes) == 1 or error.outside:
            return [dict.fromkeys(env.roles, Infra(str(error))) for _ in episodes]
    alone = [await shadow_group(env, task, [e], ctx, workers) for e in episodes]
    return [verdicts[0] for verdicts in alone]


def has_shadow(env: Environment) -> bool:
    """Whether the environment brings a stricter verifier."""
    return type(env).shadow is not Environment.shadow


async def _judge_without_the_broken(
    env: Environment,
    task: Task,
    episodes: Sequence[Episode],
    ctx: Any,
    workers: Workers,
    resources: Any,
) -> Verdicts:
    """Find the episodes that fail alone; the others are judged again, still as a group."""
    broken: dict[int, Mapping[str, Outcome]] = {}
    for i, episode in enumerate(episodes):
        try:
            await _judge(env, task, [episode], ctx, workers)
        except VerifierError as error:
            broken[i] = await _blame(env, task, episode, ctx, workers, error, resources)
    whole = [e for i, e in enumerate(episodes) if i not in broken]
    verdicts: Verdicts = []
    if whole:
        try:
            verdicts = await _judge(env, task, whole, ctx, workers)
        except VerifierError as error:
            verdicts = [dict.fromkeys(env.roles, Infra(str(error)))] * len(whole)
    rest = iter(verdicts)
    return [broken[i] if i in broken else next(rest) for i in range(len(episodes))]


async def _judge(
    env: Environment,
    task: Task,
    episodes: Sequence[Episode],
    ctx: Any,
    workers: Workers,
    shadow: bool = False,
) -> Verdicts:
    what = f"the {'shadow' if shadow else 'verifier'} of {env.name} on {task.id}"
    try:
        verdicts = await _ask(env, task, episodes, ctx, workers, what, shadow)
        if verdicts is None:
            return [{} for _ in episodes]
        for outcomes in verdicts:
            if set(outcomes) != set(env.roles):
                raise TypeError(f"outcomes for {sorted(outcomes)}, roles are {env.roles}")
            for outcome in outcomes.values():
                if not isinstance(outcome, Scored | Invalid | Infra):
                    raise TypeError(f"{type(outcome).__name__} is not an Outcome")
        if len(verdicts) != len(episodes):
            raise TypeError(f"{len(verdicts)} verdicts for {len(episodes)} episodes")
        return verdicts
    except DeadlineError as error:
        raise VerifierError(str(error), outside=True, kind="deadline") from error
    except OUTSIDE as error:
        raise VerifierError(f"{what} failed: {_shown(error)}", outside=True) from error
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{where.filename.rsplit('/', 1)[-1]}:{where.lineno}"
        message = f"{what} raised {_shown(error)} at {at}"
        raise VerifierError(message, outside=False, kind=type(error).__name__) from error


async def _ask(
    env: Environment,
    task: Task,
    episodes: Sequence[Episode],
    ctx: Any,
    workers: Workers,
    what: str,
    shadow: bool,
) -> Verdicts | None:
    """What the verifier says: a plain one on a worker, an async one on the event loop.

    Only a shadow may say None: it has nothing to say of this task.
    """

    def call() -> Any:
        verifier = env.shadow if shadow else env.judge
        given = verifier(episodes, task.hidden, ctx)
        if inspect.isawaitable(given) or (shadow and given is None):
            return given
        return list(given)  # type: ignore[arg-type]

    given = await workers.run(call, deadline_s=env.judge_seconds, what=what)
    if given is None or isinstance(given, list):
        return given
    try:
        async with asyncio.timeout(env.judge_seconds) as deadline:
            return list(await given)
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise DeadlineError(f"{what} took longer than {env.judge_seconds:g} s") from error


def _shown(error: Exception) -> str:
    try:
        return f"{error!r:.300}"
    except Exception:
        return type(error).__name__


async def _blame(
    env: Environment,
    task: Task,
    episode: Episode,
    ctx: Any,
    workers: Workers,
    error: VerifierError,
    resources: Any,
) -> Mapping[str, Outcome]:
    """Scored(0) where the agent's answer alone makes the verifier fail, else Infra."""
    infra = {role: Infra(str(error)) for role in env.roles}
    if error.outside or len(env.roles) > 1:
        return infra
    from puna.gym.loop import play_scripts  # the loop judges through this file

    try:
        reference = await play_scripts(env, task, env.oracle(task), ctx, resources)
        verdicts = await _judge(env, task, [reference], ctx, workers)
    except Exception:
        return infra  # the verifier fails on the right answer too, or there is none to try
    if not all(isinstance(o, Scored) and o.success for o in verdicts[0].values()):
        return infra
    try:
        await _judge(env, task, [episode], ctx, workers)
    except VerifierError as again:
        if again.outside or again.kind != error.kind:
            return infra
        zero = Scored(0.0, False, evidence=f"this answer makes the verifier fail: {error}")
        return dict.fromkeys(env.roles, zero)
    return infra  # it judged this time: not repeatable, so not the agent's doing
