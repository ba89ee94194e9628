"""The figures of a table of vectors, a section a function: each yields numbers, or what it lacks.

`list(reliability(Work(table, None, seed=0)))` -> Figures, and texts for what cannot be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from puna.core.stats import mean_interval

from .measures import (
    bootstrap,
    chance_mrr,
    correlations,
    effect_size,
    explained,
    folds_of,
    held_out_auc,
    held_out_guesses,
    icc,
    kappa,
    linear_cka,
    mantel,
    reciprocal_ranks,
    residuals,
    spearman_brown,
    spread,
)
from .tables import Floats, Ints, Table

RELIABLE = 0.7
CONTROLS = {
    "content": "the same from the content columns",
    "nuisances": "the same from the nuisances",
    "residual": "from the vectors without the nuisances",
}
FEWEST_OF_A_CLASS, FEWEST_PAIRS = 5, 4


@dataclass(frozen=True)
class Figure:
    """One number of the report, with a 95 % interval over users where it has one, and a reading."""

    section: str
    name: str
    value: float
    reading: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Work:
    """The table, and what several sections need of it."""

    table: Table
    other: Table | None
    seed: int

    @cached_property
    def mean_ND(self) -> Floats:
        """Mean vector of each user."""
        return self.table.mean_by_user(self.table.vectors_RD)

    @cached_property
    def fold_N(self) -> Ints:
        """The fold in which each user is held out."""
        return folds_of(self.table.users, self.seed)

    @cached_property
    def repeated(self) -> NDArray[np.bool_]:
        """The users with two or more windows."""
        return np.bincount(self.table.owner_R) >= 2

    @cached_property
    def ends(self) -> tuple[Floats, Floats]:
        """First and last window's vectors of the users with several, (M, D) each."""
        owner = self.table.owner_R
        users = np.flatnonzero(self.repeated)
        first = np.searchsorted(owner, users)
        last = np.searchsorted(owner, users, side="right") - 1
        return self.table.vectors_RD[first], self.table.vectors_RD[last]

    @cached_property
    def halves(self) -> tuple[Floats, Floats]:
        """Mean vectors of the windows with even and with odd place, (M, D) each."""
        table, odd = self.table, self.table.place_R() % 2 == 1
        parts = []
        for rows in (~odd, odd):
            total = np.zeros((table.users, table.vectors_RD.shape[1]))
            np.add.at(total, table.owner_R[rows], table.vectors_RD[rows])
            count = np.bincount(table.owner_R[rows], minlength=table.users)
            parts.append(total[self.repeated] / count[self.repeated, None])
        return parts[0], parts[1]

    @cached_property
    def own_ranks(self) -> Floats:
        """1 / rank of each of those users' last window, asked with the first."""
        return reciprocal_ranks(*self.ends)

    def boot(self, statistic: Callable[[Ints], float], users: int) -> tuple[float, float]:
        """The interval of a statistic of `users` users, given their indices."""
        return bootstrap(statistic, users, self.seed)

    def guesses(self, x_ND: Floats, label: str) -> Floats:
        """Held-out guesses of a label from vectors, (N,)."""
        return held_out_guesses(x_ND, self.table.labels_N[label][:, None], self.fold_N)[:, 0]

    @cached_property
    def label_guesses(self) -> Mapping[str, Floats]:
        """The same from the users' mean vectors, for each label that can be predicted."""
        return {name: self.guesses(self.mean_ND, name) for name in self.predictable}

    @cached_property
    def predictable(self) -> tuple[str, ...]:
        """The labels that vary enough."""
        return tuple(k for k, v in self.table.labels_N.items() if not _why_not(v))

    def is_binary(self, label: str) -> bool:
        """Whether a label is yes or no."""
        return bool(np.isin(self.table.labels_N[label], (0, 1)).all())


Found = Iterator[Figure | str]


