"""Routing, options and forecasts."""

from __future__ import annotations

import numpy as np

from benchmarks.planted.play import Asked, number, pick, some
from puna.gym.environment import Problem

TOPICS = {
    "billing": ("my invoice shows {n} too much", "you charged me twice, {n} each", "refund {n}"),
    "access": ("I cannot log in since {n} days", "password reset no. {n} fails"),
    "delivery": ("parcel {n} is late", "nobody brought order {n}"),
    "praise": ("thank you for order {n}", "visit {n} was lovely"),
}


class Routing(Asked):
    """Route a message to one of four teams."""

    name = "routing"
    kind = "class-imbalance"
    incident = "intent sets where one class dominates, reported against 1 / classes"
    hole = "'billing' is right seven times in ten; the declared chance is a quarter"
    chance = 0.25

    def make(self, rng: np.random.Generator) -> Problem:
        team = "billing" if rng.random() < 0.7 else pick(rng, ("access", "delivery", "praise"))
        text = pick(rng, TOPICS[team]).format(n=number(rng, 1, 9999))
        return Problem(f"Route to billing, access, delivery or praise: '{text}'", team)

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip().lower().strip(".") == problem.answer)


THINGS = ("valve", "hinge", "bracket", "gasket", "spindle", "washer", "clamp", "sleeve")
EXTRA = ("of forged steel with a protective coating", "made to measure for the northern plant",
         "as described in the second annex of the manual")  # fmt: skip


class Parts(Asked):
    """Which part has a given number?"""

    name = "parts"
    kind = "position-bias"
    incident = "multiple-choice sets whose right option is the longest (seen in several MCQ sets)"
    hole = "the longest option is right four times in five; a quarter is declared"
    chance = 0.25

    def make(self, rng: np.random.Generator) -> Problem:
        a, b = number(rng, 12, 60), number(rng, 12, 60)
        things = some(rng, THINGS, 4)
        numbers = [a * b, *(a * b + d for d in some(rng, (-30, -20, -10, 10, 20, 30), 3))]
        texts = [f"{t} no. {n}" for t, n in zip(things, numbers, strict=True)]
        longest = 0 if rng.random() < 0.75 else number(rng, 0, 3)
        texts[longest] += f", {pick(rng, EXTRA)}"
        order = some(rng, range(4), 4)
        shown = "\n".join(f"{x}. {texts[i]}" for x, i in zip("ABCD", order, strict=True))
        prompt = f"Which part has the number {a} times {b}?\n{shown}"
        return Problem(prompt, "ABCD"[order.index(0)])

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip().rstrip(".") == problem.answer)


class Sheets(Asked):
    """Options whose key cycles with the number of the sheet."""

    name = "sheets"
    kind = "index-parity"
    incident = "keys assigned round robin (A, B, C, D, A, ...) with the running number shown"
    hole = "the sheet's number modulo 4 is the place of the right option"
    chance = 0.25

    def make(self, rng: np.random.Generator) -> Problem:
        sheet, total = number(rng, 1, 9999), number(rng, 100, 900)
        part = number(rng, 10, total - 10)
        values = [total - part + d for d in some(rng, (-20, -10, 10, 20, 30), 3)]
        values.insert(sheet % 4, total - part)
        shown = ", ".join(f"({x}) {v}" for x, v in zip("abcd", values, strict=True))
        return Problem(f"Sheet #{sheet}: {total} less {part} is: {shown}", "abcd"[sheet % 4])

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip().strip("()").lower() == problem.answer)


class Tomorrow(Asked):
    """Tomorrow's temperature by a rule of thumb."""

    name = "tomorrow"
    kind = "constant"
    incident = "soft distance rewards 1 / (1 + error) with a generous scale"
    hole = "'15' earns more than 0.7 on average, and no chance is declared"

    def make(self, rng: np.random.Generator) -> Problem:
        days = [number(rng, 2, 28) for _ in range(4)]
        right = round(0.4 * days[3] + 0.3 * days[2] + 0.2 * days[1] + 0.1 * days[0], 1)
        shown = ", ".join(map(str, days))
        prompt = f"Temperatures so far: {shown}. Weigh them 1:2:3:4 for tomorrow's, one decimal."
        return Problem(prompt, str(right))

    def score(self, answer: str, problem: Problem) -> float:
        try:
            off = abs(float(answer) - float(problem.answer))
        except ValueError:
            return 0.0
        return 1 / (1 + off / 10) if off == off else 0.0
