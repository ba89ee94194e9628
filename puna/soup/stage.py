"""The soup stage: the average of its parents' models, or the best of them where that is better.

`make_soup(["runs/x/a", "runs/x/b"], Path("soup"), env="arithmetic")` is what `puna soup` calls.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.core.errors import UserError
from puna.core.files import crash_point
from puna.core.printable import printable
from puna.core.progress import Progress
from puna.core.runs import find_model, home_of
from puna.core.stage import Machine, StageContext, StageError
from puna.core.stats import Difference, Estimate, mean_interval, paired_difference, task_means
from puna.core.threads import set_threads
from puna.engine.policy import SamplingParams
from puna.evals.evaluate import (
    EvalResult,
    all_there_are,
    evaluate,
    failures,
    local_policy,
    place_on,
)
from puna.gym.environment import Environment
from puna.gym.loop import identity
from puna.gym.registry import load_environment
from puna.models import hf
from puna.soup.merge import merge, require_free
from puna.text.tokenizer import Tokenizer
from puna.train.data import env_settings
from puna.train.loop import at_least_one


@dataclass(frozen=True)
class Config:
    """The parents' models, weighted by `weights` (none: alike), are averaged.

    With `env` the last `eval_tasks` test tasks are played greedily by every member and by the soup,
    and the revert rule holds: if the 95 % interval of the paired difference, soup minus best member
    over those tasks, lies wholly below zero, the stage's model is the best member. In every other
    case it is the soup. The best member is the one with the highest mean (the first of equals),
    chosen on the same tasks, so its own score is flattered and the rule leans towards reverting; an
    eval stage scores both on others. Without `env` the soup is kept and nothing is measured.
    """

    weights: tuple[float, ...] = ()
    env: str | Mapping[str, Any] | None = None
    eval_tasks: int = 200
    max_tokens: int = 32
    slots: int = 256

    def __post_init__(self) -> None:
        """Raises ValueError for a count below 1 or weights that no average has."""
        if self.weights and not math.fsum(self.weights):
            raise ValueError(f"weights {list(self.weights)} sum to 0")
        at_least_one(self, "eval_tasks", "max_tokens", "slots")


@dataclass(frozen=True)
class Taste:
    """Plays the last `tasks` test tasks of `env`, greedily: what members and soup are judged by."""

    env: Environment
    tasks: int
    max_tokens: int
    machine: Machine
    seed: int
    slots: int = 256

    def __call__(self, model: Path, label: str, progress: Progress) -> Tasted:
        """The score of a model's directory. Raises StageError where no task was scored."""
        loaded, _ = hf.load(model)
        tokenizer = Tokenizer.load(model).require_chat(model)
        sampler, meet = local_policy(
            place_on(loaded, self.machine), tokenizer, self.seed, self.slots
        )
        found = evaluate(
            self.env,
            dict.fromkeys(self.env.roles, sampler),
            n=self.tasks,
            first=max(0, self.env.count("test") - self.tasks),
            params=SamplingParams(self.max_tokens, 0.0),
            meet=meet,
            workers=self.machine.workers,
            progress=lambda done, total, mean: progress.step(label, done, total, {"score": mean}),
        )
        values = _values(found)
        if not values:
            why = "; ".join(r for o in found.outcomes.values() for r in failures(o)[:1])
            raise StageError(f"{label}: no task of {self.env.name} was scored: {why}")
        played = max(len(tasks) for tasks in found.outcomes.values())
        return Tasted(values, mean_interval([[v] for v in values.values()]), played - len(values))


@dataclass(frozen=True)
class Tasted:
    """Task -> mean over roles, the mean over tasks, and the tasks that have no score."""

    values: Mapping[str, float]
    score: Estimate
    not_scored: int

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary without the single tasks."""
        return {**self.score.__dict__, "not_scored": self.not_scored}


def _values(found: EvalResult) -> dict[str, float]:
    by_role = [task_means(tasks) for tasks in found.outcomes.values()]
    common = [t for t in by_role[0] if all(t in means for means in by_role)]
    return {t: sum(means[t] for means in by_role) / len(by_role) for t in common}


def run(ctx: StageContext, config: Config) -> dict[str, Any]:
    """Average the parents' models. Raises UserError for fewer than two, or two that do not fit."""
    taste = None
    if config.env is not None:
        env = load_environment(*env_settings(config.env), ctx.seed)
        taste = Taste(
            env, config.eval_tasks, config.max_tokens, ctx.machine, ctx.seed, config.slots
        )
    members = {name: directory / "model" for name, directory in ctx.parents.items()}
    return cook(members, config.weights or None, ctx.dir / "model", taste, ctx.progress, ctx.id)