def reliability(work: Work) -> Found:
    """Internal, by halves; test-retest, by first and last window; re-identification."""
    if work.repeated.sum() < FEWEST_PAIRS:
        yield "reliability and re-identification: needs two or more windows of a user (`window`)"
        return
    section = "reliability"
    even, odd = work.halves
    alive = (spread(even) > 0) & (spread(odd) > 0)
    if alive.any():
        each = spearman_brown(correlations(even, odd))[alive]
        share = float((each > RELIABLE).mean())

        def half(users: Ints) -> float:
            return float(np.median(spearman_brown(correlations(even[users], odd[users]))[alive]))

        interval = work.boot(half, len(even))
        reading = "Spearman-Brown, median over dimensions"
        yield Figure(section, "split_half", float(np.median(each)), reading, *interval)
        yield Figure(section, "split_half_share", share, f"of dimensions above {RELIABLE}")
    if not alive.all():
        yield Figure(section, "dead_dimensions", float((~alive).sum()), "they never vary")
    pair = np.stack(work.ends, axis=1)
    interval = work.boot(lambda users: icc(pair[users]), len(pair))
    yield Figure(section, "icc", icc(pair), "test-retest, first and last window", *interval)
    ranks = work.own_ranks
    mrr = mean_interval(ranks[:, None].tolist())
    reading = f"re-identification among {len(ranks)}; chance {chance_mrr(len(ranks)):.3f}"
    yield Figure(section, "reid_mrr", mrr.mean, reading, mrr.low, mrr.high)
    top = mean_interval((ranks == 1).astype(float)[:, None].tolist())
    yield Figure(section, "reid_top1", top.mean, "own window first", top.low, top.high)


def agreement(work: Work) -> Found:
    """What two trainings have in common."""
    if work.other is None:
        yield "agreement of two trainings: needs the same users' vectors from another (`other`)"
        return
    mean = work.other.mean_by_user(work.other.vectors_RD)
    cka = linear_cka(work.mean_ND, mean)
    yield Figure("agreement", "cka", cka, "alignment with the other training")
    each = [_agreement(work, mean, label) for label in work.predictable if work.is_binary(label)]
    if each:
        reading = "Cohen's, of what the two trainings predict"
        yield Figure("agreement", "kappa", float(np.mean(each)), reading)


def _agreement(work: Work, other_ND: Floats, label: str) -> float:
    rate = work.table.labels_N[label].mean()
    sides = [work.label_guesses[label], work.guesses(other_ND, label)]
    a, b = (guess > np.quantile(guess, 1 - rate) for guess in sides)
    return kappa(a, b)


def validity(work: Work) -> Found:
    """Content, convergent, known groups, discriminant."""
    table, section = work.table, "validity"
    row_fold = work.fold_N[table.owner_R]
    if table.contents_RC:
        contents = np.column_stack(list(table.contents_RC.values()))
        r2 = explained(contents, held_out_guesses(table.vectors_RD, contents, row_fold))
        reading = f"content: median R2 of {len(r2)} columns, from the vector"
        yield Figure(section, "content_r2", float(np.median(r2)), reading)
        r = mantel(work.mean_ND, table.mean_by_user(contents))
        yield Figure(section, "mantel", r, "convergent: distances between users, as by content")
    else:
        yield "content and convergent validity: needs columns `content_*`, such as counts of events"
    for name, group in table.groups_N.items():
        d = _known_groups(work, group)
        if d is None:
            yield f"known groups by {name}: needs two groups of {FEWEST_OF_A_CLASS} users or more"
        else:
            reading = "known groups: Cohen's d of a held-out score, mean over groups"
            yield Figure(section, f"effect_{name}", d, reading)
    for name, nuisance in table.nuisances_RC.items():
        column = nuisance[:, None]
        r2 = explained(column, held_out_guesses(table.vectors_RD, column, row_fold))
        reading = "discriminant: R2 of what the vector should not hold"
        yield Figure(section, f"nuisance_{name}", float(r2[0]), reading)
    if not table.nuisances_RC:
        yield "discriminant validity: needs columns `nuisance_*`, such as the window's length"
    if not table.groups_N:
        yield "known groups and invariance: needs columns `group_*`"


def _known_groups(work: Work, group_N: NDArray[np.str_]) -> float | None:
    levels, counts = np.unique(group_N, return_counts=True)
    enough = (counts >= FEWEST_OF_A_CLASS) & (len(group_N) - counts >= FEWEST_OF_A_CLASS)
    if not enough.any():
        return None
    member = np.stack([group_N == level for level in levels[enough]], axis=1)
    scores = held_out_guesses(work.mean_ND, member.astype(np.float64), work.fold_N)
    return float(np.mean([effect_size(s, m) for s, m in zip(scores.T, member.T, strict=True)]))


