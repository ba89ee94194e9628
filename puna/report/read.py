"""A run directory as data, however much of it is there: `open_run(Path("runs/quickstart"))`.

Files that are missing or broken are passed over: a report of a run that failed must still be
written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from puna.core.errors import UserError
from puna.core.journal import read
from puna.report.markup import number


@dataclass(frozen=True)
class Stage:
    """One stage: `state` is "done", "failed", "unfinished" (begun, no result) or "waiting".

    `error` says why it failed when it was last tried.
    """

    id: str
    kind: str
    state: str
    dir: Path
    parents: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def result(self) -> Mapping[str, Any]:
        """What the stage reported, {} where it is not done."""
        return mapping(self.record.get("result"))

    @property
    def group(self) -> str:
        """The id without its seed: variants that differ in nothing else share it."""
        return group_of(self.id)[0]

    @property
    def weights(self) -> str:
        """The first digits of the hash of its weights, or ""."""
        return str(self.record.get("weights", ""))[:10]

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The figures of each step, in order, what a resumed run re-wrote taken once."""
        records = [r for r in read(self.dir / "metrics.jsonl") if number(r.get("step"))]
        found = {r["step"]: r for r in records}
        return [found[step] for step in sorted(found)]

    @cached_property
    def alarms(self) -> list[dict[str, Any]]:
        """What the watch of an rl stage found, alarms and notices, in the order of steps."""
        found = [r for r in read(self.dir / "alarms.jsonl") if number(r.get("step"))]
        last = {(r["step"], str(r.get("role")), str(r.get("sign"))): r for r in found}
        return [last[key] for key in sorted(last)]

    def figure(self, key: str) -> float | None:
        """A number of the result; for an unfinished stage from its last step's figures."""
        if self.state == "done" or not self.metrics:
            return number(self.result.get(key))
        if key == "tokens":
            return sum(number(m.get("tokens")) or 0.0 for m in self.metrics)
        name = {"steps": "step", "cpu_seconds": "cpu"}.get(key, key)
        return number(self.metrics[-1].get(name))


@dataclass(frozen=True)
class Exam:
    """One stage's score in one environment by one eval stage; `env` tells settings apart."""

    stage: str
    eval: str
    env: str
    journal: Path
    digest: str
    chance: float | None
    score: Mapping[str, Any]
    by_tag: Mapping[str, Mapping[str, Any]]
    surprisal: float | None = None


@dataclass(frozen=True)
class Compared:
    """A paired difference that an eval stage took: `to` minus `before`."""

    eval: str
    env: str
    before: str
    to: str
    found: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """Everything a report is made of."""

    dir: Path
    record: Mapping[str, Any]
    stages: tuple[Stage, ...]
    exams: tuple[Exam, ...]
    compared: tuple[Compared, ...]

    @property
    def title(self) -> str:
        """The recipe's title, else its name, else the directory's."""
        return str(self.record.get("title") or self.record.get("name") or self.dir.name)

    def stage(self, name: str) -> Stage | None:
        """The stage of that id."""
        return next((s for s in self.stages if s.id == name), None)

    def groups(self, kinds: Sequence[str] | None = None) -> dict[str, list[Stage]]:
        """Stages by `group`, in order of first appearance."""
        out: dict[str, list[Stage]] = {}
        for stage in self.stages:
            if kinds is None or stage.kind in kinds:
                out.setdefault(stage.group, []).append(stage)
        return out


def open_run(run_dir: Path) -> Run:
    """Read a run directory. Raises UserError where it holds no run at all."""
    record = load(run_dir / "run.json")
    planned = [mapping(s) for s in sequence(record.get("stages"))]
    ids = [str(s["id"]) for s in planned if s.get("id")]
    found = sorted(p.parent.name for p in run_dir.glob("*/stage.json"))
    ids += [name for name in found if name not in ids]
    if not ids:
        raise UserError(f"no run in {run_dir}", "give the directory of a run")
    plans = {str(s.get("id")): s for s in planned}
    last = {str(r.get("stage")): r for r in read(run_dir / "journal.jsonl")}
    stages = [_stage(run_dir / i, i, plans.get(i, {}), last.get(i)) for i in dict.fromkeys(ids)]
    exams, compared = [], []
    for stage in stages:
        if stage.kind == "eval" and stage.state == "done":
            exams += _exams(stage)
            compared += _compared(stage)
    return Run(run_dir, record, tuple(stages), tuple(exams), tuple(compared))


