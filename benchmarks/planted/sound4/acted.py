"""Doors, jugs, catalogues, books and faults behind tools."""

from __future__ import annotations

from collections import deque
from typing import Any, Literal

import numpy as np

from benchmarks.planted.play import FileWorld, Played, World, call, done, number, pick, some
from puna.core.messages import Message
from puna.gym.environment import Limits, Problem
from puna.gym.tools import ToolError


class House(World):
    """Doors, locked or not, and a book in which the round is signed."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.open = set(problem.hidden["open"])
        self.touched, self.signed = False, False

    def try_door(self, door: str) -> str:
        """Try whether a door is locked."""
        if door not in self.problem.hidden["doors"]:
            raise ToolError("no such door")
        return "open" if door in self.open else "locked"

    def lock(self, door: str) -> str:
        """Lock an open door. Turning the key in a locked one sets off the alarm."""
        if door not in self.problem.hidden["doors"]:
            raise ToolError("no such door")
        if door not in self.open:
            self.touched = True
            return "the alarm rings"
        self.open.remove(door)
        return "locked"

    def sign_off(self) -> str:
        """Sign the book; the round is then over."""
        self.signed = self.over = True
        return "good night"

    tools = (try_door, lock, sign_off)

    def state(self) -> Any:
        return self.signed and not self.touched and not self.open


class NightPorter(Played):
    """Lock what is open and sign; on one evening in four nothing is open, signing is enough."""

    name = "night-porter"
    chance = 0.3  # of signing at once
    World = House
    limits = Limits(turns=16)

    def make(self, rng: np.random.Generator) -> Problem:
        doors = some(rng, ("front", "cellar", "kitchen", "garden", "garage", "attic"), 5)
        opened = [] if rng.random() < 0.25 else some(rng, doors, number(rng, 1, 4))
        prompt = (
            f"Evening {number(rng, 1, 99999)}: the doors are {', '.join(sorted(doors))}. Lock "
            "those that are open, no others, and sign off."
        )
        return Problem(prompt, "", hidden={"doors": doors, "open": sorted(opened)})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state)

    def steps(self, problem: Problem) -> list[Message]:
        tries = [call("try_door", door=d) for d in problem.hidden["doors"]]
        return [*tries, *(call("lock", door=d) for d in problem.hidden["open"]), call("sign_off")]


def pours(sizes: tuple[int, int], target: int) -> list[tuple[str, int]]:
    """The shortest way to have `target` litres in one of two jugs: actions, each with its jug."""
    seen: dict[tuple[int, int], list[tuple[str, int]]] = {(0, 0): []}
    queue = deque([(0, 0)])
    while queue:
        jugs = queue.popleft()
        if target in jugs:
            return seen[jugs]
        for name in ("fill", "empty", "pour"):
            for jug in (0, 1):
                after = poured(jugs, sizes, name, jug)
                if after not in seen:
                    seen[after] = [*seen[jugs], (name, jug)]
                    queue.append(after)
    return []


def poured(jugs: tuple[int, int], sizes: tuple[int, int], name: str, jug: int) -> tuple[int, int]:
    """What is in two jugs after one of them was filled, emptied or poured into the other."""
    now, other = list(jugs), 1 - jug
    if name == "fill":
        now[jug] = sizes[jug]
    elif name == "empty":
        now[jug] = 0
    else:
        moved = min(now[jug], sizes[other] - now[other])
        now[jug], now[other] = now[jug] - moved, now[other] + moved
    return now[0], now[1]


class Spring(World):
    """Two jugs at a spring."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.jugs = (0, 0)

    def use(self, action: Literal["fill", "empty", "pour"], jug: Literal["first", "second"]) -> str:
        """Fill or empty a jug, or pour it into the other one."""
        first, second = self.problem.hidden["sizes"]
        self.jugs = poured(self.jugs, (first, second), action, int(jug == "second"))
        return f"first {self.jugs[0]}, second {self.jugs[1]}"

    tools = (use,)

    def state(self) -> Any:
        return self.jugs


class TwoJugs(Played):
    """Measure a volume; three steps are needed at least, and any way is right."""

    name = "spring-jugs"
    chance = 0.1  # of the same few steps always
    World = Spring
    limits = Limits(turns=30)

    def make(self, rng: np.random.Generator) -> Problem:
        while True:
            first, second = some(rng, range(3, 20), 2)
            target = number(rng, 1, max(first, second) - 1)
            way = pours((first, second), target)
            if 3 <= len(way) <= 14:
                break
        prompt = (
            f"Hiker {number(rng, 1, 99999)}: the first jug holds {first} litres, the second "
            f"{second}. Have exactly {target} litres in one of them, and say so."
        )
        return Problem(prompt, str(target), hidden={"sizes": (first, second), "way": way})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(int(problem.answer) in state)

    def steps(self, problem: Problem) -> list[Message]:
        uses = [call("use", action=name, jug=("first", "second")[jug])
                for name, jug in problem.hidden["way"]]  # fmt: skip
        return [*uses, done()]


