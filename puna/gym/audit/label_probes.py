"""Probes that look round with the environment's own tools: labels, samples, telling refusals.

An explorer reads the names of paths wherever they are shown, and lists and reads what it can.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from puna.core.messages import Message, ToolCall
from puna.gym.audit import answers, calls
from puna.gym.audit.bench import Bench, Try, success, value
from puna.gym.audit.calls import Place, arguments, varying_places
from puna.gym.audit.case import Case
from puna.gym.audit.explorer import (
    HISTORY,
    SUSPECT,
    Explorer,
    explored,
    in_sight,
    results,
    with_tools,
)
from puna.gym.audit.mutations import read
from puna.gym.audit.probe import Result, hole, nothing, ok
from puna.gym.task import Script

# A field of a data set, and no word of a sentence.
FIELD = (
    r"\b(?:(?:gold|true|correct)_\w+|\w+_(?:gold|label|answer|truth)|answer|label|solution|"
    r"ground.?truth)"
)
MOST_TRIES = 8  # of one message
BLANK = 0.3  # a form as it lies there may have something right
UNSEEN = 6  # texts that the oracle never looked at


async def labels(bench: Bench) -> Result:
    """No file that the agent can read, no tool's answer, holds the reference as such."""
    cases = with_tools(bench)
    if not cases:
        return nothing("there are no tools")
    walks = await explored(bench)
    found = [leak for walk in walks for leak in _labels(walk)]
    tasks = {leak.split(" ")[0] for leak in found}
    if len(tasks) >= min(2, len(cases)):
        return hole(f"{len(tasks)} of {len(cases)} tasks: {found[0]}", found)
    if apart := _apart(walks):
        return hole(f"{len(apart)} of {len(cases)} tasks: {apart[0]}", apart)
    return ok(f"{len(cases)} tasks looked through, no labels")


def _apart(walks: Sequence[Explorer]) -> list[str]:
    """Where the answer stands though the oracle never saw it, and other answers do not.

    Empty where that is so in less than a fifth of the tasks, or answers are of a few kinds.
    """
    if len({w.case.answer for w in walks}) < 4:
        return []
    found, by_chance = [], 0.0
    for walk in walks:
        answer, own = walk.case.answer.strip(), in_sight(walk.case)
        others = [w for w in walk.case.wrong if not _word(w).search(own)]
        if len(answer) < 2 or not others or _word(answer).search(own):
            continue
        for what, text in walk.seen.items():
            there = not text.startswith("error") and _word(answer).search(text)
            if there and not _word(answer).search(what):
                by_chance += sum(bool(_word(w).search(text)) for w in others) / len(others)
                found.append(f"{walk.case.task.id} '{what}' holds the answer: {text[:60]!r}")
                break
    enough = len(found) >= max(2, 0.2 * len(walks)) and by_chance < 0.15 * len(found)
    return found if enough else []


def _same_keys(one: str, two: str) -> bool:
    """Whether both are objects of the same fields, such as a form before and after it is filled."""
    data, other = read(one), read(two)
    return (
        isinstance(data, dict) and isinstance(other, dict) and data.keys() == other.keys() != set()
    )


def _word(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(text)}(?!\w)")


def _labels(walk: Explorer) -> Iterator[str]:
    case = walk.case
    several = json.loads(case.answer).values() if case.varying else ()
    new = [v for x in several if len(v := str(x)) > 1 and not _word(v).search(case.prompt)]
    for answer in (*answers.payloads(case.answer), *new):
        yield from _shows(walk, case, answer)


def _shows(walk: Explorer, case: Case, answer: str) -> Iterator[str]:
    for what, text in walk.seen.items():
        if text.startswith("error"):
            continue
        suspect = SUSPECT.search(what) or SUSPECT.search(text[:200])
        marked = re.search(
            rf"(?:answer|label|solution|gold|expect|target|truth|should (?:be|equal)|correct)"
            rf"\w*['\"]?\s*(?:[:=]+|is|was)?\s*['\"]?{re.escape(answer)}(?!\w)", text, re.I,
        )  # fmt: skip
        whole = len(answer) >= 20 and (answer in text or _same_json(answer, text))
        word = _word(answer)
        named = SUSPECT.search(what) and word.search(text) and not word.search(what)
        if (marked and suspect) or whole or named or _same_columns(answer, what, text):
            yield f"{case.task.id} '{what}' shows the answer: {text.strip()!r:.100}"
        elif in_name := _in_a_name(answer, text, case.wrong):
            yield f"{case.task.id} '{what}': a name holds the answer: {in_name!r:.80}"
    if field := re.search(
        FIELD + rf"['\"]?\s*[:=]\s*['\"]?{re.escape(answer)}(?!\w)", in_sight(case)
    ):
        yield f"{case.task.id} shows a field with the answer: {field.group(0)!r:.80}"
    if new := _in_history(walk, answer):
        yield f"{case.task.id} its history shows the answer: {new!r:.80}"


def _same_json(one: str, two: str) -> bool:
    try:
        return bool(json.loads(one) == json.loads(two))
    except (ValueError, RecursionError):
        return False


def _in_a_name(answer: str, text: str, wrong: Sequence[str]) -> str:
    """A file's name, or an address, of which the answer is a part, and not all of it."""
    if len(answer) < 2 or len(text) > 5000:
        return ""
    for found in re.findall(r"\S*[/.]\S+", text):
        path = str(found).strip(".,;:!?()[]'\"")
        name = path.rpartition("/")[2]
        stem = name.rpartition(".")[0] or name
        there = [_slug(x) in _slug(stem) for x in (answer, *wrong) if _slug(x) != "--"]
        alone = there[:1] == [True] and sum(there) == 1
        if alone and _slug(stem) != _slug(answer) and re.search(r"[^\W\d]", path):
            return path
    return ""


