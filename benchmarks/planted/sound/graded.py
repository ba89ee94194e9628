"""Partial credit and graded metrics, with what the best trivial policy earns declared."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np

from benchmarks.planted.play import Asked, number, pick, some, whole
from puna.gym.environment import Problem
from puna.gym.task import Script, Task


def distance(a: str, b: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


class Backwards(Asked):
    """Reverse a code; each wrong character costs."""

    name = "backwards"
    chance = 0.1  # of the code itself, not reversed

    def make(self, rng: np.random.Generator) -> Problem:
        code = "".join(pick(rng, "abcdefghjkmnpqrstuvwxyz23456789") for _ in range(12))
        return Problem(f"Reverse: {code}", code[::-1])

    def score(self, answer: str, problem: Problem) -> float:
        given, right = answer.strip()[:200], problem.answer
        return max(0.0, 1 - distance(given, right) / len(right))

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        return {n: s for n, s in super().cheats(task).items() if n in ("says ''", "over-long")}


class PrimesBetween(Asked):
    """All primes of a range, by F1."""

    name = "primes-between"

    def make(self, rng: np.random.Generator) -> Problem:
        low = 10 * number(rng, 200, 900)
        right = [n for n in range(low, low + 41) if all(n % d for d in range(2, math.isqrt(n) + 1))]
        text = " ".join(map(str, right))
        return Problem(f"List the primes from {low} to {low + 40}, separated by spaces.", text)

    def score(self, answer: str, problem: Problem) -> float:
        said, wanted = answer.split(), set(problem.answer.split())
        hits = len(wanted.intersection(said))
        return 2 * hits / (len(said) + len(wanted))

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        return {n: s for n, s in super().cheats(task).items() if n != "many answers"}


class Ranking(Asked):
    """Sort words by length; the share of pairs in order beyond half counts."""

    name = "ranking"
    chance = 0.11  # of the words as they stand

    def make(self, rng: np.random.Generator) -> Problem:
        letters = "bcdfghjklmnpqrstvwz"
        words = [pick(rng, letters) * k for k in range(2, 9)]
        shown = some(rng, words, len(words))
        return Problem(f"Sort by length, shortest first: {' '.join(shown)}", " ".join(words))

    def score(self, answer: str, problem: Problem) -> float:
        given, right = answer.split(), problem.answer.split()
        if sorted(given) != sorted(right):
            return 0.0
        places = [right.index(w) for w in given]
        pairs = [(a, b) for i, a in enumerate(places) for b in places[i + 1 :]]
        return max(0.0, 2 * sum(a < b for a, b in pairs) / len(pairs) - 1)


class Shares(Asked):
    """A percentage, graded by closeness; the constant 50 earns three quarters."""

    name = "shares"
    chance = 0.76

    def make(self, rng: np.random.Generator) -> Problem:
        whole_, part = number(rng, 200, 999), 0
        part = number(rng, 0, whole_)
        return Problem(f"{part} of {whole_} in percent, rounded?", str(round(100 * part / whole_)))

    def score(self, answer: str, problem: Problem) -> float:
        given = whole(answer)
        if given is None:
            return 0.0
        return max(0.0, 1 - abs(given - int(problem.answer)) / 100)

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        return {n: s for n, s in super().cheats(task).items() if n != "says '0'"}


class Fields(Asked):
    """Turn a note into JSON, a third of the mark for each field."""

    name = "fields"
    chance = 0.02  # of a frequent record

    def make(self, rng: np.random.Generator) -> Problem:
        who = pick(rng, ("Lund", "Okoro", "Pereira", "Sato", "Weiss", "Haddad"))
        record = {"room": number(rng, 100, 999), "guest": f"{who}{number(rng, 10, 99)}",
                  "nights": number(rng, 12, 60)}  # fmt: skip
        prompt = (
            f"Guest {record['guest']} takes room {record['room']} and stays for "
            f"{record['nights']} nights. Give JSON with the keys room, guest, nights."
        )
        return Problem(prompt, json.dumps(record), hidden={"record": record})

    def score(self, answer: str, problem: Problem) -> float:
        try:
            given = json.loads(answer[:10_000])
        except (ValueError, RecursionError):
            return 0.0
        record = problem.hidden["record"]
        if not isinstance(given, dict) or set(given) != set(record):
            return 0.0
        good = [type(given[k]) is type(v) and given[k] == v for k, v in record.items()]
        return sum(good) / len(good)
