"""A study: main effects of its axes over seeds, and its claims. `effects(run)`, `claims(run)`.

A number is called "stage / measure / key=value": the mean of a measure over all variants of a stage
that have that label, for one seed. With a fraction of all combinations such means still differ by
the axis alone, as long as axes do not interact.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from puna.core.claims import SHOWN, Claim, Verdict, claims_of, judge
from puna.core.errors import UserError
from puna.report.interval import Interval, over_seeds
from puna.report.markup import Html, details, number, row, section, table, tag
from puna.report.read import Exam, Run, mapping, sequence
from puna.report.tables import shown

Numbers = dict[int, dict[str, float]]
_NOTE = (
    "Each value of an axis against its first one: means over all variants with that value, paired "
    "by seed, 95 % t intervals over seeds. Where axes interact, a fraction of all combinations "
    "mixes that into these differences."
)


@dataclass(frozen=True)
class Figure:
    """A measure of one variant of a stage; `labels` tell variants apart, the seed left out."""

    stage: str
    measure: str
    seed: int
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Effect:
    """What a value of an axis adds to a measure, in the mean over seeds."""

    stage: str
    measure: str
    axis: str
    level: str
    first: str
    each: tuple[float, ...]
    difference: Interval


def effects(run: Run) -> Html:
    """A table for each stage whose variants differ in more than one axis."""
    parts: list[Html] = []
    found = main_effects(figures(run))
    for stage in dict.fromkeys(e.stage for e in found):
        lines = [_line(e) for e in found if e.stage == stage]
        head = ("measure", "axis", "against", "mean", "each seed", "")
        parts.append(details(tag("strong", stage), table(head, lines), open_=not parts))
    return section("Main effects", *parts, note=_NOTE)


def claims(run: Run) -> Html:
    """What the study is to show, and whether it does."""
    lines = []
    for verdict in verdicts(run):
        tone = "good" if verdict.verdict == SHOWN else "flat"
        word = tag("span", verdict.verdict, class_=f"verdict {tone}")
        said = tag("span", verdict.claim.statement, style="white-space: normal")
        told = tag("span", verdict.measured(), style="white-space: normal")
        lines.append(row((verdict.claim.id, word, said, told)))
    body = [table(("claim", "", "what it says", "what was measured"), lines)] if lines else []
    return section("Claims", *body, note="Shown: the whole interval lies on the claim's side.")


def verdicts(run: Run) -> list[Verdict]:
    """The claims in the run's record, judged on the seeds that have both of their numbers."""
    try:
        known = claims_of(list(sequence(run.record.get("claims"))), "run.json")
    except UserError:
        return []
    rows = numbers(figures(run))
    return [v for claim in known for v in judge([claim], _with_both(claim, rows))]


def _with_both(claim: Claim, rows: Numbers) -> Numbers:
    names = [n for n in (claim.metric, claim.against) if isinstance(n, str) and claim.testable]
    return {seed: row for seed, row in rows.items() if all(name in row for name in names)}


def figures(run: Run) -> list[Figure]:
    """The measures of all variants of a stage and seed, where all of them are done."""
    plans = [mapping(plan) for plan in sequence(run.record.get("stages"))]
    bases = {str(p.get("id")): str(p.get("base", p.get("id"))) for p in plans}
    last: dict[str, Mapping[str, Any]] = {}  # of the rounds of a variant
    for plan in plans:
        key = [bases[str(plan.get("id"))], plan.get("labels")]
        last[json.dumps(key, sort_keys=True)] = plan
    missing, out = set(), []
    for plan in last.values():
        name, labels = str(plan.get("id")), dict(mapping(plan.get("labels")))
        seed = int(number(labels.pop("seed", plan.get("seed"))) or 0)
        stage = run.stage(name)
        if stage is None or stage.state != "done":
            missing.add((bases[name], seed))
            continue
        told = {key: str(value) for key, value in labels.items()}
        useful = number(stage.result.get("useful_groups"))
        if useful is not None:
            out.append(Figure(bases[name], "useful groups", seed, told, useful))
        for exam in (e for e in run.exams if e.eval == name):
            whose = {**told, "stage": bases.get(exam.stage, exam.stage)}
            out += [Figure(bases[name], m, seed, whose, v) for m, v in _measures(exam)]
    return [f for f in out if (f.stage, f.seed) not in missing]


def _measures(exam: Exam) -> Iterator[tuple[str, float]]:
    """The score, and of several answers to a task pass@k and the surprisal of their tokens."""
    env = exam.env.rpartition(" ")[0] or exam.env  # without the version
    k = int(number(exam.score.get("k")) or 1)
    of_k = mapping(exam.score.get("pass_at")).get(str(k)) if k > 1 else None
    found = {
        env: mapping(exam.score.get("value")).get("mean"),
        f"{env}, pass@{k}": mapping(of_k).get("mean"),
        f"{env}, surprisal": exam.surprisal if k > 1 else None,
    }
    for name, value in found.items():
        if (known := number(value)) is not None:
            yield name, known


def numbers(found: Sequence[Figure]) -> Numbers:
    """Seed -> number by name."""
    values: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for f in found:
        for axis, level in f.labels.items():
            values[f.seed][f"{f.stage} / {f.measure} / {axis}={level}"].append(f.value)
    return {seed: {n: fmean(v) for n, v in row.items()} for seed, row in values.items()}


def main_effects(found: Sequence[Figure]) -> list[Effect]:
    """Of stages that differ in more than one axis, beside which of their parents was scored."""
    rows, out = numbers(found), []
    for stage, measure in dict.fromkeys((f.stage, f.measure) for f in found):
        levels: dict[str, dict[str, None]] = defaultdict(dict)
        for f in found:
            if (f.stage, f.measure) == (stage, measure):
                for axis, level in f.labels.items():
                    levels[axis][level] = None
        axes = {a: list(known) for a, known in levels.items() if a != "stage" and len(known) > 1}
        for axis, (first, *others) in axes.items() if len(axes) > 1 else ():
            for level in others:
                a, b = (f"{stage} / {measure} / {axis}={name}" for name in (level, first))
                each = [r[a] - r[b] for r in rows.values() if a in r and b in r]
                difference = over_seeds(each)
                if difference is not None:
                    out.append(Effect(stage, measure, axis, level, first, (*each,), difference))
    return out


def _line(effect: Effect) -> Html:
    d = effect.difference
    verdict = ""
    if d.low is not None and d.high is not None:
        verdict = "higher" if d.low > 0 else "lower" if d.high < 0 else "no difference shown"
    each = ", ".join(f"{value:+.3f}" for value in effect.each)
    axis = f"{effect.axis}: {effect.level}"
    return row((effect.measure, axis, effect.first, shown(d, "+"), each, verdict))
