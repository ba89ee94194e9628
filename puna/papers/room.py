"""Running a paper: a row of numbers a seed, plots, and its claims as shown or not.

`run_paper("use", quick=True).text()`; killed anywhere, the same call goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.core.claims import LEAST_SEEDS, Rows, Verdict, claims_text, judge
from puna.core.config import build, parse_set, to_dict
from puna.core.errors import UserError
from puna.core.files import locked, remove_leftovers, write_json, write_text
from puna.core.journal import Journal, last_by
from puna.core.machine import commit, versions
from puna.core.progress import Progress
from puna.papers.paper import Paper, load_paper

SCHEMA = 1
RECORD, JOURNAL = "paper.json", "seeds.jsonl"


@dataclass(frozen=True)
class Result:
    """What a run directory holds: the numbers of each seed and a verdict for each claim.

    `report` is a tool's own text, of a paper that has such and was asked for it.
    """

    title: str
    directory: Path
    rows: Rows
    verdicts: tuple[Verdict, ...]
    report: str = ""

    def text(self) -> str:
        """For reading: the claims and all numbers, or the report."""
        return self.report or claims_text(self.title, self.verdicts, self.rows)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        claims = [verdict.to_json() for verdict in self.verdicts]
        rows = {str(seed): dict(row) for seed, row in self.rows.items()}
        out = {"schema": SCHEMA, "title": self.title, "claims": claims, "seeds": rows}
        return out | ({"report": self.report} if self.report else {})


def run_paper(
    name: str,
    directory: Path | None = None,
    *,
    seeds: int = LEAST_SEEDS,
    quick: bool = False,
    data: str = "",
    sets: Sequence[str] = (),
    progress: str = "quiet",
) -> Result:
    """Measure seeds 0 to `seeds - 1` of a paper, those already in `directory` left as they are.

    `sets` are `key=value` settings of the paper's Config. A paper with `report(config, directory)`
    is asked first: text that it returns is the whole result, and leaves a run that is in
    `directory` alone; "" means that there is nothing to report. Raises UserError for whatever the
    caller can mend.
    """
    if seeds < 1:
        raise UserError(f"{seeds} seeds", "give at least 1; a verdict takes 5")
    paper = load_paper(name)
    config = make_config(paper, quick, data, sets)
    directory = directory or default_directory(paper.name, quick, data)
    with locked(directory):
        remove_leftovers(directory)
        report = getattr(paper.experiment, "report", None)
        text = report(config, directory) if report else ""
        if text:
            write_text(directory / "report.txt", text.rstrip() + "\n")
            return Result(_title(paper, config), directory, {}, (), text)
        _begin(paper, config, directory)
        _measure(paper, config, directory, seeds, Progress(progress))
        result = _read(paper, config, directory)
        _plot(paper, result, Progress(progress))
        write_json(directory / "claims.json", result.to_json())
        write_text(directory / "claims.txt", result.text() + "\n")
    return result


def read_run(
    name: str, directory: Path | None = None, *, quick: bool = False, data: str = ""
) -> Result:
    """A paper's claims beside the numbers that its run has so far; none at all is no mistake.

    Raises UserError where the run is another paper's, or its record is broken.
    """
    paper = load_paper(name)
    directory = directory or default_directory(paper.name, quick, data)
    record = _read_record(directory)
    if not record:
        return Result(f"{paper.name}: not run yet", directory, {}, tuple(judge(paper.claims, {})))
    if record.get("paper") != paper.name:
        raise UserError(f"{directory} is a run of {record.get('paper')}", "name another --dir")
    result = _read(paper, record.get("config", {}), directory)
    if record.get("code") != paper.code:
        title = f"{result.title}; measured by another version of its code"
        return Result(title, directory, result.rows, result.verdicts)
    return result


def default_directory(name: str, quick: bool, data: str) -> Path:
    """`runs/paper-NAME`, with the name of the data's folder and `quick` where those are asked."""
    words = ["paper", name, Path(data).resolve().name if data else "", "quick" if quick else ""]
    return Path("runs") / "-".join(filter(None, words))