def _slug(text: str) -> str:
    """Its words and numbers, each between dashes."""
    words = re.findall(r"[0-9]+|[^\W\d_]+", text.casefold())
    return f"-{'-'.join(words)}-"


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
    """A line of the answer that only history, backups and the like show; or one of several that
    something shows of which the oracle saw none."""
    lines = [x.strip() for x in answer.splitlines() if len(x.strip()) >= 8]
    past = "\n".join(t for w, t in walk.seen.items() if HISTORY.search(w))
    present = [t for w, t in walk.seen.items() if not HISTORY.search(w)]
    now = "\n".join([walk.case.prompt, *present])
    own = in_sight(walk.case)
    new = [x for x in lines if x not in own]
    for text in walk.seen.values():
        if len(new) >= 2 and sum(x in text for x in new) >= 0.8 * len(new):
            return new[0]
    return next((x for x in lines if x in past and x not in now), "")


async def told(bench: Bench) -> Result:
    """What nothing shows before is not shown by the refusal of something wrong in its place."""
    cases = [c for c in bench.cases if c.task.tools and c.episode]
    vary = varying_places(cases)
    if not any(calls.said(c).keys() & vary for c in cases):
        return nothing("answers are not handed in by a tool")
    wrong = {p: [v for c in cases if (v := calls.said(c).get(p)) is not None] for p in vary}

    def learns(case: Case) -> Script | None:
        learner = Learner(case, wrong)
        return learner if learner.unseen else None

    tried = await bench.tries(learns, "repeats what a refusal says", cases[:16])
    paid = [t for t in tried if success(t)]
    if not tried:
        return ok("all that is handed in is there to be seen")
    if len(paid) >= min(2, len(cases)):
        return hole(f"{len(paid)} of {len(tried)} learn it from a refusal: {paid[0]}", paid)
    return ok(f"{len(tried)} wrong answers, none is told the right one")


class Learner:
    """Does what the oracle does, but says wrong things in the place of all that the oracle could
    not read off anything, until a reply has said what is right.

    `wrong` are the values of other tasks in the same places.
    """

    def __init__(self, case: Case, wrong: Mapping[Place, Sequence[Any]]) -> None:
        self.case, self.wrong = case, wrong
        self.unseen = {p: v for p, v in calls.said(case).items() if p in wrong and _new(case, p, v)}
        self.told: set[Place] = set()
        self.at = self.tries = self.heard = 0

    def __call__(self, heard: Sequence[Message]) -> Message:
        """The oracle's next message where all of it is known by now, else a wrong one."""
        new = "\n".join(m.text or results(m) for m in heard[self.heard :] if m.role != "assistant")
        here = {p: v for p, v in self.unseen.items() if p[0] == self.at}
        if self.tries:
            self.told |= {p for p, v in here.items() if _word(str(v)).search(new)}
        self.heard = len(heard)
        if self.at >= len(self.case.said) or self.tries > MOST_TRIES:
            return Message.assistant("")
        message = self.case.said[self.at]
        if here.keys() <= self.told:
            self.at, self.tries = self.at + 1, 0
            return message
        self.tries += 1
        return self._with({p: self._other(p, v) for p, v in here.items() if p not in self.told})

    def _other(self, place: Place, right: Any) -> Any:
        others = [v for v in self.wrong[place] if v != right]
        return others[self.tries % len(others)] if others else right

    def _with(self, values: Mapping[Place, Any]) -> Message:
        message = self.case.said[self.at]
        if not message.tool_calls:
            return Message.assistant(str(values[self.at, "", ""]))
        said = []
        for call in message.tool_calls:
            changed = {p[2]: v for p, v in values.items() if p[1] == call.name}
            given = json.dumps({**arguments(call), **changed})
            said.append(ToolCall(call.id, call.name, given))
        return Message("assistant", tuple(said))


def _new(case: Case, place: Place, value: Any) -> bool:
    """Whether nothing has shown it before it is said, and it is no single character."""
    assert case.episode is not None
    seen, spoken = [case.prompt], 0
    for _, message in case.episode.transcript:
        spoken += message.role == "assistant"
        if spoken > place[0]:
            break
        seen.append(message.text or results(message))
    return len(str(value)) > 1 and not _word(str(value)).search("\n".join(seen))


async def samples(bench: Bench) -> Result:
    """No file that lies there is worth anything when handed in as it is."""
    cases = with_tools(bench)
    if not cases:
        return nothing("there are no tools")
    paid: list[Try] = []
    for walk in await explored(bench):
        own = in_sight(walk.case)
        there = {w: t for w, t in walk.seen.items() if t.strip() and not t.startswith("error")}
        unseen = [w for w, t in there.items() if t.strip() not in own][:UNSEEN]
        for what, text in there.items():
            blank = _same_keys(text, walk.case.answer)
            if not SUSPECT.search(what) and what not in unseen and not blank:
                continue
            name = f"hands in '{what}'"
            tried = await bench.attempt(walk.case, walk.case.instead(text.strip()), name)
            if success(tried) or (blank and value(tried) > bench.env.chance + BLANK):
                paid.append(tried)
                break
    if len(paid) >= min(2, len(cases)):
        return hole(f"{len(paid)} of {len(cases)} tasks: {paid[0]}", paid)
    return ok(f"{len(cases)} tasks, nothing found there is paid")
