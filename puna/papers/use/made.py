"""Made users whose truth is known: hidden intents, personal habits, drift, and planted labels.

`log = make_log(0, "test", users=200, periods=32, period=250)`; `likelihoods(log, 16, 16)` is what
who knows everybody's habits can tell from the last 16 periods: the best re-identification there is.

A user moves between eight intents. An intent lasts two phases of geometric length and emits events
of its own kinds. Who the user is shows in which intent follows which, hardly in how frequent each
is: the habits' matrix is doubly stochastic but for a small personal taste.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from puna.core.rng import stream

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

INTENTS, EVENTS, COHORTS = 8, 200, 4
MOTIF = (197, 198, 199)  # events that no intent emits
LEAVE = 0.35  # chance to leave one of the two phases of an intent
HABIT, TASTE, DRIFT = 1.0, 0.25, 0.7  # log-normal spreads
MOTIF_RATE = 0.01
CHURN_FLOOR = 0.2


@dataclass(frozen=True)
class Log:
    """Made users. N users, P periods of equal length.

    `events_NT` (T all events); `habits_NPJJ`: from which intent to which, in each period;
    `emit_JV`: events of an intent; `labels`: one number a user by task.
    """

    events_NT: Ids
    habits_NPJJ: Floats
    emit_JV: Floats
    labels: dict[str, Floats]
    period: int


def make_log(
    seed: int, part: str, users: int, periods: int, period: int, fresh: int | None = None
) -> Log:
    """Draw users and their events. At the period `fresh` every user starts in a random intent.

    The world (what intents emit, what cohorts do) depends on `seed` alone; each `part` has users of
    its own in it. `engagement` is the share of events of intent 1 in the second half.
    """
    world, random = stream(seed, "use-world"), stream(seed, "use-users", part)
    emit = np.zeros((INTENTS, EVENTS))
    emit[:, : MOTIF[0]] = world.dirichlet(np.full(MOTIF[0], 0.1), size=INTENTS)
    base = balanced(np.exp(HABIT * world.standard_normal((COHORTS, INTENTS, INTENTS))))
    labels = {
        "cohort": random.integers(COHORTS, size=users).astype(float),
        "flag": (random.random(users) < 0.2).astype(float),
        "churn": (random.random(users) < 0.3).astype(float),
        "drift": (random.random(users) < 0.5).astype(float),
    }
    habits = _habits(base[labels["cohort"].astype(int)], labels, periods, random)
    events = _emit(habits, emit, period, periods if fresh is None else fresh, random)
    _plant_motif(events, labels["flag"] > 0, random)
    later = events[:, events.shape[1] // 2 :]
    mine = (emit.argmax(axis=0) == 1) & (emit.sum(axis=0) > 0)
    labels["engagement"] = mine[later].mean(axis=1)
    return Log(events, habits, emit, labels, period)


def balanced(weights: Floats) -> Floats:
    """Matrices (..., J, J) without diagonal whose rows and columns sum to 1 (Sinkhorn 1964)."""
    out = weights * (1.0 - np.eye(weights.shape[-1]))
    for _ in range(200):
        out = out / out.sum(axis=-1, keepdims=True)
        out = out / out.sum(axis=-2, keepdims=True)
    return out / out.sum(axis=-1, keepdims=True)


def _habits(
    base: Floats, labels: dict[str, Floats], periods: int, random: np.random.Generator
) -> Floats:
    """(N, P, J, J): a personal matrix, drifting for some users, intent 0 fading for churners."""
    n = len(base)
    noise, turn = random.standard_normal((2, n, INTENTS, INTENTS))
    taste = np.exp(TASTE * random.standard_normal((n, 1, INTENTS)))
    first = balanced(base * np.exp(HABIT * noise))
    last = balanced(first * np.exp(DRIFT * turn * labels["drift"][:, None, None]))
    time = np.linspace(0.0, 1.0, periods)[None, :, None, None]
    out = ((1 - time) * first[:, None] + time * last[:, None]) * taste[:, None]
    fade = 1.0 - labels["churn"][:, None] * (1.0 - CHURN_FLOOR) * time[0, :, 0, 0][None]
    out[..., 0] *= fade[:, :, None]
    made: Floats = out / out.sum(axis=-1, keepdims=True)
    return made


def _emit(
    habits: Floats, emit: Floats, period: int, fresh: int, random: np.random.Generator
) -> Ids:
    n, periods = habits.shape[:2]
    ranks, columns = emit.cumsum(axis=1), habits.cumsum(axis=-1)
    events = np.zeros((n, periods * period), dtype=np.int64)
    intent, phase = random.integers(INTENTS, size=n), np.zeros(n, dtype=np.int64)
    for t in range(periods * period):
        if t == fresh * period:
            intent, phase = random.integers(INTENTS, size=n), np.zeros(n, dtype=np.int64)
        draw = random.random((3, n))
        events[:, t] = _pick(ranks[intent], draw[0])
        leaves = draw[1] < LEAVE
        following = _pick(columns[np.arange(n), t // period, intent], draw[2])
        intent = np.where(leaves & (phase == 1), following, intent)
        phase = np.where(leaves, 1 - phase, phase)
    return events


def _pick(cumulated: Floats, draw: Floats) -> Ids:
    """(N,): the first place of each row whose sum is above the draw."""
    picked: Ids = (cumulated < draw[:, None] * cumulated[:, -1:]).sum(axis=1)
    return picked


def _plant_motif(events: Ids, flagged: NDArray[np.bool_], random: np.random.Generator) -> None:
    """Write the motif over events here and there; in those who are not flagged it runs backwards.

    So counts of events do not tell who is flagged.
    """
    n, length = events.shape
    for row in range(n):
        count = random.binomial(length // len(MOTIF), MOTIF_RATE)
        places = random.choice(length // len(MOTIF), size=count, replace=False) * len(MOTIF)
        for place in places:
            events[row, place : place + 3] = MOTIF if flagged[row] else MOTIF[::-1]


def likelihoods(log: Log, first: int, periods: int) -> Floats:
    """(N, N): log P(events of user u in these periods | habits of user v), exactly.

    The forward algorithm over (intent, phase) from a uniform intent, as `make_log` starts a fresh
    period. A place of the motif says nothing of intents; its order says who is flagged.
    """
    n = len(log.events_NT)
    events = log.events_NT[:, first * log.period : (first + periods) * log.period]
    # a, b: phases 0 and 1; candidates first, so that a step is one batched product of matrices.
    a = np.full((n, n, INTENTS), 1.0 / INTENTS, dtype=np.float32)
    b = np.zeros_like(a)
    total = np.zeros((n, n))
    emit = np.where(np.arange(EVENTS) < MOTIF[0], log.emit_JV, 1.0).astype(np.float32)
    habits = log.habits_NPJJ.astype(np.float32)
    for t in range(events.shape[1]):
        seen = emit[:, events[:, t]].T[None]
        a, b = a * seen, b * seen
        scale = a.sum(axis=-1) + b.sum(axis=-1)
        total += np.log(scale)
        a, b = a / scale[..., None], b / scale[..., None]
        moved = np.float32(LEAVE) * b @ habits[:, first + t // log.period]
        b = np.float32(1 - LEAVE) * b + np.float32(LEAVE) * a
        a = np.float32(1 - LEAVE) * a + moved
    flag = log.labels["flag"]
    shown = (events >= MOTIF[0]).any(axis=1)
    wrong = (flag[:, None] != flag[None, :]) & shown[None, :]
    total[wrong] = -np.inf
    found: Floats = total.T
    return found
