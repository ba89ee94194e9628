"""Marks, jugs, snippets and quizzes: references and splits."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np

from benchmarks.planted.play import Asked, Played, World, call, number, pick, script, sized, some
from puna.core.messages import Message
from puna.core.rng import derive, stream
from puna.gym.environment import Limits, Problem
from puna.gym.task import Script, Task
from puna.gym.tools import ToolError


class MeanMarks(Asked):
    """The mean of marks, rounded half up."""

    name = "mean-marks"
    kind = "wrong-reference"
    incident = "references by round(), which rounds halves to even, beside a scorer that does not"
    hole = "where the mean ends in a half after an even number, the reference fails (one in eight)"

    def make(self, rng: np.random.Generator) -> Problem:
        marks = [number(rng, 40, 99) for _ in range(4)]
        if sum(marks) % 2:
            marks[0] += 1
        prompt = (
            f"Marks of pupil {number(rng, 1, 999)}: {', '.join(map(str, marks))}. Their mean as a "
            "whole number; halves are rounded up."
        )
        return Problem(prompt, str(round(sum(marks) / 4)), hidden={"sum": sum(marks)})

    def score(self, answer: str, problem: Problem) -> float:
        mean = Decimal(problem.hidden["sum"]) / 4
        return float(answer.strip() == str(mean.quantize(Decimal(1), ROUND_HALF_UP)))


class JugWorld(World):
    """Two jugs and a tap."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.levels, self.reached = (0, 0), False

    def fill(self, jug: int) -> str:
        """Fill a jug (1 or 2) at the tap."""
        return self._do("fill", jug)

    def empty(self, jug: int) -> str:
        """Empty a jug."""
        return self._do("empty", jug)

    def pour(self, jug: int) -> str:
        """Pour a jug into the other until one is full or the other empty."""
        return self._do("pour", jug)

    def _do(self, action: str, jug: int) -> str:
        if jug not in (1, 2):
            raise ToolError("the jugs are 1 and 2")
        self.levels = after(self.levels, self.problem.hidden["sizes"], action, jug)
        self.reached = self.over = self.problem.hidden["goal"] in self.levels
        return f"jug 1 holds {self.levels[0]}, jug 2 holds {self.levels[1]}"

    tools = (fill, empty, pour)

    def state(self) -> Any:
        return self.reached


def after(levels: Any, sizes: Any, action: str, jug: int) -> tuple[int, int]:
    """The levels after an action."""
    one, other = jug - 1, 2 - jug
    new = list(levels)
    if action == "pour":
        moved = min(new[one], sizes[other] - new[other])
        new[one], new[other] = new[one] - moved, new[other] + moved
    else:
        new[one] = sizes[one] if action == "fill" else 0
    return new[0], new[1]


def plan(sizes: Any, goal: int, most: int) -> list[tuple[str, int]] | None:
    """The shortest plan of at most `most` actions."""
    queue = collections.deque([((0, 0), [])])
    seen = {(0, 0)}
    while queue:
        levels, path = queue.popleft()
        if goal in levels:
            return path
        for action in ("fill", "empty", "pour"):
            for jug in (1, 2):
                new = after(levels, sizes, action, jug)
                if new not in seen and len(path) < most:
                    seen.add(new)
                    queue.append((new, [*path, (action, jug)]))
    return None


class Jugs(Played):
    """Measure a volume with two jugs."""

    name = "jugs"
    kind = "oracle-missing"
    incident = "reference solvers with a search limit below what the hard tasks need"
    hole = "where more than eight actions are needed (over a third) the reference raises"
    World = JugWorld
    limits = Limits(turns=40)

    def make(self, rng: np.random.Generator) -> Problem:
        small, large = pick(rng, ((3, 5), (4, 7), (5, 8), (5, 11), (7, 10), (8, 13), (9, 14)))
        goal = pick(rng, [g for g in range(1, large) if g != small])
        litres = pick(rng, ("litres", "pints", "cups", "gills"))
        prompt = (
            f"Well {number(rng, 1, 999)}: jug 1 takes {small} {litres}, jug 2 takes {large}. Get "
            f"{goal} into one of them."
        )
        return Problem(prompt, "", hidden={"sizes": (small, large), "goal": goal})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state)

    def oracle(self, task: Task) -> Mapping[str, Script]:
        problem: Problem = task.hidden["problem"]
        found = plan(problem.hidden["sizes"], problem.hidden["goal"], 8)
        if found is None:
            raise LookupError(f"no plan within 8 actions for {task.id}")
        messages: list[Message] = [call(action, jug=jug) for action, jug in found]
        return {"agent": script(messages)}


BODIES = ("sum(xs[::{k}])", "max(xs) * {k}", "sorted(xs)[-{k}]", "sum(x // {k} for x in xs)")


class Snippets(Asked):
    """What does a line of Python print?"""

    name = "snippets"
    kind = "same-tasks"
    incident = "a test set sampled with replacement from the whole pool, train included"
    hole = "six test rows in seven are train rows too, under keys that name the split"
    sizes = sized(600, 150)

    def row(self, i: int) -> Problem:
        rng = stream(self.seed, self.name, "pool", i)
        values = [number(rng, 1, 99) for _ in range(number(rng, 4, 7))]
        k, body = number(rng, 2, 4), pick(rng, BODIES)
        code = body.format(k=k)
        return Problem(f"xs = {values}\nprint({code})\n\nWhat is printed?",
                       str(eval(code, {"xs": values})))  # fmt: skip

    def task(self, split: str, index: int) -> Task:
        self._check(split, index)
        rng = stream(self.seed, self.name, "drawn", index)
        problem = self.row(index if split == "train" else number(rng, 0, 699))
        key = f"{derive(self.seed, split, problem.prompt):x}"
        text = (Message.user(problem.prompt),)
        return Task(f"{self.name}/{split}/{index}", text, key, hidden={"problem": problem})

    def count(self, split: str) -> int:
        return self.sizes[split]

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


class Shuffled(Asked):
    """Which of four numbers has a property?"""

    name = "digit-sums"
    kind = "near-duplicates"
    incident = "augmentation by shuffled options before the split: both splits hold every question"
    hole = "the same 160 questions stand in train and test with their options in another order"
    chance = 0.25

    def make(self, rng: np.random.Generator) -> Problem:
        pool = stream(self.seed, self.name, "pool", number(rng, 0, 159))
        wanted = number(pool, 8, 20)
        sums = [wanted, *some(pool, [s for s in range(6, 23) if s != wanted], 3)]
        options = [number_of_sum(pool, s) for s in sums]
        order = some(rng, range(4), 4)
        shown = " ".join(f"{x}: {options[i]}" for x, i in zip("PQRS", order, strict=True))
        prompt = f"Whose digits add up to {wanted}? {shown}. Letter:"
        return Problem(prompt, "PQRS"[order.index(0)])

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


def number_of_sum(rng: np.random.Generator, total: int) -> int:
    """A number of five digits that add up to `total`."""
    while True:
        n = number(rng, 10_000, 99_999)
        if sum(map(int, str(n))) == total:
            return n
