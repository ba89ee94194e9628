"""What the pages read: runs, curves, episodes, comparisons and audits as JSON. Nothing is written.

`browse_router(Path("runs"))` under /api.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, Response

from puna.agents.abilities import abilities
from puna.core.errors import UserError
from puna.core.files import json_bytes
from puna.report.interval import Interval
from puna.report.markup import number
from puna.report.read import Run, load, open_run, sequence
from puna.report.summary import rows_of
from puna.serve import episode as episode_
from puna.serve.journals import Wanted
from puna.serve.records import BROKEN
from puna.serve.shelf import LOST, Shelf, written

POINTS = 300
PAGE = 200
SECONDS = 0.8  # of a request that reads a large file: the page asks again for the rest
SERIES = ("loss", "reward", "held_out", "bits_per_byte", "margin")
PAIRS = 20
T = TypeVar("T")


def browse_router(folder: Path, home: Path | None = None) -> APIRouter:
    """Routes over the runs in `folder`; `home` is the run that `/examples` is about."""
    shelf, router = Shelf(folder), APIRouter()
    told: list[dict[str, Any]] = []  # once: it loads the run's environment

    @router.get("/examples")
    def examples() -> Response:
        if not told:
            try:
                about, prompts = abilities(home) if home else ("", [])
            except Exception:  # an environment's own code may raise anything
                about, prompts = "", []
            told.append({"about": about, "prompts": prompts})
        return _json(told[0])

    @router.get("/runs")
    def runs() -> Response:
        out, skipped = [], []
        for name in shelf.names():
            try:
                run = open_run(folder / name)
                run.title.encode()  # a lone surrogate is nothing to show
            except (UserError, OSError, ValueError, RecursionError):
                skipped.append(name)
                continue
            out.append(_brief(name, run))
        return _json({"runs": out, "skipped": skipped, "folder": folder.name})

    @router.get("/runs/{name}")
    def run(name: str) -> Response:
        found = shelf.run(name)
        out = {
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
                    "has_audit": (s.dir / "audit.json").exists(),
                }
                for s in found.stages
            ],
            "rows": [_row(r) for r in rows_of(found)],
            "files": list(shelf.files(found)),
            "report": (found.dir / "report.html").is_file(),
        }
        return _json(out)

    @router.get("/runs/{name}/report")
    def report(name: str) -> Response:
        """As a file to keep: its own style would not pass the pages' policy."""
        path = shelf.run(name).dir / "report.html"
        if not path.is_file():
            raise HTTPException(404, LOST)
        return FileResponse(path, media_type="text/html", filename=f"{path.parent.name}.html")

    @router.get("/runs/{name}/curve")
    def curve(name: str, stage: str) -> Response:
        series: dict[str, list[tuple[float, float]]] = {}
        for record in shelf.stage(name, stage).metrics:
            for key in SERIES:
                value = number(record.get(key))
                if value is not None:
                    series.setdefault(key, []).append((record["step"], value))
        if "reward" in series:
            series.pop("loss", None)  # of a policy gradient: it tells nothing
        return _json({"stage": stage, "series": {k: _thin(v) for k, v in series.items()}})

    @router.get("/runs/{name}/audit")
    def of_stage(name: str, stage: str) -> Response:
        found = load(shelf.stage(name, stage).dir / "audit.json")
        if not found:
            raise HTTPException(404, LOST)
        return _json(found)

    @router.get("/runs/{name}/episodes")
    def episodes(
        name: str,
        file: str,
        outcome: str = "",
        least: float = -math.inf,
        most: float = math.inf,
        text: str = "",
        start: int = 0,
        limit: int = 50,
    ) -> Response:
        """A page of a list. `next` is where to go on; null at the end of a file read to its end."""
        index = shelf.journal(name, file)[2]
        wanted = Wanted(outcome, least, most, text)
        with index.lock:
            _reading(lambda: index.refresh(SECONDS))
            first = max(0, min(start, len(index)))
            found, after, total = _reading(
                lambda: index.find(wanted, first, max(1, min(limit, PAGE)), SECONDS)
            )
            more = after < len(index) or index.read < 1
            out = {
                "total": total if total >= 0 else None,
                "counts": index.counts(),
                "broken": index.broken,
                "read": index.read,
                "next": after if more else None,
                "episodes": _reading(lambda: [index.row(n) for n in found]),
            }
        return _json(out)

    @router.get("/runs/{name}/episode")
    def episode(name: str, file: str, n: int) -> Response:
        found, stage, index = shelf.journal(name, file)
        with index.lock:
            _reading(lambda: index.refresh(SECONDS))
            while n >= len(index) and index.read < 1:
                _reading(lambda: index.refresh(SECONDS))
            shot = _reading(lambda: index.episode(n))
        return _json(_reading(lambda: episode_.full(found, stage, shot)))

    @router.get("/compare")
    def compare(a: str, b: str, stage_a: str = "", stage_b: str = "") -> Response:
        """Both runs' results, task by task; `why` where they cannot be compared."""
        from puna.evals.compare import compare as paired

        sides = [_side(shelf, *side) for side in ((a, stage_a), (b, stage_b))]
        try:
            found = paired(*sides)
        except UserError as error:
            why = str(error).replace(f"{folder}/", "")
            return _json({"suites": [], "left_out": [], "why": why})
        suites = [{**s.to_json(PAIRS), "title": found.title(s)} for s in found.suites]
        return _json({"suites": suites, "left_out": found.left_out, "why": ""})

    @router.get("/audits")
    def audits() -> Response:
        found, skipped = _audits()
        keys = ("id", "target", "env", "settings", "n", "passed", "seconds")
        out = [
            {**{k: a.get(k) for k in keys}, "file": name, "holes": _holes(a)}
            for name, a in found.items()
        ]
        return _json({"audits": out, "skipped": skipped})

    @router.get("/audits/{file}")
    def audit(file: str) -> Response:
        found, _ = _audits()
        if file not in found:
            raise HTTPException(404, LOST)
        return _json(found[file])

    return router