def cook(
    members: Mapping[str, Path],
    weights: Sequence[float] | None,
    out: Path,
    taste: Taste | None,
    progress: Progress,
    label: str = "soup",
) -> dict[str, Any]:
    """The soup of named model directories in `out`, or the best member: see `Config` for the rule.

    Returns the record of the stage: every member's share and score, the soup's, their difference,
    whether it was kept, and which model is in `out`. Raises UserError as `merge` does.
    """
    models = list(members.values())
    if len(models) < 2:
        raise UserError(f"{label}: a soup of {len(models)} model", 'name two: from = ["a", "b"]')
    if taste is None:
        merged = merge(models, weights, out)
        shares = _shares(members, merged.weights)
        progress.note(f"{label}: {len(models)} models averaged, not measured: no env")
        return _record(merged.notes, shares, kept=True, model="soup", measured=False)
    if fewer := all_there_are(taste.env, taste.tasks):
        progress.note(f"{label}: {fewer}")
    require_free(out, models)
    trial = out.with_name(f".{out.name}.soup.tmp")
    try:
        merged = merge(models, weights, trial)
        scores = {n: taste(m, f"{label}: {n}", progress) for n, m in members.items()}
        soup = taste(trial, f"{label}: the soup", progress)
        best = max(scores, key=lambda n: scores[n].score.mean)
        difference = paired_difference(soup.values, scores[best].values)
        kept = not reverts(difference)
        _serve(trial, members[best], out, kept)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    verdict = "kept" if kept else f"reverted to {best}: the soup is worse"
    progress.note(f"{label}: {soup.score}, best member {best} {scores[best].score}; {verdict}")
    return _record(
        merged.notes,
        _shares(members, merged.weights, scores),
        kept=kept,
        model="soup" if kept else best,
        measured=True,
        env=identity(taste.env),
        tasks=len(soup.values) + soup.not_scored,
        best_member=best,
        soup=soup.to_json(),
        difference=difference.to_json(),
    )


def reverts(difference: Difference) -> bool:
    """The rule: the interval of soup minus best member lies wholly below zero."""
    return difference.high < 0


def _serve(trial: Path, best: Path, out: Path, kept: bool) -> None:
    """Put the soup in place, or a copy of the best member (the average of it alone)."""
    if kept:
        shutil.rmtree(out, ignore_errors=True)  # of a try that was killed
        os.replace(trial, out)
    else:
        merge([best], None, out)
    crash_point("soup.served")


def _shares(
    members: Mapping[str, Path],
    weights: Sequence[float],
    scores: Mapping[str, Tasted] | None = None,
) -> list[dict[str, Any]]:
    out = []
    for name, weight in zip(members, weights, strict=True):
        score = {"score": scores[name].to_json()} if scores else {}
        out.append({"stage": name, "weight": weight, **score})
    return out


def _record(
    notes: Sequence[str], members: Sequence[Mapping[str, Any]], **found: Any
) -> dict[str, Any]:
    return {"members": list(members), **found, "notes": list(notes)}


def make_soup(
    targets: Sequence[str | Path],
    out: Path,
    weights: Sequence[float] | None = None,
    *,
    env: str = "",
    n: int = 200,
    max_tokens: int = 32,
    settings: Mapping[str, Any] | None = None,
    progress: str = "quiet",
) -> dict[str, Any]:
    """The soup of runs, stages or checkpoint directories in `out`; returns what `cook` does.

    With `env` the last `n` of its test tasks decide between the soup and its best member, played as
    the run of the first target plays them. Raises UserError for whatever the caller can mend.
    """
    if n < 1 or max_tokens < 1:
        raise UserError(f"n is {n} and max_tokens is {max_tokens}", "give at least 1")
    found = [find_model(Path(t)) for t in targets]
    members: dict[str, Path] = {}
    for (model, label), target in zip(found, targets, strict=True):
        members[label if label not in members else _another(str(target), members)] = model
    show = Progress(progress)
    try:
        taste = None
        if env and found:
            home = home_of(found[0][0])
            set_threads(home.machine.threads)
            environment = load_environment(env, settings, home.seed)
            taste = Taste(environment, n, max_tokens, home.machine, home.seed)
        return cook(members, weights, out, taste, show)
    finally:
        show.close()


def _another(name: str, taken: Mapping[str, Any]) -> str:
    """`name`, numbered where it is taken: a member may be given twice."""
    names = (name if i == 1 else f"{name} ({i})" for i in range(1, len(taken) + 2))
    return next(candidate for candidate in names if candidate not in taken)


def print_soup(record: Mapping[str, Any], out: Path) -> None:
    """What a soup was made of, how it was judged, and where it is."""
    lines = [f"note: {note}" for note in record["notes"]]
    for member in record["members"]:
        share = f"{member['weight']:.3f} of {member['stage']}"
        lines.append(f"  {share}{_told(member.get('score'))}")
    if record["measured"]:
        lines.append(f"  the soup{_told(record['soup'])}")
        difference = Difference(**record["difference"])
        lines.append(f"  the soup minus {record['best_member']}: {difference}")
        what = "kept: the soup" if record["kept"] else f"reverted: a copy of {record['model']}"
        lines.append(f"{what} is in {out}")
    else:
        lines.append(f"not measured (--env NAME measures it): the soup is in {out}")
    for line in lines:
        print(printable(line))


def _told(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return ""
    lost = f", {score['not_scored']} tasks not scored" if score["not_scored"] else ""
    span = f"[{score['low']:.3f}, {score['high']:.3f}]"
    return f": {score['mean']:.3f} {span} over {score['n_tasks']} tasks{lost}"
