"""Games and small works with tools."""

from __future__ import annotations

import ast
import json
from typing import Any, Literal

import numpy as np

from benchmarks.planted.play import (
    Asked,
    FileWorld,
    Played,
    Shell,
    World,
    call,
    done,
    number,
    pick,
    some,
)
from puna.core.messages import Message
from puna.gym.environment import Limits, Problem
from puna.gym.tools import ToolError


def value_and_numbers(node: ast.AST) -> tuple[int, list[int]]:
    """Value of an expression of + - *, and the numbers in it; raises ValueError otherwise."""
    match node:
        case ast.Expression(body=body):
            return value_and_numbers(body)
        case ast.Constant(value=int(n)) if type(n) is int and n < 1000:
            return n, [n]
        case ast.BinOp(left=left, op=op, right=right):
            (a, used), (b, also) = value_and_numbers(left), value_and_numbers(right)
            match op:
                case ast.Add():
                    return a + b, used + also
                case ast.Sub():
                    return a - b, used + also
                case ast.Mult():
                    return a * b, used + also
    raise ValueError("not such an expression")


class Target(Asked):
    """Reach a target, each number exactly once."""

    name = "target"

    def make(self, rng: np.random.Generator) -> Problem:
        a, b, c, d = (number(rng, 3, 25) for _ in range(4))
        text = pick(rng, (f"{a} * {b} + {c} * {d}", f"({a} + {b}) * {c} - {d}"))
        goal, used = value_and_numbers(ast.parse(text, mode="eval"))
        shown = ", ".join(map(str, sorted(used)))
        prompt = f"Use each of {shown} exactly once, with + - * and brackets, to make {goal}."
        return Problem(prompt, text, hidden={"goal": goal, "numbers": sorted(used)})

    def score(self, answer: str, problem: Problem) -> float:
        try:
            made, used = value_and_numbers(ast.parse(answer.strip()[:100], mode="eval"))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return 0.0
        right = (problem.hidden["goal"], problem.hidden["numbers"])
        return float((made, sorted(used)) == right)


class Secret(World):
    """A secret number and ten guesses."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.guesses, self.found = 0, False

    def guess(self, number: int) -> str:
        """Guess the number; tells whether it is higher or lower."""
        self.guesses += 1
        self.found = number == self.problem.hidden["number"]
        self.over = self.found or self.guesses == 10
        if self.found:
            return "right"
        return "higher" if number < self.problem.hidden["number"] else "lower"

    tools = (guess,)

    def state(self) -> Any:
        return {"found": self.found}


class GuessTheNumber(Played):
    """Find a number from 1 to 1000 in ten guesses."""

    name = "guess-the-number"
    World = Secret

    def make(self, rng: np.random.Generator) -> Problem:
        prompt = f"Round {number(rng, 1, 99999)}: find my number (1 to 1000) in ten guesses."
        return Problem(prompt, "", hidden={"number": number(rng, 1, 1000)})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state["found"])

    def steps(self, problem: Problem) -> list[Message]:
        low, high, out = 1, 1000, []
        while True:
            middle = (low + high) // 2
            out.append(call("guess", number=middle))
            if middle == problem.hidden["number"]:
                return out
            if middle < problem.hidden["number"]:
                low = middle + 1
            else:
                high = middle - 1


class Store(World):
    """Keys that point to keys."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.answer = ""

    def get(self, key: str) -> str:
        """The value of a key."""
        if key not in self.problem.hidden["pairs"]:
            raise ToolError("no such key")
        return str(self.problem.hidden["pairs"][key])

    def submit(self, answer: str) -> str:
        """Hand in the answer, once."""
        self.answer, self.over = answer, True
        return "received"

    tools = (get, submit)

    def state(self) -> Any:
        return {"answer": self.answer}


