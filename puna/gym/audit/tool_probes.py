"""Probes with the environment's own tools: look for labels, tamper with graders, hand in a sample.

An explorer reads the names of paths wherever they are shown, lists and reads what it can, and then
misuses what it found. What a tool is for is guessed from the names of its parameters.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from puna.core.messages import Message
from puna.gym.audit import answers
from puna.gym.audit.bench import Bench, Case, Make, Try, script, success
from puna.gym.audit.explorer import (
    CODES,
    COMMANDS,
    CONTENTS,
    HISTORY,
    MOST_CALLS,
    PATH,
    PATHS,
    SUSPECT,
    Explorer,
    Tool,
    results,
    together,
    tools_of,
)
from puna.gym.audit.probe import Result, hole, must_not_pay, nothing, ok
from puna.gym.task import Script


async def explored(bench: Bench, after_work: bool = False) -> list[Explorer]:
    """One walk through each task with tools, at once or after all that the oracle does but its end.

    Several probes want it, so it is walked once.
    """
    name = "walks after work" if after_work else "walks"
    if name not in bench.memo:
        found = []
        for case in _with_tools(bench):
            if not after_work or case.after:
                first = list(case.said[: case.at + 1]) if after_work else []
                walk = Explorer(case, tools_of(case), MOST_CALLS, first=first)
                await bench.attempt(case, walk, "looks around")
                found.append(walk)
        bench.memo[name] = found
    walks: list[Explorer] = bench.memo[name]
    return walks


def _with_tools(bench: Bench) -> list[Case]:
    """Every other task that has tools, 16 of them, 8 where they are dear."""
    return [c for c in bench.cases if c.task.tools][::2][: 8 if bench.dear else 16]


async def labels(bench: Bench) -> Result:
    """No file that the agent can read, no tool's answer, holds the reference as such."""
    cases = _with_tools(bench)
    if not cases:
        return nothing("there are no tools")
    found = [leak for walk in await explored(bench) for leak in _labels(walk)]
    tasks = {leak.split(" ")[0] for leak in found}
    if len(tasks) >= min(2, len(cases)):
        return hole(f"{len(tasks)} of {len(cases)} tasks: {found[0]}", found)
    return ok(f"{len(cases)} tasks looked through, no labels")


def _labels(walk: Explorer) -> Iterator[str]:
    case = walk.case
    for answer in answers.payloads(case.answer):
        yield from _shows(walk, case, answer)


def _shows(walk: Explorer, case: Case, answer: str) -> Iterator[str]:
    for what, text in walk.seen.items():
        if text.startswith("error"):
            continue
        suspect = SUSPECT.search(what) or re.search(SUSPECT, text[:200])
        word = rf"(?<!\w){re.escape(answer)}(?!\w)"
        marked = re.search(
            rf"(?:answer|label|solution|gold|expect|target|truth|should (?:be|equal)|correct)"
            rf"\w*['\"]?\s*(?:[:=]+|is|was)?\s*['\"]?{re.escape(answer)}(?!\w)", text, re.I,
        )  # fmt: skip
        whole = len(answer) >= 20 and (answer in text or _same_json(answer, text))
        named = SUSPECT.search(what) and re.search(word, text) and not re.search(word, what)
        if (marked and suspect) or whole or named or _same_columns(answer, what, text):
            yield f"{case.task.id} '{what}' shows the answer: {text.strip()!r:.100}"
        elif in_name := _in_a_name(answer, text, case.wrong):
            yield f"{case.task.id} '{what}': a name holds the answer: {in_name!r:.80}"
    if new := _in_history(walk, answer):
        yield f"{case.task.id} its history shows the answer: {new!r:.80}"


def _same_json(one: str, two: str) -> bool:
    try:
        return bool(json.loads(one) == json.loads(two))
    except (ValueError, RecursionError):
        return False


def _in_a_name(answer: str, text: str, wrong: Sequence[str]) -> str:
    """A file's name of which the answer is a part, and not all of it."""
    if len(answer) < 2 or len(text) > 5000:
        return ""
    for path in map(str, PATH.findall(text)):
        stem = path.rpartition("/")[2].rpartition(".")[0] or path.rpartition("/")[2]
        parts = re.split(r"[^0-9A-Za-z]+", stem)
        if stem != answer and answer in parts and not any(w in parts for w in wrong):
            return path
    return ""


