"""report.html: one page about a run, whole in one file. `write_report(Path("runs/quickstart"))`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from puna.core.files import write_text
from puna.core.recipe import shipped_recipes
from puna.report.alarms import alarms
from puna.report.arms import arms
from puna.report.curves import curves
from puna.report.effects import claims, effects
from puna.report.episodes import flips, sample_episodes, text_samples
from puna.report.lineage import lineage
from puna.report.markup import Html, count, details, join, number, section, tag
from puna.report.read import Run, mapping, open_run, sequence
from puna.report.soups import soups
from puna.report.style import frame
from puna.report.summary import Row, headline, rows_of
from puna.report.tables import bits_charts, main_table, score_tables, seeds_compared, unscored


def write_report(run_dir: Path) -> Path:
    """Write `run_dir`/report.html from whatever the run has left so far; returns its path.

    Raises UserError where the directory holds no run or cannot be written.
    """
    run = open_run(run_dir)
    path = run_dir / "report.html"
    write_text(path, render(run), "report")
    return path


def render(run: Run) -> str:
    """The page as text: the same run gives the same bytes."""
    rows = rows_of(run)
    body = join(
        (
            _top(run, rows),
            claims(run),
            tag("section", main_table(rows), _legend(rows), seeds_compared(run)),
            effects(run),
            lineage(run),
            curves(run),
            alarms(run),
            arms(run),
            soups(run),
            bits_charts(run),
            score_tables(run),
            flips(run),
            text_samples(run),
            sample_episodes(run),
            unscored(run),
            _settings(run),
            _reproduce(run),
        ),
        "\n",
    )
    return frame(run.title, body)


def _top(run: Run, rows: Sequence[Row]) -> Html:
    waiting = [s for s in run.stages if s.state != "done"]
    state = Html("")
    if waiting:
        names = ", ".join(f"{s.id} ({s.state}{f': {s.error}' if s.error else ''})" for s in waiting)
        done = f"{len(run.stages) - len(waiting)} of {len(run.stages)}"
        text = f"This run is not finished: {done} stages are done; left: {names}."
        state = tag("p", text, class_="state")
    lead = tag("p", headline(run, rows), class_="lead")
    return tag("header", tag("h1", run.title), lead, state, tag("p", _facts(run), class_="meta"))


def _facts(run: Run) -> str:
    cpu = sum(s.figure("cpu_seconds") or 0.0 for s in run.stages)
    sizes = [v for s in run.stages if (v := number(s.result.get("parameters"))) is not None]
    machine = mapping(run.record.get("machine"))
    parts = [f"{count(sizes[-1])} parameters" if sizes else "", f"{count(cpu)} CPU-seconds in all"]
    parts += [str(machine[k]) for k in ("device", "dtype") if machine.get(k)]
    if machine.get("threads"):
        parts.append(f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}")
    return " · ".join(p for p in parts if p)


def _legend(rows: Sequence[Row]) -> Html:
    text = (
        "Small print: 95 % intervals over tasks. A difference is after minus before on the same "
        "tasks; where its interval includes zero, no gain is shown."
    )
    if any(r.seeds for r in rows):
        text += " In rows that average over seeds the intervals are over seeds."
    return tag("p", text, class_="note")


def _settings(run: Run) -> Html:
    """Every setting of every stage, defaults included, folded."""
    plans = {mapping(s).get("id"): mapping(s) for s in sequence(run.record.get("stages"))}
    parts = []
    for stage in run.stages:
        settings = plans.get(stage.id) or mapping(stage.record.get("config"))
        text = json.dumps(dict(settings), indent=2, ensure_ascii=False)
        parts.append(details(tag("code", stage.id), tag("pre", text)))
    return section("Settings", *parts, note="As resolved, defaults included.")


def _reproduce(run: Run) -> Html:
    recipe = str(run.record.get("recipe") or run.record.get("name") or "RECIPE")
    shipped = {str(path): name for name, path in shipped_recipes().items()}
    command = f"puna run {shlex.quote(shipped.get(recipe, recipe))} --dir runs/again"
    note = (
        "With --set for every setting that is not the recipe's own; the settings above are "
        "those that were used. On the same machine, build and threads the weights are the same "
        "bit for bit."
    )
    known = run.record.get("recipe_hash")
    digest = tag("p", "recipe ", tag("code", str(known)[:16]), class_="meta") if known else ""
    return section("How to reproduce", tag("pre", command), digest, note=note)
