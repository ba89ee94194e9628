"""What the watch found while training, and the episodes it set aside: `alarms(run)` -> markup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puna.report.episodes import SAMPLES, messages, spread, verdict
from puna.report.markup import Html, count, details, join, number, row, section, table, tag
from puna.report.read import Run, Stage, episodes, mapping, sequence

_NOTE = (
    "An alarm compares a step with the first five; a notice may be no fault at all. Training saw "
    "nothing of it."
)


def alarms(run: Run) -> Html:
    """A row for each alarm and notice, and beneath them some of the episodes set aside."""
    rows = [_row(stage, found) for stage in run.stages for found in stage.alarms]
    head = ("stage", "step", "", "sign", "what was found")
    parts = [table(head, rows, "wide")] if rows else []
    return section("Alarms", *parts, *(_aside(stage) for stage in run.stages), note=_NOTE)


def _row(stage: Stage, found: Mapping[str, Any]) -> Html:
    level = str(found.get("level", ""))
    word = tag("span", level, class_="bad" if level == "alarm" else "soft")
    text = tag("span", str(found.get("text", "")), style="white-space: normal")
    return row((stage.id, count(number(found.get("step"))), word, str(found.get("sign")), text))


def _aside(stage: Stage) -> Html:
    found = episodes(stage.dir / "quarantine.jsonl", "step", "sign", "task", "sample")
    if not found:
        return Html("")
    title = f"{stage.id}: {count(len(found))} episodes set aside in quarantine.jsonl"
    return join((tag("h3", title), *map(_episode, spread(found, SAMPLES))))


def _episode(record: Mapping[str, Any]) -> Html:
    given = next(iter(mapping(record.get("outcomes")).values()), None)
    stricter = next(iter(mapping(record.get("shadow")).values()), None)
    step = count(number(record.get("step")))
    said: list[object] = [f"step {step}: reward ", verdict(mapping(given))]
    if stricter is not None:
        said += [", shadow ", verdict(mapping(stricter))]
    return details(join(said), messages(sequence(record.get("transcript"))))
