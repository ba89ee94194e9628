"""The soup stage: an average of its parents' models, or the best of them where that is better.

`cook({"a": Path("runs/x/a/model"), ...}, Plan(), Path("soup"), None, Progress())` is the work.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.core.errors import UserError, nearest
from puna.core.files import crash_point
from puna.core.progress import Progress
from puna.core.stage import StageContext
from puna.core.stats import Difference, paired_difference
from puna.soup.experts import FEWEST
from puna.soup.merge import Merged, merge, require_free
from puna.soup.scores import Scores, read_scores
from puna.soup.search import Choice, Trials, Weights, barriers, best_alone, greedy, measured, soce

if TYPE_CHECKING:
    from puna.soup.taste import Part, Taste, Tasted

BY_CATEGORY = ("soce", "experts", "random")  # see `puna.soup.search.soce`
METHODS = ("uniform", "weighted", "best", "greedy", *BY_CATEGORY)
TAU = 0.3


@dataclass(frozen=True)
class Plan:
    """How members are chosen and weighted; `tau` and `scores` are of soce and its controls alone.

    `method` "" is weighted where there are weights, else uniform. With `revert` a soup that is
    worse than its best member gives way to it.
    """

    method: str = ""
    weights: tuple[float, ...] = ()
    tau: float = TAU
    scores: Scores | None = None
    revert: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError where the settings do not go together."""
        if self.method not in ("", *METHODS):
            raise ValueError(f"method is '{self.method}'; {nearest(self.method, METHODS)}")
        if self.weights and self.method not in ("", "weighted"):
            raise ValueError(f"method {self.method} takes no weights")
        if self.method == "weighted" and not self.weights:
            raise ValueError("method weighted needs weights")
        if self.weights and not math.fsum(self.weights):
            raise ValueError(f"weights {list(self.weights)} sum to 0")
        _refuse_scores(self.scores, self.method)
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau is {self.tau}, must be above 0 and at most 1")

    @property
    def searches(self) -> bool:
        """Whether shares are found, not given."""
        return self.method in ("best", "greedy", *BY_CATEGORY)


@dataclass(frozen=True)
class Config:
    """The parents' models are averaged: alike, by `weights`, or as a `method` finds on tasks.

    With `env` the last `eval_tasks` test tasks are played greedily by every member and by the soup,
    and the revert rule holds: if the 95 % interval of the paired difference, soup minus best member
    over those tasks, lies wholly below zero, the stage's model is the best member. In every other
    case it is the soup. The best member is the one with the highest mean (the first of equals),
    chosen on the same tasks, so its own score is flattered and the rule leans towards reverting; an
    eval stage scores both on others. Without `env` the soup is kept and nothing is measured; with
    `revert = false` it is measured and kept whatever comes out, as a study of soups needs it.

    The methods that search choose members and weights, and the best member, on every second one of
    these tasks, and the rule looks at the others. Scores of categories (a task's tag `by`, several
    with + between, or its first one) are measured there too, or read from the CSV file `scores`.
    """

    method: str = ""
    weights: tuple[float, ...] = ()
    scores: Path | None = None
    tau: float = TAU
    by: str = ""
    revert: bool = True
    env: str | Mapping[str, Any] | None = None
    eval_tasks: int = 200
    max_tokens: int = 32
    slots: int = 256

    def __post_init__(self) -> None:
        """Raises ValueError for a count below 1 or settings that do not go together."""
        from puna.train.loop import at_least_one

        at_least_one(self, "eval_tasks", "max_tokens", "slots")
        Plan(self.method, self.weights, self.tau)
        _refuse_scores(self.scores, self.method)


def _refuse_scores(scores: object, method: str) -> None:
    if scores is not None and method not in BY_CATEGORY:
        raise ValueError(f"scores are read by the methods {', '.join(BY_CATEGORY)} alone")


