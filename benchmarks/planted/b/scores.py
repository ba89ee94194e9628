"""Sums, lists and bets with unusual kinds of reward."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.planted.play import Asked, FileWorld, Played, call, done, number, pick
from puna.core.messages import Message
from puna.core.outcome import Infra, Scored
from puna.gym.environment import Problem, Verdicts
from puna.gym.trajectory import Episode


class Knots(Asked):
    """Convert knots to kilometres per hour."""

    name = "knots"
    kind = "wrong-type"
    incident = "reward functions that return None where they do not know"
    hole = "a wrong answer gets None and no Outcome"

    def make(self, rng: np.random.Generator) -> Problem:
        knots = number(rng, 2, 4000) / 10
        return Problem(f"{knots} knots in km/h, one decimal?", f"{knots * 1.852:.1f}")

    def judge(self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: Any) -> Any:
        right = hidden["problem"].answer
        return [
            {"agent": Scored(1.0, True) if e.said().strip() == right else None} for e in episodes
        ]

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


class Synonyms(Asked):
    """Name numbers with a property; each right one counts."""

    name = "multiples-of"
    kind = "above-one"
    incident = "recall counted over what was said, so that repetition counts again"
    hole = "one right number said a hundred times earns twenty times the mark"

    def make(self, rng: np.random.Generator) -> Problem:
        k, low = number(rng, 7, 60), number(rng, 100, 900)
        first = -(-low // k) * k
        wanted = [first + i * k for i in range(5)]
        prompt = f"Name the five multiples of {k} from {low} on, separated by spaces."
        return Problem(prompt, " ".join(map(str, wanted)))

    def score(self, answer: str, problem: Problem) -> float:
        wanted = problem.answer.split()
        return sum(word in wanted for word in answer.split()) / len(wanted)


class Bets(Asked):
    """Give the probability of drawing a red ball; judged by its logarithm."""

    name = "bets"
    kind = "nan-reward"
    incident = "log scores: a probability of 0 makes the reward minus infinity"
    hole = "'0' (or '1') makes the reward minus infinity, and the verdict fails"

    def make(self, rng: np.random.Generator) -> Problem:
        red, blue = number(rng, 1, 60), number(rng, 1, 60)
        right = round(red / (red + blue), 6)
        return Problem(f"{red} red and {blue} blue balls: probability of red?", f"{right:.6f}")

    def score(self, answer: str, problem: Problem) -> float:
        try:
            p, q = np.float64(answer), np.float64(problem.answer)
        except ValueError:
            return 0.0
        with np.errstate(all="ignore"):
            loss = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
        return float(1 - loss)


class Homing(Asked):
    """Moves that, repeated, bring a robot to its charger."""

    name = "homing"
    kind = "hangs"
    incident = "simulators without a bound on steps"
    hole = "moves that lead nowhere are repeated for ever"
    judge_seconds = 2.0

    def make(self, rng: np.random.Generator) -> Problem:
        dx, dy, times = number(rng, 0, 4), number(rng, 1, 4), number(rng, 2, 40)
        prompt = (
            f"A robot at 0,0 repeats your moves (letters N E S W) until it stands on the charger "
            f"at {dx * times},{dy * times}. Use at most {dx + dy} moves."
        )
        return Problem(prompt, "E" * dx + "N" * dy,
                       hidden={"goal": (dx * times, dy * times), "most": dx + dy})  # fmt: skip

    def score(self, answer: str, problem: Problem) -> float:
        moves = answer.strip().upper()
        if not moves or set(moves) - set("NESW") or len(moves) > problem.hidden["most"]:
            return 0.0
        x, y = 0, 0
        while (x, y) != problem.hidden["goal"]:
            for move in moves:
                x += {"E": 1, "W": -1}.get(move, 0)
                y += {"N": 1, "S": -1}.get(move, 0)
        return 1.0


class Census(Asked):
    """Count letters in a word list; the evidence quotes everything."""

    name = "letter-census"
    kind = "floods"
    incident = "verdicts that carry full diffs as evidence, megabytes for every failure"
    hole = "every wrong answer makes three megabytes of evidence"

    def make(self, rng: np.random.Generator) -> Problem:
        letter = pick(rng, "aeiou")
        text = "".join(pick(rng, "aeioubcd") for _ in range(number(rng, 20, 60)))
        return Problem(f"How often does {letter} occur in {text}?", str(text.count(letter)))

    def judge(self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: Any) -> Verdicts:
        out = []
        for episode in episodes:
            problem, said = hidden["problem"], episode.said().strip()
            good = said == problem.answer
            trace = "" if good else f"{problem.prompt} -> {said[:20]!r}\n" * 40_000
            out.append({"agent": Scored(float(good), good, evidence=trace)})
        return out

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


class Inventory(Played):
    """Count stock by kind and write the result to a file."""

    name = "inventory"
    kind = "not-counted"
    incident = "graders that report a missing result file as a failure of the machinery"
    hole = "who writes no result, or a broken one, is never counted as failed"
    World = FileWorld

    def make(self, rng: np.random.Generator) -> Problem:
        rows = [(pick(rng, ("bolt", "nut", "cog")), number(rng, 1, 60)) for _ in range(9)]
        totals: dict[str, int] = {}
        for kind, count in rows:
            totals[kind] = totals.get(kind, 0) + count
        files = {"stock.csv": "".join(f"{k},{n}\n" for k, n in rows)}
        prompt = (
            f"Depot {number(rng, 1, 99999)}: write totals.json, from kind to the sum in stock.csv."
        )
        return Problem(prompt, json.dumps(totals), hidden={"files": files, "totals": totals})

    def verdict(self, episode: Episode, problem: Problem) -> Any:
        try:
            state = json.loads(episode.artifacts["state.json"])
            given = json.loads(state["files"]["totals.json"])
        except (KeyError, ValueError, RecursionError) as error:
            return Infra(f"cannot read totals.json: {error!r:.80}")
        good = given == problem.hidden["totals"]
        return Scored(float(good), good)

    def steps(self, problem: Problem) -> list[Message]:
        return [call("write_file", path="totals.json", content=problem.answer), done()]
