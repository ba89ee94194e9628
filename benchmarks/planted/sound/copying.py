"""Tasks where copying a part of the prompt is right."""

from __future__ import annotations

import numpy as np

from benchmarks.planted.play import Asked, number, pick, some
from puna.gym.environment import Problem

ADJECTIVES = ("quiet", "green", "broken", "early", "narrow", "golden", "sudden", "hollow")
NOUNS = ("river", "engine", "window", "letter", "garden", "signal", "island", "mirror")
VERBS = ("follows", "hides", "mends", "paints", "carries", "forgets")


def sentence(rng: np.random.Generator) -> str:
    """Nonsense of some length."""
    parts = [
        f"the {pick(rng, ADJECTIVES)} {pick(rng, NOUNS)} {pick(rng, VERBS)} "
        f"the {pick(rng, ADJECTIVES)} {pick(rng, NOUNS)}"
        for _ in range(2)
    ]
    return " while ".join(parts)


class Mailbox(Asked):
    """Extract the tracking number from a message."""

    name = "mailbox"

    def make(self, rng: np.random.Generator) -> Problem:
        codes = [f"{pick(rng, 'ABCXYZ')}{number(rng, 10**6, 10**7 - 1)}" for _ in range(3)]
        kinds = some(rng, ("order", "tracking", "invoice"), 3)
        text = " ".join(f"The {k} number is {c}." for k, c in zip(kinds, codes, strict=True))
        return Problem(f"Extract the tracking number. {text}", codes[kinds.index("tracking")])

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


class Spans(Asked):
    """Who did it? The answer is a span of the text."""

    name = "spans"

    def make(self, rng: np.random.Generator) -> Problem:
        subjects = [f"the {a} {n}" for a, n in zip(some(rng, ADJECTIVES, 4), some(rng, NOUNS, 4),
                                                  strict=True)]  # fmt: skip
        verbs = some(rng, VERBS, 2)
        text = f"{subjects[0]} {verbs[0]} {subjects[1]}; {subjects[2]} {verbs[1]} {subjects[3]}"
        i = number(rng, 0, 1)
        prompt = f"Text: {text}. What {verbs[i]} {subjects[2 * i + 1]}? Quote it from the text."
        return Problem(prompt, subjects[2 * i])

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


class RepeatAfterMe(Asked):
    """Say a sentence again."""

    name = "repeat-after-me"

    def make(self, rng: np.random.Generator) -> Problem:
        text = sentence(rng)
        return Problem(f"({text}) Repeat what stands between the brackets, exactly.", text)

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


class Shout(Asked):
    """Repeat in capitals, with the words in reverse order."""

    name = "shout"

    def make(self, rng: np.random.Generator) -> Problem:
        text = sentence(rng)
        prompt = f"Repeat in capital letters, last word first: {text}"
        return Problem(prompt, " ".join(text.upper().split()[::-1]))

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.split() == problem.answer.split())


class Initials(Asked):
    """The first letters of the words of a sentence."""

    name = "initials"

    def make(self, rng: np.random.Generator) -> Problem:
        text = sentence(rng)
        return Problem(
            f"Write the first letter of each word, together: {text}",
            "".join(w[0] for w in text.split()),
        )

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)
