"""References that are wrong or missing, and splits that are not apart."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np

from benchmarks.planted.play import Asked, number, pick, sized, some
from puna.core.messages import Message
from puna.core.rng import stream
from puna.gym.environment import Problem, say
from puna.gym.task import Script, Task

AUTHORS = ("Achterberg", "Brontë", "Calvino", "Dumas", "Eco", "Fontane", "Gogol", "Hesse",
           "Ibsen", "Kafka", "Lessing", "Musil", "Neruda", "Pessoa", "Rilke", "Svevo")  # fmt: skip
PARTICLES = ("de Assis", "van Dis", "von Kleist", "du Bellay", "della Casa", "ten Boom")


class CardIndex(Asked):
    """Put a card into an alphabetical index."""

    name = "card-index"
    kind = "wrong-reference"
    incident = "references by sorted(), which puts capitals before small letters; readers do not"
    hole = "with a name such as 'van Dis' in the box (two of three) the reference is out of order"

    def make(self, rng: np.random.Generator) -> Problem:
        names = some(rng, AUTHORS, 5)
        if rng.random() < 0.66:
            names[0] = pick(rng, PARTICLES)
        years = [number(rng, 1790, 1960) for _ in names]
        cards = [f"{n} {y}" for n, y in zip(names, years, strict=True)]
        prompt = (
            f"Five cards: {', '.join(some(rng, cards, 5))}. Put them into alphabetical order, "
            "as a reader looks for them (capitals or not makes no difference), by commas."
        )
        return Problem(prompt, ", ".join(sorted(cards)), hidden={"cards": cards})

    def score(self, answer: str, problem: Problem) -> float:
        given = [card.strip() for card in answer.split(",")]
        return float(given == sorted(problem.hidden["cards"], key=str.casefold))


@cache
def queens(size: int, first: int) -> tuple[int, ...]:
    """The first placement of queens with one given in row 1, by columns; () where there is none."""

    def place(columns: tuple[int, ...]) -> tuple[int, ...]:
        if len(columns) == size:
            return columns
        for c in range(1, size + 1):
            if all(c != d and abs(c - d) != len(columns) - i for i, d in enumerate(columns)):
                found = place((*columns, c))
                if found:
                    return found
        return ()

    return place((first,))


class Queens(Asked):
    """Place queens on a board."""

    name = "queens"
    kind = "oracle-missing"
    incident = "solutions looked up in a table that was made for the small sizes"
    hole = "for boards above 7 (more than half) there is no entry, and the reference has no script"
    chance = 0.06  # of one placement always

    def make(self, rng: np.random.Generator) -> Problem:
        size = pick(rng, (5, 7, 8, 9, 10))
        first = number(rng, 1, size)
        prompt = (
            f"Board {number(rng, 1, 9999)} of {size} x {size}: place {size} queens so that none "
            f"attacks another, the one of row 1 in column {first}. The columns by rows, with "
            "spaces."
        )
        known = queens(size, first) if size <= 7 else ()
        return Problem(prompt, " ".join(map(str, known)), hidden={"size": size, "first": first})

    def score(self, answer: str, problem: Problem) -> float:
        words, size = answer.split(), problem.hidden["size"]
        if words[:1] != [str(problem.hidden["first"])] or len(words) != size:
            return 0.0
        if not all(w in map(str, range(1, size + 1)) for w in words):
            return 0.0
        at = [int(w) for w in words]
        lines = (at, [c + i for i, c in enumerate(at)], [c - i for i, c in enumerate(at)])
        return float(all(len(set(line)) == size for line in lines))

    def oracle(self, task: Task) -> Mapping[str, Script]:
        problem: Problem = task.hidden["problem"]
        return {"agent": say(problem.answer)} if problem.answer else {}


class Ropes(Asked):
    """How much rope is left?"""

    name = "rope-store"
    kind = "same-tasks"
    incident = "`pool.repeat()` before take() and skip(): the test rows are a second helping"
    hole = "a pool of 700 rows is read round and round, and train has had all of it before test"
    sizes = sized(2000, 200)
    pool = 700

    def row(self, i: int) -> Problem:
        rng = stream(self.seed, self.name, "pool", i % self.pool)
        coil, cut, many = number(rng, 200, 900), number(rng, 2, 9), number(rng, 3, 20)
        coils, kind = number(rng, 2, 40), pick(rng, ("hemp", "sisal", "nylon", "cotton"))
        prompt = (
            f"{coils} coils of {coil} m of {kind} rope; from each, {many} pieces of {cut} m are "
            "cut. How many metres are left in all?"
        )
        return Problem(prompt, str(coils * (coil - many * cut)))

    def count(self, split: str) -> int:
        return self.sizes[split]

    def task(self, split: str, index: int) -> Task:
        self._check(split, index)
        row = index if split == "train" else self.sizes["train"] + index
        problem = self.row(row)
        text = (Message.user(problem.prompt),)
        return Task(f"{self.name}/{split}/{index}", text, f"row {row}", hidden={"problem": problem})

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


ONES = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
        "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
        "nineteen")  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def spelt(n: int) -> str:
    """A number from 1 to 99 in words."""
    if n < 20:
        return ONES[n]
    return TENS[n // 10] + ("-" + ONES[n % 10] if n % 10 else "")


class Orchards(Asked):
    """How many trees are there?"""

    name = "orchards"
    kind = "near-duplicates"
    incident = "augmentation that writes numbers in figures or in words, before the split"
    hole = "the same 190 orchards stand in train and test, figures and words changed about"

    def make(self, rng: np.random.Generator) -> Problem:
        pool = stream(self.seed, self.name, "orchards", number(rng, 0, 189))
        rows, trees, dead, young = (
            number(pool, *r) for r in ((12, 60), (11, 50), (5, 99), (2, 60))
        )
        fruit = pick(pool, ("apple", "cherry", "pear", "plum"))

        def said(n: int) -> str:
            return spelt(n) if rng.random() < 0.5 else str(n)

        prompt = (
            f"An orchard has {said(rows)} rows of {said(trees)} {fruit} trees. {said(dead)} of "
            f"them are felled, and in every row {said(young)} young ones are planted. How many "
            "trees are there now? In figures."
        )
        return Problem(prompt, str(rows * trees - dead + rows * young))

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)
