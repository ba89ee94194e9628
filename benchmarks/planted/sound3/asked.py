"""One question, one answer: signals, scores, doses, squares and forms."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from benchmarks.planted.play import Asked, number, pick, sized, some, whole
from benchmarks.planted.sound.few import Listed
from puna.gym.environment import Problem

LAMPS = ("amber", "cyan", "violet")


class Signals(Asked):
    """The colour of a lamp that goes round: three answers, equally often."""

    name = "signal-lamp"
    chance = 0.33

    def make(self, rng: np.random.Generator) -> Problem:
        first, steps, twice = number(rng, 0, 2), number(rng, 20, 999), number(rng, 2, 60)
        prompt = (
            f"A lamp goes round {', '.join(LAMPS)} and is {LAMPS[first]}. It changes {steps} "
            f"times, and then {twice} times as often again. Which colour has it?"
        )
        return Problem(prompt, LAMPS[(first + steps + steps * twice) % 3])

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip(" \n.").lower() == problem.answer)


def roman(n: int) -> str:
    """Roman numerals below 4000."""
    values = (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1)
    letters = ("M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I")
    out = ""
    for value, letter in zip(values, letters, strict=True):
        out, n = out + letter * (n // value), n % value
    return out


class RomanSums(Asked):
    """Add up Roman numerals; capitals or not."""

    name = "roman-sums"

    def make(self, rng: np.random.Generator) -> Problem:
        a, b, c = (number(rng, 40, 1200) for _ in range(3))
        return Problem(f"{roman(a)} + {roman(b)} + {roman(c)} in Roman numerals?", roman(a + b + c))

    def score(self, answer: str, problem: Problem) -> float:
        text = answer.strip(" \n\t")
        return float(text.isascii() and text.upper() == problem.answer)


class ScaledRecipe(Asked):
    """Scale six amounts; each that is right counts alike."""

    name = "scaled-recipe"

    def make(self, rng: np.random.Generator) -> Problem:
        amounts, factor = some(rng, range(101, 999), 6), number(rng, 3, 29)
        right = " ".join(str(a * factor) for a in amounts)
        return Problem(f"{factor} times {' '.join(map(str, amounts))}; in order, by spaces?", right)

    def score(self, answer: str, problem: Problem) -> float:
        given, wanted = answer.split(), problem.answer.split()
        if len(given) != len(wanted):
            return 0.0
        return sum(a == b for a, b in zip(given, wanted, strict=True)) / len(wanted)


class Orders(Asked):
    """A message as JSON; the order of the keys and the white space do not matter."""

    name = "order-forms"

    def make(self, rng: np.random.Generator) -> Problem:
        who, what = pick(rng, ("Nora", "Otis", "Pia", "Quin")), pick(rng, ("lamps", "mugs", "rugs"))
        count, price, gift = number(rng, 2, 90), number(rng, 3, 300), bool(rng.random() < 0.5)
        prompt = (
            f"'{who} here, {count} {what} at {price} each{', as a present' if gift else ''}.'"
            ' As JSON: {"name": .., "item": .., "total": number, "gift": true or false}'
        )
        right = {"name": who, "item": what, "total": count * price, "gift": gift}
        return Problem(prompt, json.dumps(right))

    def score(self, answer: str, problem: Problem) -> float:
        try:
            given = json.loads(answer.strip()[:1000])
        except (ValueError, RecursionError):
            return 0.0
        wanted = json.loads(problem.answer)
        if not isinstance(given, dict) or set(given) != set(wanted):
            return 0.0
        return float(all(type(given[k]) is type(v) and given[k] == v for k, v in wanted.items()))


class Diagonals(Asked):
    """A length within half a per cent, as the question says."""

    name = "diagonals"

    def make(self, rng: np.random.Generator) -> Problem:
        a, b, c = (int(10 ** rng.uniform(1, 4)) for _ in range(3))
        prompt = f"The diagonal of a box of {a} by {b} by {c} mm, to half a per cent? A number."
        return Problem(prompt, f"{math.sqrt(a * a + b * b + c * c):.3f}")

    def score(self, answer: str, problem: Problem) -> float:
        if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,9})?", answer.strip()):
            return 0.0
        wanted = float(problem.answer)
        return float(abs(float(answer.strip()) - wanted) <= 0.005 * wanted)


class KnightMoves(Asked):
    """The squares that two knights attack, in any order; F1, and nothing below half precision."""

    name = "knight-moves"

    def make(self, rng: np.random.Generator) -> Problem:
        squares = some(rng, [(x, y) for x in range(8) for y in range(8)], 2)
        jumps = [(i, j) for i in (-2, -1, 1, 2) for j in (-2, -1, 1, 2) if abs(i) != abs(j)]
        reached = {(x + i, y + j) for x, y in squares for i, j in jumps
                   if 0 <= x + i < 8 and 0 <= y + j < 8}  # fmt: skip
        names = sorted("abcdefgh"[x] + str(y + 1) for x, y in reached)
        at = " and ".join("abcdefgh"[x] + str(y + 1) for x, y in squares)
        return Problem(f"Knights on {at}. All squares they attack, by spaces?", " ".join(names))

    def score(self, answer: str, problem: Problem) -> float:
        given, wanted = answer.split(), set(problem.answer.split())
        if not given or not all(re.fullmatch("[a-h][1-8]", w) for w in given):
            return 0.0
        good = len(set(given) & wanted)
        f1 = 2 * good / (len(given) + len(wanted))
        return f1 if good >= 0.8 * len(given) else 0.0


class Doses(Asked):
    """A dose, or a refusal where the rules forbid one (three tasks in ten)."""

    name = "dose-or-refuse"
    chance = 0.3  # of refusing always

    def make(self, rng: np.random.Generator) -> Problem:
        limit, per = number(rng, 10, 18), number(rng, 3, 29)
        forbidden = rng.random() < 0.3
        age = number(rng, 2, limit - 1) if forbidden else number(rng, limit, 90)
        weight = number(rng, 12, 30) if age < 10 else number(rng, 31, 120)
        prompt = (
            f"Rule: {per} mg per kg, never below the age of {limit}. Patient: {age} years, "
            f"{weight} kg. Answer by the number of mg, or by the word refuse."
        )
        return Problem(prompt, "refuse" if forbidden else str(per * weight))

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip().lower() == problem.answer)


WORDS = ("harbour", "lantern", "meadow", "orchard", "pebble", "quarry", "saddle", "thicket",
         "velvet", "walnut")  # fmt: skip


class Atbash(Asked):
    """Decode three words."""

    name = "mirror-alphabet"

    def make(self, rng: np.random.Generator) -> Problem:
        plain = " ".join(some(rng, WORDS, 4))
        coded = "".join(c if c == " " else chr(219 - ord(c)) for c in plain)
        prompt = f"a is written z, b y, c x and so on. Decode, words by spaces. {coded}"
        return Problem(prompt, plain)

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip().lower() == problem.answer)


class Seals(Asked):
    """Copy one seal number out of a list."""

    name = "seal-numbers"

    def make(self, rng: np.random.Generator) -> Problem:
        boxes = some(rng, range(100, 1000), 9)
        seals = [f"{pick(rng, 'KLMN')}{number(rng, 10_000, 99_999)}" for _ in boxes]
        i = number(rng, 0, 7)
        rows = "\n".join(f"box {b} seal {s}" for b, s in zip(boxes, seals, strict=True))
        return Problem(f"Which seal is on box {boxes[i]}?\n{rows}", seals[i])

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


def values_of(text: str, points: tuple[int, ...]) -> list[int] | None:
    """The values of an expression in n with + - * // and numbers below 10,000, or None."""

    def of(node: ast.AST, n: int) -> int:
        match node:
            case ast.Constant(value=int(v)) if not isinstance(v, bool) and abs(v) < 10_000:
                return v
            case ast.Name("n"):
                return n
            case ast.BinOp(left, ast.Add(), right):
                return of(left, n) + of(right, n)
            case ast.BinOp(left, ast.Sub(), right):
                return of(left, n) - of(right, n)
            case ast.BinOp(left, ast.Mult(), right):
                return of(left, n) * of(right, n)
            case ast.BinOp(left, ast.FloorDiv(), right):
                return of(left, n) // of(right, n)
        raise ValueError("not allowed")

    try:
        tree = ast.parse(text.strip()[:120], mode="eval").body
        return [of(tree, n) for n in points]
    except (ValueError, SyntaxError, RecursionError, MemoryError, ZeroDivisionError):
        return None


