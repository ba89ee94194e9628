"""The eval stage: every parent over every environment, with intervals and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.core.errors import UserError
from puna.core.runs import find_model, weights_hash
from puna.core.stage import StageContext
from puna.core.stats import paired_difference, task_means
from puna.engine.policy import SamplingParams
from puna.evals.evaluate import (
    EvalResult,
    all_there_are,
    evaluate,
    local_policy,
    place_on,
)
from puna.gym.loop import identity
from puna.gym.registry import load_environment
from puna.models import load as load_weights
from puna.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Config:
    """`envs` are names or tables with `id` and settings; `n` test tasks, `k` episodes of each.

    `init` is a model directory to score beside the parents, as "init": where training began.
    `temperature` 0 plays greedily, which is what comparisons between stages should use.
    """

    envs: tuple[str | Mapping[str, Any], ...]
    init: Path | None = None
    n: int = 200
    k: int = 1
    temperature: float = 0.0
    max_tokens: int = 32
    slots: int = 256

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that leaves nothing to do."""
        for name in ("n", "k", "max_tokens", "slots"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}, must be 0 or more")
        if not self.envs:
            raise ValueError("envs is empty, so there is nothing to play")


def run(ctx: StageContext, config: Config) -> dict[str, Any]:
    """Score `init` and all parents on the same tasks. Raises UserError where there is neither."""
    models = {parent: directory / "model" for parent, directory in ctx.parents.items()}
    if config.init is not None:
        if "init" in models:
            raise UserError(f"{ctx.id}: a parent's id is 'init' too", "rename that stage")
        models = {"init": find_model(config.init)[0], **models}
    if not models:
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
        if fewer := all_there_are(env, config.n):
            ctx.progress.note(f"{ctx.id}: {fewer}")
        earlier: list[tuple[str, EvalResult]] = []
        for parent, directory in models.items():
            tokenizer = Tokenizer.load(directory).require_chat(directory)
            model, _ = load_weights(directory)
            sampler, meet = local_policy(
                place_on(model, ctx.machine), tokenizer, ctx.seed, config.slots
            )
            found = evaluate(
                env,
                dict.fromkeys(env.roles, sampler),
                n=config.n,
                k=config.k,
                params=SamplingParams(config.max_tokens, config.temperature),
                meet=meet,
                journal=ctx.dir / f"episodes-{parent}-{env.name}{tail}.jsonl",
                policy=weights_hash(directory),
                workers=ctx.machine.workers,
                progress=_shower(ctx, parent),
            )
            scores += [
                {
                    "stage": parent,
                    "env": dict(found.env),
                    "role": role,
                    "chance": env.chance,
                    "score": score.to_json(),
                    "by_tag": {t: s.to_json() for t, s in found.tags_of(role).items()},
                    **(found.extras() if role == env.roles[0] else {}),
                }
                for role, score in found.scores.items()
            ]
            mine = (parent, found)
            differences += [
                _difference(env.name, a, mine, role) for a in earlier for role in env.roles
            ]
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
    return {"env": env, "role": role, "from": a[0], "to": b[0], **found.to_json()}