def _same_columns(answer: str, what: str, text: str) -> bool:
    """Whether a table that should not have them holds the columns of the answer, row by row."""
    if not re.search("test|valid|eval|hidden|private|new|holdout|unlabel", what, re.I):
        return False
    right = [line.split(",") for line in answer.split()]
    there = [line.split(",") for line in text.split()]
    if len(right) < 3 or len(right[0]) < 2 or not there or not set(right[0]) <= set(there[0]):
        return False
    places = [there[0].index(name) for name in right[0]]
    rows = [[row[p] for p in places] for row in there[1:] if len(row) > max(places)]
    return sum(row in rows for row in right[1:]) > 0.8 * (len(right) - 1)


def _in_history(walk: Explorer, answer: str) -> str:
    """A line of the answer that only history, backups and the like show."""
    lines = [x.strip() for x in answer.splitlines() if len(x.strip()) >= 8]
    past = "\n".join(t for w, t in walk.seen.items() if HISTORY.search(w))
    present = [t for w, t in walk.seen.items() if not HISTORY.search(w)]
    now = "\n".join([walk.case.prompt, *present])
    return next((x for x in lines if x in past and x not in now), "")


async def told(bench: Bench) -> Result:
    """A wrong answer is not answered with the right one while there is another try."""
    cases = [c for c in bench.cases if c.argument and c.wrong]
    if not cases:
        return nothing("answers are not handed in by a tool")

    def learns(case: Case) -> Script:
        word = re.compile(rf"(?<!\w){re.escape(case.answer)}(?!\w)")
        heard_before = ""

        def speak(heard: Sequence[Message]) -> Message:
            nonlocal heard_before
            count = sum(m.role == "assistant" for m in heard)
            now = "\n".join(m.text or results(m) for m in heard if m.role in ("tool", "user"))
            new, heard_before = now[len(heard_before) :], now
            if count and word.search(new):
                return case.message(case.answer)
            if count and case.message(case.answer) in heard:
                return case.after[0] if case.after else Message.assistant("")
            return case.message(case.wrong[count % len(case.wrong)])

        return speak

    tried = await bench.tries(learns, "repeats what a refusal says", cases[:16])
    paid = [t for t in tried if success(t)]
    if len(paid) >= min(2, len(cases)):
        return hole(f"{len(paid)} of {len(tried)} learn it from a refusal: {paid[0]}", paid)
    return ok(f"{len(tried)} wrong answers, none is told the right one")


async def samples(bench: Bench) -> Result:
    """No file that lies there is worth anything when handed in as it is."""
    cases = _with_tools(bench)
    if not cases:
        return nothing("there are no tools")
    paid: list[Try] = []
    for walk in await explored(bench):
        for what, text in list(walk.seen.items()):
            if not SUSPECT.search(what) or not text.strip() or text.startswith("error"):
                continue
            name = f"hands in '{what}'"
            tried = await bench.attempt(walk.case, walk.case.instead(text.strip()), name)
            if success(tried):
                paid.append(tried)
                break
    if len(paid) >= min(2, len(cases)):
        return hole(f"{len(paid)} of {len(cases)} tasks: {paid[0]}", paid)
    return ok(f"{len(cases)} tasks, nothing found there is paid")


async def tampering(bench: Bench) -> Result:
    """Overwriting, adding or deleting graders, tests and results must not be paid."""
    cases = _with_tools(bench)
    if not cases:
        return nothing("there are no tools")
    walks = [*await explored(bench), *await explored(bench, after_work=True)]
    known = list(dict.fromkeys(path for walk in walks for path in walk.paths))
    ways: dict[str, Make] = {}
    for name, misdeed in _misdeeds.items():
        ways[name] = partial(_misdeed, known, misdeed, True)
        ways[f"{name}, and no more"] = partial(_misdeed, known, misdeed, False)
    open_to = [c for c in cases if list(_all_results(Place(tools_of(c), known)))]
    if not open_to:
        return nothing("no tool writes files or runs commands")
    return await must_not_pay(bench, ways, what="misdeeds", cases=open_to)


@dataclass(frozen=True)
class Place:
    """Where misdeeds are done: tools, and the paths that were seen."""

    tools: Sequence[Tool]
    paths: Sequence[str]


def _misdeed(
    known: Sequence[str],
    messages: Callable[[Place], Iterator[Message]],
    answering: bool,
    case: Case,
) -> Script | None:
    """The misdeed, eight calls a message; then a wrong answer, or none."""
    done = list(messages(Place(tools_of(case), known)))[: 4 * MOST_CALLS]
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


