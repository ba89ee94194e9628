"""Repetitions, quotations, edits and a toy language: exact or with partial credit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import numpy as np

from benchmarks.planted.play import Asked, number, pick, some
from puna.gym.environment import Problem
from puna.gym.task import Script, Task

WORDS = ("alfa", "bravo", "charlie", "delta", "foxtrot", "golf", "hotel", "india", "juliett",
         "kilo", "lima", "mike", "november", "oscar", "papa", "quebec", "romeo", "sierra", "tango",
         "uniform", "victor", "whiskey", "yankee", "zulu")  # fmt: skip
LINES = ("the ferry leaves at dawn", "nobody saw the second lamp", "rain fell on the orchard",
         "a bell rang twice below", "the cook forgot the pepper", "seven crows sat on the wall",
         "her letter was never sent", "the road bends by the mill", "we counted every barrel",
         "an old map lay on the desk")  # fmt: skip


class SaidTwice(Asked):
    """Which words does a text say twice? Judged by F1 over different words."""

    name = "said-twice"
    chance = 0.51  # of all the words of the text

    def make(self, rng: np.random.Generator) -> Problem:
        words = [f"{pick(rng, WORDS)[:3]}{pick(rng, WORDS)[-2:]}" for _ in range(12)]
        words = sorted(set(words))
        twice = some(rng, words, 4)
        text = some(rng, [*words, *twice], len(words) + 4)
        prompt = f"Which words stand twice here, separated by spaces: {' '.join(text)}"
        return Problem(prompt, " ".join(twice))

    def score(self, answer: str, problem: Problem) -> float:
        said, wanted = set(answer.split()), set(problem.answer.split())
        return 2 * len(said & wanted) / (len(said) + len(wanted))

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        return {n: s for n, s in super().cheats(task).items() if n != "echo" and "many" not in n}


class QuoteLine(Asked):
    """Quote one line of a text."""

    name = "quote-line"

    def make(self, rng: np.random.Generator) -> Problem:
        lines = [f"{line}, {number(rng, 10, 999)} times" for line in some(rng, LINES, 7)]
        asked = number(rng, 2, 6)
        text = "\n".join(lines)
        return Problem(f"Quote line {asked} exactly:\n{text}", lines[asked - 1])

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


class EditText(Asked):
    """Replace a word in a text and give all of it: nothing for the text as it was."""

    name = "edit-text"

    def make(self, rng: np.random.Generator) -> Problem:
        lines = some(rng, LINES, 4)
        i = number(rng, 0, 3)
        old = pick(rng, lines[i].split()[1:])
        new = f"{pick(rng, WORDS)}{number(rng, 1, 99)}"
        changed = [*lines[:i], re.sub(rf"\b{old}\b", new, lines[i], count=1), *lines[i + 1 :]]
        text = "\n".join(lines)
        prompt = (
            f"In line {i + 1} replace the first '{old}' by '{new}'; give all four lines.\n{text}"
        )
        return Problem(prompt, "\n".join(changed))

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip().splitlines() == problem.answer.splitlines())


class ToyLanguage(Asked):
    """Translate by a word list with two rules of grammar; credit for words in their places."""

    name = "toy-language"

    def make(self, rng: np.random.Generator) -> Problem:
        english = some(rng, ("dog", "bird", "child", "sees", "likes", "finds", "red", "small"), 8)
        syllables = ["".join(pick(rng, ("ka", "lo", "mi", "ru", "te", "so")) for _ in range(3))
                     for _ in english]  # fmt: skip
        words = dict(zip(english, syllables, strict=True))
        noun, other = some(rng, ("dog", "bird", "child"), 2)
        adjective, verb = pick(rng, ("red", "small")), pick(rng, ("sees", "likes", "finds"))
        right = f"{words[noun]} {words[adjective]} {words[other]}um {words[verb]}"
        table = ", ".join(f"{e} = {t}" for e, t in words.items())
        prompt = (
            f"{table}. Adjectives follow their noun, the verb comes last, objects end in -um, and "
            f"there is no article. Translate 'the {adjective} {noun} {verb} the {other}'."
        )
        return Problem(prompt, right)

    def score(self, answer: str, problem: Problem) -> float:
        given, right = answer.split(), problem.answer.split()
        if len(given) != len(right):
            return 0.0
        return sum(g == r for g, r in zip(given, right, strict=True)) / len(right)


class Receipts(Asked):
    """A receipt as nested JSON, compared as a whole with its types."""

    name = "receipts"

    def make(self, rng: np.random.Generator) -> Problem:
        goods = some(rng, ("tea", "bread", "cheese", "apples", "soap"), 3)
        rows = [{"item": g, "count": number(rng, 1, 9), "price": number(rng, 1, 40)} for g in goods]
        shown = "; ".join(f"{r['count']} {r['item']} for {r['price']} each" for r in rows)
        receipt = {"shop": f"no. {number(rng, 1, 999)}", "rows": rows,
                   "total": sum(r["count"] * r["price"] for r in rows)}  # fmt: skip
        prompt = (
            f"Shop {receipt['shop']} sold {shown}. As JSON: shop (text), rows (list of item, count "
            "and price in this order of goods), total (number)."
        )
        return Problem(prompt, json.dumps(receipt))

    def score(self, answer: str, problem: Problem) -> float:
        try:
            given = json.dumps(json.loads(answer[:10_000]), sort_keys=True)
        except (ValueError, RecursionError):
            return 0.0
        return float(given == json.dumps(json.loads(problem.answer), sort_keys=True))
