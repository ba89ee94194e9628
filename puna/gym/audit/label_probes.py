"""Probes that look round with the environment's own tools: labels, samples, telling refusals.

An explorer reads the names of paths wherever they are shown, and lists and reads what it can.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from puna.core.messages import Message
from puna.gym.audit import answers, mutations
from puna.gym.audit.bench import Bench, Case, Try, success
from puna.gym.audit.explorer import (
    HISTORY,
    PATH,
    SUSPECT,
    Explorer,
    explored,
    in_sight,
    results,
    with_tools,
)
from puna.gym.audit.probe import Result, hole, nothing, ok
from puna.gym.task import Script

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


def _word(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(text)}(?!\w)")


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
    """A wrong answer is not answered with the right one while there is another try."""
    cases = [c for c in bench.cases if c.argument and c.wrong]
    if not cases:
        return nothing("answers are not handed in by a tool")

    def learns(case: Case) -> Script:
        asked = json.loads(case.answer) if case.varying else {"": case.answer}
        known: set[str] = set()
        heard_before = ""

        def guess(count: int) -> Message:
            wrong = case.wrong[count % len(case.wrong)]
            if not case.varying:
                return case.message(case.answer if known else wrong)
            data = mutations.read(wrong)
            other = data if isinstance(data, dict) else dict.fromkeys(asked, wrong)
            return case.message(json.dumps({**other, **{k: asked[k] for k in known}}))

        def speak(heard: Sequence[Message]) -> Message:
            nonlocal heard_before
            count = sum(m.role == "assistant" for m in heard)
            now = "\n".join(m.text or results(m) for m in heard if m.role in ("tool", "user"))
            new, heard_before = now[len(heard_before) :], now
            if count:
                texts = {k: str(v) for k, v in asked.items() if not k or len(str(v)) > 1}
                known.update(k for k, text in texts.items() if _word(text).search(new))
            if count and case.message(case.answer) in heard:
                return case.after[0] if case.after else Message.assistant("")
            return guess(count)

        return speak

    tried = await bench.tries(learns, "repeats what a refusal says", cases[:16])
    paid = [t for t in tried if success(t)]
    if len(paid) >= min(2, len(cases)):
        return hole(f"{len(paid)} of {len(tried)} learn it from a refusal: {paid[0]}", paid)
    return ok(f"{len(tried)} wrong answers, none is told the right one")


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
            if not SUSPECT.search(what) and what not in unseen:
                continue
            name = f"hands in '{what}'"
            tried = await bench.attempt(walk.case, walk.case.instead(text.strip()), name)
            if success(tried):
                paid.append(tried)
                break
    if len(paid) >= min(2, len(cases)):
        return hole(f"{len(paid)} of {len(cases)} tasks: {paid[0]}", paid)
    return ok(f"{len(cases)} tasks, nothing found there is paid")
