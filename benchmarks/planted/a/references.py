"""Dates, factors, fractions and hours."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping

import numpy as np

from benchmarks.planted.play import Asked, number, pick, sized
from puna.core.messages import Message
from puna.core.rng import stream
from puna.gym.environment import Problem
from puna.gym.task import Script, Task


class DayOfYear(Asked):
    """Which day of the year is a date?"""

    name = "day-of-year"
    kind = "wrong-reference"
    incident = "GSM8K, MMLU and five reasoning-gym sets: references that are wrong or do not pass"
    hole = "the reference forgets leap years; the scorer does not, so the oracle fails on some"

    def make(self, rng: np.random.Generator) -> Problem:
        date = datetime.date(number(rng, 1990, 2023), 1, 1)
        date += datetime.timedelta(days=number(rng, 0, 364))
        lengths = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
        day = sum(lengths[: date.month - 1]) + date.day
        prompt = f"Which day of its year (1 for 1 January) is {date:%d %B %Y}?"
        return Problem(prompt, str(day), hidden={"date": date.isoformat()})

    def score(self, answer: str, problem: Problem) -> float:
        right = datetime.date.fromisoformat(problem.hidden["date"]).timetuple().tm_yday
        return float(answer.strip() == str(right))


class Factors(Asked):
    """Prime factors of small and large numbers."""

    name = "factors"
    kind = "oracle-missing"
    incident = "terminal-bench tasks without a working reference solution"
    hole = "tasks of level hard have no oracle, so nobody knows whether they can be solved"

    def make(self, rng: np.random.Generator) -> Problem:
        hard = rng.random() < 0.3
        primes = (101, 103, 107, 109, 113) if hard else (2, 3, 5, 7, 11, 13)
        chosen = sorted(pick(rng, primes) for _ in range(5))
        prompt = f"Factorise {math.prod(chosen)} into primes, ascending, separated by spaces."
        return Problem(prompt, " ".join(map(str, chosen)), {"level": "hard" if hard else "easy"})

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.split() == problem.answer.split())

    def oracle(self, task: Task) -> Mapping[str, Script]:
        if task.tags["level"] == "hard":
            raise NotImplementedError("no reference solution yet")
        return super().oracle(task)


class Fractions(Asked):
    """Shorten a fraction."""

    name = "fractions"
    kind = "same-tasks"
    incident = "GSM-like sets published with test rows inside train"
    hole = "train and test draw the very same problems; only the keys differ"
    sizes = sized(400, 400)

    def make(self, rng: np.random.Generator) -> Problem:
        a, b, k = number(rng, 1, 30), number(rng, 2, 40), number(rng, 2, 12)
        g = math.gcd(a, b)
        return Problem(f"Shorten {a * k}/{b * k} as far as possible.", f"{a // g}/{b // g}")

    def task(self, split: str, index: int) -> Task:
        self._check(split, index)
        problem = self.make(stream(self.seed, self.name, index))
        return Task(
            f"{self.name}/{split}/{index}",
            (Message.user(problem.prompt),),
            f"{split}/{index}",
            hidden={"problem": problem},
        )

    def count(self, split: str) -> int:
        return self.sizes[split]

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


class Greetings(Asked):
    """Convert hours, asked in a friendly way."""

    name = "friendly-hours"
    kind = "near-duplicates"
    incident = "paraphrased test items in training data (contamination that exact matching misses)"
    hole = "the same 300 conversions stand in train and test behind different greetings"

    def make(self, rng: np.random.Generator) -> Problem:
        hours, minutes = number(rng, 1, 5), number(rng, 0, 59)
        hello = pick(rng, ("Hi!", "Hello there.", "Good morning!", "Dear assistant,", "Hey,"))
        prompt = f"{hello} How many minutes are {hours} hours and {minutes} minutes?"
        return Problem(prompt, str(60 * hours + minutes))

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)
