"""What training stages play besides RL's steps: tasks for rows, and the held-out score on the way.

`play_tasks(ctx, env, model, tokenizer, [Job("train", 0, 8, ("dpo",))], SamplingParams(), right)`;
`held_out_score(ctx, env, policies, meet, ["agent"], tasks=200, max_tokens=32)` -> 0.31.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from puna.core.outcome import Scored
from puna.core.stage import StageContext, StageError
from puna.engine.policy import SamplingParams
from puna.engine.rendezvous import Rendezvous
from puna.evals.evaluate import evaluate, failures, local_policy
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
