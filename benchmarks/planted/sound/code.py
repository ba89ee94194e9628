"""Code judged by hidden tests: it runs in the sandbox, what is expected stays outside."""

from __future__ import annotations

import numpy as np

from benchmarks.planted.play import Asked, number, pick
from puna.gym.environment import Problem
from puna.sandbox import Job, Limits, shared

LIMITS = Limits(cpu_s=2, wall_s=10)


class HiddenTests(Asked):
    """A function of a list; every hidden case must be right."""

    name = "hidden-tests"
    tier = "jail"

    def make(self, rng: np.random.Generator) -> Problem:
        k, m = number(rng, 2, 9), number(rng, 2, 60)
        what, body = pick(rng, (
            (f"multiples of {k}, each plus {m}", f"[x + {m} for x in xs if x % {k} == 0]"),
            (f"numbers above {m}, each times {k}", f"[x * {k} for x in xs if x > {m}]"),
            (f"numbers at places 0, {k}, {2 * k}, ..., minus {m}", f"[x - {m} for x in xs[::{k}]]"),
        ))  # fmt: skip
        cases = [[int(x) for x in rng.integers(0, 120, 15)] for _ in range(6)]
        prompt = f"Write f(xs) in Python: it returns the list of the {what}. Only the code."
        code = f"def f(xs):\n    return {body}\n"
        return Problem(prompt, code, hidden={"cases": cases, "wanted": [
            eval(body, {"xs": xs}) for xs in cases]})  # fmt: skip

    def score(self, answer: str, problem: Problem) -> float:
        given = shared().call_now(answer, "f", [(xs,) for xs in problem.hidden["cases"]], LIMITS)
        return float([g.value for g in given] == problem.hidden["wanted"])


class ShareOfTests(Asked):
    """A function of a number; each hidden case counts alike."""

    name = "share-of-tests"
    tier = "jail"

    def make(self, rng: np.random.Generator) -> Problem:
        a, b, limit = number(rng, 3, 50), number(rng, 61, 99), number(rng, 10, 40)
        cases = sorted({int(x) for x in rng.integers(2, 60, 8)})
        prompt = (
            f"Write f(x): {a} times x squared where x is below {limit}, else x cubed plus {b}. "
            "Only the code."
        )
        code = f"def f(x):\n    return {a} * x * x if x < {limit} else x**3 + {b}\n"
        wanted = [a * x * x if x < limit else x**3 + b for x in cases]
        return Problem(prompt, code, hidden={"cases": cases, "wanted": wanted})

    def score(self, answer: str, problem: Problem) -> float:
        given = shared().call_now(answer, "f", [(x,) for x in problem.hidden["cases"]], LIMITS)
        pairs = zip(given, problem.hidden["wanted"], strict=True)
        good = [type(g.value) is int and g.value == w for g, w in pairs]
        return sum(good) / len(good)


class Programs(Asked):
    """A program from standard input to standard output."""

    name = "programs"
    tier = "jail"

    def make(self, rng: np.random.Generator) -> Problem:
        k, m = number(rng, 2, 40), number(rng, 100, 999)
        inputs = [[int(x) for x in rng.integers(1, 500, 6)] for _ in range(2)]
        prompt = (
            f"Write a Python program: it reads numbers, one a line, and prints the sum of those "
            f"above {m // 3} times {k}, modulo {m}. Only the code."
        )
        code = "import sys\nxs = [int(x) for x in sys.stdin]\n"
        code += f"print(sum(x for x in xs if x > {m // 3}) * {k} % {m})\n"
        wanted = [str(sum(x for x in xs if x > m // 3) * k % m) for xs in inputs]
        return Problem(prompt, code, hidden={"inputs": inputs, "wanted": wanted})

    def score(self, answer: str, problem: Problem) -> float:
        if "\0" in answer:
            return 0.0
        for xs, wanted in zip(problem.hidden["inputs"], problem.hidden["wanted"], strict=True):
            text = "\n".join(map(str, xs)) + "\n"
            result = shared().run_now(Job.python(answer, stdin=text.encode(), limits=LIMITS))
            if not result.ok or result.stdout.decode(errors="replace").strip() != wanted:
                return 0.0
        return 1.0
