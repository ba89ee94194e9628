"""Probe: a named question to a bench, why it matters, and the answer.

`Probe("idle", "doing nothing must earn nothing", idle)`; `await probe.ask(bench)` -> Result.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from puna.gym.audit.bench import Bench, Make, Try, mean_paid
from puna.gym.audit.case import Case
from puna.gym.audit.findings import Status
from puna.gym.task import Script

SHOWN = 5  # cases of evidence
ENOUGH = 3  # ways of being paid


@dataclass(frozen=True)
class Result:
    """What a probe saw; the fields as in Finding."""

    status: Status
    seen: str
    evidence: tuple[str, ...] = ()
    earned: float | None = None


@dataclass(frozen=True)
class Probe:
    """A question; `ask` may raise only where the machinery of the audit itself fails."""

    name: str
    reason: str
    ask: Callable[[Bench], Awaitable[Result]]


def ok(seen: str) -> Result:
    """It held."""
    return Result("ok", seen)


def hole(seen: str, evidence: Sequence[object] = ()) -> Result:
    """It did not."""
    return Result("hole", seen, tuple(str(e)[:400] for e in evidence[:SHOWN]))


def note(seen: str, evidence: Sequence[object] = ()) -> Result:
    """Worth knowing."""
    return Result("note", seen, tuple(str(e)[:400] for e in evidence[:SHOWN]))


def nothing(why: str) -> Result:
    """There was nothing to ask."""
    return Result("none", why)


async def must_not_pay(
    bench: Bench,
    ways: Mapping[str, Make],
    *,
    what: str = "ways",
    least: float = 0.0,
    of: Callable[[Try], float] | None = None,
    cases: Sequence[Case] | None = None,
) -> Result:
    """Each of `ways` must earn no more than the declared chance, and be scored at all.

    `least`: what an honest share of the credit may come to, even where no chance is declared.
    A few that do not are enough, one where tries are slow: the rest is then not tried.
    """
    paid: dict[str, list[Try]] = {}
    broken: list[Try] = []
    raised: list[str] = []
    tried, most = 0, 0.0
    asked = len(cases or bench.cases)
    fewest = asked
    for name, make in ways.items():
        fared = await bench.paid(make, name, least, of, cases)
        tried += 1
        broken += fared.broken
        raised += fared.raised
        most, fewest = max(most, fared.earned), min(fewest, fared.tasks)
        if fared.paid:
            paid[name] = list(fared.paid)
        if len(paid) >= (1 if fared.slow else ENOUGH) or len(broken) >= 2 * ENOUGH:
            break
    told = counted(tried, what)
    if fewest < asked:
        told += f" (some on {fewest} of {asked} tasks)"
    found_out = _verdict(paid, broken, raised, told)
    return replace(found_out, earned=most) if ways else nothing("nothing to try")


def counted(n: int, what: str) -> str:
    """`counted(1, "forgeries")` is "1 forgery"."""
    ends = {"ies": "y", "oes": "o", "s": ""}
    one = re.sub(r"(ies|oes|s)\b", lambda found: ends[found[0]], what, count=1)
    return f"{n} {one if n == 1 else what}"


def _verdict(
    paid: Mapping[str, list[Try]], broken: list[Try], raised: list[str], tried: str
) -> Result:
    if paid:
        best = max(paid, key=lambda name: mean_paid(paid[name]) * len(paid[name]))
        seen = f"{len(paid)} of {tried} paid, best '{best}': {paid[best][0]}"
        return hole(seen, [tries[0] for tries in paid.values()])
    if broken:
        return hole(f"{len(broken)} answers not scored: {broken[0]}", broken)
    if wrong := [r for r in raised if "is not an Outcome" in r or "a score must be" in r]:
        return hole(f"{len(wrong)} verdicts are none: {wrong[0]}", wrong)
    if raised:
        return note(f"{len(raised)} answers make it raise (they are scored 0): {raised[0]}", raised)
    return ok(f"{tried}, none paid")


def saying(texts: Mapping[str, str]) -> dict[str, Make]:
    """Ways of answering at once with fixed texts."""
    return {name: _fixed(text) for name, text in texts.items()}


def _fixed(text: str) -> Make:
    def make(case: Case) -> Script | None:
        return None if text == case.answer else case.instead(text)

    return make


def made(answers: Callable[[Case], Mapping[str, str]], cases: Sequence[Case]) -> dict[str, Make]:
    """Ways of answering with texts that depend on the task, by the names that occur."""
    known: dict[tuple[str, str], Mapping[str, str]] = {}

    def once(case: Case) -> Mapping[str, str]:
        key = (case.task.id, case.role)
        if key not in known:
            known[key] = answers(case)
        return known[key]

    names = dict.fromkeys(name for case in cases for name in once(case))
    return {name: _chosen(once, name) for name in names}


def _chosen(answers: Callable[[Case], Mapping[str, str]], name: str) -> Make:
    def make(case: Case) -> Script | None:
        text = answers(case).get(name)
        return None if text is None or text == case.answer else case.instead(text)

    return make
