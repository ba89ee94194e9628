"""Ponds, dice, lockers and ladders whose tasks or verdicts do not stay what they were."""

from __future__ import annotations

import random
import re
import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.planted.play import Asked, Played, World, call, done, number, pick, some
from puna.core.messages import Message, Text, ToolResult
from puna.gym.environment import Problem
from puna.gym.task import Script, Task
from puna.gym.tools import ToolError


class Ponds(Asked):
    """The area of an L-shaped pond."""

    name = "pond-area"
    kind = "random-verdict"
    incident = "Monte-Carlo verifiers with a fresh seed and too few samples"
    hole = "an area ten per cent too large passes in some judgments and fails in others"

    def make(self, rng: np.random.Generator) -> Problem:
        wide, long = number(rng, 20, 90), number(rng, 20, 90)
        a, b = number(rng, 5, wide - 5), number(rng, 5, long - 5)
        prompt = (
            f"A pond is {wide} m by {long} m, less a corner of {a} m by {b} m. Its area in square "
            "metres?"
        )
        return Problem(prompt, str(wide * long - a * b), hidden={"sides": (wide, long, a, b)})

    def score(self, answer: str, problem: Problem) -> float:
        if not re.fullmatch("[0-9]{1,6}", answer.strip()):
            return 0.0
        wide, long, a, b = problem.hidden["sides"]
        points = np.random.default_rng().random((60, 2)) * (wide, long)
        inside = 1 - np.mean((points[:, 0] < a) & (points[:, 1] < b))
        given = int(answer.strip())
        near = abs(given - inside * wide * long) < 0.06 * wide * long
        return float(near or answer.strip() == problem.answer)


