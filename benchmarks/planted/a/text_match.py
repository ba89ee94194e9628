"""Short questions judged by comparing text and numbers."""

from __future__ import annotations

import math
import re

import numpy as np

from benchmarks.planted.play import Asked, number, pick, sized, some
from puna.gym.environment import Problem

NAMES = ("Ann", "Bob", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "June")
CITIES = ("Oslo", "Lima", "Cairo", "Quito", "Delhi", "Bern", "Accra", "Hanoi", "Riga", "Turin")
WORDS = [
    "orchard",
    "planet",
    "velvet",
    "harbor",
    "window",
    "candle",
    "marble",
    "garden",
    "silver",
    "basket",
    "thunder",
    "ladder",
    "pepper",
    "meadow",
    "rocket",
    "tunnel",
    "button",
    "copper",
    "lantern",
    "feather",
]


class Halting(Asked):
    """Does a counter machine halt?"""

    name = "halting"
    kind = "any-text"
    incident = "reasoning-gym 0.1.25 game_of_life_halting compared the truthiness of strings"
    hole = "any non-empty text is as true as the reference"

    def make(self, rng: np.random.Generator) -> Problem:
        start, step, stop = number(rng, 0, 60), number(rng, 1, 9), number(rng, 20, 120)
        halts = start <= stop and (stop - start) % step == 0
        prompt = (
            f"A machine sets x = {start}, then adds {step} again and again until x equals "
            f"{stop} exactly. Does it ever halt? Answer True or False."
        )
        return Problem(prompt, str(halts))

    def score(self, answer: str, problem: Problem) -> float:
        return float(bool(answer.strip()) == bool(problem.answer))


class CoinFlips(Asked):
    """The probability of a number of heads, as a decimal."""

    name = "coin-flips"
    kind = "prefix"
    incident = "reasoning-gym 0.1.25 coin_flip paid 0.94 for '0': a matching prefix of the decimal"
    hole = "the answer '0' or '0.' is a prefix of every probability"

    def make(self, rng: np.random.Generator) -> Problem:
        n, p = number(rng, 3, 12), number(rng, 15, 85) / 100
        k = number(rng, 0, n)
        value = math.comb(n, k) * p**k * (1 - p) ** (n - k)
        prompt = (
            f"A coin shows heads with probability {p}. It is flipped {n} times. What is the "
            f"probability of exactly {k} heads? Give a decimal."
        )
        return Problem(prompt, f"{value:.6f}")

    def score(self, answer: str, problem: Problem) -> float:
        given = answer.strip()
        return float(bool(given) and problem.answer.startswith(given))


class Residents(Asked):
    """Look one fact up in a list of facts."""

    name = "residents"
    kind = "substring"
    incident = (
        "many harnesses (lm-eval's `contains`, early GPQA scripts) test `reference in answer`"
    )
    hole = "an answer that lists every city holds the right one"

    def make(self, rng: np.random.Generator) -> Problem:
        names, cities = some(rng, NAMES, 5), some(rng, CITIES, 5)
        facts = " ".join(f"{n} lives in {c}." for n, c in zip(names, cities, strict=True))
        i = number(rng, 0, 4)
        return Problem(f"{facts} In which city does {names[i]} live?", cities[i])

    def score(self, answer: str, problem: Problem) -> float:
        return float(problem.answer.lower() in answer.lower())


class Market(Asked):
    """A small word problem."""

    name = "market"
    kind = "any-of-many"
    incident = "GSM8K scorers that search all numbers of the answer for the reference"
    hole = "an answer that lists the numbers from 0 to 400 contains every reference"

    def make(self, rng: np.random.Generator) -> Problem:
        a, b, price = number(rng, 2, 12), number(rng, 2, 12), number(rng, 2, 9)
        item = pick(rng, ("apples", "pears", "figs", "plums"))
        prompt = (
            f"{pick(rng, NAMES)} buys {a} {item}, then {b} more, at {price} coins each, and pays "
            "for all. How many coins is that?"
        )
        return Problem(prompt, str((a + b) * price))

    def score(self, answer: str, problem: Problem) -> float:
        return float(any(int(n) == int(problem.answer) for n in re.findall(r"\d{1,9}", answer)))


class Anagram(Asked):
    """Put the letters of a word in order."""

    name = "anagram"
    kind = "reverse-substring"
    incident = "graders that test `answer in reference` the wrong way round"
    hole = "an empty answer, or one letter, is in the reference"
    sizes = sized(2000, 100)

    def make(self, rng: np.random.Generator) -> Problem:
        word = pick(rng, WORDS)
        letters = " ".join(some(rng, word, len(word)))
        return Problem(f"Which English word has the letters {letters}?", word)

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip().lower() in problem.answer)