def _why_not(label_N: Floats) -> str:
    if np.isin(label_N, (0, 1)).all():
        least = int(min(label_N.sum(), (1 - label_N).sum()))
        return f"one class has {least} users" if least < FEWEST_OF_A_CLASS else ""
    return "" if spread(label_N[:, None])[0] > 0 else "it is the same for all"


def prediction(work: Work) -> Found:
    """Each label from the vectors of other users, beside what is simpler."""
    table, section = work.table, "prediction"
    if not table.labels_N:
        yield "predictive validity: needs columns `label_*`, of what came after the windows"
    for name, label in table.labels_N.items():
        if _why_not(label):
            yield f"label {name}: {_why_not(label)}"
    controls = _controls(work)
    means: dict[str, list[float]] = {}
    for name in work.predictable:
        score, kind = _scorer(work, name)
        guess = work.label_guesses[name]
        everyone = np.arange(table.users)
        interval = work.boot(lambda users, s=score, g=guess: s(users, g), table.users)  # type: ignore[misc]
        reading = "AUC, chance 0.5" if kind == "auc" else "R2, chance 0"
        value = score(everyone, guess)
        yield Figure(section, f"{kind}_{name}", value, f"{reading}; users held out", *interval)
        means.setdefault(f"predict_{kind}", []).append(value)
        for control, x in controls.items():
            value = score(everyone, work.guesses(x, name))
            yield Figure(section, f"{kind}_{name}_{control}", value, CONTROLS[control])
            means.setdefault(f"predict_{kind}_{control}", []).append(value)
    for mean, values in means.items():
        yield Figure(section, mean, float(np.mean(values)), f"mean over {len(values)} labels")


def _controls(work: Work) -> Mapping[str, Floats]:
    """What a label is predicted from besides the vectors, (N, C) by name."""
    table, out = work.table, {}
    if table.contents_RC:
        out["content"] = table.mean_by_user(np.column_stack(list(table.contents_RC.values())))
    if table.nuisances_RC:
        nuisances = table.mean_by_user(np.column_stack(list(table.nuisances_RC.values())))
        out |= {"nuisances": nuisances, "residual": residuals(work.mean_ND, nuisances)}
    return out


def _scorer(work: Work, name: str) -> tuple[Callable[[Ints, Floats], float], str]:
    label = work.table.labels_N[name]

    def area(users: Ints, guess: Floats) -> float:
        return held_out_auc(guess[users], label[users], work.fold_N[users])

    def share(users: Ints, guess: Floats) -> float:
        return float(explained(label[users, None], guess[users, None])[0])

    return (area, "auc") if work.is_binary(name) else (share, "r2")


def invariance(work: Work) -> Found:
    """What differs between a group and the others."""
    section = "invariance"
    for name, group in work.table.groups_N.items():
        levels, counts = np.unique(group, return_counts=True)
        inside = group == levels[np.argmax(counts)]
        reading = f"group '{levels[np.argmax(counts)]}' less the others; 0 is fair"
        if len(levels) < 2:
            yield f"invariance by {name}: all users are in one group"
            continue
        if work.repeated.sum() >= FEWEST_PAIRS:
            side = inside[work.repeated]
            gap = _mean_gap(work.own_ranks, side)
            if np.isfinite(gap):
                interval = work.boot(
                    lambda users, s=side: _mean_gap(work.own_ranks[users], s[users]),  # type: ignore[misc]
                    len(side),
                )
                yield Figure(section, f"mrr_gap_{name}", gap, f"MRR, {reading}", *interval)
        gaps = [_area_gap(work, label, inside) for label in work.predictable]
        gaps = [gap for gap in gaps if np.isfinite(gap)]
        if gaps:
            reading = f"AUC, {reading}; mean over {len(gaps)} labels"
            yield Figure(section, f"auc_gap_{name}", float(np.mean(gaps)), reading)


def _mean_gap(values: Floats, inside: NDArray[np.bool_]) -> float:
    if not inside.any() or inside.all():
        return float("nan")
    return float(values[inside].mean() - values[~inside].mean())


def _area_gap(work: Work, name: str, inside: NDArray[np.bool_]) -> float:
    """AUC of a label in the group less that outside; not a number where one cannot be told."""
    label, guess = work.table.labels_N[name], work.label_guesses[name]
    if not work.is_binary(name) or any(_why_not(label[side]) for side in (inside, ~inside)):
        return float("nan")
    a, b = (held_out_auc(guess[s], label[s], work.fold_N[s]) for s in (inside, ~inside))
    return a - b