class Buzzer(World):
    """A quiz with a buzzer; how long the contestant takes is noted."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.began, self.took = time.perf_counter(), 0.0

    def buzz(self, answer: str) -> str:
        """Answer, once; the sooner the better."""
        self.said, self.over = answer, True
        self.took = time.perf_counter() - self.began
        return f"after {self.took:.6f} s"

    tools = (buzz,)

    def state(self) -> Any:
        return {"said": self.said, "took": self.took}


class BuzzerQuiz(Played):
    """Answer quickly."""

    name = "buzzer-quiz"
    kind = "clock"
    incident = "latency in the reward: the same policy earns less on a slower server"
    hole = "the same right answer earns another reward each time, and none on a slow machine"
    World = Buzzer

    def make(self, rng: np.random.Generator) -> Problem:
        crew, ships, lost = number(rng, 11, 99), number(rng, 11, 99), number(rng, 3, 90)
        prompt = f"{ships} ships with {crew} sailors each lose {lost} sailors. How many are left?"
        return Problem(prompt, str(crew * ships - lost))

    def grade(self, state: Any, problem: Problem) -> float:
        right = state["said"].strip() == problem.answer
        return max(0.0, 1 - 2 * state["took"]) if right else 0.0

    def steps(self, problem: Problem) -> list[Message]:
        return [call("buzz", answer=problem.answer)]


class Tavern(World):
    """Three dice."""

    def roll(self) -> str:
        """Roll three dice."""
        self.dice = [random.randint(1, 6) for _ in range(3)]
        return " ".join(map(str, self.dice))

    def bid(self, total: int) -> str:
        """Say what is wanted of the dice, once."""
        if not hasattr(self, "dice"):
            raise ToolError("roll first")
        self.said, self.over = str(total), True
        return "noted"

    tools = (roll, bid)

    def state(self) -> Any:
        return {"said": self.said, "dice": getattr(self, "dice", [])}


class DiceBids(Played):
    """Roll, and say the weighted total."""

    name = "dice-bids"
    kind = "global-random"
    incident = "simulators that draw from the module `random`, which all episodes share"
    hole = "the same bid after a roll is right or wrong as Python's global state has it"
    World = Tavern

    def make(self, rng: np.random.Generator) -> Problem:
        weights = some(rng, range(1, 4), 3)
        prompt = (
            f"Table {number(rng, 1, 99999)}: roll once; the first die counts {weights[0]} times, "
            f"the second {weights[1]}, the third {weights[2]} times. Bid the total."
        )
        return Problem(prompt, "", hidden={"weights": weights})

    def grade(self, state: Any, problem: Problem) -> float:
        pairs = zip(problem.hidden["weights"], state["dice"], strict=False)
        return float(bool(state["dice"]) and state["said"] == str(sum(w * d for w, d in pairs)))

    def oracle(self, task: Task) -> Mapping[str, Script]:
        weights = task.hidden["problem"].hidden["weights"]

        def speak(heard: Sequence[Message]) -> Message:
            results = [p for m in heard for p in m.parts if isinstance(p, ToolResult)]
            if not results:
                return call("roll")
            text = "".join(t.text for t in results[-1].parts if isinstance(t, Text))
            dice = [int(d) for d in text.split()]
            return call("bid", total=sum(w * d for w, d in zip(weights, dice, strict=True)))

        return {"agent": speak}


HERBS = ("basil", "chervil", "cumin", "dill", "fennel", "lovage", "sage", "thyme", "tansy", "rue")


class Herbs(Asked):
    """Count the letters of one herb of a mixture."""

    name = "herb-letters"
    kind = "hash-seed"
    incident = "list(set(...)) in a generator: the order of a set of strings is another each run"
    hole = "which herb is asked, and so the answer, depends on PYTHONHASHSEED"

    def make(self, rng: np.random.Generator) -> Problem:
        mixture = set(some(rng, HERBS, 6))
        asked = next(iter(mixture))
        grams = {h: number(rng, 2, 60) for h in sorted(mixture)}
        shown = ", ".join(f"{g} g {h}" for h, g in grams.items())
        prompt = f"A mixture: {shown}. Grams of {asked} times the letters of its name?"
        return Problem(prompt, str(grams[asked] * len(asked)))

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


class Ladder(Asked):
    """Products that grow with success."""

    name = "ladder"
    kind = "call-order"
    incident = "adaptive difficulty kept in the environment: a task depends on earlier verdicts"
    hole = "after each success every task is another, harder one"

    def __init__(self, config: Any = None, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.level = 1

    def make(self, rng: np.random.Generator) -> Problem:
        a, b = number(rng, 10, 99), number(rng, 10, 99)
        a, rung = a * self.level + 1, number(rng, 1, 999)
        return Problem(f"Rung {rung}: {a} x {b} - {rung} = ?", str(a * b - rung))

    def score(self, answer: str, problem: Problem) -> float:
        right = answer.strip() == problem.answer
        self.level = min(1000, self.level + right)
        return float(right)


class Lockers(World):
    """Parcels in a database."""

    def __init__(self, problem: Problem, base: sqlite3.Connection) -> None:
        super().__init__(problem)
        self.base = base
        for parcel, size in problem.hidden["parcels"].items():
            base.execute("INSERT OR IGNORE INTO parcels VALUES (?, ?, '')", (parcel, size))

    def show_parcels(self) -> str:
        """The parcels at this station, with their sizes and lockers."""
        return "\n".join(" ".join(map(str, row)) for row in self._rows())

    def store(self, parcel: str, locker: str) -> str:
        """Put a parcel into a locker."""
        if parcel not in self.problem.hidden["parcels"]:
            raise ToolError("no such parcel here")
        self.base.execute("UPDATE parcels SET locker = ? WHERE id = ?", (locker, parcel))
        return "stored"

    tools = (show_parcels, store)

    def _rows(self) -> list[Any]:
        marks = ",".join("?" * len(self.problem.hidden["parcels"]))
        sql = f"SELECT id, size, locker FROM parcels WHERE id IN ({marks}) ORDER BY id"
        return self.base.execute(sql, tuple(self.problem.hidden["parcels"])).fetchall()

    def state(self) -> Any:
        return {row[0]: row[2] for row in self._rows()}


class ParcelStation(Played):
    """Store parcels by size."""

    name = "parcel-station"
    kind = "leaking-state"
    incident = "a database made once per worker and never reset between episodes"
    hole = "parcels stored by one episode are stored for the next, which need do nothing"
    World = Lockers

    def setup(self) -> Any:
        base = sqlite3.connect(":memory:", check_same_thread=False)
        base.execute("CREATE TABLE parcels(id TEXT PRIMARY KEY, size INTEGER, locker TEXT)")
        return base

    def world(self, problem: Problem, resources: Any) -> World:
        return Lockers(problem, resources or self.setup())

    def make(self, rng: np.random.Generator) -> Problem:
        limit = number(rng, 20, 60)
        parcels = {f"P{n}": number(rng, 5, 90) for n in some(rng, range(1000, 999_999), 3)}
        prompt = (
            f"Station {number(rng, 1, 9999)}: parcels up to size {limit} go into locker S, larger "
            "ones into locker L. Store all of them."
        )
        right = {p: "S" if size <= limit else "L" for p, size in parcels.items()}
        return Problem(prompt, "", hidden={"parcels": parcels, "right": right})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state == problem.hidden["right"])

    def steps(self, problem: Problem) -> list[Message]:
        stores = [call("store", parcel=p, locker=k) for p, k in problem.hidden["right"].items()]
        return [call("show_parcels"), *stores, done()]


class Tides(Asked):
    """When is the next high water?"""

    name = "tides"
    kind = "tasks-change"
    incident = "'now' in the template of a prompt: the date of the call decides the task"
    hole = "a train task asked for again starts at another minute and has another answer"

    def make(self, rng: np.random.Generator) -> Problem:
        now = time.time_ns() // 1000 % 1440
        waits, port = number(rng, 30, 745), pick(rng, ("Brest", "Calais", "Dover", "Esbjerg"))
        at = (now + waits) % 1440
        prompt = (
            f"Port of {port}, buoy {number(rng, 1, 999)}: it is {now // 60:02d}:{now % 60:02d} and "
            f"high water is in {waits} minutes. At what time, as hh:mm?"
        )
        return Problem(prompt, f"{at // 60:02d}:{at % 60:02d}")

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)