def run(ctx: StageContext, config: Config) -> dict[str, Any]:
    """Average the parents' models. Raises UserError for fewer than two, or two that do not fit."""
    table = read_scores(config.scores) if config.scores else None
    plan = Plan(config.method, config.weights, config.tau, table, config.revert, ctx.seed)
    taste = None
    if config.env is not None:
        from puna.gym.registry import load_environment
        from puna.soup.taste import Taste
        from puna.train.data import env_settings

        env = load_environment(*env_settings(config.env), ctx.seed)
        limits = (config.eval_tasks, config.max_tokens)
        taste = Taste(env, *limits, ctx.machine, ctx.seed, config.slots, config.by)
    members = {name: directory / "model" for name, directory in ctx.parents.items()}
    return cook(members, plan, ctx.dir / "model", taste, ctx.progress, ctx.id)


def cook(
    members: Mapping[str, Path],
    plan: Plan,
    out: Path,
    taste: Taste | None,
    progress: Progress,
    label: str = "soup",
) -> dict[str, Any]:
    """The soup of named model directories in `out`, or the best member: see `Config` for the rule.

    Returns the record of the stage: every member's share and score, the soup's, their difference,
    how shares were found, whether it was kept, and which model is in `out`. Raises UserError as
    `merge` does, and where a method lacks what it needs.
    """
    if len(members) < 2:
        raise UserError(f"{label}: a soup of {len(members)} model", 'name two: from = ["a", "b"]')
    if taste is None:
        return _unmeasured(members, plan, out, progress, label)
    _require_tasks(taste, plan, progress, label)
    require_free(out, list(members.values()))

    def trials(part: Part) -> Trials:
        place = out.with_name(f".{out.name}.trial.tmp")
        return Trials(members, place, taste.half(part), progress, label)

    if not plan.searches:
        weights = dict(zip(members, _given(members, plan), strict=True))
        return _measure(members, plan, Choice(weights), out, trials("all"), {})
    dev, test = trials("dev"), trials("test")
    choice = _choose(plan, dev)
    ranks = {name: found.average for name, found in dev.alone().items()}
    record = _measure(members, plan, choice, out, test, ranks)
    return record | {"search": {**choice.record, **_halves(choice, dev, record, test)}}


def _halves(choice: Choice, dev: Trials, record: Mapping[str, Any], test: Trials) -> dict[str, Any]:
    """What the search saw and what the other half says, and the losses between those chosen.

    `optimism` is the soup's mean over categories on the dev half minus that on the test half;
    `members_optimism` the same of the members on average, whom no search has chosen.
    """
    categories = record["soup"]["categories"]
    seen, said = dev(choice.weights).average, sum(categories.values()) / len(categories)
    members = {
        name: {"dev": found.average, "test": test({name: 1.0}).average}
        for name, found in dev.alone().items()
    }
    gaps = [found["dev"] - found["test"] for found in members.values()]
    return {
        "dev": seen,
        "test": said,
        "optimism": seen - said,
        "members_optimism": sum(gaps) / len(gaps),
        "members": members,
        "barriers": barriers(list(choice.weights), dev) if dev.taste.env.has_oracle else [],
    }


def _require_tasks(taste: Taste, plan: Plan, progress: Progress, label: str) -> None:
    """Raises UserError where the tasks do not do for the method."""
    from puna.evals.evaluate import all_there_are

    if fewer := all_there_are(taste.env, taste.tasks):
        progress.note(f"{label}: {fewer}")
    if not plan.searches:
        return
    if len(taste.half("all").span) < 2:
        what = f"{label}: method {plan.method} divides the tasks in two halves, and there is one"
        raise UserError(what, "play 2 or more")
    tags = taste.env.task("test", taste.span.start).tags
    for tag in taste.by.split("+") if taste.by else ():
        if tag not in tags:
            raise UserError(f"{taste.env.name} has no tag '{tag}'", nearest(tag, tags))
    if plan.method in BY_CATEGORY and plan.scores is None and not tags:
        what = f"{taste.env.name} has no tags, so its tasks have no categories"
        raise UserError(what, "give scores, or take method greedy")


def _choose(plan: Plan, tried: Trials) -> Choice:
    if plan.method == "best":
        return best_alone(tried)
    if plan.method == "greedy":
        return greedy(tried)
    names, pool = list(tried.members), plan.scores
    if pool is None and len(names) >= FEWEST:
        pool = measured(tried.alone())
    if pool is None:
        what = f"{tried.label}: correlations over {len(names)} models say nothing"
        raise UserError(what, f"take {FEWEST} members, or scores of more models, or method greedy")
    mine = pool.of(names)
    return soce(pool, mine, plan.tau, lambda w: tried(w).average, plan.seed, plan.method)


