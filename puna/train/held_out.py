"""The held-out score that stages take on the way: the last test tasks, played greedily.

`held_out_score(ctx, env, policies, meet, ["agent"], tasks=200, max_tokens=32)` -> 0.31.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from puna.core.stage import StageContext, StageError
from puna.engine.local import Rendezvous
from puna.engine.policy import SamplingParams
from puna.evals.evaluate import evaluate, failures
from puna.gym.environment import Environment
from puna.gym.seat import Policy


def held_out_score(
    ctx: StageContext,
    env: Environment,
    policies: Mapping[str, Policy],
    meet: Rendezvous,
    roles: Sequence[str],
    *,
    tasks: int,
    max_tokens: int,
) -> float:
    """The mean over `roles` of their mean scores on the last `tasks` test tasks.

    Raises StageError where nothing that a role did was scored: that is no score of 0.
    """
    found = evaluate(
        env,
        policies,
        n=tasks,
        first=max(0, env.count("test") - tasks),
        params=SamplingParams(max_tokens, 0.0),
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
