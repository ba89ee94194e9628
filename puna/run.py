"""Execute a recipe: stages in order, each in its own directory; a killed run goes on where it was.

`execute(Path("recipes/quickstart.toml"), Path("runs/quickstart"))`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from puna.core.config import build, to_dict
from puna.core.errors import UserError, nearest
from puna.core.files import (
    crash_point,
    explain,
    locked,
    remove_leftovers,
    sha256_json,
    write_json,
)
from puna.core.jobs import JobError, die_with_parent, run_graph
from puna.core.journal import Journal, read
from puna.core.machine import MachineConfig, choose_machine, commit, versions
from puna.core.progress import Progress
from puna.core.recipe import Planned, Recipe, needed, plan, read_recipe
from puna.core.runs import read_machine, require_device, weights_hash
from puna.core.stage import Machine, StageContext, StageError, Stopwatch
from puna.core.threads import default_threads, set_threads

SCHEMA = 1
# How long a killed run's last process may take to let the lock go.
PATIENCE_S = 3.0
KINDS = {
    "pretrain": "puna.train.pretrain",
    "midtrain": "puna.train.midtrain",
    "sft": "puna.train.sft",
    "rl": "puna.train.rl.loop",
    "dpo": "puna.train.dpo",
    "psv": "puna.train.psv",
    "soup": "puna.soup.stage",
    "eval": "puna.evals.stage",
}


def stage_config(stage: Planned) -> Any:
    """The checked Config of a stage. Raises UserError for an unknown kind, key or value."""
    if stage.kind not in KINDS:
        hint = nearest(stage.kind, KINDS)
        raise UserError(f"stage '{stage.base}': unknown kind '{stage.kind}'", hint)
    module = importlib.import_module(KINDS[stage.kind])
    return build(module.Config, stage.settings, where=stage.base)


def resolve(recipe: Recipe) -> list[dict[str, Any]]:
    """Every stage with all its settings, defaults included: what `--dry-run` prints."""
    _machine_config(recipe)
    stages = plan(recipe)
    resolved = [
        {
            "id": s.id,
            "base": s.base,
            "kind": s.kind,
            "from": list(s.parents),
            "seed": s.seed,
            "labels": dict(s.labels),
            "round": s.round,
            **to_dict(stage_config(s)),
        }
        for s in stages
    ]
    _require_sources(stages)
    return resolved


def _require_sources(stages: Sequence[Planned]) -> None:
    """Raises UserError for a stage that would find no model to start from or to evaluate."""
    kinds = {s.id: s.kind for s in stages}
    for stage in stages:
        if stage.kind == "eval":
            if not stage.parents and "init" not in stage.settings:
                what = f"stage '{stage.base}': nothing to evaluate"
                raise UserError(what, 'add from = ["sft", "rl"]')
            sources = stage.parents
        elif stage.kind == "soup":
            _require_members(stage)
            sources = stage.parents
        else:
            sources = () if "init" in stage.settings else stage.parents[:1]
        for source in sources:
            if kinds[source] == "eval":
                what = f"stage '{stage.base}': from names '{source}', an eval stage without a model"
                raise UserError(what, "name the stage whose model it should take")


def _require_members(stage: Planned) -> None:
    count, weights = len(set(stage.parents)), stage.settings.get("weights") or ()
    if count < 2:
        raise UserError(f"stage '{stage.base}': a soup of {count} stages", 'add from = ["a", "b"]')
    if weights and len(weights) != count:
        what = f"stage '{stage.base}': {len(weights)} weights for {count} stages"
        raise UserError(what, "give one for each, or none for equal shares")


def check_ahead(stage: Planned) -> None:
    """Raises UserError now for what the stage would find missing or wrong only when its turn comes.

    Looks at the environments it names and the files and directories it reads.
    """
    from puna.gym.registry import load_environment
    from puna.train.data import env_settings

    config = stage_config(stage)
    envs = [*getattr(config, "envs", ()), getattr(config, "env", None)]
    for env in envs:
        if env is not None:
            load_environment(*env_settings(env), stage.seed)
    for name in ("data", "init", "scores"):
        path = getattr(config, name, None)
        if path is not None and not os.path.exists(path):
            raise UserError(f"{stage.base}.{name}: no file or directory {path}", "check the path")
    for role, path in getattr(config, "frozen", {}).items():
        if not os.path.isdir(path):
            raise UserError(f"{stage.base}.frozen.{role}: no directory {path}", "check the path")


def execute(
    recipe_path: Path,
    run_dir: Path,
    sets: Sequence[str] = (),
    progress: Progress | None = None,
    tensorboard: bool = False,
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """Run every unfinished stage of a recipe in `run_dir`; returns the stages' results by id.

    With `only`, no others than these and the stages they come from. Raises UserError for a wrong
    recipe or a directory that holds another recipe's run.
    """
    progress = progress or Progress()
    recipe = read_recipe(recipe_path, sets)
    stages, resolved = needed(plan(recipe), only), resolve(recipe)
    refuse_strangers(run_dir)
    for stage in stages:
        if not (run_dir / stage.id / "stage.json").exists():
            check_ahead(stage)
    with locked(run_dir, PATIENCE_S) as lock:
        machine, keep = _open_run(recipe, resolved, run_dir, recipe_path, progress, sets)
        remove_leftovers(run_dir)
        if not all((run_dir / s.id / "stage.json").exists() for s in stages):
            require_device(machine, run_dir)
        jobs = _machine_config(recipe).jobs or max(1, default_threads() // machine.threads)
        results: dict[str, Any] = {}
        try:
            journal = Journal(run_dir / "journal.jsonl", "run")
            if jobs > 1 and _branches(stages):
                _run_beside(stages, run_dir, jobs, keep, progress, lock)
            set_threads(machine.threads)
            for stage in stages:
                ctx = _context(stage, run_dir, machine, progress, keep)
                results[stage.id] = _run_stage(stage, ctx, journal)
        finally:
            progress.close()
            _report(run_dir, progress)
        if tensorboard:
            from puna.report.tensorboard import write_tensorboard

            write_tensorboard(run_dir)
    return results


def _context(
    stage: Planned, run_dir: Path, machine: Machine, progress: Progress, keep: int
) -> StageContext:
    parents = {p: run_dir / p for p in stage.parents}
    return StageContext(stage.id, run_dir / stage.id, stage.seed, machine, parents, progress, keep)


def _ancestors(stages: Sequence[Planned]) -> dict[str, set[str]]:
    """All that each stage depends on, in order."""
    before: dict[str, set[str]] = {}
    for stage in stages:
        before[stage.id] = set(stage.parents).union(*(before[p] for p in stage.parents))
    return before


def _branches(stages: Sequence[Planned]) -> bool:
    """Whether some two stages do not depend on each other."""
    return any(len(mine) < i for i, mine in enumerate(_ancestors(stages).values()))


def _run_beside(
    stages: Sequence[Planned],
    run_dir: Path,
    jobs: int,
    keep: int,
    progress: Progress,
    lock: int,
) -> None:
    """Run unfinished stages in processes of their own, `jobs` at a time; they hold the lock too.

    Raises UserError or StageError with the line of the first stage that fails.
    """
    waiting = {
        name: sorted(needs)
        for name, needs in _ancestors(stages).items()
        if not (run_dir / name / "stage.json").exists()
    }
    mode = "quiet" if progress.mode == "quiet" else "plain"

    def command(stage: str) -> list[str]:
        return [sys.executable, "-m", "puna.run", str(run_dir), stage, str(keep), mode]

    progress.close()
    try:
        run_graph(waiting, command, jobs, pass_fds=[lock])
    except JobError as error:
        line, said = str(error).removeprefix("puna: "), str(error).startswith("puna: ")
        if error.status in (130, -signal.SIGINT):
            raise KeyboardInterrupt from None
        if error.status == 2 and said:
            raise UserError(line) from None
        if error.status == 1 and said:
            raise StageError(line) from None
        why = f"was killed by signal {-error.status}" if error.status < 0 else "failed"
        what = f"stage {error.name} {why}: {line}".rstrip(": ")
        _note_failure(Journal(run_dir / "journal.jsonl", "run"), error.name, what)
        raise StageError(what) from None


def run_one(run_dir: Path, stage_id: str, keep: int, mode: str) -> None:
    """Run one stage of an opened run in this process: what `_run_beside` starts."""
    stored = json.loads((run_dir / "run.json").read_text())
    entry = next(dict(s) for s in stored["stages"] if s["id"] == stage_id)
    stage = Planned(
        entry.pop("id"),
        entry.pop("base"),
        entry.pop("kind"),
        tuple(entry.pop("from")),
        seed=entry.pop("seed"),
        labels=entry.pop("labels"),
        round=entry.pop("round"),
        settings=entry,
    )
    machine, progress = Machine(**stored["machine"]), Progress(mode)
    set_threads(machine.threads)
    ctx = _context(stage, run_dir, machine, progress, keep)
    _run_stage(stage, ctx, Journal(run_dir / "journal.jsonl", "run"))


def _run_stage(stage: Planned, ctx: StageContext, journal: Journal) -> dict[str, Any]:
    done = ctx.dir / "stage.json"
    if done.exists():
        _drop_checkpoints(ctx.dir)
        _fingerprint(ctx.dir)
        return dict(_record(done)["result"])
    parents = {p: _fingerprint(d) for p, d in ctx.parents.items()}
    _refuse_other_parents(ctx, parents, journal)
    _refuse_alarmed(stage, ctx)
    config = stage_config(stage)
    module = importlib.import_module(KINDS[stage.kind])
    watch = Stopwatch()
    try:
        ctx.dir.mkdir(parents=True, exist_ok=True)
        journal.append({"event": "start", "stage": stage.id, "parents": parents}, sync=True)
        result: dict[str, Any] = module.run(ctx, config)
    except OSError as error:
        failure = explain(error, Path(error.filename or ctx.dir))
        _note_failure(journal, stage.id, str(failure))
        raise failure from error
    except Exception as error:
        known = isinstance(error, UserError | StageError)
        _note_failure(journal, stage.id, str(error) if known else repr(error))
        raise
    result.setdefault("cpu_seconds", round(watch.cpu, 1))
    result.setdefault("wall_seconds", round(watch.wall, 1))
    record = {
        "schema": SCHEMA,
        "id": stage.id,
        "base": stage.base,
        "kind": stage.kind,
        "labels": dict(stage.labels),
        "config": to_dict(config),
        "parents": parents,
        "seed": stage.seed,
        "machine": asdict(ctx.machine),
        "versions": versions(),
        "result": result,
    }
    if any((ctx.dir / "model").glob("*.safetensors")):
        record["weights"] = weights_hash(ctx.dir / "model")
    record["fingerprint"] = _identify(record)
    write_json(done, record, "stage")
    _drop_checkpoints(ctx.dir)
    journal.append({"event": "done", "stage": stage.id}, sync=True)
    return result


def _note_failure(journal: Journal, stage: str, error: str) -> None:
    with contextlib.suppress(UserError):  # where the disk is full that is said already
        journal.append({"event": "failed", "stage": stage, "error": error[:1000]}, sync=True)


def _record(done: Path) -> dict[str, Any]:
    """A finished stage's record. Raises UserError where it is none."""
    try:
        record = dict(json.loads(done.read_text()))
        dict(record["result"]), dict(record["parents"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = f"remove {done.parent} to run this stage again"
        raise UserError(f"{done} is broken: {error!r}", fix) from error
    return record


def _drop_checkpoints(stage_dir: Path) -> None:
    """Only once the stage's record is in place: killed before it, the stage goes on from them."""
    shutil.rmtree(stage_dir / "checkpoints", ignore_errors=True)
    crash_point("stage.tidied")


def _identify(record: Mapping[str, Any]) -> str:
    """The hash of what decides a stage and of what came out; its costs are no part of it."""
    keys = ("config", "kind", "seed", "labels", "parents", "weights")
    return sha256_json({key: record.get(key) for key in keys})


def _fingerprint(directory: Path) -> str:
    """Which stage the finished one in `directory` is, its ancestors looked at too.

    Raises UserError where one was made from another parent than the one that is there now.
    """
    record = _record(directory / "stage.json")
    for parent, known in record["parents"].items():
        now = _fingerprint(directory.parent / parent)
        if "fingerprint" in record and now != known:
            raise _other_parent(directory, parent)
    return str(record.get("fingerprint") or _identify(record))


def _refuse_other_parents(ctx: StageContext, parents: Mapping[str, str], journal: Journal) -> None:
    """Raises UserError where the checkpoints of a begun stage come from other parents."""
    if not (ctx.dir / "checkpoints").exists():
        return
    starts = [r for r in read(journal.path) if r.get("event") == "start"]
    mine = [r["parents"] for r in starts if r.get("stage") == ctx.id and "parents" in r]
    for parent, now in parents.items():
        if mine and mine[-1].get(parent) != now:
            raise _other_parent(ctx.dir, parent)


def _refuse_alarmed(stage: Planned, ctx: StageContext) -> None:
    """Raises StageError where training would go on from a stage that its alarm stopped."""
    for parent, directory in ctx.parents.items() if stage.kind != "eval" else ():
        line = stopped_by_alarm(_record(directory / "stage.json")["result"])
        if line:
            raise StageError(f"{stage.id}: not begun, {parent} was stopped by its alarm: {line}")


def stopped_by_alarm(result: Mapping[str, Any]) -> str:
    """Why its alarm stopped a stage with this result, in one line; "" where none did."""
    found = result.get("stopped_by_alarm")
    if not found:
        return ""
    kept = f"the weights kept are those of step {found['weights_of_step']}"
    return f"{found['sign']}, step {found['step']}: {found['text']}; {kept}"


def say_stopped(stages: Sequence[Any]) -> int:
    """Exit status 1, and a line for each stage that its alarm stopped; else 0."""
    found = {stage.id: stopped_by_alarm(stage.result) for stage in stages}
    for name, why in found.items():
        if why:
            print(f"puna: {name} was stopped by its alarm: {why}", file=sys.stderr)
    return int(any(found.values()))


def _other_parent(directory: Path, parent: str) -> UserError:
    return UserError(
        f"stage '{directory.name}' was made from another '{parent}' than the one there now",
        f"remove {directory} to run it again",
    )


def refuse_strangers(run_dir: Path) -> None:
    """Raises UserError where `run_dir` holds files and no run: nothing in it may be touched."""
    try:
        found = {p.name for p in run_dir.iterdir()} if run_dir.exists() else set()
    except OSError as error:
        raise explain(error, run_dir) from error
    if "run.json" in found:
        return
    strangers = [n for n in sorted(found) if n not in (".lock", "journal.jsonl")]
    strangers = [n for n in strangers if not (n.startswith(".run.json.") and n.endswith(".tmp"))]
    if strangers:
        raise UserError(
            f"{run_dir} is not empty and holds no run (first: {strangers[0]})",
            "choose another --dir",
        )


def _open_run(
    recipe: Recipe,
    resolved: list[dict[str, Any]],
    run_dir: Path,
    recipe_path: Path,
    progress: Progress,
    sets: Sequence[str],
) -> tuple[Machine, int]:
    """The machine choices stored in the directory, made now if it is new."""
    wanted = _machine_config(recipe)
    path = run_dir / "run.json"
    if path.exists():
        try:
            old = json.loads(path.read_text())
            stored, stages = read_machine(old["machine"]), old["stages"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is broken: {error}", "choose another --dir") from error
        begun = [s["id"] for s in stages if _begun(run_dir / s["id"])]
        difference = _difference(*([s for s in x if s["id"] in begun] for x in (stages, resolved)))
        if difference:
            raise UserError(
                f"{run_dir} holds another recipe's run ({difference})",
                "choose another --dir, or remove it",
            )
        if _difference(stages, resolved):  # of stages that have not begun: a mistake was mended
            new = _recipe_record(recipe, resolved, recipe_path, sets)
            write_json(path, {**old, **new}, "run")
        return stored, wanted.keep_checkpoints
    machine = choose_machine(wanted)
    write_json(
        path,
        {
            "schema": SCHEMA,
            **_recipe_record(recipe, resolved, recipe_path, sets),
            "machine": asdict(machine),
            "versions": versions(),
            "commit": commit(),
        },
        "run",
    )
    progress.note(
        f"{recipe.name}: {machine.device}, {machine.dtype}, {machine.threads} threads -> {run_dir}"
    )
    return machine, wanted.keep_checkpoints


def _recipe_record(
    recipe: Recipe, resolved: list[dict[str, Any]], recipe_path: Path, sets: Sequence[str]
) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "title": recipe.title,
        "recipe": str(recipe_path),
        "sets": list(sets),
        "recipe_hash": sha256_json(resolved),
        "seed": recipe.seed,
        "claims": to_dict(recipe.claims),
        "stages": resolved,
    }


def _begun(stage_dir: Path) -> bool:
    return stage_dir.exists() and any(stage_dir.iterdir())


def _machine_config(recipe: Recipe) -> MachineConfig:
    if not isinstance(recipe.machine, Mapping):
        raise UserError(f"machine is {recipe.machine!r}", "write [machine] and threads = ...")
    return build(MachineConfig, recipe.machine, where="machine")


def _difference(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> str:
    """The first setting that differs, in words; "" where none does."""
    before, after = _flat(old), _flat(json.loads(json.dumps(new)))
    for key in sorted(before.keys() | after.keys()):
        a, b = before.get(key, "absent"), after.get(key, "absent")
        if a != b:
            return f"{key}: there {a!r}, here {b!r}"
    return ""


def _flat(stages: list[dict[str, Any]]) -> dict[str, Any]:
    def walk(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                yield from walk(inner, f"{name}.{key}")
        else:
            yield name, value

    return {k: v for stage in stages for k, v in walk(stage, stage["id"])}


def _report(run_dir: Path, progress: Progress) -> None:
    """Write report.html from whatever is finished; a failure to draw never hides a result."""
    try:
        from puna.report.page import write_report

        write_report(run_dir)
    except Exception as error:
        progress.note(f"the report could not be written: {error!r}")


if __name__ == "__main__":
    from puna.cli import guarded

    die_with_parent()
    sys.exit(
        guarded(lambda: run_one(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]))
    )
