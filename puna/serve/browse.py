"""What the pages read: runs, their tables and curves, and episodes, as JSON. Nothing is written.

`browse_router(Path("runs"))` under /api. Names are looked up in what the folder holds and never
joined to a path as they come, so nothing outside of it can be named.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException

from puna.agents.console import abilities
from puna.core.errors import UserError
from puna.report.interval import Interval
from puna.report.markup import number
from puna.report.read import Run, mapping, open_run, sequence
from puna.report.summary import rows_of

POINTS = 300
PAGE = 200
_LOST = "nothing of that name"


@dataclass
class Index:
    """Where each episode of a journal stands and how it ended; read on where the file grew.

    An episode that a resumed run wrote once more takes the place of the first.
    """

    path: Path
    end: int = 0
    broken: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    head: bytes = b""
    known: dict[str, int] = field(default_factory=dict)

    def refresh(self) -> None:
        """Take in whole lines that are new; a shorter or other file is read from its start."""
        with open(self.path, "rb") as file:
            head = file.read(256)
            if file.seek(0, os.SEEK_END) < self.end or not head.startswith(self.head):
                self.end, self.broken, self.rows, self.known = 0, 0, [], {}
            self.head = head
            file.seek(self.end)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # being written at this moment
                self._add(self.end, line)
                self.end += len(line)

    def _add(self, offset: int, line: bytes) -> None:
        try:
            record = json.loads(line)
            shots = _shots(record)
        except (ValueError, RecursionError, AttributeError, TypeError, LookupError, OverflowError):
            self.broken += 1
            return
        for place, shot in enumerate(shots):
            row = {key: shot[key] for key in ("task", "step", "outcome", "value", "turns")}
            name = json.dumps([record.get(key) for key in ("step", "key", "task")] + [place])
            n = self.known.setdefault(name, len(self.rows))
            if n == len(self.rows):
                self.rows.append({})
            self.rows[n] = row | {"n": n, "offset": offset, "place": place}

    def episode(self, n: int) -> dict[str, Any]:
        """Episode `n` in full. Raises IndexError where there is none."""
        if n < 0:
            raise IndexError(n)
        row = self.rows[n]
        with open(self.path, "rb") as file:
            file.seek(row["offset"])
            shot: dict[str, Any] = _shots(json.loads(file.readline()))[row["place"]]
        return shot


def _shots(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The episodes of a journal's line: an eval stage writes a task's all in one, rl one each."""
    told = record["transcripts"] if "transcripts" in record else [record["transcript"]]
    judged = record["outcomes"]
    judged = judged if isinstance(judged, list) else [judged]
    ended = record.get("ended", "")
    ends = ended if isinstance(ended, list) else [ended] * len(told)
    out = []
    for messages, outcomes, end in zip(told, judged, ends, strict=False):
        first = mapping(next(iter(outcomes.values()), {}))
        kind = str(first.get("kind", ""))
        if kind == "scored":
            kind = "success" if first.get("success") else "failure"
        out.append(
            {
                "task": str(record.get("task", "")),
                "step": record.get("step"),
                "outcome": kind,
                "value": number(first.get("value")),
                "turns": len(messages),
                "ended": end,
                "tags": record.get("tags", {}),
                "outcomes": outcomes,
                "messages": messages,
            }
        )
    return out