def _json(data: Any) -> Response:
    """JSON as browsers read it: what is no text in UTF-8 is escaped, what is no number is null."""
    try:
        body = json_bytes(data, allow_nan=False)
    except ValueError:
        body = json_bytes(_finite(data), allow_nan=False)
    return Response(body, media_type="application/json")


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _reading(read: Callable[[], T]) -> T:
    """What `read()` gives. Raises HTTPException 404 where the file or the episode is not there."""
    try:
        return read()
    except (OSError, *BROKEN):
        raise HTTPException(404, LOST) from None


def _side(shelf: Shelf, name: str, stage: str) -> Path:
    """The directory of a run, or of a stage of it."""
    return shelf.stage(name, stage).dir if stage else shelf.run(name).dir


def _audits() -> tuple[dict[str, Mapping[str, Any]], int]:
    """Records of audits made on this machine by file name, and how many could not be read."""
    from puna.gym.audit.findings import Audit
    from puna.gym.audit.records import folder

    out, skipped = dict[str, Mapping[str, Any]](), 0
    for path in sorted(folder().glob("*.json")):
        try:
            record = load(path)
            Audit.from_json(record)  # holds its hash against what it says
            out[path.name] = record
        except BROKEN:
            skipped += 1
    return out, skipped


def _holes(audit: Mapping[str, Any]) -> list[str]:
    return [f["probe"] for f in audit["findings"] if f["status"] == "hole"]


def _brief(name: str, run: Run) -> dict[str, Any]:
    states = [s.state for s in run.stages]
    worst = next((s for s in ("failed", "unfinished", "waiting") if s in states), "done")
    return {
        "name": name,
        "title": run.title,
        "state": worst,
        "stages": len(states),
        "done": states.count("done"),
        "updated": written(run.dir),
    }


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
