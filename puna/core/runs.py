"""Reading a run directory from outside: which model a run, a stage or a checkpoint means.

`find_model(Path("runs/quickstart"), "sft")` -> (model directory, "sft").
"""

from __future__ import annotations

import json
from pathlib import Path

from puna.core.errors import UserError, nearest


def find_model(target: Path, stage: str = "") -> tuple[Path, str]:
    """The model directory a run, a stage or a checkpoint means, and what to call it.

    Raises UserError where there is none, naming the stages there are.
    """
    if not target.exists():
        raise UserError(f"no run or model at {target}", "make one: puna run quickstart")
    run = target / "run.json"
    if run.exists():
        try:
            planned = [s["id"] for s in json.loads(run.read_text())["stages"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{run} is broken: {error!r}", "name the stage's directory") from error
        found = [s for s in planned if (target / s / "model" / "config.json").exists()]
        if stage and stage not in found:
            raise UserError(f"{target} has no finished stage '{stage}'", nearest(stage, found))
        if not found:
            raise UserError(f"no stage of {target} is finished", "puna run goes on with it")
        chosen = stage or found[-1]
        return target / chosen / "model", chosen
    if stage:
        raise UserError(f"{target} is not a run, so it has no stage '{stage}'", "leave it out")
    for candidate in (target / "model", target):
        if (candidate / "config.json").exists():
            return candidate, target.resolve().name
    raise UserError(f"{target} holds neither a run nor a model", "name a directory with run.json")