class Shelf:
    """The runs of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.indices: dict[Path, Index] = {}
        self.lock = threading.Lock()  # requests come from several threads

    def names(self) -> list[str]:
        """Directories that hold a run, the one written last first."""
        try:
            found = [p for p in self.folder.iterdir() if os.path.isfile(p / "run.json")]
        except OSError:
            return []
        return [p.name for p in sorted(found, key=_written, reverse=True)]

    def run(self, name: str) -> Run:
        """Raises HTTPException 404 where there is no such run, 422 where it cannot be read."""
        if name not in self.names():
            raise HTTPException(404, _LOST)
        try:
            return open_run(self.folder / name)
        except UserError as error:
            raise HTTPException(422, str(error)) from error

    def files(self, run: Run) -> dict[str, Path]:
        """Episode journals of a run by "stage/file"."""
        stages = {s.id for s in run.stages}
        found = sorted(p for d in run.dir.iterdir() if d.name in stages
                       for p in d.glob("episodes*.jsonl"))  # fmt: skip
        return {f"{p.parent.name}/{p.name}": p for p in found}

    def index(self, name: str, file: str) -> Index:
        """The up-to-date index of an episode journal."""
        path = self.files(self.run(name)).get(file)
        if path is None:
            raise HTTPException(404, _LOST)
        with self.lock:
            index = self.indices.setdefault(path, Index(path))
            index.refresh()
        return index


def browse_router(folder: Path, home: Path | None = None) -> APIRouter:
    """Routes over the runs in `folder`; `home` is the run that `/examples` is about."""
    shelf, router = Shelf(folder), APIRouter()
    told: list[dict[str, Any]] = []  # once: it loads the run's environment

    @router.get("/examples")
    def examples() -> dict[str, Any]:
        if not told:
            try:
                about, prompts = abilities(home) if home else ("", [])
            except Exception:  # an environment's own code may raise anything
                about, prompts = "", []
            told.append({"about": about, "prompts": prompts})
        return told[0]

    @router.get("/runs")
    def runs() -> dict[str, Any]:
        out, skipped = [], []
        for name in shelf.names():
            try:
                run = open_run(folder / name)
                run.title.encode()  # a lone surrogate cannot be sent
            except (UserError, OSError, ValueError, RecursionError):
                skipped.append(name)
                continue
            states = [s.state for s in run.stages]
            out.append(
                {
                    "name": name,
                    "title": run.title,
                    "state": next((s for s in ("failed", "unfinished", "waiting") if s in states),
                                  "done"),
                    "stages": len(states),
                    "done": states.count("done"),
                    "updated": _written(run.dir),
                }
            )  # fmt: skip
        return {"runs": out, "skipped": skipped, "folder": folder.name}

    @router.get("/runs/{name}")
    def run(name: str) -> dict[str, Any]:
        found = shelf.run(name)
        return {
            "name": name,
            "title": found.title,
            "stages": [
                {
                    "id": s.id,
                    "kind": s.kind,
                    "state": s.state,
                    "from": s.parents,
                    "error": s.error,
                    "has_curve": (s.dir / "metrics.jsonl").exists(),
                }
                for s in found.stages
            ],
            "rows": [_row(r) for r in rows_of(found)],
            "files": list(shelf.files(found)),
        }

    @router.get("/runs/{name}/curve")
    def curve(name: str, stage: str) -> dict[str, Any]:
        found = shelf.run(name).stage(stage)
        if found is None:
            raise HTTPException(404, _LOST)
        series: dict[str, list[tuple[float, float]]] = {}
        for record in found.metrics:
            for key in ("loss", "reward", "held_out", "bits_per_byte", "margin"):
                value = number(record.get(key))
                if value is not None:
                    series.setdefault(key, []).append((record["step"], value))
        if "reward" in series:
            series.pop("loss", None)  # of a policy gradient: it tells nothing
        return {"stage": stage, "series": {k: _thin(v) for k, v in series.items()}}

    @router.get("/runs/{name}/episodes")
    def episodes(
        name: str, file: str, outcome: str = "", offset: int = 0, limit: int = 50
    ) -> dict[str, Any]:
        index = shelf.index(name, file)
        rows = [r for r in index.rows if not outcome or r["outcome"] == outcome]
        counts: dict[str, int] = {}
        for row in index.rows:
            counts[row["outcome"]] = counts.get(row["outcome"], 0) + 1
        start = max(0, offset)
        shown = rows[start : start + max(1, min(limit, PAGE))]
        return {
            "total": len(rows),
            "counts": counts,
            "broken": index.broken,
            "episodes": [{k: r[k] for k in ("n", "task", "step", "outcome", "value", "turns")}
                         for r in shown],
        }  # fmt: skip

    @router.get("/runs/{name}/episode")
    def episode(name: str, file: str, n: int) -> dict[str, Any]:
        try:
            return shelf.index(name, file).episode(n)
        except (IndexError, ValueError):
            raise HTTPException(404, _LOST) from None

    return router


def _row(row: Any) -> dict[str, Any]:
    out = {k: getattr(row, k) for k in ("stage", "kind", "state", "metric", "verdict", "n")}
    out |= {"steps": row.steps, "tokens": row.tokens, "cpu_seconds": row.cpu_seconds}
    out |= {"seeds": list(sequence(row.seeds)), "of_group": row.of_group}
    return out | {k: _interval(getattr(row, k)) for k in ("before", "after", "difference")}


def _interval(value: Interval | None) -> dict[str, float | None] | None:
    return None if value is None else {"mean": value.mean, "low": value.low, "high": value.high}


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` points: means of equal stretches, so that no spike decides by chance."""
    if len(points) <= POINTS:
        return points
    out = []
    for i in range(POINTS):
        part = points[i * len(points) // POINTS : (i + 1) * len(points) // POINTS]
        out.append((part[-1][0], sum(v for _, v in part) / len(part)))
    return out


def _written(run: Path) -> float:
    try:
        return max(p.stat().st_mtime for p in (run, run / "journal.jsonl") if p.exists())
    except (OSError, ValueError):
        return 0.0
