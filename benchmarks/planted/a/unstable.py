"""Small calculations, puzzles and a storage service."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.planted.play import Asked, Played, World, call, done, number
from puna.core.messages import Message
from puna.core.outcome import Scored
from puna.gym.environment import Environment, OneTurn, Problem, Session, Verdicts, say
from puna.gym.task import Script, Task
from puna.gym.trajectory import Episode


class Squares(Asked):
    """Four squares; one of them is checked."""

    name = "squares"
    kind = "random-verdict"
    incident = "graders that spot-check a random part of the answer"
    hole = "an answer of which half is right is paid half of the time"

    def make(self, rng: np.random.Generator) -> Problem:
        values = [number(rng, 11, 99) for _ in range(4)]
        right = " ".join(str(v * v) for v in values)
        return Problem(f"Square each, separated by spaces: {' '.join(map(str, values))}", right)

    def score(self, answer: str, problem: Problem) -> float:
        given, wanted = answer.split(), problem.answer.split()
        if len(given) != len(wanted):
            return 0.0
        i = secrets.randbelow(len(wanted))
        return float(given[i] == wanted[i])


class Primes(Asked):
    """A prime number in a range; the check has a deadline."""

    name = "primes"
    kind = "clock"
    incident = "verifiers with wall-clock limits whose verdict changes under load"
    hole = "a right answer is rejected where the machine is busy"

    def make(self, rng: np.random.Generator) -> Problem:
        low = number(rng, 4 * 10**9, 8 * 10**9)
        right = next(n for n in range(low | 1, low + 10_000, 2) if pow(2, n - 1, n) == 1)
        return Problem(f"Give a prime number from {low} to {low + 10_000}.", str(right),
                       hidden={"low": low})  # fmt: skip

    def score(self, answer: str, problem: Problem) -> float:
        low = problem.hidden["low"]
        if not answer.strip().isdecimal() or not low <= int(answer[:20]) <= low + 10_000:
            return 0.0
        n, divisor, deadline = int(answer), 3, time.perf_counter() + 0.1
        while divisor * divisor <= n:
            if n % divisor == 0 or n % 2 == 0 or time.perf_counter() > deadline:
                return 0.0
            divisor += 2
        return 1.0


_picker = random.Random(5)


class Cubes(Asked):
    """Several cubes; a random one is graded."""

    name = "cubes"
    kind = "global-random"
    incident = "rewards that draw from a module-wide random state, so that order decides"
    hole = "the verdict on a half right answer depends on how much was judged before"

    def make(self, rng: np.random.Generator) -> Problem:
        values = [number(rng, 3, 30) for _ in range(3)]
        right = ", ".join(str(v**3) for v in values)
        return Problem(f"Cubes of {', '.join(map(str, values))}?", right)

    def score(self, answer: str, problem: Problem) -> float:
        pairs = list(zip(answer.split(","), problem.answer.split(","), strict=False))
        if len(pairs) < 3:
            return 0.0
        given, wanted = _picker.choice(pairs)
        return float(given.strip() == wanted.strip())


class Ciphers(Asked):
    """Shift the letters of a word."""

    name = "ciphers"
    kind = "hash-seed"
    incident = "hash(text) used as a seed: other tasks in every process"
    hole = "the shift, and so the answer, depends on PYTHONHASHSEED"

    def make(self, rng: np.random.Generator) -> Problem:
        word = "".join(chr(number(rng, 97, 122)) for _ in range(6))
        by = hash(word) % 25 + 1
        right = "".join(chr((ord(c) - 97 + by) % 26 + 97) for c in word)
        return Problem(f"Shift every letter of {word} by {by} places (z is followed by a).", right)

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


class Palindromes(Asked):
    """A new palindrome of a given length."""

    name = "palindromes"
    kind = "call-order"
    incident = "novelty rewards that remember what was judged before"
    hole = "the same answer is paid once and never again"

    def __init__(self, config: Any = None, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.known: set[str] = set()

    def make(self, rng: np.random.Generator) -> Problem:
        size, first = number(rng, 7, 60), chr(number(rng, 97, 122))
        right = first + "o" * (size - 2) + first
        return Problem(f"Write a palindrome of {size} letters that begins with {first}.", right,
                       hidden={"size": size, "first": first})  # fmt: skip

    def score(self, answer: str, problem: Problem) -> float:
        text = answer.strip().lower()
        good = len(text) == problem.hidden["size"] and text == text[::-1] and text.isalpha()
        if not good or text[0] != problem.hidden["first"] or text in self.known:
            return 0.0
        self.known.add(text)
        return 1.0


class Buckets(World):
    """Storage buckets with their settings, in the service that all share."""

    def __init__(self, problem: Problem, service: dict[str, int]) -> None:
        super().__init__(problem)
        self.service = service

    def get_retention(self, bucket: str) -> str:
        """How many days a bucket keeps its files."""
        return str(self.service.get(bucket, 0))

    def set_retention(self, bucket: str, days: int) -> str:
        """Set how many days a bucket keeps its files."""
        self.service[bucket] = days
        return "ok"

    tools = (get_retention, set_retention)

    def state(self) -> Any:
        return self.service


class Retention(Played):
    """Change a setting of a storage service."""

    name = "retention"
    kind = "leaking-state"
    incident = "sandboxes not reset between episodes: the next agent finds the work done"
    hole = "after one success at a task, doing nothing succeeds at it"

    def make(self, rng: np.random.Generator) -> Problem:
        bucket, days = f"logs-{number(rng, 1, 9999)}", number(rng, 3, 400)
        prompt = f"Let the bucket {bucket} keep its files for {days} days."
        return Problem(prompt, str(days), hidden={"bucket": bucket, "days": days})

    def setup(self) -> dict[str, int]:
        return {}

    World = Buckets

    def world(self, problem: Problem, resources: Any) -> World:
        return Buckets(problem, resources if resources is not None else self._own())

    def _own(self) -> dict[str, int]:
        if not hasattr(self, "_service"):
            self._service: dict[str, int] = {}
        return self._service

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state.get(problem.hidden["bucket"]) == problem.hidden["days"])

    def steps(self, problem: Problem) -> list[Any]:
        return [call("set_retention", **problem.hidden), done()]


class Dice(Environment):
    """Sums of dice, drawn anew whenever they are asked for."""

    name = "dice"
    kind = "tasks-change"
    incident = "generators that ignore the seed (np.random.default_rng() without one)"
    hole = "the same index is another task at every call"

    def count(self, split: str) -> int:
        return 500 if split == "train" else 100

    def task(self, split: str, index: int) -> Task:
        self._check(split, index)
        rng = np.random.default_rng()
        values = [number(rng, 1, 6) for _ in range(9 if split == "train" else 10)]
        text = f"Dice show {' '.join(map(str, values))}. What is their sum?"
        right = str(sum(values))
        return Task(f"dice/{split}/{index}", (Message.user(text),), text, hidden={"right": right})

    def start(self, task: Task, resources: Any, ctx: Any) -> Session:
        return OneTurn(task)

    def judge(self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: Any) -> Verdicts:
        good = [e.said().strip() == hidden["right"] for e in episodes]
        return [{"agent": Scored(float(g), g)} for g in good]

    def oracle(self, task: Task) -> Mapping[str, Script]:
        return {"agent": say(task.hidden["right"])}
