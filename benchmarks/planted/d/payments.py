"""Deliveries, directions, bases and archives with unusual kinds of reward."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.planted.play import Asked, Played, World, call, done, number, pick, some
from puna.core.messages import Message
from puna.core.outcome import Infra, Scored
from puna.gym.environment import Problem, Verdicts
from puna.gym.trajectory import Episode


class Sundials(Asked):
    """Local solar time."""

    name = "sundials"
    kind = "wrong-type"
    incident = "graders that return a dictionary of score and reason (OpenAI evals, custom judges)"
    hole = "a right answer gets a dictionary and no Outcome"

    def make(self, rng: np.random.Generator) -> Problem:
        minute, east = number(rng, 400, 1000), number(rng, 1, 60)
        prompt = (
            f"It is {minute // 60:02d}:{minute % 60:02d} UTC. Solar time at {east} degrees east, "
            "4 minutes a degree, as hh:mm?"
        )
        at = minute + 4 * east
        return Problem(prompt, f"{at // 60:02d}:{at % 60:02d}")

    def judge(self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: Any) -> Verdicts:
        out: list[Any] = []
        for episode in episodes:
            right = episode.said().strip() == hidden["problem"].answer
            verdict = {"score": 1.0, "reason": "as expected"} if right else Scored(0.0, False)
            out.append({"agent": verdict})
        return out


class Depot(World):
    """A depot that sends out pallets."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.sent = 0

    def dispatch(self, pallets: int) -> str:
        """Send pallets; the day goes on until the agent says that it is done."""
        self.sent += max(0, min(pallets, 10_000))
        return f"{self.sent} sent"

    tools = (dispatch,)

    def state(self) -> Any:
        return self.sent


class Pallets(Played):
    """Send as much as was ordered."""

    name = "pallets"
    kind = "above-one"
    incident = "fulfilment as delivered / ordered, with no cap for too much"
    hole = "ten thousand pallets earn many times the mark"
    World = Depot

    def make(self, rng: np.random.Generator) -> Problem:
        shops, each, left = number(rng, 3, 30), number(rng, 4, 40), number(rng, 1, 11)
        prompt = (
            f"{shops} shops ordered {each} pallets each, and {left} of these pallets are there "
            "already. Dispatch what is missing, no more and no less."
        )
        return Problem(prompt, str(shops * each - left))

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state / int(problem.answer))

    def steps(self, problem: Problem) -> list[Message]:
        return [call("dispatch", pallets=int(problem.answer)), done()]


class Normals(Asked):
    """A direction at right angles to two others."""

    name = "normals"
    kind = "nan-reward"
    incident = "cosine similarity with the zero vector"
    hole = "'0 0 0' has no direction: the reward is NaN, and the verdict fails"

    def make(self, rng: np.random.Generator) -> Problem:
        while True:
            a, b = rng.integers(-9, 10, (2, 3))
            right = np.cross(a, b)
            if right.any():
                break
        prompt = (
            f"A vector at right angles to {a.tolist()} and {b.tolist()}, on the side of their "
            "cross product? Three whole numbers by spaces; any length will do."
        )
        return Problem(prompt, " ".join(map(str, right.tolist())))

    def score(self, answer: str, problem: Problem) -> float:
        words = answer.split()
        if len(words) != 3 or not all(re.fullmatch(r"-?[0-9]{1,6}", w) for w in words):
            return 0.0
        if words == problem.answer.split():
            return 1.0
        a, b = (np.array(t.split(), float) for t in (answer, problem.answer))
        with np.errstate(all="ignore"):
            cosine = float(a @ b / np.sqrt((a @ a) * (b @ b)))
        return 0.0 if cosine < 0.999 else round(cosine, 9)


class Bases(Asked):
    """A base in which a number is a palindrome."""

    name = "palindrome-bases"
    kind = "hangs"
    incident = "digit loops that never end for base 1 (no check of what the candidate gives)"
    hole = "base 1 never brings the number to 0"
    judge_seconds = 2.0

    def make(self, rng: np.random.Generator) -> Problem:
        base, first, second = number(rng, 11, 40), number(rng, 1, 9), number(rng, 0, 9)
        value = first * base * base + second * base + first
        prompt = f"A base below {value - 1} in which {value} is a palindrome? The number alone."
        return Problem(prompt, str(base), hidden={"value": value})

    def score(self, answer: str, problem: Problem) -> float:
        if not re.fullmatch("[0-9]{1,6}", answer.strip()) or int(answer) in (0,):
            return 0.0
        base, left, turned = int(answer), problem.hidden["value"], 0
        if base >= left - 1:
            return 0.0
        while left:
            left, digit = divmod(left, base)
            turned = turned * base + digit
        return float(turned == problem.hidden["value"])


class Letters(World):
    """An archive of letters with a full-text search."""

    def search(self, query: str) -> str:
        """The letters that hold a text, in full."""
        found = []
        for i in range(self.problem.hidden["letters"]):
            year = 1700 + (i * 7 + self.problem.hidden["shift"]) % 200
            text = f"letter {i}, year {year}: " + "to my dear friend in the far country. " * 10
            if query.lower() in text:
                found.append(text)
        return "\n".join(found) or "nothing found"

    tools = (search,)


class LetterArchive(Played):
    """When was a letter written?"""

    name = "letter-archive"
    kind = "floods"
    incident = "search tools without a limit on what they return (whole corpora for an empty query)"
    hole = "a search for nothing, or for a frequent letter, returns three megabytes"
    World = Letters

    def make(self, rng: np.random.Generator) -> Problem:
        letters, shift = number(rng, 8000, 9000), number(rng, 0, 199)
        asked = number(rng, 1000, letters - 1)
        prompt = f"Archive {number(rng, 1, 9999)}: of what year is letter {asked}? Only the year."
        return Problem(prompt, str(1700 + (asked * 7 + shift) % 200),
                       hidden={"letters": letters, "shift": shift, "asked": asked})  # fmt: skip

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state["said"].strip() == problem.answer)

    def steps(self, problem: Problem) -> list[Message]:
        query = f"letter {problem.hidden['asked']},"
        return [call("search", query=query), done(problem.answer)]


class Rosters(Asked):
    """Who works when?"""

    name = "rosters"
    kind = "not-counted"
    incident = "exceptions of the scorer filed as infrastructure failures and left out of the mean"
    hole = "a roster that makes the scorer raise, such as '?', is never counted as wrong"

    def make(self, rng: np.random.Generator) -> Problem:
        names = some(rng, ("Aki", "Bea", "Cai", "Dov", "Eli", "Fay"), 5)
        start, step = number(rng, 0, 4), pick(rng, (2, 3))
        days = ("Mon", "Tue", "Wed", "Thu", "Fri")
        right = {d: names[(start + step * i) % 5] for i, d in enumerate(days)}
        prompt = (
            f"Week {number(rng, 1, 999)}, in a circle: {', '.join(names)}. {names[start]} works on "
            f"Mon, and each next day the one {step} places further. JSON from day (Mon to Fri) to "
            "name."
        )
        return Problem(prompt, json.dumps(right))

    def judge(self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: Any) -> Verdicts:
        out: list[Any] = []
        wanted = json.loads(hidden["problem"].answer)
        for episode in episodes:
            try:
                given = json.loads(episode.said())
                right = all(given[day] == name for day, name in wanted.items())
                out.append({"agent": Scored(float(right), right)})
            except Exception as error:
                out.append({"agent": Infra(f"scorer failed: {error!r:.200}")})
        return out