class Pointers(Played):
    """Follow keys until a value is no key."""

    name = "pointers"
    World = Store

    def make(self, rng: np.random.Generator) -> Problem:
        keys = [f"k{n}" for n in some(rng, range(100, 999), 7)]
        end = str(number(rng, 10_000, 99_999))
        pairs = dict(zip(keys[:4], [*keys[1:4], end], strict=True))
        pairs |= {key: str(number(rng, 10_000, 99_999)) for key in keys[4:]}
        prompt = (
            f"Store {number(rng, 1, 9999)}: start at key {keys[0]} and follow the values until "
            "one is a number; submit it."
        )
        return Problem(prompt, end, hidden={"pairs": pairs, "keys": keys[:4]})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state["answer"].strip() == problem.answer)

    def steps(self, problem: Problem) -> list[Message]:
        looks = [call("get", key=k) for k in problem.hidden["keys"]]
        return [*looks, call("submit", answer=problem.answer)]


class EditConfig(Played):
    """Change one setting of one file and leave the rest alone."""

    name = "edit-config"
    World = FileWorld

    def make(self, rng: np.random.Generator) -> Problem:
        services = some(rng, ("web", "mail", "cache", "queue"), 3)
        files = {
            f"etc/{s}.conf": f"name={s}\nport={port}\nworkers={number(rng, 2, 9)}\n"
            for s, port in zip(services, some(rng, range(1024, 9999), 3), strict=True)
        }
        path, workers = f"etc/{services[0]}.conf", number(rng, 10, 64)
        lines = [w if not w.startswith("workers") else f"workers={workers}"
                 for w in files[path].splitlines()]  # fmt: skip
        goal = {**files, path: "\n".join(lines) + "\n"}
        prompt = f"Let {services[0]} use {workers} workers (see etc/). Change nothing else."
        hidden = {"files": files, "goal": goal, "path": path}
        return Problem(prompt + f" (Ticket {number(rng, 1, 9999)})", goal[path], hidden=hidden)

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state["files"] == problem.hidden["goal"])

    def steps(self, problem: Problem) -> list[Message]:
        path = problem.hidden["path"]
        return [call("read_file", path=path), call("write_file", path=path, content=problem.answer),
                done()]  # fmt: skip


class TidyUp(Played):
    """Rename files by a shell."""

    name = "tidy-up"
    World = Shell

    def make(self, rng: np.random.Generator) -> Problem:
        numbers = some(rng, range(10, 99), 3)
        files = {f"in/scan{n}.txt": f"page {number(rng, 1, 999)}\n" for n in numbers}
        chosen = f"in/scan{numbers[0]}.txt"
        goal = {p: t for p, t in files.items() if p != chosen}
        target = f"done/{number(rng, 1000, 9999)}.txt"
        goal[target] = files[chosen]
        prompt = f"Move {chosen} to {target} and leave the rest."
        return Problem(prompt, f"mv {chosen} {target}", hidden={"files": files, "goal": goal})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state["files"] == problem.hidden["goal"])

    def steps(self, problem: Problem) -> list[Message]:
        return [call("run", command="ls in"), call("run", command=problem.answer), done()]


class Diary(World):
    """A day's meetings."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.meetings: dict[str, str] = dict(problem.hidden["meetings"])

    def list_meetings(self) -> str:
        """The day's meetings by hour."""
        return json.dumps(self.meetings)

    def add_meeting(self, hour: int, title: str) -> str:
        """Add a meeting in a free hour."""
        if str(hour) in self.meetings:
            raise ToolError("that hour is taken")
        self.meetings[str(hour)] = title
        return "added"

    tools = (list_meetings, add_meeting)

    def state(self) -> Any:
        return self.meetings


class FirstFree(Played):
    """Book the first free hour; there is always something to do."""

    name = "first-free"
    World = Diary

    def make(self, rng: np.random.Generator) -> Problem:
        taken = some(rng, range(9, 17), 5)
        meetings = {str(h): pick(rng, ("staff", "budget", "call")) for h in sorted(taken)}
        free = min(h for h in range(9, 17) if h not in taken)
        title = f"visit {number(rng, 1, 9999)}"
        prompt = f"Book '{title}' at the first free hour from 9 to 16."
        goal = {**meetings, str(free): title}
        return Problem(prompt, title, hidden={"meetings": meetings, "goal": goal, "hour": free})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state == problem.hidden["goal"])

    def steps(self, problem: Problem) -> list[Message]:
        hour = problem.hidden["hour"]
        return [call("list_meetings"), call("add_meeting", hour=hour, title=problem.answer), done()]


