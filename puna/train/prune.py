"""Pruned demonstrations: those of tasks that the model solves already are mostly left out.

`prune = { above = 0.8, drop = 0.95 }` in an sft stage. Llama 4 asked a judge what is easy; here the
share of the model's own answers that pass says it (docs/order.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from puna.core.errors import UserError
from puna.core.files import write_json
from puna.core.rng import stream
from puna.core.stage import StageContext
from puna.core.stats import correlation
from puna.engine.policy import SamplingParams
from puna.evals.playing import fared, play_tasks
from puna.gym.environment import Environment
from puna.gym.loop import Group, Job
from puna.models.decoder import Decoder
from puna.text.tokenizer import Tokenizer
from puna.train.data import last_tasks
from puna.train.loop import at_least_one
from puna.train.optim import require


@dataclass(frozen=True)
class PruneConfig:
    """A demonstration is left out, with chance `drop`, where its task is easy for the parent.

    That is where more than `above` of `samples` answers to it pass.
    """

    above: float = 0.8
    drop: float = 0.95
    samples: int = 16
    temperature: float = 1.0
    max_tokens: int = 32

    def __post_init__(self) -> None:
        """Raises ValueError for what is no share, and for nothing to measure on."""
        require(0 <= self.above < 1, self, "above", "0 or more and less than 1")
        require(0 <= self.drop <= 1, self, "drop", "0 to 1")
        at_least_one(self, "samples", "max_tokens")
        require(self.temperature > 0, self, "temperature", "above 0")


def prune(
    ctx: StageContext,
    config: PruneConfig,
    env: Environment,
    model: Decoder,
    tokenizer: Tokenizer,
    demos: int,
) -> tuple[frozenset[int], dict[str, Any]]:
    """Tag the last `demos` train tasks by pass rate, once a stage; which are left out, and figures.

    `length_correlation` is that of difficulty (1 - pass rate) with the prompt's length: near 1 or
    -1 the tags would say little but how long a task is. Raises UserError where nothing is left.
    """
    path, tasks = ctx.dir / "difficulty.json", last_tasks(env, demos)
    if not path.exists():  # a function of weights, seed and settings
        params = SamplingParams(config.max_tokens, config.temperature)
        jobs = [Job("train", i, config.samples, ("difficulty",)) for i in tasks]

        def tag(group: Group) -> tuple[int, int, int]:
            return *fared(group, env.roles[0]), sum(len(m.text) for m in group.task.messages)

        tags = play_tasks(ctx, env, model, tokenizer, jobs, params, tag)
        write_json(path, {"schema": 1, "first": tasks.start, "tags": tags}, "difficulties")
    tags = json.loads(path.read_text())["tags"]
    rates = {i: passed / tried for i, (passed, tried, _) in zip(tasks, tags, strict=True) if tried}
    out = left_out(rates, config, ctx.seed)
    if len(out) == len(tasks):
        what = f"{ctx.id}: every demonstration is of an easy task, and prune leaves none"
        raise UserError(what, f"lower {ctx.id}.prune.drop")
    ctx.progress.note(f"{ctx.id}: {len(out):,} of {len(tasks):,} tasks are easy and left out")
    hardness = [(1 - passed / tried, length) for passed, tried, length in tags if tried]
    return out, {
        "tasks": len(tasks),
        "easy_tasks": sum(rate > config.above for rate in rates.values()),
        "pruned_tasks": len(out),
        "length_correlation": correlation(*zip(*hardness, strict=True)) if hardness else None,
    }


def left_out(rates: Mapping[int, float], config: PruneConfig, seed: int) -> frozenset[int]:
    """Of the easy tasks each with chance `drop`; a larger `drop` leaves out the same and more."""
    easy = [task for task, rate in rates.items() if rate > config.above]
    return frozenset(i for i in easy if stream(seed, "prune", i).random() < config.drop)
