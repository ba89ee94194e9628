"""The psv stage: one round of Propose, Solve, Verify (arXiv 2512.18160), self-play without labels.

A round solves the pool of tasks with the model it comes from, lets the base model propose more,
solves those, and imitates at most one verified solution of each task, from the base weights again.
With `rounds = 5` in the recipe each goes on from the one before.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from puna.core.errors import UserError
from puna.core.files import json_bytes, write_bytes, write_json
from puna.core.stage import StageContext
from puna.gym.audit.records import require
from puna.gym.registry import load_environment
from puna.train.checkpoint import model_directory
from puna.train.data import env_settings
from puna.train.selfplay import STATE, Pace, Play, read_past
from puna.train.sft import Config as SftConfig
from puna.train.sft import run as imitate
from puna.train.start import source_of

SCHEMA = 1


@dataclass(frozen=True)
class Config(Pace):
    """A round: `samples` answers to each task of the pool, `proposals` asked of the base model.

    The first pool is the train tasks of `env` and `seeds` more from its proposer's own source,
    without their solutions. A prompt for a proposal shows `shots` tasks of the pool. The rows that
    were won are learned as `sft` says. The controls: `verify = false` learns the first answer of
    the right form; `labels = false` says no classes of difficulty; `fixed = true` always shows the
    same examples; `proposals = 0` stays with the seeds.
    """

    env: str | Mapping[str, Any] = "proofs"
    init: Path | None = None
    sft: SftConfig = SftConfig()
    unaudited: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that leaves nothing to do, or that the round sets."""
        super().__post_init__()
        if self.sft.data or self.sft.env or self.sft.init:
            raise ValueError("sft takes its rows and its weights from the round: name neither")


def run(ctx: StageContext, config: Config) -> dict[str, Any]:
    """Play a round and learn from it. Raises UserError where `env` has no proposer."""
    source = source_of(ctx, None if _goes_on(ctx) else config.init, "sft")
    name, settings = env_settings(config.env)
    env = load_environment(name, settings, ctx.seed)
    try:
        proposer = env.proposer()
    except NotImplementedError:
        fix = "docs/proposers.md says how to write one"
        raise UserError(f"{ctx.id}: {env.name} has no proposer", fix) from None
    audited = require(name, settings, allow=config.unaudited or not config.verify)
    past = read_past(source, proposer)
    base = past.base or model_directory(source)
    play = Play(ctx, config, env, proposer, past, base, model_directory(source))
    try:
        asyncio.run(play.round())
    finally:
        play.close()
    figures, why = play.figures(), dict(play.refused)
    del play  # and the models that it sampled from
    rows = [item.solution for item in past.pool if item.solution]
    trained = _learn(ctx, config, base, rows)
    figures["rows"] = len(rows)
    curve = [*past.curve, {"step": past.rounds + 1, **figures}]
    write_bytes(ctx.dir / "metrics.jsonl", b"".join(json_bytes(c) + b"\n" for c in curve))
    state = {
        "schema": SCHEMA,
        "base": os.path.relpath(base, ctx.dir),
        "curve": curve,
        "pool": [item.to_json(proposer) for item in past.pool],
    }
    write_json(ctx.dir / STATE, state, "pool")
    shutil.rmtree(ctx.dir / "sft" / "checkpoints", ignore_errors=True)
    found = {"env": env.name, "audit": audited.id, "audit_passed": audited.passed}
    return {**trained, **found, **figures, "refused": why, "round": len(curve)}


def _goes_on(ctx: StageContext) -> bool:
    """Whether the stage before was a round as well; `init` is then where that one began."""
    return ctx.parent is not None and (ctx.parent / STATE).exists()


def _learn(
    ctx: StageContext, config: Config, base: Path, rows: Sequence[Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Imitate `rows` from the base weights; where there is none the base is the round's model."""
    model = ctx.dir / "model"
    if not rows:
        ctx.progress.note(f"{ctx.id}: nothing was solved, so the weights stay those of the base")
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(base, model)
        return {}
    data = ctx.dir / "rows.jsonl"
    write_bytes(data, b"".join(json_bytes({"messages": list(row)}) + b"\n" for row in rows))
    inner = replace(ctx, dir=ctx.dir / "sft", parents={})
    trained = imitate(inner, replace(config.sft, data=data, init=base))
    del trained["cpu_seconds"], trained["wall_seconds"]  # of learning alone
    shutil.rmtree(model, ignore_errors=True)  # of a try that was killed
    os.replace(inner.dir / "model", model)
    return trained
