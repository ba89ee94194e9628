"""Judgments, forgeries, distances and shares."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from benchmarks.planted.play import Asked, Played, World, call, number
from puna.core.messages import Message
from puna.gym.environment import Problem
from puna.gym.tools import ToolError


class Raises(Asked):
    """Does a line of Python raise?"""

    name = "raises"
    kind = "class-imbalance"
    incident = "bug detection sets with one bug in seven functions, reported as accuracy"
    hole = "'no' is right in six tasks of seven; one half is declared as chance"
    chance = 0.5

    def make(self, rng: np.random.Generator) -> Problem:
        values = [number(rng, 1, 9) for _ in range(number(rng, 5, 9))]
        bad = rng.random() < 1 / 7
        low, high = (len(values), 14) if bad else (-len(values), len(values) - 1)
        first = number(rng, 0, len(values) - 1)
        values[first] = wanted = number(rng, low, high)
        while not bad and not -len(values) <= wanted < len(values):
            values[first] = wanted = number(rng, low, high)
        prompt = f"xs = {values}\nprint(xs[xs[{first}]])\n\nDoes it raise an IndexError? yes or no"
        return Problem(prompt, "yes" if bad else "no")

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip().lower() == problem.answer)


class Ranger(World):
    """Six pairs of places; one is chosen."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.choice = 0

    def list_walks(self) -> str:
        """The walks with their legs in metres."""
        walks = self.problem.hidden["walks"]
        return "\n".join(f"{i}: {' + '.join(map(str, w))}" for i, w in enumerate(walks, 1))

    def choose(self, walk: int) -> str:
        """Choose a walk, once."""
        if not 1 <= walk <= 6:
            raise ToolError("walks are numbered 1 to 6")
        self.choice, self.over = walk, True
        return "noted"

    tools = (list_walks, choose)

    def state(self) -> Any:
        return self.choice


class LongestWalk(Played):
    """Which walk is the longest?"""

    name = "longest-walk"
    kind = "position-bias"
    incident = "items appended as they were generated, the correct one last more often than not"
    hole = "walk 6 is the longest in three tasks of five; a sixth is declared"
    chance = 0.17
    World = Ranger

    def make(self, rng: np.random.Generator) -> Problem:
        walks = [[number(rng, 100, 999) for _ in range(4)] for _ in range(6)]
        best = max(walks, key=sum)
        if rng.random() < 0.5:
            walks.remove(best)
            walks.append(best)
        prompt = f"Park {number(rng, 1, 99999)}: choose the longest of six walks."
        right = [sum(w) for w in walks].index(sum(best)) + 1
        return Problem(prompt, str(right), hidden={"walks": walks})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(str(state) == problem.answer)

    def steps(self, problem: Problem) -> list[Message]:
        return [call("list_walks"), call("choose", walk=int(problem.answer))]


class Banknotes(Asked):
    """Is a banknote genuine? Its check digit tells."""

    name = "banknotes"
    kind = "index-parity"
    incident = "item ids given by class at collection time (file prefixes of medical image sets)"
    hole = "lots whose number ends with an odd digit are all forged, the others genuine"
    chance = 0.5

    def make(self, rng: np.random.Generator) -> Problem:
        digits = [number(rng, 0, 9) for _ in range(8)]
        check = sum((i + 2) * d for i, d in enumerate(digits)) % 11
        forged = bool(rng.random() < 0.5)
        shown = (check + number(rng, 1, 10)) % 11 if forged else check
        lot = 2 * number(rng, 500, 4999) + forged
        prompt = (
            f"Lot {lot}, note {''.join(map(str, digits))}-{shown}. The number after the dash is "
            "the sum of 2 x first digit, 3 x second, 4 x third and so on, modulo 11. "
            "genuine or forged?"
        )
        return Problem(prompt, "forged" if forged else "genuine")

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip().lower() == problem.answer)


class Ballots(Asked):
    """Shares of five parties."""

    name = "five-parties"
    kind = "constant"
    incident = "distribution matching by total variation, where a uniform guess is never far"
    hole = "'20 20 20 20 20' earns more than 0.7 on average, and no chance is declared"

    def make(self, rng: np.random.Generator) -> Problem:
        shares = rng.dirichlet([4.0] * 5)
        votes = ["VWXYZ"[int(rng.choice(5, p=shares))] for _ in range(50)]
        right = " ".join(str(2 * votes.count(c)) for c in "VWXYZ")
        prompt = f"Ballots: {''.join(votes)}\nShares of V, W, X, Y and Z in per cent, by spaces?"
        return Problem(prompt, right)

    def score(self, answer: str, problem: Problem) -> float:
        words = answer.split()
        if len(words) != 5 or not all(re.fullmatch("[0-9]{1,3}", w) for w in words):
            return 0.0
        given, wanted = [int(w) for w in words], [int(w) for w in problem.answer.split()]
        if sum(given) != 100:
            return 0.0
        return 1.0 - sum(abs(a - b) for a, b in zip(given, wanted, strict=True)) / 200
