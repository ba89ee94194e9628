"""Conversions, shops and tables whose tasks or verdicts do not stay what they were."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from benchmarks.planted.play import Asked, FileWorld, Played, World, call, done, number, pick, some
from puna.core.messages import Message
from puna.core.outcome import Scored
from puna.core.rng import stream
from puna.gym.environment import Environment, OneTurn, Problem, Session, Verdicts, say
from puna.gym.task import Script, Task
from puna.gym.trajectory import Episode

ROMAN = ((100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"),
         (1, "I"))  # fmt: skip


def roman(n: int) -> str:
    """Roman numerals up to 399."""
    out = ""
    for value, letters in ROMAN:
        out, n = out + letters * (n // value), n % value
    return out


class Numerals(Asked):
    """A table of eight Roman numerals; two of them are audited."""

    name = "numerals"
    kind = "random-verdict"
    incident = "sampled unit tests: a random subset of the cases is run each time"
    hole = "a table with one wrong row passes three times in four, by luck"

    def make(self, rng: np.random.Generator) -> Problem:
        values = some(rng, range(1, 400), 8)
        right = "\n".join(f"{v} {roman(v)}" for v in values)
        return Problem(f"Roman numerals, a line each (`12 XII`): {values}", right)

    def score(self, answer: str, problem: Problem) -> float:
        given, right = answer.strip().splitlines(), problem.answer.splitlines()
        if len(given) != len(right):
            return 0.0
        rows = random.SystemRandom().sample(range(len(right)), 2)
        return float(all(given[i].split() == right[i].split() for i in rows))


class Counter(World):
    """A till; when the sale began is noted."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.began, self.paid = time.time(), -1

    def charge(self, cents: int) -> str:
        """Charge the customer, once."""
        self.paid, self.over = cents, True
        return "charged"

    tools = (charge,)

    def state(self) -> Any:
        return {"began": self.began, "paid": self.paid}


class Checkout(Played):
    """Charge the right sum, quickly."""

    name = "checkout"
    kind = "clock"
    incident = "speed bonuses measured by the judge's clock: judging later gives another score"
    hole = "the same episode loses its reward the later it is judged"
    World = Counter

    def make(self, rng: np.random.Generator) -> Problem:
        goods = [(number(rng, 1, 9), number(rng, 20, 999)) for _ in range(4)]
        shown = ", ".join(f"{n} at {c} cents" for n, c in goods)
        return Problem(f"Charge for {shown}.", str(sum(n * c for n, c in goods)))

    def grade(self, state: Any, problem: Problem) -> float:
        waited = time.time() - state["began"]
        if str(state["paid"]) != problem.answer:
            return 0.0
        return max(0.0, 1 - max(0.0, waited - 0.5) / 2)

    def steps(self, problem: Problem) -> list[Message]:
        return [call("charge", cents=int(problem.answer))]


class Lottery(Environment):
    """Pairs of numbers to add, from Python's own generator."""

    name = "lottery"
    kind = "global-random"
    incident = "random.seed() once and random.choice() per task: order of access decides"
    hole = "a task depends on which tasks, and whatever else, were drawn before"

    def __init__(self, config: Any = None, seed: int = 0) -> None:
        super().__init__(config, seed)
        random.seed(seed)

    def count(self, split: str) -> int:
        return 800 if split == "train" else 80

    def task(self, split: str, index: int) -> Task:
        self._check(split, index)
        low = 1 if split == "train" else 10_001
        a, b = random.randrange(low, low + 9999), random.randrange(low, low + 9999)
        text = f"Tickets {a} and {b}: their sum?"
        return Task(f"lottery/{split}/{index}", (Message.user(text),), text,
                    hidden={"sum": str(a + b)})  # fmt: skip

    def start(self, task: Task, resources: Any, ctx: Any) -> Session:
        return OneTurn(task)

    def judge(self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: Any) -> Verdicts:
        good = [e.said().strip() == hidden["sum"] for e in episodes]
        return [{"agent": Scored(float(g), g)} for g in good]

    def oracle(self, task: Task) -> Mapping[str, Script]:
        return {"agent": say(task.hidden["sum"])}


TREES = ("alder", "beech", "chestnut", "dogwood", "elm", "fir", "ginkgo", "hazel", "juniper")


