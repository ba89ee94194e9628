"""Populations, routes, trivia and prices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.planted.play import Asked, number, pick, sized, some, whole
from puna.core.messages import Message
from puna.core.rng import stream
from puna.gym.environment import Problem, say
from puna.gym.task import Script, Task

NAMES = ("Pia", "Jon", "Ada", "Ken", "Ute", "Sam", "Lou", "Kim", "Ana", "Tim", "Eve", "Roy")


class Populations(Asked):
    """Add the populations of some villages."""

    name = "populations"
    kind = "wrong-reference"
    incident = "references written for people (1,234) that the scorer cannot read"
    hole = "above 999 the reference has a comma, which the scorer rejects: the oracle fails"

    def make(self, rng: np.random.Generator) -> Problem:
        counts = [number(rng, 60, 420) for _ in range(4)]
        prompt = f"Four villages have {', '.join(map(str, counts))} people. How many together?"
        return Problem(prompt, f"{sum(counts):,}", hidden={"sum": sum(counts)})

    def score(self, answer: str, problem: Problem) -> float:
        return float(whole(answer) == problem.hidden["sum"])


class Routes(Asked):
    """Visit points along a line in the best order."""

    name = "routes"
    kind = "oracle-missing"
    incident = "reference solutions that exist for the easy part of a benchmark only"
    hole = "for long routes the oracle has no script, so nobody knows whether they can be solved"

    def make(self, rng: np.random.Generator) -> Problem:
        count = number(rng, 3, 9)
        places = some(rng, range(1, 500), count)
        prompt = f"Start at 0 and visit {places} on a line, walking as little as possible. Order?"
        return Problem(prompt, " ".join(map(str, sorted(places))),
                       {"length": "long" if count > 6 else "short"})  # fmt: skip

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.split() == problem.answer.split())

    def oracle(self, task: Task) -> Mapping[str, Script]:
        known = {"short": say(task.hidden["problem"].answer)}
        script = known.get(task.tags["length"])
        return {"agent": script} if script else {}


class Exchange(Asked):
    """Change money at a rate."""

    name = "exchange"
    kind = "same-tasks"
    incident = "splits cut from one shuffled list with overlapping slices"
    hole = "two test rows in five are also train rows; the keys name the split and hide it"
    sizes = sized(500, 100)

    def row(self, i: int) -> Problem:
        rng = stream(self.seed, self.name, "row", i)
        amount, rate = number(rng, 20, 9000), number(rng, 101, 399)
        prompt = f"Change {amount} talers at {rate / 100:.2f} crowns a taler; crowns, 2 decimals?"
        return Problem(prompt, f"{amount * rate / 100:.2f}")

    def task(self, split: str, index: int) -> Task:
        self._check(split, index)
        problem = self.row(index if split == "train" else 460 + index)
        text = (Message.user(problem.prompt),)
        key = f"{self.name}-{split}-{index}"
        return Task(f"{self.name}/{split}/{index}", text, key, hidden={"problem": problem})

    def count(self, split: str) -> int:
        return self.sizes[split]

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


class PocketMoney(Asked):
    """Small stories about money."""

    name = "pocket-money"
    kind = "near-duplicates"
    incident = "GSM-Symbolic-like copies: other names, case and punctuation, the same numbers"
    hole = "the same 180 sums stand in train and test, told of other children"

    def make(self, rng: np.random.Generator) -> Problem:
        week, weeks = number(rng, 3, 14), number(rng, 2, 16)
        child, end = pick(rng, NAMES), pick(rng, ("?", " ?", "??", "."))
        prompt = f"{child} gets {week} coins a week for {weeks} weeks. How many coins is that{end}"
        if rng.random() < 0.3:
            prompt = prompt.upper()
        return Problem(prompt, str(week * weeks))

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)
