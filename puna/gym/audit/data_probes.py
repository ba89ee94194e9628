"""Probes of the tasks: made again, drawn apart, given away.

`digests(tasks, n)` is what two processes must agree on.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from puna.core.errors import UserError
from puna.gym.audit.bench import Bench
from puna.gym.audit.case import Case
from puna.gym.audit.choice_probes import OPTION
from puna.gym.audit.codes import codes, holds
from puna.gym.audit.making import FEW, Tasks
from puna.gym.audit.probe import Result, hole, note, nothing, ok
from puna.gym.task import SPLITS, Task

COMPARED = ((2e-4, 2000), (4e-3, 400))  # tasks of each split, where one takes less seconds than
LEAST, MOST_S = 40, 3.0
ALIKE = 0.85  # of the words, in order
RETOLD = 0.7  # where all numbers are the same
DIGITS = 8  # of numbers that do not agree by chance
_MARK = r"(?:answer|label|solution|gold|expected|target|reference|ground.?truth|key|correct)\w*"


# Where a prompt asks to decode, it holds the answer in that code by nature.
CODED = r"base ?64|hex|decod|encod|revers|backward|cipher|rot ?13|binary|ascii|character code|morse"
# ... and where it is about letters and numbers, in the codes that are made of these.
SPELT = r"octal|decimal|0x|alphabet|letter|spell|join|convert|number system|a is 1|shift"


def digests(tasks: Tasks, n: int) -> dict[str, str]:
    """A hash of everything in each of the first tasks, few where they are slow to make.

    They are made anew, drawn backwards, after other draws.
    """
    found = {}
    for split in SPLITS:
        most = min(n, FEW if tasks.slow else n, tasks.env.count(split))
        for i in reversed(range(int(most))):
            random.seed(i)
            np.random.seed(i)
            found[f"{split}/{i}"] = tasks.again(split, i).digest
    return dict(sorted(found.items()))


def compare_digests(one: Mapping[str, str], two: Mapping[str, str], where: str) -> str:
    """What differs, "" where nothing does."""
    bad = [task for task in one if one[task] != two.get(task)]
    return f"{where}: {len(bad)} of {len(one)} tasks differ, e.g. {bad[0]}" if bad else ""


async def determinism(bench: Bench) -> Result:
    """The same seed gives the same tasks, in any order and whatever the global random state."""
    first = {c.task.id.split("/", 1)[-1]: c.task.digest for c in bench.cases}
    again = bench.memo["digests"] = digests(bench.tasks, bench.n)
    second = again if bench.tasks.slow else digests(bench.tasks, bench.n)
    known = {k: v for k, v in first.items() if k in again}
    bad = compare_digests(again, second, "two calls") or compare_digests(
        known, again, "another order of calls"
    )
    if bad:
        return hole(bad)
    try:
        other = type(bench.env)(bench.env.config, bench.env.seed + 1)
        moved = digests(Tasks(other, bench.note), 1 if bench.tasks.slow else min(bench.n, FEW))
    except Exception:
        return ok(f"{len(again)} tasks, the same again")
    same = [t for t in moved if moved[t] == again.get(t) and t.startswith("train")]
    if moved and len(same) == sum(t.startswith("train") for t in moved) and same:
        return note(f"{len(again)} tasks, the same again; another seed gives no other tasks")
    return ok(f"{len(again)} tasks, the same again; another seed gives others")


async def overlap(bench: Bench) -> Result:
    """No problem of test is in train: by key, by its text, by nearly its text."""
    found: dict[str, list[Task]] = {}
    for split in SPLITS:
        found[split] = [bench.tasks(split, i) for i in _compared(bench, split)]
    bench.note("comparing tasks")
    if not all(found.values()):
        return nothing("one of the splits has no tasks")
    keys = {split: {t.key for t in tasks} for split, tasks in found.items()}
    common = keys["train"] & keys["test"]
    sizes = f"{len(keys['train'])} and {len(keys['test'])} different problems"
    if common:
        return hole(f"{sizes}, {len(common)} common, e.g. {sorted(common)[0]!r:.80}")
    texts = {split: {_plain(_text(t)): t for t in tasks} for split, tasks in found.items()}
    same = sorted(texts["train"].keys() & texts["test"].keys())
    if same and not all(_differ(texts["train"][x], texts["test"][x]) for x in same):
        twins = [f"{texts['test'][x].id} is {texts['train'][x].id}: {x:.60}" for x in same]
        return hole(f"{sizes}, {len(same)} differ in case and punctuation only", twins)
    near = _near(texts["train"], texts["test"])
    if near:
        share = len(near) / len(texts["test"])
        seen = f"{sizes}, {share:.0%} of test nearly as in train: {near[0]}"
        return hole(seen, near) if share > 0.02 else note(seen, near)
    return ok(f"{sizes}, none common, none nearly so")


def _compared(bench: Bench, split: str) -> list[int]:
    """Which tasks: the first and the last, or those that there are where more would take long."""
    count, seconds = bench.counts[split], bench.tasks.seconds
    most = next((n for dear, n in COMPARED if seconds < dear), LEAST)
    known = [i for s, i in bench.tasks.known if s == split]
    if most * seconds > MOST_S:
        return known
    half = most // 2
    return list(range(min(count, most))) if count <= most else [
        *range(half), *range(count - half, count)
    ]  # fmt: skip


def _text(task: Task) -> str:
    return "\n".join(m.text for m in task.messages if m.role != "system")


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+|[^\w\s.,;:!?'\"]", text.casefold()))


def _differ(one: Task, two: Task) -> bool:
    """Whether what is hidden makes them different problems for all that."""
    files = dict(one.files) != dict(two.files)
    return files or repr(sorted(one.hidden.items())) != repr(sorted(two.hidden.items()))


def _near(train: Mapping[str, Task], test: Mapping[str, Task]) -> list[str]:
    """Test texts that are a train text but for a few words, with the same hidden part.

    Templates share most of their words by nature, so words that occur in a fifth of all texts do
    not count (numbers always do), and what is hidden must be the same.
    """
    counts = Counter(w for text in (*train, *test) for w in set(text.split()))
    often = 0.2 * (len(train) + len(test))
    common = {w for w, c in counts.items() if c > often and not any(map(str.isdigit, w))}
    index = {_rare(text, common): text for text in train}
    bags = {_bag(text): text for text, task in train.items() if _labelled(task)}
    if len(bags) < 20:  # all are the same list in another order: the task is elsewhere
        bags = {}
    telling = _many_answers(train)
    by_number = {_numbers(text): text for text in train} if telling else {}
    anyhow = {key: text for text, t in train.items() for key in _anyhow(t, counts, often)}
    anyhow = anyhow if telling else {}
    found = []
    for text, task in test.items():
        twin = index.get(_rare(text, common), "") if len(_rare(text, common)) >= 2 else ""
        other = by_number.get(_numbers(text), "") if len(_numbers(text)) >= 2 else ""
        pairs = ((twin, ALIKE), (other if _wordy(other) else "", RETOLD))
        mixed = bags.get(_bag(text), "") if _labelled(task) else ""
        if mixed and _right_option(train[mixed]) == _right_option(task) != "":
            found.append(f"{task.id} is {train[mixed].id} with its options mixed: {text:.60}")
            continue
        twin = next((t for t, least in pairs if t and _alike(t, text) >= least), "")
        if twin and not _other_answer(train[twin], task):
            found.append(f"{task.id} is nearly {train[twin].id}: {text:.80}")
            continue
        same = [anyhow[key] for key in _anyhow(task, counts, often) if key in anyhow]
        if same and not _other_answer(train[same[0]], task):
            found.append(f"{task.id} is {train[same[0]].id} in another order: {text:.80}")
    return found


def _anyhow(task: Task, counts: Mapping[str, int], often: float) -> Iterator[tuple[str, ...]]:
    """What two tellings of one problem share in whatever order: all sentences, or all numbers."""
    sentences = sorted(p for s in re.split(r"[.;?!\n]+", _text(task)) if (p := _plain(s)))
    if len(sentences) >= 3:
        yield tuple(sentences)
    figures = sorted(w for w in _numbers(_plain(_text(task))) if counts[w] <= often)
    if len(figures) >= 2 and sum(map(len, figures)) >= DIGITS:
        yield tuple(figures)


def _labelled(task: Task) -> bool:
    """Whether it has options under labels that follow one another."""
    labels = [name for name, _ in OPTION.findall(_text(task))]
    first = ord(labels[0]) if labels else 0
    return len(labels) > 2 and labels == [chr(first + i) for i in range(len(labels))]


def _right_option(task: Task) -> str:
    """What stands at the label that is the answer, "" where the answer is no label."""
    options = {name.casefold(): _plain(text) for name, text in OPTION.findall(_text(task))}
    return options.get(_answer_of(task), "")


def _bag(text: str) -> tuple[str, ...]:
    return tuple(sorted(text.split()))


def _many_answers(tasks: Mapping[str, Task]) -> bool:
    """Whether two tasks hardly have the same answer by chance."""
    return len({_answer_of(t) for t in tasks.values()}) >= 20


def _numbers(text: str) -> tuple[str, ...]:
    return tuple(w for w in text.split() if any(map(str.isdigit, w)))


def _wordy(text: str) -> bool:
    return len({w for w in text.split() if w.isalpha() and len(w) > 1}) >= 5


def _alike(one: str, two: str) -> float:
    return SequenceMatcher(None, one.split(), two.split(), False).ratio()


def _rare(text: str, common: set[str]) -> tuple[str, ...]:
    return tuple(w for w in text.split() if w not in common)


def _other_answer(one: Task, two: Task) -> bool:
    return _answer_of(one) != _answer_of(two)


def _answer_of(task: Task) -> str:
    problem = task.hidden.get("problem")
    for name in ("answer", "target", "solution", "label"):
        value = getattr(problem, name, None) or task.hidden.get(name)
        if value is not None:
            return _plain(str(value))
    return repr(sorted(task.hidden.items()))


async def hidden_fields(bench: Bench) -> Result:
    """The answer is not marked in what the policy sees, not encoded in it, not in its files."""
    leaks: list[str] = []
    asked = [c for c in bench.cases if c.answer]
    for case in asked:
        leaks += _leaks(case)
    if not asked:
        return nothing("no reference answers")
    tasks = {leak.split(" ")[0] for leak in leaks}
    foot = [f"{c.task.id} {why}" for c in asked if (why := _solved_at_the_foot(c))]
    if 0.1 * len(asked) <= len(foot) < 0.8 * len(asked):
        return hole(f"{len(foot)} of {len(asked)} prompts list their own solution", foot)
    twice = [f"{c.task.id} {why}" for c in asked if (why := _answered_before(c))]
    if 0.05 * len(asked) < len(twice) < 0.6 * len(asked):
        return hole(f"{len(twice)} of {len(asked)} prompts answer their own question", twice)
    if len(tasks) >= max(1, 0.1 * len(asked)):
        return hole(f"{len(tasks)} of {len(asked)} tasks give it away: {leaks[0]}", leaks)
    return ok(f"{len(asked)} tasks, none gives its answer away")


def _leaks(case: Case) -> Iterator[str]:
    seen = f"{case.prompt}\n{_tools(case.task.tools)}"
    answer, decoys = case.answer.strip(), [w.strip() for w in case.wrong]
    if not answer:
        return
    if _marked(seen, answer) and not any(_marked(seen, w) for w in decoys):
        yield f"{case.task.id} names its answer as such: {_marked(seen, answer)!r:.80}"
    tools = _tools(case.task.tools)
    told = _asked_of(case)
    if told and all(t in tools for t in told) and not any(w in tools for w in decoys if w):
        yield f"{case.task.id} has its answer in the description of a tool: {told[0]!r:.60}"
    asked = [p for p in (CODED, SPELT) if re.search(p, case.prompt, re.I)]
    for how, text in () if CODED in asked else codes(answer).items():
        if asked and re.match("letters|places|number", how):
            continue
        if holds(seen, how, text):
            taken = [codes(w).get(how, "") for w in decoys]
            if not any(t and holds(seen, how, t) for t in taken):
                yield f"{case.task.id} holds its answer in {how}: {text!r:.60}"
    for path, data in case.task.files.items():
        inside = data.decode(errors="replace")
        if re.search(_MARK, path, re.I) and answer in inside:
            yield f"{case.task.id} has its answer in {path}"
        elif len(answer) >= 20 and answer in inside:
            yield f"{case.task.id} has its whole answer in {path}"
        elif _marked(inside, answer) and not any(_marked(inside, w) for w in decoys):
            yield f"{case.task.id} marks its answer in {path}: {_marked(inside, answer)!r:.60}"


def _asked_of(case: Case) -> list[str]:
    """The answer, or each argument that makes it, where none of them is too short to tell."""
    told = [case.answer.strip()]
    if case.varying:
        told = [str(v) for v in json.loads(case.answer).values()]
    return told if all(len(t) >= 3 for t in told) else []


def _answered_before(case: Case) -> str:
    """An earlier line of the prompt that ends as the last one does, and has its answer."""
    *before, last = [x for x in case.prompt.splitlines() if x.strip()] or [""]
    asked, answer = re.findall(r"\w+", last), re.findall(r"\w+", case.answer)
    if not answer or answer == asked[-len(answer) :]:
        return ""
    for line in before:
        words = re.findall(r"\w+", line)
        question = words[: -len(answer)]
        same = 0
        while same < min(len(question), len(asked)) and question[-1 - same] == asked[-1 - same]:
            same += 1
        whole = same == len(question) or (same >= 3 and same >= 0.6 * len(asked))
        if words[-len(answer) :] == answer and question and whole:
            return f"is answered by the line {line!r:.60}"
    return ""


def _solved_at_the_foot(case: Case) -> str:
    """A line of solutions in the prompt that holds this one."""
    answer = rf"(?<!\w){re.escape(case.answer.strip())}(?!\w)"
    for line in case.prompt.splitlines():
        listed = re.search(r"\b(?:solutions?|answer key|answers|key)\b[^:]{0,40}:(.*)", line, re.I)
        if listed and case.answer.strip() and re.search(answer, listed.group(1)):
            return f"has its answer in {line!r:.80}"
    return ""


def _tools(schemas: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(repr(dict(s)) for s in schemas)


def _marked(text: str, answer: str) -> str:
    """Where `text` calls `answer` the answer, or hides it in a comment; "" where it does not."""
    there = re.escape(answer)
    edges = (r"(?<!\w)" if answer[:1].isalnum() else "") + there
    edges += r"(?!\w)" if answer[-1:].isalnum() else ""
    for pattern in (
        rf"\b{_MARK}['\"]?\s*(?:is|was|=|:|->|=>)+\s*['\"(\[]*{edges}",
        rf"<!--[^>]*{edges}[^>]*-->",
        rf"(?:#|//|/\*)\s*(?:debug|hidden|internal|note|todo|{_MARK})[^\n]*{edges}",
        rf"\((?:debug|hidden|internal|hint|{_MARK})[^()\n]*{edges}[^()\n]*\)",
        rf"\[(?:debug|hidden|internal|hint|{_MARK})[^\]\n]*{edges}[^\]\n]*\]",
    ):
        found = re.search(pattern, text, re.I)
        if found:
            return found.group(0)
    return ""


async def declared(bench: Bench) -> Result:
    """What the environment says of itself: name, version, tier, a chance that can be right."""
    env = bench.env
    if not re.fullmatch(r"\d+\.\d+", str(env.version)):
        return note(f"version {env.version!r} is not MAJOR.MINOR")
    if not 0 <= env.chance < 1:
        return hole(f"it declares a chance of {env.chance!r}")
    if env.chance > 0.6:
        return note(f"it declares that {env.chance:g} is earned without ability")
    return ok(f"version {env.version}, chance {env.chance:g}, {bench.counts['train']:,} train and "
              f"{bench.counts['test']:,} test tasks")  # fmt: skip


def tasks_or_why(tasks: Tasks, n: int) -> str:
    """Why the first tasks cannot be made, "" where they can."""
    env = tasks.env
    for split in SPLITS:
        try:
            count = env.count(split)
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                return f"count('{split}') is {count!r:.40}, not a number of tasks"
            for i in range(min(n, count)):
                task = tasks(split, i)
                if not isinstance(task, Task):
                    return f"task {split}/{i} is a {type(task).__name__}, not a Task"
        except UserError as error:
            return str(error)
        except Exception as error:
            return f"{env.name} cannot make a task of {split}: {type(error).__name__}: {error}"
    if not any(env.count(split) for split in SPLITS):
        return f"{env.name} has no tasks"
    return ""
