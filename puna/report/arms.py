"""Ways to mix the same models, beside each other over seeds: `arms(open_run(Path("runs/soce")))`.

There where an eval stage has scored the best member alone (a soup of method "best") and others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from puna.report.interval import Interval, interval, over_seeds, verdict_of
from puna.report.markup import Html, join, number, row, section, table, tag
from puna.report.read import Exam, Run, Stage, group_of, mapping, sequence
from puna.report.summary import by_eval, difference_between
from puna.report.tables import judged, shown

_NOTE = (
    "On tasks that nothing was chosen on. Two intervals of 95 %: over seeds, of which each has "
    "models and tasks of its own, and over tasks, for these models. Categories: in how many the "
    "arm is ahead of the best member and in how many behind, on the test halves of the soups' own "
    "tasks. Optimism: the dev half, on which members and weights were chosen, minus the test half."
)
# What a difference between two methods says.
_STEPS = (
    ("soce", "uniform", "both steps"),
    ("experts", "uniform", "selection: experts alike, minus all alike"),
    ("soce", "experts", "weights: the best of the grid, minus experts alike"),
    ("soce", "random", "selection, at the same search"),
)


@dataclass(frozen=True)
class _Seed:
    """One eval stage: what it scored, by the id of the scored stage, in order; the best member."""

    run: Run
    exams: Mapping[str, Exam]
    best: Stage

    def stage(self, group: str) -> Stage | None:
        found = (self.run.stage(i) for i in self.exams if group_of(i)[0] == group)
        return next((s for s in found if s), None)

    def minus(self, one: Stage | None, other: Stage | None) -> Interval | None:
        """The paired difference of two stages over the tasks of this seed."""
        if one is None or other is None:
            return None
        return difference_between(self.run, self.exams[other.id], self.exams[one.id])[0]

    def by_method(self, method: str) -> Stage | None:
        """The soup of a method from all members of the best one's."""
        for stage in map(self.run.stage, self.exams):
            same = stage is not None and set(stage.parents) == set(self.best.parents)
            if stage is not None and same and stage.result.get("method") == method:
                return stage
        return None


def arms(run: Run) -> Html:
    """A part for each eval stage and environment that has the best member and other arms."""
    parts: list[object] = []
    for (name, env), seeds in _studies(run).items():
        many = f", {len(seeds)} seeds" if len(seeds) > 1 else ""
        parts += [tag("h3", f"{env}, by {name}{many}"), _arms(seeds), _steps(seeds), *_told(seeds)]
    return section("Soups beside each other", *parts, note=_NOTE)


def _studies(run: Run) -> dict[tuple[str, str], list[_Seed]]:
    out: dict[tuple[str, str], list[_Seed]] = {}
    for (name, env), exams in by_eval(run).items():
        found = {e.stage: e for e in exams}
        stages = [s for s in map(run.stage, found) if s]
        best = next((s for s in stages if s.result.get("method") == "best"), None)
        if best is not None and len(stages) > 1:
            out.setdefault((group_of(name)[0], env), []).append(_Seed(run, found, best))
    return out


def _arms(seeds: Sequence[_Seed]) -> Html:
    lines = []
    for group in dict.fromkeys(group_of(i)[0] for seed in seeds for i in seed.exams):
        pairs = [(seed, stage) for seed in seeds if (stage := seed.stage(group))]
        scores = [interval(seed.exams[stage.id].score.get("value")) for seed, stage in pairs]
        gains = [seed.minus(stage, seed.best) for seed, stage in pairs if stage != seed.best]
        known = [g for g in gains if g]
        ahead = f"{sum(g.mean > 0 for g in known)} of {len(known)}" if known else "–"
        figures = (_both([s for s in scores if s]), _each(scores), _both(known, "+"))
        luck = _mean([number(_search(stage).get("optimism")) for _, stage in pairs])
        cells = (group, *figures, _each(gains, "+"), ahead, _categories(pairs), luck)
        lines.append(row(cells))
    head = ("arm", "score", "each seed", "minus the best member", "each seed", "seeds ahead")
    return table((*head, "categories", "optimism"), lines, "wide")


def _search(stage: Stage) -> Mapping[str, Any]:
    return mapping(stage.result.get("search"))


def over_tasks(values: Sequence[Interval]) -> Interval | None:
    """The mean of independent figures with what their own intervals leave open."""
    known = [(v.mean, v.low, v.high) for v in values if v.low is not None and v.high is not None]
    if not known or len(known) < len(values):
        return None
    n, mean = len(known), sum(m for m, _, _ in known) / len(known)
    low = math.sqrt(sum((m - a) ** 2 for m, a, _ in known)) / n
    high = math.sqrt(sum((b - m) ** 2 for m, _, b in known)) / n
    return Interval(mean, mean - low, mean + high)


