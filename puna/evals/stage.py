"""The eval stage: every parent over every environment, with intervals and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from puna.core.errors import UserError
from puna.core.stage import StageContext
from puna.core.stats import paired_difference
from puna.engine.policy import SamplingParams
from puna.evals.evaluate import EvalResult, evaluate, local_policy, task_means
from puna.gym.loop import identity
from puna.gym.registry import load_environment
from puna.models import hf
from puna.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Config:
    """`envs` are names or tables with `id` and settings; `n` test tasks, `k` episodes of each.

    `temperature` 0 plays greedily, which is what comparisons between stages should use.
    """

    envs: tuple[str | Mapping[str, Any], ...]
    n: int = 200
    k: int = 1
    temperature: float = 0.0
    max_tokens: int = 32
    slots: int = 256


def run(ctx: StageContext, config: Config) -> dict[str, Any]:
    """Score all parents on the same tasks. Raises UserError where there is no parent."""
    if not ctx.parents:
        raise UserError(f"{ctx.id}: nothing to evaluate", 'add from = ["sft", "rl"]')
    scores: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    seen: set[str] = set()
    for given in config.envs:
        settings = {"id": given} if isinstance(given, str) else dict(given)
        name = str(settings.pop("id", ""))
        env = load_environment(name, settings, ctx.seed)
        # A second environment of the same name has a journal of its own.
        tail = f"-{identity(env)['hash'][:8]}" if env.name in seen else ""
        seen.add(env.name)
        earlier: list[tuple[str, EvalResult]] = []
        for parent, directory in ctx.parents.items():
            model, _ = hf.load(directory / "model")
            model.compute_dtype = getattr(torch, ctx.machine.dtype)
            model.to(ctx.machine.device)
            tokenizer = Tokenizer.load(directory / "model")
            sampler, meet = local_policy(model.eval(), tokenizer, ctx.seed, config.slots)
            found = evaluate(
                env,
                dict.fromkeys(env.roles, sampler),
                n=config.n,
                k=config.k,
                params=SamplingParams(config.max_tokens, config.temperature),
                meet=meet,
                journal=ctx.dir / f"episodes-{parent}-{env.name}{tail}.jsonl",
                workers=ctx.machine.workers,
                progress=_shower(ctx, parent),
            )
            scores.append(
                {
                    "stage": parent,
                    "env": dict(found.env),
                    "chance": env.chance,
                    "score": found.score.to_json(),
                    "by_tag": {t: s.to_json() for t, s in found.by_tag.items()},
                }
            )
            mine = (parent, found)
            differences += [_difference(env.name, a, mine, env.roles[0]) for a in earlier]
            earlier.append(mine)
    return {"scores": scores, "differences": differences}


def _shower(ctx: StageContext, parent: str) -> Callable[[int, int, float], None]:
    """What `evaluate` calls after each group."""
    return lambda done, total, mean: ctx.progress.step(
        f"{ctx.id} {parent}", done, total, {"score": mean}
    )


def _difference(
    env: str, a: tuple[str, EvalResult], b: tuple[str, EvalResult], role: str
) -> dict[str, Any]:
    """`b` minus `a`, task by task."""
    found = paired_difference(task_means(b[1].outcomes[role]), task_means(a[1].outcomes[role]))
    return {"env": env, "from": a[0], "to": b[0], **found.__dict__}
