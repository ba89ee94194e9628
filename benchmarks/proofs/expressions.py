"""Random expressions, written as a program has them and as a specification has them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVELS = (
    ("->", "<->"), ("or",), ("and",), ("not",), ("==", "!=", "<", "<=", ">", ">="), ("+", "-"),
    ("*", "//", "%"), ("neg",),
)  # fmt: skip
RANK = {op: level for level, ops in enumerate(LEVELS) for op in ops}
TIGHTEST = len(LEVELS)


@dataclass(frozen=True)
class Expr:
    """An operator and what it is applied to; a leaf has its text as operator."""

    op: str
    parts: tuple[Expr, ...] = ()

    def put(self, values: Mapping[str, Expr]) -> Expr:
        """The expression with values for its variables."""
        if not self.parts:
            return values.get(self.op, self)
        return Expr(self.op, tuple(p.put(values) for p in self.parts))

    def program(self) -> str:
        """As Python has it, with as few parentheses as may be."""
        return _python(self, 0)

    def formula(self) -> str:
        """As a specification has it, with all parentheses."""
        said = [p.formula() for p in self.parts]
        match self.op:
            case "neg":
                return f"(-{said[0]})"
            case "not":
                return f"(not {said[0]})"
            case "if":
                return f"(if {said[0]} then {said[1]} else {said[2]})"
        if not self.parts:
            return f"({self.op})" if self.op.startswith("-") else self.op
        return f"({said[0]} {self.op} {said[1]})"


def _python(expr: Expr, above: int) -> str:
    if not expr.parts:
        return expr.op if not expr.op.startswith("-") or above < RANK["neg"] else f"({expr.op})"
    if expr.op == "if":
        test, yes, no = (_python(p, 0) for p in expr.parts)
        return f"({yes} if {test} else {no})"
    rank = RANK[expr.op]
    if expr.op in ("neg", "not"):
        text = {"neg": "-", "not": "not "}[expr.op] + _python(expr.parts[0], rank)
    else:
        # to the left as tight, to the right tighter; comparisons do not chain in programs
        chained = expr.op in LEVELS[4]
        left = _python(expr.parts[0], rank + chained)
        right = _python(expr.parts[1], rank + (expr.op not in ("and", "or")))
        text = f"{left} {expr.op} {right}"
    return f"({text})" if rank < above else text


DIVISORS = ("2", "3", "5", "-2", "-3", "7", "-4")


def integer(rng: random.Random, names: Sequence[str], truths: Sequence[str], depth: int) -> Expr:
    """A linear expression, with quotients and remainders by constants of either sign."""
    kind = rng.random()
    if depth == 0 or kind < 0.2:
        if names and rng.random() < 0.7:
            return Expr(rng.choice(names))
        return Expr(str(rng.randint(-9, 9)))
    one = integer(rng, names, truths, depth - 1)
    if kind < 0.5:
        return Expr(rng.choice("+-"), (one, integer(rng, names, truths, depth - 1)))
    if kind < 0.6:
        return Expr("*", (Expr(str(rng.randint(2, 5))), one))
    if kind < 0.8:
        return Expr(rng.choice(("//", "%")), (one, Expr(rng.choice(DIVISORS))))
    if kind < 0.88:
        return Expr("neg", (one,))
    other = integer(rng, names, truths, depth - 1)
    return Expr("if", (truth(rng, names, truths, depth - 1), one, other))


def truth(rng: random.Random, names: Sequence[str], truths: Sequence[str], depth: int) -> Expr:
    """A comparison, or several joined."""
    kind = rng.random()
    if kind < 0.12 and truths:
        return Expr(rng.choice(truths))
    if depth <= 0 or kind < 0.5:
        depth = max(depth - 1, 0)
        sides = integer(rng, names, truths, depth), integer(rng, names, truths, depth)
        return Expr(rng.choice(LEVELS[4]), sides)
    one = truth(rng, names, truths, depth - 1)
    if kind < 0.62:
        return Expr("not", (one,))
    return Expr(rng.choice(("and", "or")), (one, truth(rng, names, truths, depth - 1)))
