"""Probes of what a task gives away without meaning to: where an option stands, what number it has.

`await options(bench)`, `await numbering(bench)`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from puna.gym.audit.bench import Bench, Make, success
from puna.gym.audit.case import Case
from puna.gym.audit.mutations import plain
from puna.gym.audit.probe import Result, hole, must_not_pay, nothing, ok
from puna.gym.task import Script

LUCK = 0.15  # above the chance, for what may go with the right option by nature
ITEM = re.compile(
    r"(?:\b(?:item|question|task|problem|case|sheet|card|row|entry|record|no|nr|number|id|q)|#)"
    r"\W{0,3}(\d+)|^\W*[A-Z]\w+\s+#?(\d+)(?=[.,;)]|:\s)",
    re.I,
)
OPTION = re.compile(
    r"(?:^|[\s(\[])[(\[]?([A-Za-h1-9])[\]).:]\s*([^\n]+?)"
    r"(?=\s*,?\s*[(\[]?[A-Za-h1-9][\]).:]\s|\n|$)"
)
# Where a prompt asks for a place or a size, a rule of places or sizes is the answer.
PLACED = re.compile(
    r"first|last|second|third|\d(?:st|nd|rd|th)\b|middle|median|between|next|before|after|left|right|"
    r"long|short|larg|small|big|high|low|most|least|max|min|great|few|old|young|order|sort|rank",
    re.I,
)
CODE = re.compile(r"\b(?=\w*\d)(?=\w*[A-Za-z])[\w-]+\b")
ASIDE = 0.9  # of the prompts differ without the number: then it is not what they are about


async def options(bench: Bench) -> Result:
    """Where an option stands, and how long it is, does not tell whether it is right."""
    shown = [found for c in bench.cases if len(found := _options(c)) > 2]
    if len(shown) < 0.8 * len(bench.cases):
        return nothing("there are no options")
    ways: dict[str, Make] = {
        "the longest": lambda case: _option(case, lambda o: -len(o[1])),
        "the shortest": lambda case: _option(case, lambda o: len(o[1])),
        "the first": lambda case: _option(case, lambda o: 0),
        "the last": lambda case: _option(case, lambda o: -_options(case).index(o)),
        "the middle by size": _middle,
        "the second": lambda case: _option(case, lambda o: abs(_options(case).index(o) - 1)),
    }
    guessed = sum(1 / len(found) for found in shown) / len(shown)
    least = max(bench.env.chance, guessed) + LUCK
    return await must_not_pay(bench, ways, what="places", least=least)


def _options(case: Case) -> list[tuple[str, str]]:
    """Labels and texts; what the reference uses of them comes first in each pair."""
    found = OPTION.findall(case.prompt)
    label = case.answer.strip(" .()[]")
    return found if any(name == label for name, _ in found) else _named(case)


def _named(case: Case) -> list[tuple[str, str]]:
    """A list without labels that names the reference, where the prompt asks for no place in it."""
    wanted = plain(case.answer)
    if not wanted or PLACED.search(case.prompt):
        return []
    lines = [x.strip() for x in case.prompt.splitlines() if x.strip()]
    runs = [re.split(r"\s*(?:,|;|/|\bor\b)\s*", s) for s in re.split(r"[.:?!\n]", case.prompt)]
    for run in (lines, *runs):
        items = [x.strip(" '\"-*") for x in run if x.strip(" '\"-*")]
        if len(items) > 2 and sum(plain(x) == wanted for x in items) == 1:
            return [(x, x) for x in items]
    return []


def _middle(case: Case) -> Script | None:
    sized = [(float(m[0]), o[0]) for o in _options(case) if (m := re.findall(r"-?\d+\.?\d*", o[1]))]
    return case.instead(sorted(sized)[len(sized) // 2][1]) if len(sized) > 2 else None


def _option(case: Case, key: Callable[[tuple[str, str]], float]) -> Script | None:
    found = _options(case)
    return case.instead(min(found, key=key)[0]) if found else None


Feature = Callable[[Case], Hashable]
"""Something that a prompt shows of a task, None where it shows it not."""


@dataclass(frozen=True)
class Rule:
    """What to answer where a task shows this."""

    feature: Feature
    answers: Mapping[Hashable, str]

    def __call__(self, case: Case) -> Script | None:
        """Its answer to a task, None where it has none."""
        text = self.answers.get(self.feature(case), "")
        return case.instead(text) if text else None


async def numbering(bench: Bench) -> Result:
    """Whether the number, or the code, that a task has in its prompt tells the answer."""
    counted = Counter(c.answer for c in bench.cases if c.answer)
    most = sum(counted.values())
    rules = _rules([c for c in bench.cases if c.answer])
    if most < 10 or len(counted) < 2 or not rules:
        return nothing("tasks are not numbered")
    best = max(counted.values()) / most
    fresh = await bench.fresh()
    for name, (rule, least) in rules.items():
        tries = await bench.tries(rule, f"by {name}", fresh)
        right = sum(success(t) for t in tries)
        if tries and right > len(tries) * max(best + 0.25, bench.env.chance + 0.25, least):
            what = f"{right:.0f} of {len(tries)} fresh tasks are solved by {name}"
            return hole(what, [t for t in tries if success(t)])
    return ok(f"{most} numbered tasks, the number tells nothing")


def _rules(cases: Sequence[Case]) -> dict[str, tuple[Rule, float]]:
    """Rules that suit the tasks at hand, and what share of fresh ones each must solve.

    The number by which a task is called may tell by halves; any other number may be what the
    question is about, so it must not be, and must tell nearly always.
    """
    rules: dict[str, tuple[Rule, float]] = {}
    called = [c for c in cases if _number(c) is not None]
    if len(called) >= 10:
        for base in (2, 3, 4, 5, 10):
            rest = _rest(_number, base)
            rules[f"the number modulo {base}"] = (_fitted(rest, called), 0.0)
        cut, feature = _cut(called)
        rules[f"the number from {cut} on"] = (_fitted(feature, called), 0.0)
    for place in (0, 1, 2, -1, -2):
        number = _nth(place)
        if _aside(cases, number):
            for base in (2, 3, 4, 5, 10):
                rest = _rest(number, base)
                rules[f"number {place} modulo {base}"] = (_fitted(rest, cases), ASIDE)
    for name, feature in {"first": _code(0), "last": _code(-1)}.items():
        if len({feature(c) for c in cases} - {None}) > 1:
            rules[f"the {name} letter of a code"] = (_fitted(feature, cases), ASIDE)
    return {n: r for n, r in rules.items() if _fits(r[0], cases)}


def _fits(rule: Rule, cases: Sequence[Case]) -> bool:
    """Whether it is worth trying on fresh tasks."""
    told = [(rule.answers.get(rule.feature(c)), c.answer) for c in cases]
    return sum(a == b for a, b in told) >= 0.6 * len(told)


def _fitted(feature: Feature, cases: Sequence[Case]) -> Rule:
    """The commonest answer where tasks show the same."""
    told: dict[Hashable, Counter[str]] = {}
    for case in cases:
        key = feature(case)
        if key is not None:
            told.setdefault(key, Counter())[case.answer] += 1
    return Rule(feature, {key: counter.most_common(1)[0][0] for key, counter in told.items()})


def _number(case: Case) -> int | None:
    found = ITEM.search(case.prompt)
    return int(found.group(1) or found.group(2)) if found else None


def _nth(place: int) -> Callable[[Case], int | None]:
    def number(case: Case) -> int | None:
        found = re.findall(r"\d+", case.prompt)
        return int(found[place]) if -len(found) <= place < len(found) else None

    return number


def _rest(number: Callable[[Case], int | None], base: int) -> Feature:
    def rest(case: Case) -> Hashable:
        value = number(case)
        return None if value is None else value % base

    return rest


def _code(place: int) -> Feature:
    def letter(case: Case) -> Hashable:
        found = CODE.search(case.prompt)
        return found.group(0)[place] if found else None

    return letter


def _aside(cases: Sequence[Case], number: Callable[[Case], int | None]) -> bool:
    """Whether a number is another in each task, and not what they are about."""
    values = [number(c) for c in cases]
    if None in values or len(set(values)) < 0.7 * len(cases):
        return False
    rest = {
        re.sub(rf"(?<!\d)0*{value}(?!\d)", "", c.prompt, count=1)
        for c, value in zip(cases, values, strict=True)
    }
    return len(rest) >= ASIDE * len(cases)


def _cut(cases: Sequence[Case]) -> tuple[int, Feature]:
    """The number that best parts the answers in two halves."""
    numbers = sorted({n for c in cases if (n := _number(c)) is not None})
    best, cut = 0.0, numbers[0]
    for each in numbers[1 :: max(1, len(numbers) // 12)]:
        rule = _fitted(_from(each), cases)
        right = sum(rule.answers[rule.feature(c)] == c.answer for c in cases) / len(cases)
        best, cut = max((best, cut), (right, each))
    return cut, _from(cut)


def _from(cut: int) -> Feature:
    def side(case: Case) -> Hashable:
        value = _number(case)
        return None if value is None else value >= cut

    return side
