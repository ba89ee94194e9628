"""Judging: total, on a worker, within a deadline, and never confusing whose fault a failure is.

A verifier that raises is run again on the same episode and on the reference answer: where it fails
again on this episode and judges the reference well, the agent caused it and the score is 0; anything
else is `Infra`. Failures of the outside world (`OSError`, `EndpointError`) are always `Infra`.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from puna.core.outcome import Infra, Invalid, Outcome, Scored
from puna.engine.policy import EndpointError
from puna.gym.environment import Environment
from puna.gym.task import Task
from puna.gym.trajectory import Episode
from puna.gym.workers import DeadlineError, Workers

Verdicts = list[Mapping[str, Outcome]]


class VerifierError(Exception):
    """The verifier raised, or gave something that is not one Outcome per role and episode."""

    def __init__(self, message: str, outside: bool) -> None:
        super().__init__(message)
        self.outside = outside


async def judge_group(
    env: Environment, task: Task, episodes: Sequence[Episode], ctx: Any, workers: Workers
) -> Verdicts:
    """An Outcome per role for each episode of one task; never raises for what a verifier does."""
    try:
        return await _judge(env, task, episodes, ctx, workers)
    except VerifierError as error:
        if len(episodes) > 1:  # find the one at fault; the others keep their verdicts
            alone = [await judge_group(env, task, [e], ctx, workers) for e in episodes]
            return [verdicts[0] for verdicts in alone]
        return [await _blame(env, task, episodes[0], ctx, workers, error)]


async def _judge(
    env: Environment, task: Task, episodes: Sequence[Episode], ctx: Any, workers: Workers
) -> Verdicts:
    what = f"the verifier of {env.name} on {task.id}"
    try:
        found = await workers.run(
            env.judge, episodes, task.hidden, ctx, deadline_s=env.judge_seconds, what=what
        )
        verdicts = list(found)
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
        raise VerifierError(str(error), outside=False) from error
    except (OSError, EndpointError, MemoryError) as error:
        raise VerifierError(f"{what} failed: {error!r}", outside=True) from error
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{where.filename.rsplit('/', 1)[-1]}:{where.lineno}"
        raise VerifierError(f"{what} raised {error!r:.300} at {at}", outside=False) from error


async def _blame(
    env: Environment,
    task: Task,
    episode: Episode,
    ctx: Any,
    workers: Workers,
    error: VerifierError,
) -> Mapping[str, Outcome]:
    """Scored(0) where the agent's answer alone makes the verifier fail, else Infra."""
    infra = {role: Infra(str(error)) for role in env.roles}
    if error.outside or len(env.roles) > 1:
        return infra
    from puna.gym.loop import play_scripts  # the loop judges through this file

    try:
        scripts = env.oracle(task)
        reference = await play_scripts(env, task, scripts, ctx)
        verdicts = await _judge(env, task, [reference], ctx, workers)
        if not all(isinstance(o, Scored) and o.success for o in verdicts[0].values()):
            return infra
        await _judge(env, task, [episode], ctx, workers)
    except VerifierError as again:
        if again.outside or str(again) != str(error):
            return infra
        zero = Scored(0.0, False, evidence=f"this answer makes the verifier fail: {error}")
        return dict.fromkeys(env.roles, zero)
    except Exception:
        return infra
    return infra  # it judged this time: not repeatable, so not the agent's doing