def _both(values: Sequence[Interval], sign: str = "") -> Html:
    """The mean of seeds with its interval over seeds, and beneath that over tasks."""
    mean, tasks = over_seeds([v.mean for v in values]), over_tasks(values)
    if mean is None or mean.low is None or tasks is None:
        return shown(tasks or mean, sign)
    inner = tasks.text(sign).partition(" ")[2]
    return join((shown(mean, sign), tag("span", f"{inner} over tasks", class_="range")))


def _each(values: Sequence[Interval | None], sign: str = "") -> str:
    return ", ".join("–" if v is None else f"{v.mean:{sign}.3f}" for v in values) or "–"


def _mean(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{sum(known) / len(known):+.3f}" if known else "–"


def _categories(pairs: Sequence[tuple[_Seed, Stage]]) -> str:
    """In how many categories of all seeds the soups are ahead of the best member, and behind."""
    differences = [d for seed, stage in pairs for d in _by_category(seed.best, stage)]
    if not any(differences):
        return "–"
    ahead, behind = (sum(s * d > 0 for d in differences) for s in (1, -1))
    return f"{ahead} ahead, {behind} behind of {len(differences)}"


def _by_category(best: Stage, stage: Stage) -> Iterator[float]:
    """`stage` minus `best` in each category of the test half, where both were searched for."""
    if _search(stage):
        ours, base = (_numbers(mapping(s.result.get("soup"))) for s in (stage, best))
        yield from (ours[c] - base[c] for c in ours.keys() & base.keys())


def _numbers(score: Mapping[str, Any]) -> dict[str, float]:
    found = {str(c): number(v) for c, v in mapping(score.get("categories")).items()}
    return {c: v for c, v in found.items() if v is not None}


def _steps(seeds: Sequence[_Seed]) -> Html:
    """What each step of SoCE gives, with its controls."""
    lines = []
    for one, other, text in _STEPS:
        found = [s.minus(s.by_method(one), s.by_method(other)) for s in seeds]
        known = [f for f in found if f]
        if known:
            verdict = judged(verdict_of(over_tasks(known)))
            cells = (_both(known, "+"), _each(found, "+"), text, verdict)
            lines.append(row((f"{one} minus {other}", *cells)))
    head = ("difference, paired", "mean", "each seed", "what it is", "over tasks")
    return table(head, lines) if lines else Html("")


def _told(seeds: Sequence[_Seed]) -> Iterator[Html]:
    whole, part = (
        over_tasks([d for s in seeds if (d := s.minus(s.by_method(m), s.by_method("uniform")))])
        for m in ("soce", "experts")
    )
    if whole and part and verdict_of(whole) == "better":
        share = 100 * part.mean / whole.mean
        yield tag("p", f"Of what SoCE gains over all alike, selection gives {share:.0f} %.")
    bounds = [b for seed in seeds if (b := _bound(seed.by_method("soce")))]
    if bounds:
        router, soup = (sum(column) / len(bounds) for column in zip(*bounds, strict=True))
        text = (
            f"A bound: every category answered by its best member of the dev half has {router:.3f} "
            f"over the categories of the test half, where SoCE has {soup:.3f}."
        )
        yield tag("p", text)


def _bound(soce: Stage | None) -> tuple[float, float] | None:
    """Means over the test half's categories: each one's best member of the dev half; the soup."""
    if soce is None:
        return None
    search, soup = _search(soce), _numbers(mapping(soce.result.get("soup")))
    names = list(map(str, sequence(mapping(search.get("correlations")).get("categories"))))
    scores = mapping(search.get("scores"))
    models = list(map(str, sequence(scores.get("models"))))
    dev = [[number(v) or 0.0 for v in sequence(r)] for r in sequence(scores.get("values"))]
    if not models or len(dev) != len(models) or {len(r) for r in dev} != {len(names)}:
        return None
    test = {
        str(m.get("stage")): _numbers(mapping(m.get("score")))
        for m in map(mapping, sequence(soce.result.get("members")))
    }
    routed, mine = [], []
    for i, category in enumerate(names):
        _, expert = max(zip((r[i] for r in dev), models, strict=True), key=lambda pair: pair[0])
        if category not in soup or category not in test.get(expert, {}):
            return None
        routed.append(test[expert][category])
        mine.append(soup[category])
    return (sum(routed) / len(routed), sum(mine) / len(mine)) if names else None