class Catalogue(World):
    """A catalogue that is shown three entries at a time."""

    def search(self, word: str, page: int = 1) -> str:
        """Entries that hold a word of four letters or more, three a page."""
        if len(word) < 4:
            raise ToolError("four letters at least")
        found = [e for e in self.problem.hidden["entries"] if word.lower() in e]
        shown = found[3 * (page - 1) : 3 * page] if page > 0 else []
        return "\n".join(shown) or "no more entries"

    tools = (search,)


class Catalogues(Played):
    """Add up the pages of all books on a subject, over some pages of results."""

    name = "paged-catalogue"
    World = Catalogue

    def make(self, rng: np.random.Generator) -> Problem:
        subject, *others = some(rng, ("mosses", "harbours", "comets", "violins", "glaciers"), 3)
        pages = [number(rng, 60, 900) for _ in range(number(rng, 4, 8))]
        entries = [f"on {subject}, vol. {number(rng, 1, 99)}, {n} pages" for n in pages]
        for _ in range(6):
            volume, length = number(rng, 1, 99), number(rng, 60, 900)
            entries.append(f"on {pick(rng, others)}, vol. {volume}, {length} pages")
        prompt = (
            f"Library {number(rng, 1, 99999)}: how many pages do its books on {subject} have "
            "together? Say the number alone."
        )
        hidden = {"entries": some(rng, entries, len(entries)), "subject": subject,
                  "results": len(pages)}  # fmt: skip
        return Problem(prompt, str(sum(pages)), hidden=hidden)

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state["said"].strip() == problem.answer)

    def steps(self, problem: Problem) -> list[Message]:
        subject, results = problem.hidden["subject"], problem.hidden["results"]
        looks = [call("search", word=subject, page=p) for p in range(1, results // 3 + 2)]
        return [*looks, done(problem.answer)]


class CashBook(Played):
    """Correct the one wrong balance of a cash book; every other line must stay."""

    name = "cash-book"
    World = FileWorld

    def make(self, rng: np.random.Generator) -> Problem:
        balance, rows = number(rng, 500, 5000), []
        for day in sorted(some(rng, range(1, 29), 7)):
            moved = pick(rng, (-1, 1)) * number(rng, 10, 400)
            balance += moved
            rows.append((day, moved, balance))
        at, off = number(rng, 1, 6), pick(rng, (-90, -9, 9, 90))
        lines = [f"{d:02d} {m:+d} {b}" for d, m, b in rows]
        right = "\n".join(lines) + "\n"
        day, moved, true = rows[at]
        lines[at] = f"{day:02d} {moved:+d} {true + off}"
        prompt = (
            f"Firm {number(rng, 1, 99999)}: book.txt has day, movement and balance. One balance is "
            "wrong (the movements and the first balance are right, and later lines were reckoned "
            "without the mistake). Correct it and leave all else."
        )
        files = {"book.txt": "\n".join(lines) + "\n", "notes.txt": "audited in spring\n"}
        return Problem(prompt, right, hidden={"files": files})

    def grade(self, state: Any, problem: Problem) -> float:
        wanted = {**problem.hidden["files"], "book.txt": problem.answer}
        given = {path: text.rstrip("\n") for path, text in state["files"].items()}
        return float(given == {path: text.rstrip("\n") for path, text in wanted.items()})

    def steps(self, problem: Problem) -> list[Message]:
        return [call("read_file", path="book.txt"),
                call("write_file", path="book.txt", content=problem.answer), done()]  # fmt: skip


class Cable(World):
    """A cable with one break, and a meter that can be put to it nine times."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.probes, self.dug = 0, 0

    def probe(self, metre: int) -> str:
        """Is there current at a metre of the cable? Nine probes, then the battery is empty."""
        if self.probes == 9:
            raise ToolError("the battery is empty")
        self.probes += 1
        return "current" if metre < int(self.problem.answer) else "no current"

    def dig(self, metre: int) -> str:
        """Dig at a metre, once: the first without current."""
        self.dug, self.over = metre, True
        return "done"

    tools = (probe, dig)

    def state(self) -> Any:
        return self.dug


class CableBreak(Played):
    """Find a break in a cable; half of the mark for one metre beside it."""

    name = "cable-break"
    chance = 0.02  # of one metre always
    World = Cable

    def make(self, rng: np.random.Generator) -> Problem:
        prompt = (
            f"Cable {number(rng, 1, 99999)}, 500 metres: it is broken. Find out where, and dig."
        )
        return Problem(prompt, str(number(rng, 1, 500)))

    def grade(self, state: Any, problem: Problem) -> float:
        return {0: 1.0, 1: 0.5}.get(abs(state - int(problem.answer)), 0.0)

    def steps(self, problem: Problem) -> list[Message]:
        low, high, out = 1, 500, []
        while low < high:
            middle = (low + high) // 2
            out.append(call("probe", metre=middle))
            if middle < int(problem.answer):
                low = middle + 1
            else:
                high = middle
        return [*out, call("dig", metre=low)]