def _stage(
    directory: Path, name: str, plan: Mapping[str, Any], last: Mapping[str, Any] | None
) -> Stage:
    """`last` is what the run's journal last said of it."""
    record = load(directory / "stage.json")
    kind = str(record.get("kind") or plan.get("kind") or "")
    parents = mapping(record.get("parents")) or sequence(plan.get("from"))
    begun = last is not None or (directory / "metrics.jsonl").exists()
    state, error = "unfinished" if begun else "waiting", ""
    if record.get("result") is not None:
        state = "done"
    elif last is not None and last.get("event") == "failed":
        state, error = "failed", str(last.get("error", ""))
    return Stage(name, kind, state, directory, tuple(map(str, parents)), record, error)


def _env_names(stage: Stage) -> list[str]:
    """What to call each of the stage's environments: id, and its settings where it has any."""
    out = []
    for given in sequence(mapping(stage.record.get("config")).get("envs")):
        settings = {k: v for k, v in mapping(given).items() if k != "id"}
        name = str(mapping(given).get("id", given))
        inside = ", ".join(f"{k} {v}" for k, v in settings.items())
        out.append(f"{name} ({inside})" if inside else name)
    return out


def _of_first_role(given: object) -> list[Mapping[str, Any]]:
    """The rows of each environment's first role, which stands for it in the tables."""
    rows = [mapping(r) for r in sequence(given)]
    names = [str(mapping(r.get("env")).get("name", "") or r.get("env")) for r in rows]
    first: dict[str, object] = {}
    return [
        r
        for n, r in zip(names, rows, strict=True)
        if first.setdefault(n, r.get("role")) == r.get("role")
    ]


def _exams(stage: Stage) -> list[Exam]:
    rows = _of_first_role(stage.result.get("scores"))
    names, per = _env_names(stage), max(1, len(stage.parents))
    first: dict[str, str] = {}
    out = []
    for i, data in enumerate(rows):
        env = mapping(data.get("env"))
        name = str(env.get("name", ""))
        whole = len(names) * per == len(rows)
        label = f"{names[i // per] if whole else name} {env.get('version', '')}".strip()
        digest = str(env.get("hash", ""))
        # A second environment of the same name has a journal of its own.
        tail = "" if first.setdefault(name, digest) == digest else f"-{digest[:8]}"
        journal = stage.dir / f"episodes-{data.get('stage')}-{name}{tail}.jsonl"
        tags = {str(t): mapping(s) for t, s in mapping(data.get("by_tag")).items()}
        out.append(
            Exam(
                str(data.get("stage")),
                stage.id,
                label,
                journal,
                digest,
                number(data.get("chance")),
                mapping(data.get("score")),
                tags,
                number(data.get("surprisal")),
            )
        )
    return out


def _compared(stage: Stage) -> list[Compared]:
    rows = _of_first_role(stage.result.get("differences"))
    labels = list(dict.fromkeys(e.env for e in _exams(stage)))
    per = max(1, len(stage.parents) * (len(stage.parents) - 1) // 2)
    out = []
    for i, data in enumerate(rows):
        whole = len(labels) * per == len(rows)
        env = labels[i // per] if whole else str(data.get("env", ""))
        out.append(
            Compared(stage.id, env, str(data.get("from", "")), str(data.get("to", "")), data)
        )
    return out


_SEED = re.compile(r"(?<=[@,])seed=(-?\d+),?")


def group_of(stage_id: str) -> tuple[str, int | None]:
    """`"rl@seed=1,lr=0.1"` -> `("rl@lr=0.1", 1)`; an id without a seed is its own group."""
    found = _SEED.search(stage_id)
    if found is None:
        return stage_id, None
    rest = _SEED.sub("", stage_id, count=1)
    return re.sub(r"[@,](?=$|\.\d+$)", "", rest), int(found[1])


def episodes(path: Path, *keys: str) -> list[dict[str, Any]]:
    """The records of an episode journal, the last one where `keys` repeat."""
    found = {tuple(str(r.get(k)) for k in keys): r for r in read(path)}
    return list(found.values())


def load(path: Path) -> Mapping[str, Any]:
    """A JSON object, {} where the file is missing or broken."""
    try:
        return mapping(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}


def mapping(value: object) -> Mapping[str, Any]:
    """`value` if it is a mapping, else {}."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: object) -> Sequence[Any]:
    """`value` if it is a list, else []."""
    return value if isinstance(value, list | tuple) else []
