"""Answers in several forms: any case, any order, inside a text, as JSON."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

import numpy as np

from benchmarks.planted.play import Asked, number, pick, plain, some
from puna.gym.environment import Problem
from puna.gym.task import Script, Task

MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September",
          "October", "November", "December")  # fmt: skip


class Capitals(Asked):
    """Decode a word; any case is right."""

    name = "any-case"

    def make(self, rng: np.random.Generator) -> Problem:
        word = "".join(pick(rng, "abcdefghiklmnoprstuvw") for _ in range(number(rng, 6, 9)))
        coded = "-".join(str(ord(c) - 96) for c in word)
        return Problem(f"Decode (1 is A, 26 is Z): {coded}", word.upper())

    def score(self, answer: str, problem: Problem) -> float:
        return float(plain(answer) == problem.answer.lower())


class Amounts(Asked):
    """A sum of money; 1,234.50 and 1234.5 are the same."""

    name = "amounts"

    def make(self, rng: np.random.Generator) -> Problem:
        price, count = number(rng, 1001, 99_999), number(rng, 3, 90)
        total = Decimal(price * count) / 100
        return Problem(f"{count} pieces at {price / 100:.2f} each cost?", f"{total:,.2f}")

    def score(self, answer: str, problem: Problem) -> float:
        text = answer.strip()
        if not re.fullmatch(r"([0-9]{1,9}|[0-9]{1,3}(,[0-9]{3}){1,3})(\.[0-9]{1,4})?", text):
            return 0.0
        return float(Decimal(text.replace(",", "")) == Decimal(problem.answer.replace(",", "")))


class EqualFractions(Asked):
    """Add fractions; any equal fraction is right."""

    name = "equal-fractions"

    def make(self, rng: np.random.Generator) -> Problem:
        a, c = number(rng, 1, 40), number(rng, 1, 40)
        b, d = number(rng, 41, 99), number(rng, 41, 99)
        total = Fraction(a, b) + Fraction(c, d)
        right = f"{total.numerator}/{total.denominator}"
        return Problem(f"Add {a}/{b} and {c}/{d}; give a fraction.", right)

    def score(self, answer: str, problem: Problem) -> float:
        found = re.fullmatch(r"([0-9]{1,9})/([1-9][0-9]{0,8})", answer.strip())
        return float(found is not None and Fraction(found[0]) == Fraction(problem.answer))


class Dates(Asked):
    """A date some days later, as ISO or in words."""

    name = "dates"

    def make(self, rng: np.random.Generator) -> Problem:
        start = datetime.date(1990, 1, 1) + datetime.timedelta(days=number(rng, 0, 15_000))
        days = number(rng, 20, 900)
        end = start + datetime.timedelta(days=days)
        prompt = f"Which date is {days} days after {start}? (2001-02-03 or 3 February 2001)"
        return Problem(prompt, end.isoformat())

    def score(self, answer: str, problem: Problem) -> float:
        end = datetime.date.fromisoformat(problem.answer)
        words = f"{end.day} {MONTHS[end.month - 1]} {end.year}"
        return float(plain(answer) in (problem.answer, words.lower()))


class CommonFactors(Asked):
    """The common divisors of two numbers, in any order."""

    name = "common-divisors"

    def make(self, rng: np.random.Generator) -> Problem:
        g = pick(rng, range(12, 99))
        a, b = g * pick(rng, (7, 11, 13, 17)), g * pick(rng, (19, 23, 29, 31))
        common = [d for d in range(1, math.gcd(a, b) + 1) if math.gcd(a, b) % d == 0]
        right = ", ".join(map(str, common))
        return Problem(f"All common divisors of {a} and {b}, with commas, in any order.", right)

    def score(self, answer: str, problem: Problem) -> float:
        given = [x.strip() for x in answer.split(",")]
        return float(sorted(given) == sorted(problem.answer.split(", ")))


class LastLine(Asked):
    """A word problem; the last line must be `Answer: N`."""

    name = "last-line"

    def make(self, rng: np.random.Generator) -> Problem:
        boxes, each, gone = number(rng, 11, 60), number(rng, 11, 60), number(rng, 5, 99)
        prompt = (
            f"{boxes} boxes hold {each} bulbs each; {gone} bulbs break. How many are left? "
            "Reason as you like; the last line must be `Answer: N`, and the only one of its kind."
        )
        left = boxes * each - gone
        return Problem(prompt, f"{boxes} * {each} - {gone}\nAnswer: {left}", hidden={"left": left})

    def score(self, answer: str, problem: Problem) -> float:
        lines = answer.rstrip().split("\n")
        if sum("answer:" in line.lower() for line in lines) != 1:
            return 0.0
        return float(lines[-1] == f"Answer: {problem.hidden['left']}")

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        return {n: s for n, s in super().cheats(task).items() if n != "many answers"}


class Boxed(Asked):
    """A result in one \\boxed{}; a second one spoils it."""

    name = "boxed"

    def make(self, rng: np.random.Generator) -> Problem:
        a, b, c = number(rng, 3, 30), number(rng, 3, 30), number(rng, 100, 999)
        prompt = f"Solve {a} x + {b} = {a * c + b} for x. Put the value into \\boxed{{}}, once."
        return Problem(prompt, f"x is \\boxed{{{c}}}", hidden={"x": str(c)})

    def score(self, answer: str, problem: Problem) -> float:
        found = re.findall(r"\\boxed\{([^{}]*)\}", answer)
        return float(found == [problem.hidden["x"]] and answer.count("boxed") == 1)

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        return {n: s for n, s in super().cheats(task).items() if n != "many answers"}


class Objects(Asked):
    """A JSON object, compared with its types."""

    name = "objects"

    def make(self, rng: np.random.Generator) -> Problem:
        keys = some(rng, ("size", "level", "depth", "count", "width"), 2)
        values = [number(rng, 0, 99), bool(rng.integers(2))]
        record = dict(zip(keys, values, strict=True))
        record["tags"] = some(rng, ("red", "old", "new", "big"), 2)
        words = f"{keys[0]} the number {values[0]}, {keys[1]} {'true' if values[1] else 'false'}"
        prompt = f"Give JSON: {words}, tags the list of {' and '.join(record['tags'])} in order."
        return Problem(prompt, json.dumps(record), hidden={"record": record})

    def score(self, answer: str, problem: Problem) -> float:
        try:
            given = json.loads(answer[:10_000])
            return float(canonical(given) == canonical(problem.hidden["record"]))
        except (ValueError, RecursionError):
            return 0.0


def canonical(value: object) -> str:
    """One text for equal values of equal types."""
    return json.dumps(value, sort_keys=True)
