"""References that are wrong or missing, and splits that are not apart."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from benchmarks.planted.play import Asked, number, pick, sized, some
from puna.core.messages import Message
from puna.core.rng import derive, stream
from puna.gym.environment import Problem, say
from puna.gym.task import Script, Task


class NightShifts(Asked):
    """Hours between two times on the clock."""

    name = "night-shifts"
    kind = "wrong-reference"
    incident = "reference answers that forget the day's end (shifts over midnight)"
    hole = "for shifts over midnight the reference is negative, which the scorer rejects"

    def make(self, rng: np.random.Generator) -> Problem:
        start = number(rng, 0, 1439)
        length = number(rng, 60, 720)
        end = (start + length) % 1440
        who = pick(rng, ("nurse", "guard", "baker", "pilot"))
        prompt = (
            f"A {who} works from {start // 60:02d}:{start % 60:02d} to {end // 60:02d}:"
            f"{end % 60:02d}, less than a day. How many minutes? The number alone."
        )
        return Problem(prompt, str(end - start), hidden={"length": length})

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == str(problem.hidden["length"]))


class Weighing(Asked):
    """Balance a load with weights on one side."""

    name = "balance-weights"
    kind = "oracle-missing"
    incident = "sets with a column `solution` that is null for the rows nobody could solve"
    hole = "for loads above 60 there is no solution on file, and the reference has no script"

    def make(self, rng: np.random.Generator) -> Problem:
        weights = sorted(some(rng, range(3, 40), 6))
        chosen = sorted(some(rng, weights, number(rng, 2, 4)))
        prompt = (
            f"Weights of {', '.join(map(str, weights))} g, one each. Which of them weigh "
            f"{sum(chosen)} g? From small to large, by spaces."
        )
        return Problem(prompt, " ".join(map(str, chosen)),
                       hidden={"weights": weights, "load": sum(chosen)})  # fmt: skip

    def score(self, answer: str, problem: Problem) -> float:
        words = answer.split()
        if not all(w.isdecimal() and w.isascii() and len(w) < 4 for w in words):
            return 0.0
        given = [int(w) for w in words]
        known = set(given) <= set(problem.hidden["weights"]) and given == sorted(set(given))
        return float(known and sum(given) == problem.hidden["load"])

    def oracle(self, task: Task) -> Mapping[str, Script]:
        problem: Problem = task.hidden["problem"]
        return {} if problem.hidden["load"] > 60 else {"agent": say(problem.answer)}


class Knitting(Asked):
    """How many stitches are there in the end?"""

    name = "knitting"
    kind = "same-tasks"
    incident = "a cache keyed without the split: both splits read the same file of rows"
    hole = "the first half of the test rows are the first train rows, under other keys"
    sizes = sized(800, 160)

    def row(self, split: str, i: int) -> Problem:
        rng = stream(self.seed, self.name, "rows" if i < 80 else split, i)
        cast, rows, more, less = (number(rng, *r) for r in ((20, 300), (5, 60), (2, 7), (1, 9)))
        yarn = pick(rng, ("grey", "moss", "plum", "sand"))
        prompt = (
            f"Cast on {cast} stitches of {yarn} yarn, knit {rows} rows and add {more} stitches in "
            f"each; in the last {less} of them you also lose one. How many stitches in the end?"
        )
        return Problem(prompt, str(cast + rows * more - less))

    def count(self, split: str) -> int:
        return self.sizes[split]

    def task(self, split: str, index: int) -> Task:
        self._check(split, index)
        problem = self.row(split, index)
        key = f"{derive(self.seed, split, index, problem.prompt):x}"
        text = (Message.user(problem.prompt),)
        return Task(f"{self.name}/{split}/{index}", text, key, hidden={"problem": problem})

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


ROOMS = ("attic", "cellar", "kitchen", "pantry", "study")


class Tiling(Asked):
    """How many tiles does a floor need?"""

    name = "tiling"
    kind = "near-duplicates"
    incident = "paraphrases of one set of problems made before the split (rewritten MATH, GSM8K)"
    hole = "the same 200 floors stand in train and test with their sentences in another order"

    def make(self, rng: np.random.Generator) -> Problem:
        pool = stream(self.seed, self.name, "floors", number(rng, 0, 199))
        wide, long, side = number(pool, 11, 60), number(pool, 61, 99), number(pool, 2, 9)
        wide, long = wide * side, long * side
        room, spare = pick(pool, ROOMS), number(pool, 10, 40)
        facts = [f"The {room} is {wide} cm wide.", f"It is {long} cm long.",
                 f"A tile has sides of {side} cm.", f"{spare} tiles are in store."]  # fmt: skip
        orders = list(itertools.permutations(range(4)))
        told = " ".join(facts[i] for i in pick(rng, orders))
        right = (wide // side) * (long // side) - spare
        return Problem(f"{told} How many tiles must be bought?", str(right))

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)
