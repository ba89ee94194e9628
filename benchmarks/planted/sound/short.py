"""Short answers: yes or no, a digit, a letter, with the chance of guessing declared."""

from __future__ import annotations

import datetime
import itertools

import numpy as np

from benchmarks.planted.play import Asked, number, pick, plain, some
from puna.gym.environment import Problem

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
NAMES = ("Ida", "Tom", "Mia", "Leo", "Zoe", "Max", "Eli", "Amy")


class Divides(Asked):
    """Is one number a multiple of another?"""

    name = "divides"
    chance = 0.5

    def make(self, rng: np.random.Generator) -> Problem:
        divisor, factor = number(rng, 3, 12), number(rng, 20, 900)
        yes = rng.random() < 0.5
        value = divisor * factor + (0 if yes else number(rng, 1, divisor - 1))
        return Problem(f"Is {value} divisible by {divisor}? yes or no.", "yes" if yes else "no")

    def score(self, answer: str, problem: Problem) -> float:
        return float(plain(answer) == problem.answer)


class Taller(Asked):
    """Does a comparison follow from others?"""

    name = "taller"
    chance = 0.5

    def make(self, rng: np.random.Generator) -> Problem:
        order = some(rng, NAMES, 5)
        facts = [f"{a} is taller than {b}." for a, b in itertools.pairwise(order)]
        i, j = sorted(some(rng, range(5), 2))
        true = rng.random() < 0.5
        a, b = (order[i], order[j]) if true else (order[j], order[i])
        text = " ".join(some(rng, facts, 4))
        return Problem(f"{text} True or false: {a} is taller than {b}.", str(true).lower())

    def score(self, answer: str, problem: Problem) -> float:
        return float(plain(answer).rstrip(".") == problem.answer)


class Options(Asked):
    """A product with four options; the right one has any place and any rank."""

    name = "options"
    chance = 0.25

    def make(self, rng: np.random.Generator) -> Problem:
        a, b = number(rng, 12, 99), number(rng, 12, 99)
        rank, step = number(rng, 0, 3), 10 * number(rng, 1, 9)
        values = some(rng, [a * b + (i - rank) * step for i in range(4)], 4)
        shown = " ".join(f"{x}) {v}" for x, v in zip("ABCD", values, strict=True))
        return Problem(f"{a} * {b} = ? {shown}. Answer A, B, C or D.", "ABCD"[values.index(a * b)])

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


class LastDigit(Asked):
    """The last digit of a product; 0 is the most frequent."""

    name = "last-digit"
    chance = 0.27  # of the constant 0

    def make(self, rng: np.random.Generator) -> Problem:
        a, b = number(rng, 1000, 9999), number(rng, 1000, 9999)
        return Problem(f"What is the last digit of {a} * {b}?", str(a * b % 10))

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


class Sign(Asked):
    """Is an expression positive, negative or zero?"""

    name = "sign"
    chance = 0.36

    def make(self, rng: np.random.Generator) -> Problem:
        a, b = number(rng, 11, 99), number(rng, 11, 99)
        sign = pick(rng, (-1, 0, 1))
        c = a * b - sign * number(rng, 1, 200)
        word = {-1: "negative", 0: "zero", 1: "positive"}[sign]
        return Problem(f"Is {a} * {b} - {c} positive, negative or zero?", word)

    def score(self, answer: str, problem: Problem) -> float:
        return float(plain(answer) == problem.answer)


class Weekday(Asked):
    """The day of the week of a date."""

    name = "weekday"
    chance = 0.16

    def make(self, rng: np.random.Generator) -> Problem:
        date = datetime.date(1950, 1, 1) + datetime.timedelta(days=number(rng, 0, 40_000))
        return Problem(f"Which day of the week is {date:%d %B %Y}?", DAYS[date.weekday()])

    def score(self, answer: str, problem: Problem) -> float:
        return float(plain(answer) == problem.answer)
