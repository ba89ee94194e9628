"""Files, codes, calendars, lamps and users behind tools."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from benchmarks.planted.play import (
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


class Warehouses(Played):
    """Add up what is said in several files."""

    name = "warehouse-files"
    World = FileWorld

    def make(self, rng: np.random.Generator) -> Problem:
        item = pick(rng, ("bolts", "screws", "washers"))
        counts = {f"stock/{n}.txt": number(rng, 100, 9999) for n in some(rng, range(10, 99), 4)}
        files = {p: f"{item}: {c}\nbroken {item}: {number(rng, 1, 99)}" for p, c in counts.items()}
        prompt = (
            f"Firm {number(rng, 1, 99999)}: how many {item} (not broken) do the files in stock/ "
        )
        prompt += "have in all? Say the number alone."
        return Problem(prompt, str(sum(counts.values())), hidden={"files": files})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state["said"].strip() == problem.answer)

    def steps(self, problem: Problem) -> list[Message]:
        reads = [call("read_file", path=p) for p in problem.hidden["files"]]
        return [call("list_files", path="stock/"), *reads, done(problem.answer)]


class Settings(Played):
    """Change a JSON file; everything else in it must stay."""

    name = "json-settings"
    World = FileWorld

    def make(self, rng: np.random.Generator) -> Problem:
        old = {k: number(rng, 1, 999) for k in some(rng, ("fps", "gain", "zoom", "tilt", "iso"), 4)}
        a, b = some(rng, tuple(old), 2)
        new = {("focus" if k == a else k): v + 1000 if k == b else v for k, v in old.items()}
        prompt = (
            f"Camera {number(rng, 1, 99999)}: in camera.json rename {a} to focus, keeping its "
            f"value, and add 1000 to {b}."
        )
        return Problem(prompt, json.dumps(new), hidden={"files": {"camera.json": json.dumps(old)}})

    def grade(self, state: Any, problem: Problem) -> float:
        try:
            given = json.loads(state["files"].get("camera.json", ""))
        except (ValueError, RecursionError):
            return 0.0
        return float(given == json.loads(problem.answer))

    def steps(self, problem: Problem) -> list[Message]:
        return [call("read_file", path="camera.json"),
                call("write_file", path="camera.json", content=problem.answer), done()]  # fmt: skip


class Locks(World):
    """A lock of four letters that tells how many are right."""

    tries, open = 0, False

    def turn(self, code: str) -> str:
        """Try four letters of a to f; the lock blocks after ten."""
        if len(code) != 4 or set(code) - set("abcdef"):
            raise ToolError("four letters of a to f")
        right = self.problem.answer
        self.tries += 1
        self.open = code == right
        self.over = self.open or self.tries == 10
        placed = sum(a == b for a, b in zip(code, right, strict=True))
        shared = sum(min(code.count(c), right.count(c)) for c in "abcdef")
        return f"{placed} in place, {shared - placed} elsewhere"

    tools = (turn,)

    def state(self) -> Any:
        return self.open


class CodeLock(Played):
    """Find a code by its hints."""

    name = "letter-lock"
    World = Locks
    limits = Limits(turns=14)

    def make(self, rng: np.random.Generator) -> Problem:
        code = "".join(pick(rng, "abcdef") for _ in range(4))
        return Problem(f"Lock {number(rng, 1, 99999)}: open it within ten tries.", code)

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state)

    def steps(self, problem: Problem) -> list[Message]:
        return [call("turn", code="aabb"), call("turn", code=problem.answer)]


class Phrasebook(World):
    """A dictionary of a made-up language."""

    def lookup(self, word: str) -> str:
        """The translation of a word."""
        return str(self.problem.hidden["words"].get(word.lower(), "not found"))

    tools = (lookup,)


class Phrases(Played):
    """Translate a phrase word by word, in reverse order."""

    name = "phrasebook"
    World = Phrasebook

    def make(self, rng: np.random.Generator) -> Problem:
        english = some(rng, ("bread", "water", "seven", "roads", "night", "bring", "green"), 4)
        made = ["".join(pick(rng, ("ka", "lo", "mi", "tu", "re", "so")) for _ in range(3))
                for _ in english]  # fmt: skip
        words = dict(zip(english, made, strict=True))
        prompt = (
            f"Language {number(rng, 1, 9999)} has the words in reverse order. Translate with "
            f"lookup and say the result alone: {' '.join(english)}"
        )
        return Problem(prompt, " ".join(reversed(made)), hidden={"words": words})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state["said"].strip().lower() == problem.answer)

    def steps(self, problem: Problem) -> list[Message]:
        return [*(call("lookup", word=w) for w in problem.hidden["words"]), done(problem.answer)]


class Calendars(World):
    """Calendars of three people, and one booking."""

    def get_calendar(self, person: str) -> str:
        """The minutes of the day, from 0, at which a person's free quarters of an hour begin."""
        if person not in self.problem.hidden["free"]:
            raise ToolError("no such person")
        return " ".join(map(str, self.problem.hidden["free"][person]))

    def book(self, minute: int) -> str:
        """Book a quarter of an hour, once."""
        self.said, self.over = str(minute), True
        return "booked"

    tools = (get_calendar, book)


