"""Lists, formulas, gauges, tours and hotels whose tasks or verdicts do not stay what they were."""

from __future__ import annotations

import ast
import math
import random
import time
import uuid
from typing import Any

import numpy as np

from benchmarks.planted.play import Asked, Played, World, call, done, number, pick, some
from puna.core.messages import Message
from puna.gym.environment import Problem
from puna.gym.tools import ToolError

GUESTS = ("Abel", "Britt", "Clio", "Dario", "Enya", "Felix", "Greta", "Hugo", "Ilse", "Jonas")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")


class GuestList(Asked):
    """Who can come on a day?"""

    name = "guest-list"
    kind = "random-verdict"
    incident = "judges sampled at temperature 1: the bar that an answer must pass moves"
    hole = "a list of half of the guests passes in some judgments and fails in others"

    def make(self, rng: np.random.Generator) -> Problem:
        guests = some(rng, GUESTS, 8)
        free = {g: sorted(some(rng, range(5), 3)) for g in guests}
        day = number(rng, 0, 4)
        coming = [g for g in guests if day in free[g]]
        if len(coming) < 4:
            return self.make(rng)
        shown = "; ".join(f"{g}: {', '.join(DAYS[d][:3] for d in free[g])}" for g in guests)
        return Problem(f"Free days: {shown}. Who can come on {DAYS[day]}? Names with commas.",
                       ", ".join(coming))  # fmt: skip

    def score(self, answer: str, problem: Problem) -> float:
        given = {w.strip() for w in answer.split(",") if w.strip()}
        wanted = set(problem.answer.split(", "))
        f1 = 2 * len(given & wanted) / (len(given) + len(wanted))
        return float(f1 >= random.SystemRandom().uniform(0.5, 1.0))


NODES = (ast.Expression, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Constant, ast.Name, ast.Load)


