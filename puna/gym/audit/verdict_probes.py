"""Probes of the verdict: the oracle's, whether it repeats, what kind of number it is."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from contextlib import AbstractContextManager

import numpy as np

from puna.core.messages import Message
from puna.core.outcome import Outcome, Scored, to_json
from puna.gym.audit import answers, mutations
from puna.gym.audit.bench import Bench, success
from puna.gym.audit.case import Case
from puna.gym.audit.explorer import results
from puna.gym.audit.probe import Result, hole, note, nothing, ok
from puna.gym.task import script

REPEATS = 3
MUCH = 1_000_000  # characters of evidence
BUSY = 3  # tasks judged on a busy machine


async def oracle(bench: Bench) -> Result:
    """The reference must succeed with the full score on every task."""
    if not bench.env.has_oracle:
        return note("nobody knows a right answer, so it is not known that there is one")
    bad = [f"{c.task.id} {c.role}: {c.outcome}" for c in bench.cases if not _succeeds(c.outcome)]
    if bad:
        return hole(f"{len(bad)} of {len(bench.cases)}: {bad[0]}"[:300], bad)
    return ok(f"{len(bench.cases)} references, all succeed")


def _succeeds(outcome: Outcome) -> bool:
    return isinstance(outcome, Scored) and outcome.success


async def bounds(bench: Bench) -> Result:
    """Values lie within 0 and 1 and evidence is short, whatever is said, also after the end."""
    values, longest = [], 0
    for case in bench.few:
        said = {"nothing": script([]), "wrong": case.instead(case.wrong[0] if case.wrong else "x")}
        if case.said:
            said["the last message again and again"] = script([*case.said, *case.said[-1:] * 3])
            mark = found.mark if (found := mutations.listed(case.answer)) else " "
            said["the answer again and again"] = case.instead(mark.join([case.answer] * 9))
        if case.wrong:
            many = answers.among(case.answer, case.wrong)
            said |= {name: case.instead(many[name]) for name in ("listed", "listed with commas")}
        for name, attack in said.items():
            outcome = (await bench.attempt(case, attack, name)).outcome
            if isinstance(outcome, Scored):
                values.append(outcome.value)
                longest = max(longest, len(outcome.evidence))
    outside = [v for v in values if not -1e-9 <= v <= 1 + 1e-9]
    if outside:
        return hole(f"{len(outside)} of {len(values)} values outside 0 to 1, e.g. {outside[0]:g}")
    if longest > MUCH:
        return hole(f"a verdict's evidence has {longest:,} characters")
    low, high = min(values, default=0.0), max(values, default=0.0)
    return ok(f"{len(values)} values, from {low:g} to {high:g}")


async def repeats(bench: Bench) -> Result:
    """The same episode, judged and played three times, whatever the global random state."""
    bad = []
    for case in bench.few:
        for name, said in _answers(case).items():
            seen, shown = set(), set()
            for i in range(REPEATS):
                random.seed(i)
                np.random.seed(i)
                cast = bench.cast(case, script(said))
                outcomes, episode = await bench.play(case.task, cast, name)
                seen.add(_shown(outcomes))
                shown.add("\n".join(m.text or results(m) for who, m in episode.transcript))
                if episode.ended != "failed":
                    seen.add(_shown(await bench.judge(case.task, episode, name)))
            if len(seen) > 1:
                bad.append(f"{case.task.id} '{name}': {sorted(seen)[:2]}")
            elif len(shown) > 1:
                bad.append(f"{case.task.id} '{name}': the same messages are answered otherwise")
    tried = len(bench.few) * 2 * REPEATS
    return hole(f"{len(bad)}: {bad[0]}"[:300], bad) if bad else ok(f"{tried} episodes judged twice")


def _answers(case: Case) -> dict[str, list[Message]]:
    found = {"nothing": [Message.assistant("")]}
    half = mutations.half_right(case.answer, case.wrong)
    nearly = mutations.nearly(case.answer, case.wrong)
    for name, text in {"half right": half, "nearly right": nearly}.items():
        if text:
            found[name] = [*case.before, case.message(text), *case.after]
    if case.said:
        found["the reference"] = list(case.said)
    return found


def _shown(outcomes: Mapping[str, Outcome]) -> str:
    return json.dumps({r: _plain(o) for r, o in outcomes.items()}, sort_keys=True)


def _plain(outcome: Outcome) -> dict[str, object]:
    return {k: v for k, v in to_json(outcome).items() if k != "evidence"}


async def later(bench: Bench) -> Result:
    """The first episodes, judged again after all that was asked meanwhile."""
    bad, seen = [], 0
    for case in bench.few:
        if case.episode is not None:
            seen += 1
            now = await bench.judge(case.task, case.episode, "the first episode")
            if _shown(now) != _shown(case.outcomes):
                bad.append(f"{case.task.id}: {_shown(case.outcomes)} and later {_shown(now)}")
    return hole(f"{len(bad)} of {seen}: {bad[0]}", bad) if bad else ok(f"{seen} judged again")


async def idle_again(bench: Bench) -> Result:
    """Doing nothing, right after the oracle has succeeded on the same task."""
    paid = []
    for case in bench.few:
        if not case.said:
            continue
        await bench.attempt(case, script(case.said), "the reference answer")
        after = await bench.attempt(case, script([]), "nothing, after the oracle")
        if success(after):
            first = await bench.attempt(case, script([]), "nothing, once more")
            paid.append(first if isinstance(first.outcome, Scored) else after)
    share = len(paid) / max(1, len(bench.few))
    if paid and share > bench.env.chance:
        return hole(f"{len(paid)} of {len(bench.few)} inherit the success before: {paid[0]}", paid)
    return ok(f"{len(bench.few)} tasks, none inherits the success of the episode before")


async def busy(bench: Bench, slow: AbstractContextManager[None]) -> Result:
    """The reference on a machine that leaves little time to this process."""
    cases = [c for c in bench.cases if _succeeds(c.outcome)][: 1 if bench.slow else BUSY]
    if not cases:
        return nothing("no reference that succeeds")
    with slow:
        found = [await bench.attempt(c, script(c.said), "on a busy machine") for c in cases]
    bad = [t for t in found if isinstance(t.outcome, Scored) and not success(t)]
    if bad:
        return hole(f"{len(bad)} of {len(found)} right answers are refused: {bad[0]}", bad)
    late = [t for t in found if not isinstance(t.outcome, Scored)]
    if late:
        return note(f"{len(late)} of {len(found)} are not judged in time: {late[0]}", late)
    return ok(f"{len(found)} references succeed with little of the processor")