class ClosedForm(Asked):
    """A formula for the n-th number; judged at points that are not shown."""

    name = "closed-form"

    def make(self, rng: np.random.Generator) -> Problem:
        a, b, c = (number(rng, 2, 40) for _ in range(3))
        shown = ", ".join(str(a * n * n + b * n + c) for n in range(1, 6))
        prompt = f"{shown}, ... is quadratic. A Python expression in n for the n-th (from 1)?"
        return Problem(prompt, f"{a} * n * n + {b} * n + {c}")

    def score(self, answer: str, problem: Problem) -> float:
        points = (1, 3, 9, 20, 77)
        given = values_of(answer, points)
        return float(given is not None and given == values_of(problem.answer, points))


class FewBells(Asked):
    """A handful of tasks in all."""

    name = "few-bells"
    sizes: ClassVar[Mapping[str, int]] = sized(12, 4)

    def make(self, rng: np.random.Generator) -> Problem:
        a, b = pick(rng, ((12, 18), (14, 21), (20, 35), (24, 90), (16, 44), (27, 36), (33, 55),
                          (26, 65), (40, 64), (45, 63), (28, 98), (30, 84)))  # fmt: skip
        first = pick(rng, (7, 13, 19, 31))
        prompt = (
            f"Two bells strike together at minute {first}, then every {a} and every {b} minutes. "
            "At which minute do they next strike together?"
        )
        return Problem(prompt, str(first + math.lcm(a, b)))

    def score(self, answer: str, problem: Problem) -> float:
        return float(whole(answer) == int(problem.answer))


class Finals(Listed):
    """One task to train on and one to test on."""

    name = "two-finals"
    questions: ClassVar = {
        "train": (("137 teams, each plays each twice. How many games are played?", "18632"),),
        "test": (("139 teams, each plays each twice. How many games are played?", "19182"),),
    }