class FastFormulas(Asked):
    """A formula that is right and not slower than another."""

    name = "fast-formulas"
    kind = "clock"
    incident = "KernelBench-like speed rewards: measured once, against a baseline on a busy machine"
    hole = "the same formula is paid or not as the clock has it"

    def make(self, rng: np.random.Generator) -> Problem:
        a, b, c, d = (number(rng, 2, 90) for _ in range(4))
        slow = f"{a} * x * x * x + {b} * x * x + {c} * x + {d}"
        prompt = (
            f"Write {slow} with as few multiplications as you can, so that it is at least as "
            "fast in Python as our best formula. Only the expression in x."
        )
        return Problem(prompt, f"(({a} * x + {b}) * x + {c}) * x + {d}")

    def score(self, answer: str, problem: Problem) -> float:
        text = answer.strip()
        if len(text) > 200:
            return 0.0
        try:
            tree = ast.parse(text, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return 0.0
        if not all(isinstance(n, NODES) for n in ast.walk(tree)):
            return 0.0
        if not all(n.id == "x" for n in ast.walk(tree) if isinstance(n, ast.Name)):
            return 0.0
        if not all(type(n.value) is int for n in ast.walk(tree) if isinstance(n, ast.Constant)):
            return 0.0
        given, best = seconds(text), seconds(problem.answer)
        return float(given[0] == best[0] and given[1] <= best[1])


def seconds(expression: str) -> tuple[list[int], float]:
    """The values of an expression and the time that they took."""
    code = compile(expression, "formula", "eval")
    began = time.perf_counter()
    values = [eval(code, {"__builtins__": {}, "x": x}) for x in range(20)]
    return values, time.perf_counter() - began


class Manometer(World):
    """A gauge whose readings scatter, and one answer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.answer: int | None = None

    def read_gauge(self) -> str:
        """Read the gauge once; a reading may be off by 2."""
        return str(self.problem.hidden["pressure"] + int(np.random.randint(-2, 3)))

    def submit(self, pressure: int) -> str:
        """Hand in the true pressure, once."""
        self.answer, self.over = pressure, True
        return "received"

    tools = (read_gauge, submit)

    def state(self) -> Any:
        return self.answer


class Pressure(Played):
    """Find a pressure from scattered readings."""

    name = "pressure"
    kind = "global-random"
    incident = "simulators that draw from np.random itself: no seed of a task reaches them"
    hole = "the same calls are answered and paid in other ways, as NumPy's global state has it"
    World = Manometer

    def make(self, rng: np.random.Generator) -> Problem:
        pressure = number(rng, 100, 900)
        prompt = (
            f"Boiler {number(rng, 1, 99999)}: readings of its gauge are off by -2 to 2. What is "
            "the pressure?"
        )
        return Problem(prompt, str(pressure), hidden={"pressure": pressure})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state == problem.hidden["pressure"])

    def steps(self, problem: Problem) -> list[Message]:
        reads = [call("read_gauge")] * 6
        return [*reads, call("submit", pressure=problem.hidden["pressure"])]


class Vowels(Asked):
    """Count the vowels of nonsense."""

    name = "vowels"
    kind = "hash-seed"
    incident = "splits by `hash(text) % 5`, which is another number in every process"
    hole = "which problems are train and which test depends on PYTHONHASHSEED"
    chance = 0.2  # of the most frequent count

    def make(self, rng: np.random.Generator) -> Problem:
        words = ["".join(pick(rng, "aeioubdgklmnrst") for _ in range(5)) for _ in range(4)]
        text = " ".join(words)
        return Problem(f"How many vowels (a e i o u) has: {text}?",
                       str(sum(c in "aeiou" for c in text)))  # fmt: skip

    def belongs(self, prompt: str) -> str:
        return "test" if hash(prompt) % 5 == 0 else "train"

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)


class Tours(Asked):
    """A short round trip through some points."""

    name = "tours"
    kind = "call-order"
    incident = "rewards relative to the best answer seen so far (records kept by the verifier)"
    hole = "a poor tour is paid in full while nobody has handed in a better one"

    def __init__(self, config: Any = None, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.records: dict[str, float] = {}

    def make(self, rng: np.random.Generator) -> Problem:
        points = [(number(rng, 0, 99), number(rng, 0, 99)) for _ in range(6)]
        middle = np.mean(points, axis=0)
        angles = [math.atan2(y - middle[1], x - middle[0]) for x, y in points]
        right = sorted(range(6), key=lambda i: angles[i])
        shown = " ".join(f"{'ABCDEF'[i]}({x},{y})" for i, (x, y) in enumerate(points))
        prompt = f"A short round trip through {shown}? Letters in order, such as FEDCBA."
        return Problem(prompt, "".join("ABCDEF"[i] for i in right), hidden={"points": points})

    def score(self, answer: str, problem: Problem) -> float:
        tour = answer.strip()
        if sorted(tour) != list("ABCDEF"):
            return 0.0
        stops = [problem.hidden["points"]["ABCDEF".index(c)] for c in tour]
        length = sum(math.dist(stops[i - 1], stops[i]) for i in range(6)) + 1e-9
        best = min(length, self.records.get(problem.prompt, length))
        self.records[problem.prompt] = best
        return best / length


class Desk(World):
    """A hotel's rooms, and who stays in them."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.rooms = dict(problem.hidden["rooms"])  # every episode has its own

    def find_rooms(self, beds: int) -> str:
        """Rooms with so many beds, with their guests."""
        found = [f"{no}: {r['guest'] or 'free'}" for no, r in self.rooms.items()
                 if r["beds"] == beds]  # fmt: skip
        return "\n".join(found) or "none"

    def check_in(self, room: str, guest: str) -> str:
        """Let a guest have a free room."""
        if room not in self.rooms or self.rooms[room]["guest"]:
            raise ToolError("no such free room")
        self.rooms[room]["guest"] = guest
        return "checked in"

    tools = (find_rooms, check_in)

    def state(self) -> Any:
        return self.rooms


class Reception(Played):
    """Check a guest in."""

    name = "reception"
    kind = "leaking-state"
    incident = "shallow copies of a fixture: the rows inside are shared by all episodes of a task"
    hole = "after one success at a task the guest is in already, and doing nothing succeeds"
    World = Desk

    def make(self, rng: np.random.Generator) -> Problem:
        numbers, beds = some(rng, range(100, 400), 5), number(rng, 1, 4)
        rooms = {str(n): {"beds": number(rng, 1, 4), "guest": pick(rng, GUESTS)} for n in numbers}
        rooms[str(numbers[0])] = {"beds": beds, "guest": ""}
        guest = f"{pick(rng, ('Mrs', 'Mr', 'Dr'))} {pick(rng, 'ABCDEFGH')}{number(rng, 10, 9999)}"
        prompt = f"{guest} wants a free room with {beds} beds. Check in under exactly this name."
        return Problem(prompt, str(numbers[0]),
                       hidden={"rooms": rooms, "guest": guest, "beds": beds})  # fmt: skip

    def grade(self, state: Any, problem: Problem) -> float:
        guests = [r["guest"] for r in state.values() if r["beds"] == problem.hidden["beds"]]
        return float(problem.hidden["guest"] in guests)

    def steps(self, problem: Problem) -> list[Message]:
        hidden = problem.hidden
        return [call("find_rooms", beds=hidden["beds"]),
                call("check_in", room=problem.answer, guest=hidden["guest"]), done()]  # fmt: skip


class Serials(Asked):
    """The digits of a serial number, added up."""

    name = "serials"
    kind = "tasks-change"
    incident = "uuid4() in a generator that is seeded everywhere else"
    hole = "a task asked for again has another serial number and another answer"

    def make(self, rng: np.random.Generator) -> Problem:
        serial = uuid.uuid4().hex[: number(rng, 12, 20)]
        right = str(sum(int(c) for c in serial if c.isdecimal()))
        return Problem(f"Add up the decimal digits (not the letters) in serial {serial}.", right)

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip() == problem.answer)
