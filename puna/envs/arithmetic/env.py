"""arithmetic: integer expressions such as "47+8=", judged exactly. `puna env try arithmetic`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from puna.gym.environment import Problem, SingleTurn, say
from puna.gym.task import Script, Task


@dataclass(frozen=True)
class ArithmeticConfig:
    """How hard the expressions are: `terms` operands at most, each of at most `digits` digits."""

    terms: int = 2
    digits: int = 2
    operators: str = "+-"

    def __post_init__(self) -> None:
        """Raises ValueError for a range without problems."""
        if not 2 <= self.terms <= 8:
            raise ValueError(f"terms is {self.terms}, must be 2 to 8")
        if not 1 <= self.digits <= 9:
            raise ValueError(f"digits is {self.digits}, must be 1 to 9")
        if not self.operators or set(self.operators) - set("+-*"):
            raise ValueError(f"operators is {self.operators!r}, must be some of + - *")


class Arithmetic(SingleTurn):
    """Say the value of an integer expression, and nothing else."""

    name: ClassVar[str] = "arithmetic"
    version: ClassVar[str] = "2.0"
    Config: ClassVar[type] = ArithmeticConfig
    # Short sums are drawn most and soon used up; of a larger share more are left, and 1,500
    # different test problems are less unlike those of train (42 % of two-digit pairs, 26 % there).
    sizes: ClassVar[Mapping[str, int]] = {"train": 1_000_000, "test": 1_500}
    test_share: ClassVar[float] = 0.4

    def make(self, rng: np.random.Generator) -> Problem:
        """Draw the number of terms, the digits of each operand, the operators."""
        operators, most = self.config.operators, self.config.digits
        first, *shares = rng.random(1 + 3 * self.config.terms).tolist()
        terms = 2 + int(first * (self.config.terms - 1))
        text = ""
        for position in range(terms):
            which, length, value = shares[3 * position : 3 * position + 3]
            if position:
                text += operators[int(which * len(operators))]
            digits = 1 + int(length * most)
            low = 0 if digits == 1 else 10 ** (digits - 1)
            text += str(low + int(value * (10**digits - low)))
        return Problem(text + "=", str(evaluate(text)), tags={"terms": str(terms)})

    def score(self, answer: str, problem: Problem) -> float:
        """1 for exactly the value in decimal (white space around it is forgiven), else 0."""
        return float(answer.strip() == problem.answer)

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        """The standard cheats, and those an integer verifier is prone to."""
        right = task.hidden["problem"].answer
        wrong = str(int(right) + 1)
        texts = {
            "hedged": f"{wrong} or {right}",
            "expression": task.messages[0].text.rstrip("="),
            "leading zeros": "000" + right,
            "look-alike digits": "".join(chr(0xFF10 + int(c)) if c.isdigit() else c for c in right),
            "float": right + ".0",
            "off by one": wrong,
        }
        return {**super().cheats(task), **{n: {"agent": say(t)} for n, t in texts.items()}}


def evaluate(text: str) -> int:
    """The value of an expression of non-negative integers, `*` before `+` and `-`."""
    total, sign = 0, 1
    for part in text.replace("-", "+-").split("+"):
        sign, digits = (-1, part[1:]) if part.startswith("-") else (1, part)
        value = 1
        for factor in digits.split("*"):
            value *= int(factor)
        total += sign * value
    return total