def make_config(paper: Paper, quick: bool, data: str, sets: Sequence[str]) -> Any:
    """The paper's Config with these settings. Raises UserError for a wrong one."""
    table: dict[str, Any] = {}
    for text in sets:
        keys, value = parse_set(text)
        if len(keys) != 1:
            raise UserError(f"--set {text}: a paper's settings have no dots", "KEY=VALUE")
        table[keys[0]] = value
    if quick:
        table["quick"] = True
    if data:
        folder = Path(data).expanduser()
        if not folder.is_dir():
            raise UserError(f"--data {data}: no such folder", "name a folder of data files")
        table["data"] = str(folder)
    return build(paper.experiment.Config, table, f"paper {paper.name}")


def _begin(paper: Paper, config: Any, directory: Path) -> None:
    """Write the run's record, or see that it is of the same paper, code and settings."""
    asked = {"paper": paper.name, "code": paper.code, "config": to_dict(config)}
    there = _read_record(directory)
    if there is None:
        facts = {"schema": SCHEMA, **asked, "versions": versions(), "commit": commit()}
        write_json(directory / RECORD, facts)
        return
    for key, value in asked.items():
        if there.get(key) != json.loads(json.dumps(value)):
            what = f"{directory} is a run with another {key}"
            raise UserError(what, "name another --dir, or delete it")


def _read_record(directory: Path) -> dict[str, Any] | None:
    path = directory / RECORD
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is broken: {error}", "name another --dir, or delete it") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} is no record of a run", "name another --dir, or delete it")
    return record


def _measure(paper: Paper, config: Any, directory: Path, seeds: int, show: Progress) -> None:
    """Append a record for each seed that has none; a kill loses the one being measured."""
    journal = Journal(directory / JOURNAL, point="paper")
    done = _rows(directory)
    missing = [seed for seed in range(seeds) if seed not in done]
    show.step(paper.name, seeds - len(missing), seeds, {})
    for left, seed in zip(range(len(missing) - 1, -1, -1), missing, strict=True):
        begun = time.monotonic()
        numbers = _checked(paper, seed, paper.experiment.measure(config, seed))
        judge(paper.claims, {seed: numbers})  # a claim's name that is wrong is told at once
        seconds = round(time.monotonic() - begun, 2)
        journal.append({"seed": seed, "numbers": numbers, "seconds": seconds}, sync=True)
        show.step(paper.name, seeds - left, seeds, {"seconds": seconds})
    show.close()


def _checked(paper: Paper, seed: int, numbers: object) -> dict[str, float]:
    """A seed's numbers as plain floats. Raises UserError for what is not a finite number."""
    where = f"{paper.name}: measure(config, {seed})"
    if not isinstance(numbers, Mapping) or not numbers:
        raise UserError(f"{where} gives no numbers by name", "return a dictionary")
    out = {}
    for name, value in numbers.items():
        try:
            out[str(name)] = float(value)
        except (TypeError, ValueError):
            raise UserError(f"{where} gives {name} = {value!r:.100}", "return numbers") from None
        if not math.isfinite(out[str(name)]):
            raise UserError(f"{where} gives {name} = {value}", "return finite numbers")
    return out


def _rows(directory: Path) -> Rows:
    """The numbers of each seed in a run's journal; what is no such record is passed over."""
    rows = {}
    for seed, record in last_by(directory / JOURNAL, "seed").items():
        numbers = record.get("numbers")
        if isinstance(seed, int) and isinstance(numbers, dict):
            rows[seed] = {k: x for k, x in numbers.items() if isinstance(x, float)}
    return rows


def _read(paper: Paper, config: Any, directory: Path) -> Result:
    rows = _rows(directory)
    return Result(_title(paper, config), directory, rows, tuple(judge(paper.claims, rows)))


def _title(paper: Paper, config: Any) -> str:
    settings = to_dict(config)
    changed = [f"{k}={v}" for k, v in settings.items() if v != _defaults(paper).get(k)]
    return f"{paper.name}: {', '.join(changed) or 'full size, made data'}"


def _defaults(paper: Paper) -> dict[str, Any]:
    made: dict[str, Any] = to_dict(paper.experiment.Config())
    return made


def _plot(paper: Paper, result: Result, show: Progress) -> None:
    """The claims as a picture, and the paper's own plots; without matplotlib a line says so."""
    folder = result.directory / "plots"
    folder.mkdir(exist_ok=True)
    try:
        from puna.papers.plot import plot_claims

        plot_claims(result.verdicts, result.rows, folder / "claims.svg")
        if hasattr(paper.experiment, "plots"):
            paper.experiment.plots([dict(row) for row in result.rows.values()], folder)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        show.note("no plots: they need matplotlib, pip install 'puna[report]'")
