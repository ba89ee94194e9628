"""A line of an episode journal as the pages tell it: `shots(json.loads(line))`, one an episode.

An eval stage writes all episodes of a task in one line, rl one episode a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from puna.report.markup import number
from puna.report.read import mapping, sequence

BROKEN = (ValueError, RecursionError, AttributeError, TypeError, LookupError, OverflowError)
_SAID = ("text", "name", "arguments", "evidence", "reason", "error")


def light(line: bytes) -> Mapping[str, Any]:
    """A record without what was said and drawn, which is most of it and costs most of the time.

    Quotes within a JSON text are escaped, so these byte strings stand between members only. Where
    they do not stand as our own writers put them, what is left is no JSON, and all of it is read.
    Raises one of `BROKEN` where the line is no episode's.
    """
    said = line.find(b', "transcript": ')
    if said >= 0:
        rest = line.find(b', "outcomes": ', said)
        drawn = line.find(b', "branches": ', rest)
        short = line[:said] + line[rest:drawn] + b"}" if 0 <= rest < drawn else line
    else:
        said = line.find(b', "transcripts": ')
        short = line[:said] + b"}" if said >= 0 else line
    if short is not line:
        try:
            record = json.loads(short)
            if "outcomes" in record:
                return mapping(record)
        except BROKEN:
            pass
    whole: Mapping[str, Any] = json.loads(line)
    if "transcript" not in whole and "transcripts" not in whole:
        raise LookupError("nothing was said")
    return whole


def judged(record: Mapping[str, Any]) -> list[Any]:
    """The outcomes of each episode of a line: an eval stage writes a task's all in one, rl one."""
    found = record["outcomes"]
    return found if isinstance(found, list) else [found]


def shots(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The episodes of a journal's line, in full."""
    told = record["transcripts"] if "transcripts" in record else [record["transcript"]]
    verdicts, out = judged(record), []
    for place, (messages, outcomes) in enumerate(zip(told, verdicts, strict=False)):
        kind, value = verdict(outcomes)
        out.append(
            {
                "task": str(record.get("task", "")),
                "step": record.get("step"),
                "outcome": kind,
                "value": value,
                "ended": _of(record.get("ended", ""), place),
                "tags": mapping(record.get("tags")),
                "usage": mapping(_of(record.get("usage"), place)),
                "outcomes": mapping(outcomes),
                "messages": sequence(messages),
                "artifacts": mapping(_of(record.get("artifacts"), place)),
                "branches": mapping(record.get("branches")),
                "seeds": mapping(record.get("seeds")),
                "env": record.get("env"),
                "split": record.get("split"),
                "index": record.get("index"),
            }
        )
    return out


def _of(value: Any, place: int) -> Any:
    """A line's value, or where it has one for each of its episodes, that of one."""
    if not isinstance(value, list):
        return value
    return value[place] if place < len(value) else None


def verdict(outcomes: Mapping[str, Any]) -> tuple[str, float | None]:
    """The first role's outcome in one word, and its value."""
    first = mapping(next(iter(outcomes.values()), {}))
    kind = str(first.get("kind", ""))
    if kind == "scored":
        kind = "success" if first.get("success") else "failure"
    return kind, number(first.get("value"))


def texts(value: Any) -> Iterator[str]:
    """What was said, called, answered and found within a message or an outcome."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(inner, str):
                yield from texts(inner)
            elif key in _SAID:
                yield inner
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