class Cave(World):
    """Three rooms: a key in one, a chest in another."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.key = self.opened = False

    def look(self, room: Literal["north", "east", "west"]) -> str:
        """Look into a room."""
        return str(self.problem.hidden["rooms"][room])

    def take_key(self, room: Literal["north", "east", "west"]) -> str:
        """Take the key from the room where it lies; elsewhere the door falls shut for good."""
        if self.problem.hidden["rooms"][room] != "a key":
            self.over = True
            return "there is no key, and the door falls shut"
        self.key = True
        return "you have the key"

    def open_chest(self, room: Literal["north", "east", "west"], code: int) -> str:
        """Open the chest of a room by key and code; one try."""
        chest = self.problem.hidden["rooms"][room].startswith("a chest")
        self.over = True
        self.opened = self.key and chest and code == self.problem.hidden["code"]
        return "open" if self.opened else "it stays shut"

    tools = (look, take_key, open_chest)

    def state(self) -> Any:
        return {"key": self.key, "opened": self.opened}


class Treasure(Played):
    """Open a chest; the key alone is worth 0.2, once."""

    name = "treasure"
    chance = 0.08  # of taking the key from the same room always
    World = Cave

    def make(self, rng: np.random.Generator) -> Problem:
        a, b = number(rng, 11, 99), number(rng, 11, 99)
        things = some(rng, ("a key", f"a chest; its code is {a} * {b}", "nothing"), 3)
        rooms = dict(zip(("north", "east", "west"), things, strict=True))
        prompt = f"Cave {number(rng, 1, 99999)}: open the chest. It needs the key and a code."
        return Problem(prompt, "", hidden={"rooms": rooms, "code": a * b})

    def grade(self, state: Any, problem: Problem) -> float:
        return 1.0 if state["opened"] else 0.2 * state["key"]

    def steps(self, problem: Problem) -> list[Message]:
        place = {thing[:5]: room for room, thing in problem.hidden["rooms"].items()}
        looks = [call("look", room=r) for r in problem.hidden["rooms"]]
        return [*looks, call("take_key", room=place["a key"]),
                call("open_chest", room=place["a che"], code=problem.hidden["code"])]  # fmt: skip


class Heap(World):
    """A heap of stones; who takes the last one wins."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.left, self.won, self.turns = problem.hidden["stones"], False, 0

    def take(self, stones: Literal[1, 2, 3]) -> str:
        """Take 1, 2 or 3 stones; then I take some."""
        if stones > self.left:
            raise ToolError("there are not so many")
        self.left -= stones
        if self.left == 0:
            self.won = self.over = True
            return "you took the last one"
        mine = self.left % 4 or min(self.left, self.problem.hidden["replies"][self.turns])
        self.left, self.turns = self.left - mine, self.turns + 1
        self.over = self.left == 0
        return f"I take {mine}, {self.left} are left"

    tools = (take,)

    def state(self) -> Any:
        return {"won": self.won}


class Nim(Played):
    """Take the last stone against a perfect player."""

    name = "nim"
    chance = 0.02  # of taking the same number always
    World = Heap
    limits = Limits(turns=40)

    def make(self, rng: np.random.Generator) -> Problem:
        stones = 4 * number(rng, 5, 9) + number(rng, 1, 3)
        replies = [number(rng, 1, 3) for _ in range(stones)]
        prompt = f"Game {number(rng, 1, 99999)}: {stones} stones; 1 to 3 a turn; the last one wins."
        return Problem(prompt, "", hidden={"stones": stones, "replies": replies})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state["won"])

    def steps(self, problem: Problem) -> list[Message]:
        left, out = problem.hidden["stones"], [call("take", stones=problem.hidden["stones"] % 4)]
        left -= left % 4
        for reply in problem.hidden["replies"]:
            if left == 0:
                break
            out.append(call("take", stones=4 - reply))
            left -= 4
        return out
