"""Choosing members and weights on a dev half: greedy soup, and soup of category experts.

`tried = Trials(members, place, taste, progress, "soup"); greedy(list(members), tried)`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from puna.core.progress import Progress
from puna.core.rng import stream
from puna.soup.experts import correlate, experts, grid, selected, weak
from puna.soup.merge import merge
from puna.soup.scores import Scores
from puna.soup.tensors import is_adapter

if TYPE_CHECKING:
    from puna.soup.taste import Taste, Tasted

Weights = Mapping[str, float]
ALONG = (0.25, 0.5, 0.75)  # where the loss is taken between two members


@dataclass(frozen=True)
class Choice:
    """Weights of the members that go in, and how they were found."""

    weights: Weights
    record: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass
class Trials:
    """Soups of `members` by their weights, each merged at `place` and tasted once."""

    members: Mapping[str, Path]
    place: Path
    taste: Taste
    progress: Progress
    label: str
    _known: dict[tuple[tuple[str, float], ...], Tasted] = field(default_factory=dict)

    def __call__(self, weights: Weights) -> Tasted:
        """The scores of a soup; of one member alone those of its own files."""
        key = tuple(weights.items())
        if key not in self._known:
            with self._mixed(weights) as model:
                label = f"{self.label}: {told(weights)}"
                self._known[key] = self.taste(model, label, self.progress)
        return self._known[key]

    def alone(self) -> dict[str, Tasted]:
        """Every member's scores."""
        return {name: self({name: 1.0}) for name in self.members}

    def loss(self, weights: Weights) -> float:
        """The loss of a soup: see `Taste.loss`."""
        with self._mixed(weights) as model:
            return self.taste.loss(model)

    @contextmanager
    def _mixed(self, weights: Weights) -> Iterator[Path]:
        models = [self.members[name] for name in weights]
        if len(models) == 1 and not is_adapter(models[0]):
            yield models[0]
            return
        try:
            merge(models, list(weights.values()), self.place)
            yield self.place
        finally:
            shutil.rmtree(self.place, ignore_errors=True)


def told(weights: Weights) -> str:
    """`0.3 a + 0.7 b`, or the one name."""
    if len(weights) == 1:
        return next(iter(weights))
    total = sum(weights.values())
    return " + ".join(f"{weight / total:.3g} {name}" for name, weight in weights.items())


def alike(names: Sequence[str]) -> dict[str, float]:
    """Equal weights."""
    return dict.fromkeys(names, 1.0)


def best_alone(tried: Trials) -> Choice:
    """The member with the highest mean over categories, alone; the first of equals."""
    scores = {name: found.average for name, found in tried.alone().items()}
    return Choice({max(scores, key=lambda name: scores[name]): 1.0})


def greedy(tried: Trials) -> Choice:
    """Members from the best on, each kept where the equal soup is no worse with it.

    Wortsman et al. 2022, recipe 1. The score is the mean over categories.
    """
    scores = {name: found.average for name, found in tried.alone().items()}
    first, *rest = sorted(scores, key=lambda n: -scores[n])
    kept, best = [first], scores[first]
    steps = [{"added": first, "score": best, "kept": True}]
    for name in rest:
        found = tried(alike([*kept, name])).average
        steps.append({"added": name, "score": found, "kept": found >= best})
        if found >= best:
            kept, best = [*kept, name], found
    return Choice(alike(kept), {"steps": steps})


def soce(
    pool: Scores,
    mine: Scores,
    tau: float,
    score: Callable[[Weights], float] | None,
    seed: int = 0,
    method: str = "soce",
) -> Choice:
    """Experts of weakly correlated categories, with the weights that score best (arXiv 2511.13254).

    Correlations are over the models of `pool`, experts are of `mine`, the members. `score` is asked
    for equal weights and for every weighting of the grid, the first of equals is taken; without it
    weights are equal. Where no two categories are weakly correlated it is the best member alone.
    Two methods are its controls, each without a step: "experts" without the search, with equal
    weights; "random" without the selection, with as many members drawn at random.
    Raises UserError for a pool of fewer than four models.
    """
    found = correlate(pool, seed)
    weakly = weak(found, tau)
    chosen = experts(mine, weakly)
    notes = [*pool.notes, *(f"{c} is the same for every model: left out" for c in found.constant)]
    names = selected(chosen, mine.models)
    if not names:
        names = [mine.models[int(np.argmax(mine.values.mean(1)))]]
        notes.append(f"no two categories correlate by less than {tau:g}: the best member alone")
    record: dict[str, Any] = {
        "tau": tau,
        "correlations": found.to_json(),
        "weak": weakly,
        "experts": chosen,
        "scores": {"models": list(mine.models), "values": mine.values.tolist()},
    }
    if method == "random":
        drawn = stream(seed, "soup", "random").permutation(len(mine.models))[: len(names)]
        names = record["drawn"] = [mine.models[i] for i in sorted(drawn.tolist())]
    uneven = [w for w in grid(len(names)) if len(set(w)) > 1]
    candidates = [alike(names), *(dict(zip(names, w, strict=True)) for w in uneven)]
    if score is None or method == "experts":
        return Choice(candidates[0], record, tuple(notes))
    scored = [score(weights) for weights in candidates]
    tried = [{"weights": w, "score": s} for w, s in zip(candidates, scored, strict=True)]
    return Choice(candidates[int(np.argmax(scored))], record | {"tried": tried}, tuple(notes))


def measured(tasted: Mapping[str, Tasted]) -> Scores:
    """A table of what members scored, over the categories that all of them have."""
    tables = [found.categories for found in tasted.values()]
    common = tuple(c for c in tables[0] if all(c in table for table in tables))
    values = np.array([[table[c] for c in common] for table in tables])
    return Scores(tuple(tasted), common, values)


def barriers(names: Sequence[str], tried: Trials) -> list[dict[str, Any]]:
    """Of every two members: how far the loss between them rises above the line, in nats a token.

    max over a of L(a x + (1 - a) y) - (a L(x) + (1 - a) L(y)) (Frankle et al. 2020), at the
    quarters. About 0 or less: they lie in one basin and can be mixed.
    """
    ends = {name: tried.loss({name: 1.0}) for name in names}
    out = []
    for one, two in combinations(names, 2):
        rises = [
            tried.loss({one: a, two: 1 - a}) - (a * ends[one] + (1 - a) * ends[two]) for a in ALONG
        ]
        out.append({"members": [one, two], "barrier": max(rises)})
    return out