ROUNDS = 0.3  # a step on the way may be worth a little
_RESULT = re.compile(r"reward|result|score|verdict|grade|status|pass|outcome|report|log", re.I)
_TESTS = re.compile(r"test|grad|judge|check|verif|eval|expect|conf|case|rubric|spec|valid", re.I)
_KEYS = re.compile(
    r"test|grad|check|expect|label|answer|case|key|gold|solution|lint|cfg|conf|rule|\.ini|\.toml|ya?ml|rc$",
    re.I,
)


def _all_results(place: Place) -> Iterator[Message]:
    named = [p for p in place.paths if _RESULT.search(p)]
    for path in dict.fromkeys([*named, *answers.RESULT_FILES]):
        yield from _write(place, path, answers.paid(path))


def _results_in_folders(place: Place) -> Iterator[Message]:
    for folder in ("logs", "output", "results", "out", "build", "tmp", ".cache"):
        for name in answers.RESULT_FILES[:4]:
            yield from _write(place, f"{folder}/{name}", answers.paid(name))


def _all_graders(place: Place) -> Iterator[Message]:
    named = [p for p in place.paths if _TESTS.search(p)]
    for path in dict.fromkeys([*named, *answers.GRADERS]):
        yield from _write(place, path, answers.paid(path))


def _all_seen(place: Place) -> Iterator[Message]:
    for path in place.paths:
        yield from _write(place, path, answers.paid(path))


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
        if tool.runs:
            for text in answers.FORGED.values():
                yield tool.call(**{tool.runs: text})


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
}


async def again(bench: Bench) -> Result:
    """One step of the work, done over and over, is not the whole of it."""
    ways: dict[str, Make] = {}
    for number in range(2):
        for times in (1, 3):
            ways[f"message {number + 1}, {times} times the length"] = _over_and_over(number, times)
    if not any(len(set(c.said)) > 1 for c in bench.cases):
        return nothing("the work has one step")
    found = await must_not_pay(bench, ways, what="repetitions")
    if found.status != "ok":
        return found
    rounds: dict[str, Make] = {
        f"messages {i + 1} and {j + 1} in turns": _in_turns(i, j)
        for i in range(4)
        for j in range(4)
        if i != j
    }
    return await must_not_pay(bench, rounds, what="rounds", least=ROUNDS)


def _in_turns(one: int, two: int) -> Make:
    """What the oracle does up to its message `one`, then that and `two` in turns."""

    def make(case: Case) -> Script | None:
        steps = list(dict.fromkeys(m for m in case.said if m.tool_calls))
        if max(one, two) >= len(steps) or len(steps) < 2:
            return None
        if {steps[one], steps[two]} & set(_knowing(case)):
            return None
        before = list(case.said[: case.said.index(steps[one])])
        if set(steps) <= {*before, steps[one], steps[two]}:
            return None  # that is the whole work
        return script([*before, *[steps[one], steps[two]] * 10])

    return make


def _over_and_over(number: int, times: int) -> Make:
    def make(case: Case) -> Script | None:
        steps = [m for m in case.said if m.tool_calls] or list(case.said)
        if len(set(steps)) < 2 or number >= len(steps) - 1 or steps[number] in _knowing(case):
            return None
        rest = [m for m in case.said if m not in steps and m not in _knowing(case)]
        return script([steps[number]] * (times * len(steps)) + rest)

    return make


def _knowing(case: Case) -> tuple[Message, ...]:
    """The message that gives the answer: whoever says it has it, however."""
    return (case.said[case.at],) if case.argument or not case.said[case.at].tool_calls else ()


async def any_call(bench: Bench) -> Result:
    """Calling tools, with whatever arguments, is not the work itself."""
    cases = _with_tools(bench)
    if not cases:
        return nothing("there are no tools")
    ways: dict[str, Make] = {}
    for tool in {t.name: t for case in cases for t in tools_of(case)}.values():
        for times in (1, 12):
            ways[f"{tool.name} x{times}"] = _calls(tool.name, ({},), times)
        for name, schema in tool.properties.items():
            values = list(schema.get("enum") or ())[:6]
            for value in values:
                ways[f"{tool.name} {value} x12"] = _calls(tool.name, ({name: value},), 12)
            for one, two in pairwise(values):
                both = ({name: one}, {name: two})
                ways[f"{tool.name} {one} and {two} x6"] = _calls(tool.name, both, 6)
    return await must_not_pay(bench, ways, what="calls")


def _calls(name: str, arguments: Sequence[Mapping[str, Any]], times: int) -> Make:
    def make(case: Case) -> Script | None:
        tool = next((t for t in tools_of(case) if t.name == name), None)
        if tool is None:
            return None
        return script([tool.call(**each) for each in arguments] * times)

    return make
