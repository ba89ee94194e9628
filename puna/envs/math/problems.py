"""Word problems made on the spot: a start, one to four changes, a question.

`make(stream(0, "x"), steps=3, digits=1)` gives a `Story` with its question and its solution.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

NAMES = ("Ana", "Ben", "Eva", "Jon", "Kim", "Leo", "Mia", "Tom")
THINGS = ("apples", "books", "cards", "coins", "eggs", "pens", "shells", "stamps")
CHANGES = {
    "+": ("{name} finds {n} more.", "{other} gives {name} {n} more.", "{name} buys {n} more."),
    "-": ("{name} loses {n}.", "{name} gives {n} to {other}.", "{name} sells {n}."),
    "*": ("Then {name} has {n} times as many.", "{other} trades them for {n} times as many."),
}
MOST_TIMES = 4


@dataclass(frozen=True)
class Story:
    """A question, its answer, and a solution that ends in it."""

    question: str
    solution: str
    answer: str
    steps: int


def make(rng: np.random.Generator, steps: int, digits: int) -> Story:
    """One story of 1 to `steps` changes with numbers of at most `digits` digits.

    The value never falls below 1, and only numbers of `digits` digits or fewer are multiplied.
    """
    name, other = rng.permutation(NAMES)[:2].tolist()
    thing, largest = str(rng.choice(THINGS)), 10**digits
    value = int(rng.integers(2, largest))
    told = [f"{name} has {value} {thing}."]
    lines: list[str] = []
    count = int(rng.integers(1, steps + 1))
    for _ in range(count):
        known = [op for op in CHANGES if _fits(op, value, largest)]
        op = known[int(rng.integers(len(known)))]
        high = {"+": largest, "-": min(value, largest), "*": MOST_TIMES + 1}[op]
        n = int(rng.integers(2 if op == "*" else 1, high))
        told.append(str(rng.choice(CHANGES[op])).format(name=name, other=other, n=n))
        result = {"+": value + n, "-": value - n, "*": value * n}[op]
        lines.append(f"{value} {op} {n} = {result}")
        value = result
    told.append(f"How many {thing} does {name} have?")
    return Story(" ".join(told), "\n".join([*lines, f"#### {value}"]), str(value), count)


def _fits(op: str, value: int, largest: int) -> bool:
    return op == "+" or (value > 1 if op == "-" else value < largest)


def numbers_of(question: str) -> str:
    """The numbers of a question in order: two stories with the same ones are much the same."""
    return " ".join(re.findall(r"\d+", question))