class CommonSlot(Played):
    """The first time that is free for all; there is exactly one first."""

    name = "common-slot"
    chance = 0.02  # of one quarter of an hour always
    World = Calendars

    def make(self, rng: np.random.Generator) -> Problem:
        names = some(rng, ("Uma", "Vic", "Wes", "Xia", "Yan"), 3)
        slot = number(rng, 20, 80)
        free = {n: {slot, *(s for s in range(96) if rng.random() < 0.4)} for n in names}
        for early in range(slot):
            free[pick(rng, names)].discard(early)
        shown = {n: [15 * s for s in sorted(f)] for n, f in free.items()}
        prompt = f"Day {number(rng, 1, 9999)}: book the first time for {', '.join(names)} together."
        return Problem(prompt, str(15 * slot), hidden={"free": shown})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state["said"] == problem.answer)

    def steps(self, problem: Problem) -> list[Message]:
        looks = [call("get_calendar", person=p) for p in problem.hidden["free"]]
        return [*looks, call("book", minute=int(problem.answer))]


class Sightings(Played):
    """Count lines by a shell; the number alone counts."""

    name = "log-counts"
    chance = 0.04  # of the most frequent number
    World = Shell

    def make(self, rng: np.random.Generator) -> Problem:
        word, other = some(rng, ("otter", "heron", "beaver", "badger"), 2)
        n = number(rng, 11, 70)
        lines = some(rng, [word] * n + [other] * number(rng, 10, 60) + ["nothing"] * 20, n + 20)
        files = {"river.log": "\n".join(f"{i}: {w}" for i, w in enumerate(lines, 1))}
        prompt = (
            f"River {number(rng, 1, 99999)}: how many lines of river.log name a {word}? A number."
        )
        return Problem(prompt, str(lines.count(word)), hidden={"files": files, "word": word})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state["said"].strip() == problem.answer)

    def steps(self, problem: Problem) -> list[Message]:
        command = f"grep {problem.hidden['word']} river.log"
        return [call("run", command=command), done(problem.answer)]


class Panel(World):
    """Nine lamps in a row; a switch turns its lamp and the neighbours."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.lamps = list(problem.hidden["lamps"])

    def press(self, switch: int) -> str:
        """Press a switch, 1 to 9."""
        if not 1 <= switch <= 9:
            raise ToolError("switches are 1 to 9")
        for i in (switch - 2, switch - 1, switch):
            if 0 <= i < 9:
                self.lamps[i] = 1 - self.lamps[i]
        self.over = not any(self.lamps)
        return "".join(map(str, self.lamps))

    tools = (press,)

    def state(self) -> Any:
        return self.lamps


class LampRow(Played):
    """Put all lamps out; at least three switches are needed."""

    name = "lamp-row"
    World = Panel
    limits = Limits(turns=16)

    def make(self, rng: np.random.Generator) -> Problem:
        while True:
            presses = some(rng, range(1, 10), number(rng, 3, 6))
            world = Panel(Problem("", "", hidden={"lamps": [0] * 9}))
            for switch in presses:
                world.press(switch)
            if sum(world.lamps) > 3:
                break
        prompt = (
            f"Panel {number(rng, 1, 99999)}: lamps {''.join(map(str, world.lamps))}. A switch "
            "turns its lamp and both neighbours. Put all out."
        )
        return Problem(prompt, "", hidden={"lamps": world.lamps, "presses": presses})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(not any(state))

    def steps(self, problem: Problem) -> list[Message]:
        return [*(call("press", switch=s) for s in problem.hidden["presses"]), done()]


class Counter(World):
    """A customer who answers questions, and one booking."""

    def ask(self, question: str) -> str:
        """Ask the customer."""
        for word, reply in self.problem.hidden["replies"].items():
            if word in question.lower():
                return str(reply)
        return "What do you mean?"

    def book_ferry(self, minutes: int, cars: int) -> str:
        """Book, once: the minute of the day of the ferry, and how many cars."""
        self.said, self.over = f"{minutes} {cars}", True
        return "booked"

    tools = (ask, book_ferry)


class FerryDesk(Played):
    """Ask for what is missing before booking."""

    name = "ferry-desk"
    World = Counter

    def make(self, rng: np.random.Generator) -> Problem:
        at, cars = number(rng, 300, 1300), number(rng, 3, 12)
        replies = {"time": f"at minute {at} of the day", "cars": f"{cars} cars",
                   "when": f"at minute {at} of the day"}  # fmt: skip
        prompt = f"Customer {number(rng, 1, 99999)} wants a ferry. Ask for time and cars, and book."
        return Problem(prompt, f"{at} {cars}", hidden={"replies": replies})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state["said"] == problem.answer)

    def steps(self, problem: Problem) -> list[Message]:
        minutes, cars = (int(w) for w in problem.answer.split())
        return [call("ask", question="What time?"), call("ask", question="How many cars?"),
                call("book_ferry", minutes=minutes, cars=cars)]  # fmt: skip