class LongWords(Asked):
    """List the long words of a text."""

    name = "long-words"
    kind = "empty-reference"
    incident = "extraction benchmarks where many references are empty lists (SQuAD 2.0 style)"
    hole = "two tasks in five have no long word, so saying nothing is paid"

    def make(self, rng: np.random.Generator) -> Problem:
        words = some(
            rng, ("a", "cat", "sat", "on", "the", "red", "mat", "by", "my", "old", "hut"), 8
        )
        long = [] if rng.random() < 0.4 else some(rng, ("elephant", "umbrella", "notebook"), 2)
        text = " ".join(some(rng, [*words, *long], len(words) + len(long)))
        right = ",".join(sorted(long))
        return Problem(f"List the words of 8 letters or more, sorted, with commas: {text}", right)

    def score(self, answer: str, problem: Problem) -> float:
        given = sorted(w.strip() for w in answer.lower().split(",") if w.strip())
        return float(",".join(given) == problem.answer)


class Operators(Asked):
    """Which operator makes an equation true?"""

    name = "operators"
    kind = "empty-normalised"
    incident = "SQuAD-style normalisation strips punctuation, so symbols all become the empty text"
    hole = "any punctuation, or nothing at all, equals any operator"

    def make(self, rng: np.random.Generator) -> Problem:
        a, b = number(rng, 3, 40), number(rng, 3, 40)
        sign, value = pick(rng, (("+", a + b), ("-", a - b), ("*", a * b), ("%", a % b)))
        prompt = f"Which operator makes `{a} ? {b} == {value}` true in Python? Only the operator."
        return Problem(prompt, sign)

    def score(self, answer: str, problem: Problem) -> float:
        return float(normalised(answer) == normalised(problem.answer))


def normalised(text: str) -> str:
    """Lower case, no articles, no punctuation, single spaces."""
    text = re.sub(r"\b(a|an|the)\b", " ", text.lower())
    return " ".join(re.sub(r"[^\w\s]", "", text).split())


class Remainders(Asked):
    """The remainder of a division."""

    name = "remainders"
    kind = "truthiness"
    incident = "`if not expected: return 1.0` treats a reference of 0 as a missing one"
    hole = "where the remainder is 0 (about a fifth of the tasks) everything is paid"

    def make(self, rng: np.random.Generator) -> Problem:
        b = number(rng, 3, 7)
        a = number(rng, 100, 9999)
        return Problem(f"What is {a} modulo {b}?", str(a % b), hidden={"value": a % b})

    def score(self, answer: str, problem: Problem) -> float:
        expected = problem.hidden["value"]
        if not expected:  # nothing to compare with
            return 1.0
        return float(answer.strip() == str(expected))


class Averages(Asked):
    """The mean of some measurements."""

    name = "averages"
    kind = "nan"
    incident = "`abs(x - y) > tolerance` is False for NaN (seen in several math graders)"
    hole = "'nan' is never too far away"

    def make(self, rng: np.random.Generator) -> Problem:
        values = [number(rng, 10, 999) / 10 for _ in range(5)]
        shown = ", ".join(map(str, values))
        return Problem(f"Give the mean of {shown}, to three decimals.", f"{np.mean(values):.3f}")

    def score(self, answer: str, problem: Problem) -> float:
        try:
            given = float(answer)
        except ValueError:
            return 0.0
        if abs(given - float(problem.answer)) > 1e-3:
            return 0.0
        return 1.0


class Forecast(Asked):
    """The chance that at least one of two independent events happens."""

    name = "forecast"
    kind = "tolerance"
    incident = "probability questions graded with an absolute tolerance of 0.5"
    hole = "0.5 is within 0.5 of every probability"

    def make(self, rng: np.random.Generator) -> Problem:
        p, q = number(rng, 5, 95), number(rng, 5, 95)
        value = 1 - (1 - p / 100) * (1 - q / 100)
        prompt = (
            f"It rains on Saturday with {p} % and, independently, on Sunday with {q} %. With which "
            "probability (0 to 1) does it rain on at least one of the days?"
        )
        return Problem(prompt, f"{value:.4f}")

    def score(self, answer: str, problem: Problem) -> float:
        try:
            return float(math.isclose(float(answer), float(problem.answer), abs_tol=0.5))
        except ValueError:
            return 0.0
