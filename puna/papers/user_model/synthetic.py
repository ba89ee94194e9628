"""A made log whose users are known exactly, so that what can be known of them has a ceiling.

`log, truth = make_log(users=600, events=2048, seed=0)`; `truth.own_ranks(windows)` is the ceiling.

N users, T events, K intents of M events each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from puna.core.ranks import ranks_of_own
from puna.core.rng import stream

from .logs import WINDOWS, Log, Windows
from .tables import Floats, Ints

INTENTS, EACH = 8, 8
COUPLING = 0.6
DRIFT = 0.5


@dataclass(frozen=True)
class Truth:
    """How each user of the log behaves.

    An event belongs to one intent. At each event the user stays with the intent (chance stay_N) or
    draws one from a mixture, softmax(taste_NK + drift_NK x (t/T - 1/2)). Where the intent is that
    of the event before, its partner follows with chance COUPLING, else any of the intent; which
    partner is the user's habit_NK. So counts show the taste, and only order shows stay and habit;
    and behaviour reads the same backwards, but for the drift.
    expected_N: the chance of a label, or its mean, by name: what is best to predict.
    """

    stay_N: Floats
    taste_NK: Floats
    drift_NK: Floats
    habit_NK: Ints
    events: int
    expected_N: Mapping[str, Floats]

    def only(self, users: Ints) -> Truth:
        """The truth of these users alone."""
        expected = {name: values[users] for name, values in self.expected_N.items()}
        return Truth(
            self.stay_N[users],
            self.taste_NK[users],
            self.drift_NK[users],
            self.habit_NK[users],
            self.events,
            expected,
        )

    def mixture(self, place: int) -> Floats:
        """The chances of the intents at event `place`, (N, K)."""
        logits = self.taste_NK + self.drift_NK * (place / self.events - 0.5)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(weights / weights.sum(1, keepdims=True))

    def own_ranks(self, windows: Windows) -> Floats:
        """1 / rank of each user by the likelihood of the last window under everyone's true ways.

        No method that has to learn the users' ways from windows can do better on average.
        """
        truth = self.only(windows.users_N)
        scores = [
            truth.log_likelihood(windows.short[row], int(windows.start_R[row]))
            for row in range(WINDOWS - 1, len(windows.short), WINDOWS)
        ]
        return ranks_of_own(np.stack(scores))

    def log_likelihood(self, events: Ints, start: int) -> Floats:
        """Log-probability of a window that begins at `start`, under each user's ways, (N,).

        Its first event is taken as drawn anew: what came before is not in the window.
        """
        intents, kinds = events // EACH, events % EACH
        total = np.log(self.mixture(start)[:, intents[0]] / EACH)
        for i in range(1, len(events)):
            now = intents[i]
            chance = (1 - self.stay_N) * self.mixture(start + i)[:, now]
            if now == intents[i - 1]:
                partner = kinds[i] == kinds[i - 1] ^ (1 + self.habit_NK[:, now])
                chance = (chance + self.stay_N) * (COUPLING * partner + (1 - COUPLING) / EACH)
            else:
                chance = chance / EACH
            total = total + np.log(chance)
        return np.asarray(total)


def make_log(users: int, events: int, seed: int) -> tuple[Log, Truth]:
    """`events` events of each of `users` users, and the truth of them.

    Labels: `reported` (rare; habit and one taste), `deleted` (staying little, and another taste),
    `ad_seconds` (tastes and staying, with noise). The cohort has a taste of its own.
    """
    random = stream(seed, "user_model", "log", users, events)
    cohort = random.random(users) < 0.4
    taste = random.normal(0, 1, (users, INTENTS))
    taste[:, 2] += cohort
    drift = random.normal(0, DRIFT, (users, INTENTS))
    stay = random.uniform(0.5, 0.95, users)
    lean = random.beta(0.7, 0.7, users)
    habit = (random.random((users, INTENTS)) < lean[:, None]).astype(np.int64)
    lively, tied = (habit.mean(1) - 0.5) / 0.36, (stay - 0.725) / 0.13
    expected = {
        "reported": _logistic(-2.2 + 1.5 * lively + taste[:, 0]),
        "deleted": _logistic(-1.0 - 1.5 * tied + taste[:, 1]),
        "ad_seconds": 30 + 4 * taste[:, 3] - 4 * taste[:, 4] + 4 * tied,
    }
    labels = {
        "reported": (random.random(users) < expected["reported"]).astype(np.float64),
        "deleted": (random.random(users) < expected["deleted"]).astype(np.float64),
        "ad_seconds": expected["ad_seconds"] + random.normal(0, 5, users),
    }
    truth = Truth(stay, taste, drift, habit, events, expected)
    digits = len(str(users))
    names = np.array([f"{user:0{digits}d}" for user in range(users)])
    behaviour = _behave(truth, random)
    log = Log(names, tuple(behaviour), INTENTS * EACH, labels, np.where(cohort, "b", "a"))
    return log, truth


def _logistic(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def _behave(truth: Truth, random: np.random.Generator) -> Ints:
    """Events (N, T)."""
    users = len(truth.stay_N)
    each = np.arange(users)
    events = np.zeros((users, truth.events), dtype=np.int64)
    intent, kind = np.full(users, -1), np.zeros(users, dtype=np.int64)
    for place in range(truth.events):
        stays, which, couples = random.random((3, users))
        bounds = truth.mixture(place).cumsum(1)
        drawn = np.minimum((which[:, None] > bounds).sum(1), INTENTS - 1)
        now = np.where((stays < truth.stay_N) & (intent >= 0), intent, drawn)
        partner = kind ^ (1 + truth.habit_NK[each, now])
        follows = (now == intent) & (couples < COUPLING)
        kind = np.where(follows, partner, random.integers(0, EACH, users))
        intent = now
        events[:, place] = intent * EACH + kind
    return events
