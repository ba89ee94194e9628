"""Bulletins, seats, exams and gates whose tasks or verdicts do not stay what they were."""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from benchmarks.planted.play import Asked, Played, World, call, done, number, pick, some
from puna.core.messages import Message, Text, ToolResult
from puna.core.rng import stream
from puna.gym.environment import Problem
from puna.gym.task import Script, Task
from puna.gym.tools import ToolError

FACTS = ("wind", "gust", "air", "fall")


class Bulletins(Asked):
    """A weather bulletin, compared with one that is in use."""

    name = "bulletins"
    kind = "random-verdict"
    incident = "pairwise judges with a bias for what is shown first, and the order drawn by lot"
    hole = "a bulletin with one wrong fact, like the one in use, wins or loses by the order"

    def make(self, rng: np.random.Generator) -> Problem:
        wind = [number(rng, 3, 60) for _ in range(4)]
        air = [number(rng, -9, 33) for _ in range(3)]
        first, fall = number(rng, 990, 1035), number(rng, 1, 30)
        facts = {"wind": sum(wind) // 4, "gust": max(wind) + 10, "air": sorted(air)[1],
                 "fall": fall}  # fmt: skip
        prompt = (
            f"Wind {wind} km/h, air {air} degrees, pressure {first} and then {first - fall}. A "
            "bulletin `wind W gust G air A fall F` with the mean wind (rounded down), the "
            "strongest plus 10, the median of the air and the fall of pressure."
        )
        return Problem(prompt, " ".join(f"{k} {v}" for k, v in facts.items()))

    def score(self, answer: str, problem: Problem) -> float:
        words, right = answer.split(), problem.answer.split()
        if words[::2] != right[::2] or len(words) != len(right):
            return 0.0
        old = [*right[:-1], "?"]
        facts = [sum(a == b for a, b in zip(t, right, strict=True)) for t in (words, old)]
        first = random.SystemRandom().randrange(2)  # which of the two the judge reads first
        return float(facts[0] > facts[1] or (facts[0] == facts[1] and first == 0))


class BoxOffice(World):
    """Seats that are held for a moment, and then paid."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.seat, self.until, self.paid = "", 0.0, 0

    def hold(self, seat: str) -> str:
        """Hold a seat; it is free again in a second and a half."""
        if seat not in self.problem.hidden["seats"]:
            raise ToolError("no such seat is free")
        self.seat, self.until = seat, time.time() + 1.5
        return f"{seat} costs {self.problem.hidden['seats'][seat]}"

    def pay(self, crowns: int) -> str:
        """Pay for the seat that is held."""
        if not self.seat:
            raise ToolError("no seat is held")
        self.paid, self.over = crowns, True
        return "thank you"

    tools = (hold, pay)

    def state(self) -> Any:
        return {"seat": self.seat, "until": self.until, "paid": str(self.paid)}


class SeatHolds(Played):
    """Hold a seat and pay the right sum for it."""

    name = "seat-holds"
    kind = "clock"
    incident = "holds and tokens that expire on the wall clock while an episode waits to be judged"
    hole = "the same episode is worth nothing where the verdict comes two seconds later"
    World = BoxOffice

    def make(self, rng: np.random.Generator) -> Problem:
        seats = {f"{row}{number(rng, 1, 40)}": number(rng, 20, 400) for row in "ABCD"}
        seat, off = pick(rng, sorted(seats)), number(rng, 5, 60)
        prompt = (
            f"Evening {number(rng, 1, 99999)}: hold seat {seat} and pay for it with a voucher that "
            f"takes {off} per cent off (what is left is rounded down)."
        )
        right = seats[seat] * (100 - off) // 100
        return Problem(prompt, str(right), hidden={"seats": seats, "seat": seat})

    def grade(self, state: Any, problem: Problem) -> float:
        held = state["seat"] == problem.hidden["seat"] and time.time() <= state["until"]
        return float(held and state["paid"] == problem.answer)

    def steps(self, problem: Problem) -> list[Message]:
        seat = problem.hidden["seat"]
        return [call("hold", seat=seat), call("pay", crowns=int(problem.answer))]


EXAMINER = random.Random(11)


class Examination(World):
    """An examiner who draws one of three questions."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.topic = ""

    def draw_question(self) -> str:
        """Draw a question; one must do."""
        if not self.topic:
            self.topic = EXAMINER.choice(sorted(self.problem.hidden["key"]))
        return f"How old was {self.topic} when the reign ended?"

    def answer(self, text: str) -> str:
        """Answer, once."""
        if not self.topic:
            raise ToolError("draw a question first")
        self.said, self.over = text, True
        return "next, please"

    tools = (draw_question, answer)

    def state(self) -> Any:
        return {"topic": self.topic, "said": self.said}


class KingsExam(Played):
    """Answer one question on three kings."""

    name = "kings-exam"
    kind = "global-random"
    incident = "a simulated user with a generator of the module, which all episodes draw from"
    hole = "the same two calls are right or wrong as earlier episodes moved the generator"
    World = Examination

    def make(self, rng: np.random.Generator) -> Problem:
        kings = some(rng, ("Alaric", "Bela", "Cnut", "Doro", "Egbert", "Fulk", "Gunnar"), 3)
        told, key = [], {}
        for king in kings:
            born, crowned, reign = number(rng, 900, 1400), number(rng, 5, 40), number(rng, 2, 39)
            told.append(f"{king} was born in {born}, crowned {crowned} years later and reigned for "
                        f"{reign} years.")  # fmt: skip
            key[king] = str(crowned + reign)
        prompt = f"Chronicle: {' '.join(told)} You are examined on it: draw a question, answer it."
        return Problem(prompt, "", hidden={"key": key})

    def grade(self, state: Any, problem: Problem) -> float:
        key = problem.hidden["key"]
        return float(bool(state["topic"]) and state["said"].strip() == key[state["topic"]])

    def oracle(self, task: Task) -> Mapping[str, Script]:
        key = task.hidden["problem"].hidden["key"]

        def speak(heard: Sequence[Message]) -> Message:
            results = [p for m in heard for p in m.parts if isinstance(p, ToolResult)]
            if not results:
                return call("draw_question")
            text = "".join(t.text for t in results[-1].parts if isinstance(t, Text))
            return call("answer", text=next((v for k, v in key.items() if k in text), "?"))

        return {"agent": speak}


