"""Small answer spaces, stated tolerances, several parts, and environments of few tasks."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from benchmarks.planted.play import Asked, number, pick, plain, some
from benchmarks.planted.sound.few import Listed
from puna.gym.environment import Problem
from puna.gym.task import Script, Task


class HandRanks(Asked):
    """Which hand of five dice is it? Five classes, each as frequent as the others."""

    name = "hand-ranks"
    chance = 0.21

    def make(self, rng: np.random.Generator) -> Problem:
        a, b, c, d = some(rng, range(1, 7), 4)
        hands = {
            "pair": (a, a, b, c, d),
            "two pairs": (a, a, b, b, c),
            "triple": (a, a, a, b, c),
            "full house": (a, a, a, b, b),
            "poker": (a, a, a, a, b),
        }
        name = pick(rng, tuple(hands))
        dice = " ".join(map(str, some(rng, hands[name], 5)))
        prompt = (
            f"Roll {number(rng, 1, 9999)} shows {dice}: pair, two pairs, triple, full house or "
        )
        return Problem(prompt + "poker?", name)

    def score(self, answer: str, problem: Problem) -> float:
        return float(plain(answer) == problem.answer)


class Fermi(Asked):
    """A product of many factors, within the one per cent that the question allows."""

    name = "one-per-cent"

    def make(self, rng: np.random.Generator) -> Problem:
        people, days = 10 ** number(rng, 3, 7) * number(rng, 1, 9), number(rng, 100, 360)
        cups, grams = number(rng, 11, 49) / 10, number(rng, 5, 19)
        tons = people * days * cups * grams / 1e6
        prompt = (
            f"{people} people drink {cups} cups a day on {days} days of the year, {grams} g of "
            "coffee each. How many tons (of 1,000 kg)? A number; one per cent off is near enough."
        )
        return Problem(prompt, f"{tons:.6g}")

    def score(self, answer: str, problem: Problem) -> float:
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?(e\+?[0-9]{1,2})?", answer.strip()):
            return 0.0
        return float(math.isclose(float(answer), float(problem.answer), rel_tol=0.01))


class FourSums(Asked):
    """Four questions, numbered lines, a quarter of the mark for each."""

    name = "four-parts"

    def make(self, rng: np.random.Generator) -> Problem:
        pairs = [(number(rng, 100, 999), number(rng, 100, 999)) for _ in range(4)]
        shown = "\n".join(f"{i}. {a} * {b}" for i, (a, b) in enumerate(pairs, 1))
        right = "\n".join(f"{i}. {a * b}" for i, (a, b) in enumerate(pairs, 1))
        return Problem(f"Answer each on a line such as `1. 77`, four lines in all.\n{shown}", right)

    def score(self, answer: str, problem: Problem) -> float:
        given, right = answer.strip().splitlines(), problem.answer.splitlines()
        if len(given) != 4:
            return 0.0
        return sum(g.strip() == r for g, r in zip(given, right, strict=True)) / 4

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        return {n: s for n, s in super().cheats(task).items() if n != "many answers"}


class Wildcards(Asked):
    """A pattern of letters and ? for the first names and not for the second."""

    name = "wildcards"

    def make(self, rng: np.random.Generator) -> Problem:
        letters = "abcdefghijklmnopqrstuvwxyz"
        size = number(rng, 4, 7)
        pattern = ["?"] * size
        for i in some(rng, range(size), 2):
            pattern[i] = pick(rng, letters)
        filled = [["".join(pick(rng, letters) if c == "?" else c for c in pattern)]
                  for _ in range(3)]  # fmt: skip
        good = [f[0] for f in filled]
        fixed = [i for i, c in enumerate(pattern) if c != "?"]
        bad = []
        for i in (*fixed, fixed[0]):
            other = pick(rng, [c for c in letters if c != pattern[i]])
            bad.append(good[0][:i] + other + good[0][i + 1 :])
        prompt = (
            f"A pattern of letters and ? (any one letter) that fits {', '.join(good)} and none of "
            f"{', '.join(bad)}?"
        )
        return Problem(prompt, "".join(pattern), hidden={"good": good, "bad": bad})

    def score(self, answer: str, problem: Problem) -> float:
        pattern = answer.strip()

        def fits(name: str) -> bool:
            pairs = zip(pattern, name, strict=False)
            return len(pattern) == len(name) and all(p in ("?", c) for p, c in pairs)

        good = all(fits(n) for n in problem.hidden["good"])
        return float(good and not any(fits(n) for n in problem.hidden["bad"]))


class MiniSudoku(Listed):
    """One small square to train on, one to test."""

    name = "mini-sudoku"
    questions: ClassVar = {
        "train": (
            (
                "Sudoku of 4 x 4, . is empty, rows from the top: 1.3. / ..12 / 2..3 / .32. "
                "Give 16 digits.",
                "1234" + "3412" + "2143" + "4321",
            ),
        ),
        "test": (
            (
                "Sudoku of 4 x 4, . is empty, rows from the top: .1.3 / 43.. / ..34 / 3.1. "
                "Give 16 digits.",
                "2143" + "4321" + "1234" + "3412",
            ),
        ),
    }


class Symbols(Listed):
    """Some chemical symbols."""

    name = "symbols"
    questions: ClassVar = {
        "train": (
            ("Which element has the symbol Na? In English.", "sodium"),
            ("Which element has the symbol Fe? In English.", "iron"),
            ("Which element has the symbol Pb? In English.", "lead"),
            ("Which element has the symbol W? In English.", "tungsten"),
            ("Which element has the symbol K? In English.", "potassium"),
        ),
        "test": (
            ("Which element has the symbol Au? In English.", "gold"),
            ("Which element has the symbol Sn? In English.", "tin"),
            ("Which element has the symbol Ag? In English.", "silver"),
        ),
    }
