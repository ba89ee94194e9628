"""What training stages play, and how it went: tasks for rows, a held-out score, figures of groups.

`play_tasks(ctx, env, model, tokenizer, [Job("train", 0, 8, ("dpo",))], SamplingParams(), right)`;
`held_out_score(ctx, env, policies, meet, ["agent"], tasks=200, max_tokens=32)` -> 0.31.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set
from typing import TypeVar

import numpy as np

from puna.core.outcome import Infra, Invalid, Scored
from puna.core.stage import StageContext, StageError
from puna.engine.policy import SamplingParams
from puna.engine.rendezvous import Rendezvous
from puna.evals.evaluate import evaluate, failures, local_policy
from puna.evals.turns import turn_of
from puna.gym.environment import Environment
from puna.gym.loop import Agent, Group, Job, Rollout
from puna.gym.seat import Policy
from puna.models.decoder import Decoder
from puna.text.tokenizer import Tokenizer

Kept = TypeVar("Kept")


def play_tasks(
    ctx: StageContext,
    env: Environment,
    model: Decoder,
    tokenizer: Tokenizer,
    jobs: Sequence[Job],
    params: SamplingParams,
    keep: Callable[[Group], Kept],
) -> list[Kept]:
    """What `keep` takes of each judged group, in the order of `jobs`.

    A function of weights, seed and jobs; no group is held on to that `keep` does not return.
    """
    was_training = model.training
    sampler, meet = local_policy(model.eval(), tokenizer, ctx.seed)
    policies = dict.fromkeys(env.roles, sampler)
    rollout = Rollout(env, policies, params, meet=meet, workers=ctx.machine.workers)

    async def play() -> list[Kept]:
        return [keep(group) async for group in rollout.run(jobs)]

    try:
        return asyncio.run(play())
    finally:
        rollout.close()
        model.train(was_training)


def fared(group: Group, role: str) -> tuple[int, int]:
    """How many answers of `role` succeeded, of how many that were scored."""
    outcomes = [trajectory.outcomes[role] for trajectory in group.trajectories]
    scored = [outcome for outcome in outcomes if isinstance(outcome, Scored)]
    return sum(outcome.success for outcome in scored), len(scored)


def held_out_score(
    ctx: StageContext,
    env: Environment,
    policies: Mapping[str, Policy],
    meet: Rendezvous,
    roles: Sequence[str],
    *,
    tasks: int,
    max_tokens: int,
    agents: Mapping[str, Agent] | None = None,
    programs: int = 64,
) -> float:
    """The mean over `roles` of their mean scores on the last `tasks` test tasks.

    With `agents` at most `programs` episodes are played at once.

    Raises StageError where nothing that a role did was scored: that is no score of 0.
    """
    found = evaluate(
        env,
        policies,
        n=tasks,
        first=max(0, env.count("test") - tasks),
        params=SamplingParams(max_tokens, 0.0),
        agents=agents,
        concurrency=programs,
        meet=meet,
        workers=ctx.machine.workers,
    )
    means = []
    for role in roles:
        value = found.scores[role].value
        if value is None:
            why = "; ".join(failures(found.outcomes[role])[:1])
            raise StageError(f"{ctx.id}: no held-out task of {env.name} was scored: {why}")
        means.append(value.mean)
    return sum(means) / len(means)


def figures(groups: list[Group], roles: Set[str]) -> dict[str, float]:
    """Reward and success of `roles`, lengths and failures, over all groups seen, useful or not.

    Where a stricter verifier was asked, `shadow` is its mean over what is Scored by both. Of
    answers that hold verdicts, `first` is the accuracy of first solutions, `true_yes` and `true_no`
    are the shares of right and of wrong solutions that were found so: where one is near 1 and the
    other near 0, nobody verifies.
    """
    counts = {"scored": 0, "invalid": 0, "infra": 0}
    values: dict[str, list[float]] = {}
    successes: list[float] = []
    stricter: list[float] = []
    passes: list[Scored] = []
    lengths: list[int] = []
    for trajectory in (t for g in groups for t in g.trajectories):
        branches = [b for found in trajectory.branches.values() for b in found]
        lengths += [sum(b.mask) for b in branches if any(b.mask)]
        for role, outcome in trajectory.outcomes.items():
            match outcome:
                case Scored():
                    counts["scored"] += 1
                    values.setdefault(role, []).append(outcome.value)
                    if "solution 1" in outcome.parts:
                        passes.append(outcome)
                    if role in roles:
                        successes.append(float(outcome.success))
                        match trajectory.shadow.get(role):
                            case Scored(value=value):
                                stricter.append(value)
                case Invalid():
                    counts["invalid"] += 1
                case Infra():
                    counts["infra"] += 1
    out = {f"reward_{role}": float(np.mean(v)) for role, v in values.items() if len(values) > 1}
    pooled = [x for role, v in values.items() if role in roles for x in v]
    out["reward"] = float(np.mean(pooled)) if pooled else 0.0
    out["success"] = float(np.mean(successes)) if successes else 0.0
    if stricter:
        out["shadow"] = float(np.mean(stricter))
    if passes:
        told = turn_of(passes)
        out["first"] = float(np.mean([o.parts["solution 1"] for o in passes]))
        rates = {"true_yes": told.true_yes, "true_no": told.true_no}
        out |= {name: rate for name, rate in rates.items() if rate is not None}
    if lengths:
        out["length_p50"], out["length_p99"] = map(float, np.percentile(lengths, [50, 99]))
        out["sampled_tokens"] = float(sum(lengths))
    return out | {k: float(v) for k, v in counts.items()}


def first_failure(groups: Sequence[Group]) -> str:
    """The first reason why an outcome is not Scored; "" where all are."""
    for trajectory in (t for g in groups for t in g.trajectories):
        for outcome in trajectory.outcomes.values():
            match outcome:
                case Infra(error=reason) | Invalid(reason=reason):
                    return reason
                case _:
                    pass
    return ""


def failed_share(figures: Mapping[str, float]) -> float:
    """The share of outcomes that are not Scored."""
    total = figures["scored"] + figures["invalid"] + figures["infra"]
    return 1 - figures["scored"] / total if total else 1.0
