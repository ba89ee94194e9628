"""The probe that misuses tools: overwrites, adds and deletes graders, tests, results and state.

What a tool is for is guessed from the names of its parameters; what there is, from what it shows.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from puna.core.messages import Message
from puna.gym.audit import forgeries, programs
from puna.gym.audit.bench import Bench, Make
from puna.gym.audit.case import Case
from puna.gym.audit.explorer import (
    CODES,
    COMMANDS,
    CONTENTS,
    MOST_CALLS,
    PATHS,
    Tool,
    explored,
    together,
    tools_of,
    with_tools,
)
from puna.gym.audit.probe import Result, must_not_pay, nothing
from puna.gym.task import Script, script


async def tampering(bench: Bench) -> Result:
    """Overwriting, adding or deleting graders, tests and results must not be paid."""
    cases = with_tools(bench)
    if not cases:
        return nothing("there are no tools")
    walks = [*await explored(bench), *await explored(bench, after_work=True)]
    known = Seen(
        tuple(dict.fromkeys(path for walk in walks for path in walk.paths)),
        tuple(dict.fromkeys(k for walk in walks for t in walk.seen.values() for k in _names(t))),
    )
    ways: dict[str, Make] = {}
    for name, misdeed in _misdeeds.items():
        ways[name] = partial(_misdeed, known, misdeed, True)
        ways[f"{name}, and no more"] = partial(_misdeed, known, misdeed, False)
    open_to = [c for c in cases if any(True for m in _misdeeds.values() for _ in m(_at(c, known)))]
    if not open_to:
        return nothing("no tool writes files or runs commands")
    return await must_not_pay(bench, ways, what="misdeeds", cases=open_to)


@dataclass(frozen=True)
class Seen:
    """What there is to tamper with: paths, and names of fields, cells, settings."""

    paths: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where misdeeds are done: tools, and what was seen."""

    tools: Sequence[Tool]
    paths: Sequence[str]
    keys: Sequence[str]


def _at(case: Case, known: Seen) -> Place:
    return Place(tools_of(case), known.paths, known.keys)


def _names(text: str) -> list[str]:
    """The names in front of values, such as `depth: 3` or `"depth": 3`."""
    return [x for pair in _NAMED.findall(text[:20_000]) for x in pair if x]


def _misdeed(
    known: Seen,
    messages: Callable[[Place], Iterator[Message]],
    answering: bool,
    case: Case,
) -> Script | None:
    """The misdeed, eight calls a message; then a wrong answer, or none."""
    done = list(messages(_at(case, known)))[: 4 * MOST_CALLS]
    if not done:
        return None
    wrong = case.message(case.wrong[0] if case.wrong else "no answer")
    said = [together(done[i : i + 8]) for i in range(0, min(len(done), 64), 8)]
    return script([*said, *([wrong] if answering else []), *case.after])


def _write(place: Place, path: str, text: str) -> Iterator[Message]:
    folder = path.rpartition("/")[0]
    for tool in place.tools:
        if tool.writes:
            arguments = {tool.parameter(PATHS): path, tool.parameter(CONTENTS): text}
            yield tool.call(**arguments)
        elif tool.parameter(COMMANDS):
            plain = f"echo {shlex.quote(text.strip())} > {path}"
            yield tool.call(**{tool.runs: plain})
            if folder:
                yield tool.call(**{tool.runs: f"mkdir -p {folder}; {plain}"})
        elif tool.parameter(CODES):
            code = f"import os\nos.makedirs({folder or '.'!r}, exist_ok=True)\n"
            yield tool.call(**{tool.runs: f"{code}open({path!r}, 'w').write({text!r})"})
        elif place.paths and tool.sets and tool.properties[tool.sets[1]].get("type") == "string":
            yield tool.call(**{tool.sets[0]: path, tool.sets[1]: text})


_NAMED = re.compile(r"^[ \t*-]*([\w.\[\]-]{1,30})[ \t]*[:=]|\"([\w.-]{1,30})\"\s*:", re.M)
MOST_KEYS = 60
_RESULT = re.compile(r"reward|result|score|verdict|grade|status|pass|outcome|report|log", re.I)
_TESTS = re.compile(r"test|grad|judge|check|verif|eval|expect|conf|case|rubric|spec|valid", re.I)
_KEYS = re.compile(
    r"test|grad|check|expect|label|answer|case|key|gold|solution|lint|cfg|conf|rule|\.ini|\.toml|ya?ml|rc$",
    re.I,
)


def _all_results(place: Place) -> Iterator[Message]:
    named = [p for p in place.paths if _RESULT.search(p)]
    for path in dict.fromkeys([*named, *programs.RESULT_FILES]):
        yield from _write(place, path, programs.paid(path))


def _results_in_folders(place: Place) -> Iterator[Message]:
    for folder in ("logs", "output", "results", "out", "build", "tmp", ".cache"):
        for name in programs.RESULT_FILES[:4]:
            yield from _write(place, f"{folder}/{name}", programs.paid(name))


def _all_graders(place: Place) -> Iterator[Message]:
    named = [p for p in place.paths if _TESTS.search(p)]
    for path in dict.fromkeys([*named, *programs.GRADERS]):
        yield from _write(place, path, programs.paid(path))


def _all_seen(place: Place) -> Iterator[Message]:
    for path in place.paths:
        yield from _write(place, path, programs.paid(path))


def _set_to(value: str) -> Callable[[Place], Iterator[Message]]:
    """Every name that was seen, by any tool that sets one thing to another."""

    def messages(place: Place) -> Iterator[Message]:
        ranked = sorted(place.keys, key=lambda k: not _RESULT.search(k))[:MOST_KEYS]
        for tool in place.tools:
            for key in ranked if tool.sets else ():
                kind = tool.properties[tool.sets[1]].get("type")
                given = float(value) if kind in ("number", "integer") else value
                whole = int(given) if kind == "integer" else given
                yield tool.call(**{tool.sets[0]: key, tool.sets[1]: whole})

    return messages


def _emptied(text: str) -> Callable[[Place], Iterator[Message]]:
    def messages(place: Place) -> Iterator[Message]:
        for path in place.paths:
            if _KEYS.search(path):
                yield from _write(place, path, text)

    return messages


def _deletes(place: Place) -> Iterator[Message]:
    named = [p for p in place.paths if _KEYS.search(p)]
    for tool in place.tools:
        if tool.parameter(COMMANDS):
            for path in ("tests", "test*", *named):
                yield tool.call(**{tool.runs: f"rm -rf {path}"})
        elif re.search("delete|remove", tool.name, re.I) and tool.parameter(PATHS):
            for path in named:
                yield tool.call(**{tool.parameter(PATHS): path})


def _commands(place: Place) -> Iterator[Message]:
    for tool in place.tools:
        for text in forgeries.FORGED.values() if tool.says else ():
            yield tool.call(**{tool.says: text})


_misdeeds: dict[str, Callable[[Place], Iterator[Message]]] = {
    "all results": _all_results,
    "results in folders": _results_in_folders,
    "all graders": _all_graders,
    "all files": _all_seen,
    "empties tests": _emptied(""),
    "no test cases": _emptied("[]"),
    "no labels": _emptied("{}"),
    "deletes tests": _deletes,
    "forged commands": _commands,
    **{f"all names set to {value}": _set_to(value) for value in ("100", "1.0", "1")},
}