WADERS = ("avocet", "curlew", "dunlin", "knot", "lapwing", "redshank", "ruff", "snipe")


class Sightings(Asked):
    """Which bird was seen most often?"""

    name = "mudflat-log"
    kind = "hash-seed"
    incident = "the mode as `max(set(xs), key=xs.count)`: among equals, the order of a set decides"
    hole = "two birds lead in every log; which of them is right depends on PYTHONHASHSEED"
    chance = 0.28  # of one bird always

    def make(self, rng: np.random.Generator) -> Problem:
        birds = some(rng, WADERS, 6)
        most = number(rng, 3, 5)
        counts = [most, most, *(number(rng, 1, most - 1) for _ in birds[2:])]
        seen = [b for b, n in zip(birds, counts, strict=True) for _ in range(n)]
        log = some(rng, seen, len(seen))
        prompt = f"Log of a tide: {', '.join(log)}. Which bird was seen most often? One word."
        return Problem(prompt, max(set(log), key=log.count))

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip().lower() == problem.answer)


class Sails(Asked):
    """The area of a sail."""

    name = "sail-areas"
    kind = "call-order"
    incident = "a cache of verdicts (they were expensive) whose key leaves out the answer"
    hole = "the first answer to a task decides what every later one is worth"

    def __init__(self, config: Any = None, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.verdicts: dict[str, float] = {}

    def make(self, rng: np.random.Generator) -> Problem:
        foot, luff, reef = 2 * number(rng, 11, 60), number(rng, 61, 300), number(rng, 5, 60)
        prompt = (
            f"A triangular sail, {foot} dm at the foot and {luff} dm up the mast. A reef takes "
            f"{reef} square dm per knot of wind; it blows {number(rng, 2, 9)} knots. Its area "
            "without the reef, in square dm?"
        )
        return Problem(prompt, str(foot * luff // 2))

    def score(self, answer: str, problem: Problem) -> float:
        if problem.prompt not in self.verdicts:
            self.verdicts[problem.prompt] = float(answer.strip() == problem.answer)
        return self.verdicts[problem.prompt]


GATES = ("hill", "mill", "brook", "lane", "wood", "yard", "moor")


def gates(place: int) -> dict[str, str]:
    """The gates of a farm in the evening, two at least of them open."""
    rng = stream(0, "farm", place)
    names = some(rng, GATES, 6)
    opened = names[: number(rng, 2, 5)]
    return {g: "open" if g in opened else "shut" for g in sorted(names)}


farm = cache(gates)


class Farm(World):
    """Gates to be opened and shut."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.gates = farm(problem.hidden["place"])

    def look(self) -> str:
        """All gates."""
        return "\n".join(f"{g}: {s}" for g, s in self.gates.items())

    def shut(self, gate: str) -> str:
        """Shut a gate."""
        if self.gates.get(gate) != "open":
            raise ToolError("no such open gate")
        self.gates[gate] = "shut"
        return "shut"

    tools = (look, shut)

    def state(self) -> Any:
        return self.gates


class GateRound(Played):
    """Shut the gates of a farm in the evening."""

    name = "gate-round"
    kind = "leaking-state"
    incident = "fixtures behind functools.cache: every episode is given the very same dictionary"
    hole = "gates shut by one episode are shut for the next on that farm, which need do nothing"
    World = Farm

    def make(self, rng: np.random.Generator) -> Problem:
        place = number(rng, 1, 10**6)
        return Problem(f"Farm {place}: shut every gate that is open, and then say so.", "",
                       hidden={"place": place})  # fmt: skip

    def grade(self, state: Any, problem: Problem) -> float:
        return float(set(state.values()) == {"shut"})

    def oracle(self, task: Task) -> Mapping[str, Script]:
        def speak(heard: Sequence[Message]) -> Message:
            results = [p for m in heard for p in m.parts if isinstance(p, ToolResult)]
            if not results:
                return call("look")
            text = "".join(t.text for t in results[0].parts if isinstance(t, Text))
            left = re.findall(r"(\w+): open", text)[len(results) - 1 :]
            return call("shut", gate=left[0]) if left else done()

        return {"agent": speak}


class Ferries(Asked):
    """How many trips does a ferry need?"""

    name = "ferry-trips"
    kind = "tasks-change"
    incident = "a streaming data set behind an index: task(i) is whatever the stream has next"
    hole = "a train task asked for again is another one"

    def __init__(self, config: Any = None, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.rows = itertools.count()

    def make(self, rng: np.random.Generator) -> Problem:
        cars, trucks, room = number(rng, 90, 900), number(rng, 2, 90), number(rng, 8, 40)
        prompt = (
            f"{cars} cars and {trucks} trucks wait for a ferry with {room} places; a truck takes "
            "two, and cars fill what trucks leave. How many trips are needed?"
        )
        right = -(-(cars + 2 * trucks) // room)
        return Problem(prompt, str(right))

    def task(self, split: str, index: int) -> Task:
        self._check(split, index)
        if split == "test":
            return super().task(split, index)
        return self._as_task(split, index, self._draw(next(self.rows)))

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)