def _unmeasured(
    members: Mapping[str, Path], plan: Plan, out: Path, progress: Progress, label: str
) -> dict[str, Any]:
    choice = Choice(dict(zip(members, _given(members, plan), strict=True)))
    if plan.searches:
        if plan.scores is None:
            what = f"{label}: method {plan.method} chooses by what models score"
            raise UserError(
                what, f"name an environment (env), or for {', '.join(BY_CATEGORY)} a file of scores"
            )
        mine = plan.scores.of(list(members))
        choice = soce(plan.scores, mine, plan.tau, None, plan.seed, plan.method)
    merged = _merge(members, choice.weights, out)
    progress.note(f"{label}: {len(merged.members)} models averaged, not measured: no env")
    notes = [*merged.notes, *choice.notes]
    record = _record(plan, notes, _shares(members, choice.weights), kept=True, model="soup")
    return record | {"measured": False} | ({"search": choice.record} if plan.searches else {})


def _given(members: Mapping[str, Path], plan: Plan) -> Sequence[float]:
    """The weights that were given. Raises UserError where they are too few or too many."""
    if plan.weights and len(plan.weights) != len(members):
        what = f"{len(plan.weights)} weights for {len(members)} models"
        raise UserError(what, "give one for each, or none for equal shares")
    return plan.weights or (1.0,) * len(members)


def _measure(
    members: Mapping[str, Path],
    plan: Plan,
    choice: Choice,
    out: Path,
    tried: Trials,
    ranks: Mapping[str, float],
) -> dict[str, Any]:
    """Make the soup, compare it with the best member by `ranks` or else by the same tasks."""
    taste, progress, label = tried.taste, tried.progress, tried.label
    trial = out.with_name(f".{out.name}.soup.tmp")
    try:
        merged = _merge(members, choice.weights, trial)
        scores = tried.alone()
        soup = taste(trial, f"{label}: the soup", progress)
        ranks = ranks or {name: found.score.mean for name, found in scores.items()}
        best = max(scores, key=lambda name: ranks[name])
        difference = paired_difference(soup.values, scores[best].values)
        kept = not (plan.revert and reverts(difference))
        _serve(trial, members[best], out, kept)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    verdict = "kept" if kept else f"reverted to {best}: the soup is worse"
    progress.note(f"{label}: {soup.score}, best member {best} {scores[best].score}; {verdict}")
    model, shares = "soup" if kept else best, _shares(members, choice.weights, scores)
    record = _record(plan, [*merged.notes, *choice.notes], shares, kept=kept, model=model)
    return record | {
        "measured": True,
        "env": taste.identity,
        "tasks": len(soup.values) + soup.not_scored,
        "best_member": best,
        "soup": soup.to_json(),
        "difference": difference.to_json(),
    }


def reverts(difference: Difference) -> bool:
    """The rule: the interval of soup minus best member lies wholly below zero."""
    return difference.high < 0


def _merge(members: Mapping[str, Path], weights: Weights, out: Path) -> Merged:
    return merge([members[name] for name in weights], list(weights.values()), out)


def _serve(trial: Path, best: Path, out: Path, kept: bool) -> None:
    """Put the soup in place, or a copy of the best member (the average of it alone)."""
    if kept:
        shutil.rmtree(out, ignore_errors=True)  # of a try that was killed
        os.replace(trial, out)
    else:
        merge([best], None, out)
    crash_point("soup.served")


def _shares(
    members: Mapping[str, Path], weights: Weights, scores: Mapping[str, Tasted] | None = None
) -> list[dict[str, Any]]:
    total, out = sum(weights.values()), []
    for name in members:
        score = {"score": scores[name].to_json()} if scores else {}
        out.append({"stage": name, "weight": weights.get(name, 0.0) / total, **score})
    return out


def _record(
    plan: Plan,
    notes: Sequence[str],
    members: Sequence[Mapping[str, Any]],
    **found: Any,
) -> dict[str, Any]:
    method = plan.method or ("weighted" if plan.weights else "uniform")
    return {"method": method, "members": list(members), **found, "notes": list(notes)}
