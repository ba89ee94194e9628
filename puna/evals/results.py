"""Results on disk as outcomes by role and task: `results_of("runs/quickstart/sft")`.

What `puna eval` left, what an eval stage found of a stage, or all that a folder holds of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from puna.core.errors import UserError
from puna.core.journal import read
from puna.core.outcome import Outcome, from_json
from puna.core.runs import find_model

if TYPE_CHECKING:
    from puna.evals.api import Evaluation

# Two results are of one kind where these agree. The sampling seed is none of them: it is chance.
_SETTINGS = ("env_seed", "k", "temperature", "max_tokens")
_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError)


class HasDirectory(Protocol):
    """A `puna.Run`."""

    directory: Path


if TYPE_CHECKING:
    Target = str | Path | Evaluation | HasDirectory


@dataclass(frozen=True)
class Result:
    """One result: what was played, how, and every outcome by role and task."""

    name: str
    env: Mapping[str, str]
    settings: Mapping[str, Any]
    outcomes: Mapping[str, Mapping[str, list[Outcome]]]

    def differs(self, other: Result) -> str:
        """Why the two cannot be compared; "" where they can."""
        pairs = [(f"env {key}", self.env[key], other.env[key]) for key in self.env]
        pairs += [(key, self.settings[key], other.settings[key]) for key in _SETTINGS]
        return next((f"{what} is {a} and {b}" for what, a, b in pairs if a != b), "")


def results_of(target: Target) -> list[Result]:
    """All results that `target` means, those of eval stages first.

    Raises UserError where there is none, or a record is broken.
    """
    path = place_of(target)
    if not path.exists():
        raise UserError(f"no result or run at {path}", "make one: puna eval")
    try:
        found = list(_below(path))
    except _BROKEN as error:
        raise UserError(f"{path} has a broken record: {error!r}", "evaluate it again") from error
    played = getattr(target, "result", None)
    if played is not None:  # the journal beside it may hold more tasks than it had
        found = [replace(r, outcomes=played.outcomes) for r in found]
    found = [r for r in found if any(r.outcomes.values())]
    if not found:
        raise UserError(f"{path} has no evaluation", f"puna eval {path}")
    return found


def place_of(target: Target) -> Path:
    """The directory of `target`."""
    return Path(target) if isinstance(target, str | Path) else target.directory


def name_of(target: Target) -> str:
    """What to call `target`: the policy of an evaluation, else its directory."""
    if isinstance(target, str | Path):
        return str(target)
    return str(getattr(target, "policy", target.directory))


def _below(path: Path) -> Iterator[Result]:
    if (path / "result.json").exists():
        yield _of_result(path)
        return
    place = path.resolve()
    run, stage = (path, "") if (path / "run.json").exists() else (place.parent, place.name)
    record = _load(run / "run.json") if (run / "run.json").exists() else {"stages": []}
    exams = [
        (run / s["id"], _load(run / s["id"] / "stage.json"))
        for s in record["stages"]
        if s.get("kind") == "eval" and (run / s["id"] / "stage.json").exists()
    ]
    scored = [row["stage"] for _, exam in exams for row in exam["result"]["scores"]]
    stage = stage or (scored[-1] if scored else find_model(run)[1])
    for directory, exam in exams:
        yield from _of_stage(run, stage, directory, exam, str(path))
    yield from _of_folder(path)
    for place in dict.fromkeys((path, run)):
        for result in sorted((place / "evals").glob("*/result.json")):
            if place != run or _load(result)["policy"] == stage:
                yield _of_result(result.parent)


def _of_folder(folder: Path) -> Iterator[Result]:
    """What `puna eval --out FOLDER` left. Raises UserError where that is of several policies."""
    left = [path.parent for path in sorted(folder.glob("*/result.json"))]
    policies = sorted({str(_load(d / "result.json")["policy"]) for d in left})
    if len(policies) > 1:
        fix = "name the directory of one, or give each a folder: puna eval --out"
        raise UserError(f"{folder} holds results of {', '.join(policies)}", fix)
    yield from map(_of_result, left)


def _of_result(directory: Path) -> Result:
    """What `puna eval` left."""
    data = _load(directory / "result.json")
    facts, env = data["facts"], data["env"]
    outcomes = _outcomes(
        directory / "episodes.jsonl", env, facts["k"], facts.get("weights", ""), data["scores"]
    )
    return Result(str(directory), env, {key: facts[key] for key in _SETTINGS}, outcomes)


def _of_stage(
    run: Path, stage: str, directory: Path, exam: Mapping[str, Any], name: str
) -> Iterator[Result]:
    """What an eval stage found of `stage`, a side an environment."""
    settings = {key: exam["config"].get(key) for key in _SETTINGS} | {"env_seed": exam["seed"]}
    rows = [row for row in exam["result"]["scores"] if row["stage"] == stage]
    made = run / stage / "stage.json"
    weights = _load(made).get("weights", "") if made.exists() else ""
    for digest in dict.fromkeys(row["env"]["hash"] for row in rows):
        mine = [row for row in rows if row["env"]["hash"] == digest]
        env, roles = mine[0]["env"], [row["role"] for row in mine]
        # A second environment of the same name has a journal of its own.
        plain = directory / f"episodes-{stage}-{env['name']}.jsonl"
        for journal in (plain, plain.with_name(f"{plain.stem}-{digest[:8]}.jsonl")):
            found = _outcomes(journal, env, settings["k"], weights, roles)
            if any(found.values()):
                yield Result(name, env, settings, found)


def _outcomes(
    journal: Path, env: Mapping[str, str], k: int, weights: str, roles: Iterable[str]
) -> dict[str, dict[str, list[Outcome]]]:
    """Role -> task -> outcomes, of the test tasks these weights played; the last record counts."""
    found: dict[str, dict[str, list[Outcome]]] = {role: {} for role in roles}
    wanted = {"env": env["hash"], "k": k, "split": "test", "policy": weights}
    for record in read(journal):
        if all(record.get(key, "") == value for key, value in wanted.items()):
            for role, tasks in found.items():
                tasks[record["task"]] = [from_json(o[role]) for o in record["outcomes"]]
    return found


def _load(path: Path) -> Any:
    return json.loads(path.read_text())
