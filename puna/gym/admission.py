"""Admission: the gate that a proposed task passes before anybody trains on it.

`await Gate(env).decide(draft)` -> `Admission(admitted=True, ...)`, or the reason against it. The
record stands in `Task.admission`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from puna.core.errors import UserError
from puna.core.outcome import Infra, Invalid, Outcome, Scored
from puna.gym.environment import Environment, say
from puna.gym.loop import Context, Rollout
from puna.gym.proposer import Draft, UnfitError, difficulty
from puna.gym.seat import Scripted
from puna.gym.task import Script, Task
from puna.gym.verify import judge_group

SCHEMA = 1


@dataclass(frozen=True)
class Admission:
    """Whether a draft becomes a task, and why not: `reason` for tables, `evidence` for people.

    `checks` counts what was asked: trivial answers, mutants, verdicts that were repeated. `passed`
    of `tried` answers of a solver were right, where one was asked.
    """

    admitted: bool
    reason: str = ""
    evidence: str = ""
    checks: Mapping[str, int] = field(default_factory=dict)
    passed: int = 0
    tried: int = 0

    @property
    def difficulty(self) -> str:
        """The class by the solver's pass rate; "" where no solver was asked."""
        return difficulty(self.passed, self.tried)

    def to_json(self) -> dict[str, Any]:
        """A plain record."""
        return {"schema": SCHEMA, **asdict(self), "difficulty": self.difficulty}

    def of(self, task: Task) -> Task:
        """The task with this record in it."""
        return replace(task, admission=self.to_json())


def refused(reason: str, evidence: str = "") -> Admission:
    """No task comes of it."""
    return Admission(False, reason, evidence[:500])


class Gate:
    """Decides on the drafts of one environment; a draft that it has seen before is a duplicate.

    `known`: keys of tasks that there are already, held-out ones among them. `useful`: the least and
    the largest pass rate of a task worth training on, where a solver's is known. Raises UserError
    where the environment cannot be played here.
    """

    def __init__(
        self,
        env: Environment,
        known: Iterable[str] = (),
        useful: tuple[float, float] = (0.0, 1.0),
        workers: int = 2,
    ) -> None:
        self.env, self.known, self.useful = env, set(known), useful
        idle = {role: Scripted(say("")) for role in env.roles}
        self.rollout = Rollout(env, idle, workers=workers)

    def close(self) -> None:
        """Let the workers end, and what the environment holds."""
        self.rollout.close()

    async def screen(self, draft: object) -> Admission | None:
        """What speaks against a draft before anybody has solved it; None where nothing does.

        It must be a draft and a new one, and trivial answers (silence, the environment's cheats)
        must score nothing. Total: whatever is handed in gets an answer.
        """
        if not isinstance(draft, Draft) or not isinstance(draft.task, Task):
            return refused("malformed", f"{type(draft).__name__} is no draft")
        if draft.task.key in self.known:
            return refused("duplicate")
        self.known.add(draft.task.key)
        try:
            silence = {role: say("") for role in self.env.roles}
            trivial = {"silence": silence, **self.env.cheats(draft.task)}
            return await self._all_fail(draft, trivial, "a trivial answer scores")
        except UserError:
            raise
        except Exception as error:
            return refused("raised", repr(error))

    async def screen_all(self, drafts: Sequence[Draft | Admission]) -> list[Admission | None]:
        """`screen` of each; as if one after the other, as to what is a duplicate."""

        async def one(draft: Draft | Admission) -> Admission | None:
            return draft if isinstance(draft, Admission) else await self.screen(draft)

        return await asyncio.gather(*map(one, drafts))

    async def decide(self, draft: object, passed: int = 0, tried: int = 0) -> Admission:
        """Whether a draft that `screen` let pass becomes a task.

        Its reference must score, twice alike; its mutants must not; and of a solver's `tried`
        answers a useful share must have `passed`. Total, as `screen` is.
        """
        try:
            found = await self._decided(draft, passed, tried)
        except UserError:
            raise
        except Exception as error:
            found = refused("raised", repr(error))
        return replace(found, passed=passed, tried=tried)

    async def _decided(self, draft: object, passed: int, tried: int) -> Admission:
        if not isinstance(draft, Draft):
            return refused("malformed", f"{type(draft).__name__} is no draft")
        if not draft.reference:
            return refused("nobody solved it")
        if tried and passed / tried < self.useful[0]:
            return refused("too hard", f"{passed} of {tried}")
        if tried and passed / tried > self.useful[1]:
            return refused("too easy", f"{passed} of {tried}")
        first = await self._outcomes(draft.task, draft.reference)
        for outcome in first.values():
            if not isinstance(outcome, Scored) or not outcome.success:
                return refused("the reference fails", str(outcome))
        if await self._outcomes(draft.task, draft.reference) != first:
            return refused("the verdict changes")
        against = await self._all_fail(draft, draft.mutants, "a mutant scores")
        checks = {"mutants": len(draft.mutants), "repeats": 2}
        return against or Admission(True, checks=checks)

    async def _all_fail(
        self, draft: Draft, answers: Mapping[str, Mapping[str, Script]], reason: str
    ) -> Admission | None:
        """Why not all of these answers score nothing; None where they do."""
        for name, scripts in answers.items():
            for outcome in (await self._outcomes(draft.task, scripts)).values():
                match outcome:
                    case Scored(value=value, success=success):
                        if success or value > self.env.chance:
                            return refused(reason, f"{name} scores {value:g}")
                    case Invalid(reason=why):
                        return refused("the task is at fault", why)
                    case Infra(error=why):
                        return refused("not judged", f"{name}: {why}")
        return None

    async def _outcomes(self, task: Task, scripts: Mapping[str, Script]) -> Mapping[str, Outcome]:
        """What each role earns where they all say this."""
        episode, failed = await self.rollout.scripted(task, scripts)
        if failed:
            return failed
        rollout = self.rollout
        verdicts = await judge_group(
            self.env, task, [episode], Context(), rollout.workers, rollout.resources
        )
        return verdicts[0]


async def made_all(
    make: Callable[..., object], given: Iterable[Sequence[Any]], at_once: int
) -> list[Draft | Admission]:
    """`made` of each, in order; so many `at_once`, for a proposer may ask a prover."""
    gate = asyncio.Semaphore(max(1, at_once))

    async def one(arguments: Sequence[Any]) -> Draft | Admission:
        async with gate:
            return await asyncio.to_thread(made, make, *arguments)

    return await asyncio.gather(*map(one, given))


def made(make: Callable[..., object], *given: Any) -> Draft | Admission:
    """What a proposer makes, or the refusal of what it could not: it may raise what it likes."""
    try:
        draft = make(*given)
    except UnfitError as error:
        return refused(error.reason, error.detail)
    except UserError:
        raise
    except Exception as error:
        return refused("raised", repr(error))
    if not isinstance(draft, Draft):
        return refused("malformed", f"{type(draft).__name__} is no draft")
    return draft