class Nursery(Asked):
    """Which tree stands at a place of a row?"""

    name = "nursery"
    kind = "hash-seed"
    incident = "iterating over a set of texts: the order changes from process to process"
    hole = "the row, and so the answer, depends on PYTHONHASHSEED"

    def make(self, rng: np.random.Generator) -> Problem:
        chosen = {f"{t}{number(rng, 10, 99)}" for t in some(rng, TREES, 6)}
        row = list(chosen)
        place = number(rng, 2, len(row) - 1)
        return Problem(f"Row: {' '.join(row)}. Which stands before {row[place]}?", row[place - 1])

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


class Curriculum(Environment):
    """Additions that grow harder as more of them are asked for."""

    name = "curriculum"
    kind = "call-order"
    incident = "curricula inside the environment: a task depends on how many were served before"
    hole = "the same index asked for a second time is a longer sum"

    def __init__(self, config: Any = None, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.served = 0

    def count(self, split: str) -> int:
        return 1000 if split == "train" else 100

    def task(self, split: str, index: int) -> Task:
        self._check(split, index)
        self.served += 1
        rng = stream(self.seed, self.name, split, index)
        terms = [number(rng, 1, 99) for _ in range(2 + self.served // 4 % 12)]
        text = f"{'Sum' if split == 'train' else 'Total'}: {' + '.join(map(str, terms))} = ?"
        return Task(f"curriculum/{split}/{index}", (Message.user(text),), text,
                    hidden={"right": str(sum(terms))})  # fmt: skip

    def start(self, task: Task, resources: Any, ctx: Any) -> Session:
        return OneTurn(task)

    def judge(self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: Any) -> Verdicts:
        good = [e.said().strip() == hidden["right"] for e in episodes]
        return [{"agent": Scored(float(g), g)} for g in good]

    def oracle(self, task: Task) -> Mapping[str, Script]:
        return {"agent": say(task.hidden["right"])}


class Basket(World):
    """A shopping basket."""

    items: ClassVar[list[str]] = []

    def search(self, query: str) -> str:
        """Find goods by a word."""
        found = [g for g in self.problem.hidden["goods"] if query.lower() in g]
        return "\n".join(found) or "nothing found"

    def add_to_basket(self, item: str) -> str:
        """Put an item into the basket, by its full name."""
        self.items.append(item)
        return "added"

    tools = (search, add_to_basket)

    def state(self) -> Any:
        return {"basket": list(self.items)}


class Shopping(Played):
    """Buy the cheapest item of a kind."""

    name = "shopping"
    kind = "leaking-state"
    incident = "mutable class attributes: every session shares one list"
    hole = "the basket of an earlier episode is still full, so its task succeeds again by itself"
    World = Basket

    def make(self, rng: np.random.Generator) -> Problem:
        thing = pick(rng, ("mug", "scarf", "torch", "vase"))
        prices = some(rng, range(100, 999), 3)
        goods = [f"{thing} model {number(rng, 1000, 9999)} for {p}" for p in prices]
        prompt = f"Customer {number(rng, 1, 99999)}: put the cheapest {thing} into the basket."
        right = goods[prices.index(min(prices))]
        return Problem(prompt, right, hidden={"goods": goods, "thing": thing})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(problem.answer in state["basket"])

    def steps(self, problem: Problem) -> list[Message]:
        return [call("search", query=problem.hidden["thing"]),
                call("add_to_basket", item=problem.answer), done()]  # fmt: skip


class Measures(Played):
    """The largest of the measurements in a file."""

    name = "measures"
    kind = "tasks-change"
    incident = "fixtures drawn with the unseeded global generator while prompts stay the same"
    hole = "the file, and so the answer, is another one at every call of task()"
    World = FileWorld

    def make(self, rng: np.random.Generator) -> Problem:
        values = np.random.randint(100, 10_000, 12).tolist()
        files = {"measures.txt": "\n".join(map(str, values)) + "\n"}
        prompt = f"Station {number(rng, 1, 99999)}: what is the largest number in measures.txt?"
        return Problem(prompt, str(max(values)), hidden={"files": files})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state["said"].strip() == problem.answer)

    def steps(self, problem: Problem) -> list[Message]:
        return [call("read_file", path="measures.txt"), done(problem.answer)]
