"""Reading a run directory from outside: which model a run, a stage or a checkpoint means.

`find_model(Path("runs/quickstart"), "sft")` -> (model directory, "sft").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from puna.core.errors import UserError, nearest
from puna.core.files import sha256_file, sha256_json
from puna.core.stage import Machine, Weights


def is_meta(directory: Path) -> bool:
    """Whether `directory` holds a model in Meta's layout, and none in Hugging Face's."""
    if (directory / "config.json").exists():
        return False
    return (directory / "params.json").exists() or any(directory.glob("consolidated.*.pth"))


def holds_model(directory: Path) -> bool:
    """Whether `directory` holds a model in either layout."""
    return (directory / "config.json").exists() or is_meta(directory)


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
        if holds_model(candidate):
            return candidate, target.resolve().name
    raise UserError(f"{target} holds neither a run nor a model", "name a directory with run.json")


@dataclass(frozen=True)
class Home:
    """What a model was made with: its run's machine and its stage's seed."""

    machine: Machine
    seed: int


def home_of(model: Path) -> Home:
    """The home of a model directory, found in the run that holds it; outside of runs a plain one.

    Raises UserError where run.json is broken or this machine lacks the run's device.
    """
    place = model.resolve()
    run = next((p for p in list(place.parents)[:3] if (p / "run.json").exists()), None)
    if run is None:
        return Home(Machine(threads=0), 0)
    path = run / "run.json"
    try:
        record = json.loads(path.read_text())
        machine = read_machine(record["machine"])
        stage = place.relative_to(run).parts[0]
        entry: Mapping[str, Any] = next((s for s in record["stages"] if s["id"] == stage), {})
        home = Home(machine, int(entry.get("seed", record.get("seed", 0))))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        fix = "copy the model's directory out of the run"
        raise UserError(f"{path} is broken: {error!r}", fix) from error
    require_device(machine, run)
    return home


def read_machine(stored: Mapping[str, Any]) -> Machine:
    """A run's stored choices. Raises TypeError or ValueError where they are none."""
    machine = Machine(**stored)
    for field in fields(Machine):
        kind = type(field.default)
        if not isinstance(getattr(machine, field.name), kind):
            raise TypeError(f"machine.{field.name} is no {kind.__name__}")
    if machine.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"machine.dtype is {machine.dtype}")
    if machine.weights not in get_args(Weights):
        raise ValueError(f"machine.weights is {machine.weights}")
    return machine


def require_device(machine: Machine, run: Path) -> None:
    """Raises UserError where `run` was begun on a device that is not here now."""
    if machine.device == "cpu":
        return
    import torch

    if not (machine.device.startswith("cuda") and torch.cuda.is_available()):
        raise UserError(
            f"{run} was begun on '{machine.device}', which is not on this machine now",
            "go on where it is, or copy a stage's model directory out of the run",
        )


def weight_files(model: Path) -> list[Path]:
    """The files of weights in a model directory of either layout, by name."""
    if not is_meta(model):
        return sorted(model.glob("*.safetensors"))
    single = model / "consolidated.pth"
    return sorted(model.glob("consolidated.*.pth")) or [single]


def weights_hash(model: Path) -> str:
    """SHA-256 of the weights in a model directory; of the shards' hashes where it has several."""
    shards = [sha256_file(p) for p in weight_files(model)]
    return shards[0] if len(shards) == 1 else sha256_json(shards)
