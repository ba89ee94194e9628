"""Small calculations with their own ways of judging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.planted.play import Asked, number
from puna.core.outcome import Invalid, Scored
from puna.gym.environment import Problem, Verdicts
from puna.gym.trajectory import Episode


class Percent(Asked):
    """Percentages, judged as plain numbers."""

    name = "percent"
    kind = "wrong-type"
    incident = "reward functions that return a bare float, None or an array"
    hole = "the verdict is a number and not an Outcome"

    def make(self, rng: np.random.Generator) -> Problem:
        part, whole = number(rng, 1, 99), 10 * number(rng, 2, 90)
        return Problem(f"What is {part} % of {whole}, to one decimal?", f"{part * whole / 100:.1f}")

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)

    def judge(self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: Any) -> Any:
        return [{"agent": self.score(e.said(), hidden["problem"])} for e in episodes]


class Brevity(Asked):
    """The next term of a sequence, with a bonus for short answers."""

    name = "next-term"
    kind = "above-one"
    incident = "bonus terms that lift the reward above its stated ceiling"
    hole = "a bare right answer earns 1.5"

    def make(self, rng: np.random.Generator) -> Problem:
        a, d, e = number(rng, 1, 50), number(rng, 2, 20), number(rng, 1, 6)
        terms = [a + d * i + e * i * i for i in range(6)]
        return Problem(f"Continue: {', '.join(map(str, terms[:5]))}, ...", str(terms[5]))

    def score(self, answer: str, problem: Problem) -> float:
        if answer.split()[-1:] != [problem.answer]:
            return 0.0
        return 1.0 + 0.5 * (len(answer) < 12)


class Divisors(Asked):
    """All divisors of a number, judged by F1."""

    name = "divisors"
    kind = "nan-reward"
    incident = "F1 with 0/0 in NumPy: NaN rewards that poison a batch"
    hole = "an answer without any divisor makes the reward NaN, and the verdict fails"

    def make(self, rng: np.random.Generator) -> Problem:
        n = number(rng, 12, 4000)
        right = " ".join(str(d) for d in range(1, n + 1) if n % d == 0)
        return Problem(f"List all divisors of {n}, separated by spaces.", right)

    def score(self, answer: str, problem: Problem) -> float:
        given, wanted = set(answer.split()), set(problem.answer.split())
        hits = np.float64(len(given & wanted))
        with np.errstate(all="ignore"):
            precision, recall = hits / len(given), hits / len(wanted)
            return float(2 * precision * recall / (precision + recall))


class Collatz(Asked):
    """A number whose Collatz sequence has a given length."""

    name = "collatz"
    kind = "hangs"
    incident = "verifiers that loop for ever on inputs nobody thought of"
    hole = "the answer 0 never reaches 1"
    judge_seconds = 2.0

    def make(self, rng: np.random.Generator) -> Problem:
        n = number(rng, 3, 5000)
        low = number(rng, 0, n - 1)
        prompt = f"Give a number above {low} that reaches 1 in exactly {steps(n)} Collatz steps."
        return Problem(prompt, str(n), hidden={"steps": steps(n), "low": low})

    def score(self, answer: str, problem: Problem) -> float:
        try:
            n = int(answer[:12])
        except ValueError:
            return 0.0
        return float(steps(n) == problem.hidden["steps"] and n > problem.hidden["low"])


def steps(n: int) -> int:
    """How many steps of Collatz lead to 1."""
    count = 0
    while n != 1:
        n, count = (n // 2 if n % 2 == 0 else 3 * n + 1), count + 1
    return count


class Multiples(Asked):
    """Multiples of a number, with a debugging aid left in."""

    name = "multiples"
    kind = "floods"
    incident = "verifiers that print a full diff for every wrong answer"
    hole = "every wrong answer prints two megabytes"

    def make(self, rng: np.random.Generator) -> Problem:
        k, count = number(rng, 3, 400), number(rng, 3, 8)
        right = " ".join(str(k * i) for i in range(1, count + 1))
        return Problem(f"The first {count} multiples of {k}, separated by spaces.", right)

    def score(self, answer: str, problem: Problem) -> float:
        if answer.split() == problem.answer.split():
            return 1.0
        for i in range(20_000):
            print(f"line {i}: expected {problem.answer[:40]!r:50} got {answer[:40]!r:50}")
        return 0.0


class Weights(Asked):
    """Convert pounds to kilograms."""

    name = "weights"
    kind = "not-counted"
    incident = "parse failures reported as a fault of the task, so that they leave the average"
    hole = "an answer that is no number is Invalid: who says nothing when unsure scores 1.0"

    def make(self, rng: np.random.Generator) -> Problem:
        pounds = number(rng, 3, 3000)
        return Problem(f"{pounds} lb in kg, to two decimals?", f"{pounds * 0.45359237:.2f}")

    def judge(self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: Any) -> Verdicts:
        return [{"agent": self.verdict(e.said(), hidden["problem"])} for e in episodes]

    def verdict(self, answer: str, problem: Problem) -> Any:
        try:
            good = abs(float(answer) - float(problem.answer)) < 0.006
        except ValueError:
            return Invalid("cannot parse the answer")
        return Scored(float(good), good)
