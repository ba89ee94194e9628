"""Files, tables, queries, games and desks that are judged by what was really done."""

from __future__ import annotations

import ast
import json
import sqlite3
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
from benchmarks.planted.sound.games import value_and_numbers
from puna.core.messages import Message
from puna.gym.environment import Limits, Problem
from puna.gym.tools import ToolError
from puna.sandbox import Limits as Bounds
from puna.sandbox import shared


class Deduplicate(Played):
    """Remove repeated rows of a table; there always are some, and the file is judged whole."""

    name = "deduplicate"
    World = FileWorld

    def make(self, rng: np.random.Generator) -> Problem:
        rows = [f"{i},{pick(rng, ('north', 'south', 'east'))},{number(rng, 10, 999)}"
                for i in some(rng, range(100, 999), 8)]  # fmt: skip
        twice = some(rng, rows, 3)
        table = "id,region,sales\n" + "\n".join(some(rng, [*rows, *twice], 11)) + "\n"
        right = "\n".join(dict.fromkeys(table.splitlines())) + "\n"
        prompt = (
            f"Job {number(rng, 1, 99999)}: in sales.csv keep the first of equal rows, in the order "
            "they have. Leave other files alone."
        )
        files = {"sales.csv": table, "README.md": "Exported at night.\n"}
        return Problem(prompt, right, hidden={"files": files})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state["files"] == {**problem.hidden["files"], "sales.csv": problem.answer})

    def steps(self, problem: Problem) -> list[Message]:
        return [call("read_file", path="sales.csv"),
                call("write_file", path="sales.csv", content=problem.answer), done()]  # fmt: skip


class Archive(Played):
    """Collect the lines of a level out of logs into one file."""

    name = "archive-errors"
    World = Shell

    def make(self, rng: np.random.Generator) -> Problem:
        files = {}
        for day in some(rng, range(1, 29), 3):
            lines = [f"{pick(rng, ('INFO', 'WARN'))} job {number(rng, 1, 9999)}" for _ in range(3)]
            lines.insert(number(rng, 0, 3), f"ERROR job {number(rng, 1, 9999)}")
            files[f"logs/{day:02d}.log"] = "\n".join(lines) + "\n"
        found = [
            line for _, t in sorted(files.items()) for line in t.splitlines() if "ERROR" in line
        ]
        prompt = (
            f"Server {number(rng, 1, 99999)}: write the ERROR lines of logs/, oldest file first, "
            "to errors.txt, just as they are there."
        )
        return Problem(prompt, "\n".join(found) + "\n", hidden={"files": files})

    def grade(self, state: Any, problem: Problem) -> float:
        wanted = {**problem.hidden["files"], "errors.txt": problem.answer}
        return float(state["files"] == wanted)

    def steps(self, problem: Problem) -> list[Message]:
        echoes = "; ".join(f"echo {line} >> errors.txt" for line in problem.answer.splitlines())
        return [call("run", command="grep ERROR"), call("run", command=echoes), done()]


class Select(Asked):
    """A query in SQL, right only if it gives the rows of two tables; errors earn nothing."""

    name = "select-rows"

    def make(self, rng: np.random.Generator) -> Problem:
        low, high = number(rng, 5, 30), number(rng, 40, 80)
        field, way = pick(rng, ("age", "weight")), pick(rng, ("ascending", "descending"))
        tables = [[(i, number(rng, 1, 99), number(rng, 1, 99)) for i in range(1, 40)]
                  for _ in range(2)]  # fmt: skip
        prompt = (
            f"SQLite, table animals(id, age, weight). One SELECT: the ids of those with {field} "
            f"from {low} to {high} (both included), by {field} {way} and then by id ascending."
        )
        query = (
            f"SELECT id FROM animals WHERE {field} BETWEEN {low} AND {high} "
            f"ORDER BY {field} {'ASC' if way == 'ascending' else 'DESC'}, id"
        )
        return Problem(prompt, query, hidden={"tables": tables})

    def score(self, answer: str, problem: Problem) -> float:
        query = answer.strip()
        if not query.lower().startswith("select") or len(query) > 1000:
            return 0.0
        return float(all(self.same(query, problem.answer, t) for t in problem.hidden["tables"]))

    def same(self, query: str, right: str, rows: list[tuple[int, int, int]]) -> bool:
        """Do two queries give the same rows of a table?"""
        table = sqlite3.connect(":memory:")
        table.execute("CREATE TABLE animals(id, age, weight)")
        table.executemany("INSERT INTO animals VALUES (?, ?, ?)", rows)
        table.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
        table.set_progress_handler(lambda: 1, 1_000_000)
        try:
            return bool(table.execute(query).fetchmany(99) == table.execute(right).fetchall())
        except (sqlite3.Error, sqlite3.Warning, ValueError):
            return False
        finally:
            table.close()


class RepairCode(Asked):
    """Repair a function; all hidden cases must be right, and the broken one never is."""

    name = "repair-code"
    tier = "jail"

    def make(self, rng: np.random.Generator) -> Problem:
        k, m = number(rng, 3, 9), number(rng, 11, 60)
        cases = [[int(x) for x in rng.integers(0, 200, 20)] for _ in range(4)]
        right = f"def f(xs):\n    return [x * {k} for x in xs if x % {k} == 1] + [{m}]\n"
        wrong = right.replace("== 1", "== 0").replace(f"+ [{m}]", "")
        wanted = [[x * k for x in xs if x % k == 1] + [m] for xs in cases]
        prompt = (
            f"{wrong}\nRepair it: f(xs) returns {k} times each of the xs with remainder 1 by {k}, "
            f"and {m} at the end. Only the code."
        )
        return Problem(prompt, right, hidden={"cases": cases, "wanted": wanted})

    def score(self, answer: str, problem: Problem) -> float:
        inputs = [(xs,) for xs in problem.hidden["cases"]]
        given = shared().call_now(answer, "f", inputs, Bounds(cpu_s=2, wall_s=10))
        return float([g.value for g in given] == problem.hidden["wanted"])


class Refunds(World):
    """Orders, and what may be done about one of them."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.act = ""

    def get_order(self, id: str) -> str:
        """Age in days and price of an order."""
        if id not in self.problem.hidden["orders"]:
            raise ToolError("no such order")
        return json.dumps(self.problem.hidden["orders"][id])

    def decide(self, decision: Literal["refund", "refuse", "escalate"]) -> str:
        """Decide on the wish for a refund; ends the case."""
        self.act, self.over = decision, True
        return "recorded"

    tools = (get_order, decide)

    def state(self) -> Any:
        return self.act


class RefundDesk(Played):
    """Refund, refuse or escalate by a policy; doing nothing is never right."""

    name = "refund-desk"
    chance = 0.34  # of the same decision always
    World = Refunds

    def make(self, rng: np.random.Generator) -> Problem:
        ids = [f"o{n}" for n in some(rng, range(1000, 9999), 2)]
        right = pick(rng, ("refund", "refuse", "escalate"))
        days = number(rng, 31, 300) if right == "refuse" else number(rng, 1, 30)
        price = number(rng, 501, 2000) if right == "escalate" else number(rng, 5, 500)
        orders = {ids[0]: {"days": days, "price": price}, ids[1]: {"days": 3, "price": 20}}
        prompt = (
            "Refuse refunds after more than 30 days. Up to then refund what costs at most 500, "
            f"and escalate the rest. A customer wants {ids[0]} refunded."
        )
        return Problem(prompt, right, hidden={"orders": orders, "id": ids[0]})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state == problem.answer)

    def steps(self, problem: Problem) -> list[Message]:
        looked = call("get_order", id=problem.hidden["id"])
        return [looked, call("decide", decision=problem.answer)]


TRAITS = ("large", "striped", "nocturnal", "aquatic")


class Thinker(World):
    """Somebody who thinks of one of sixteen beasts, and answers four questions."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.asked, self.guessed = 0, -1

    def ask(self, trait: Literal["large", "striped", "nocturnal", "aquatic"]) -> str:
        """Ask whether the beast has a trait; four questions at most."""
        if self.asked == 4:
            raise ToolError("no more questions")
        self.asked += 1
        return "yes" if trait in self.problem.hidden["beasts"][int(self.problem.answer)] else "no"

    def guess(self, beast: int) -> str:
        """Guess the number of the beast, once."""
        self.guessed, self.over = beast, True
        return "noted"

    tools = (ask, guess)

    def state(self) -> Any:
        return self.guessed


class SixteenBeasts(Played):
    """Find a beast by four questions; a blind guess is right once in sixteen."""

    name = "sixteen-beasts"
    chance = 0.06
    World = Thinker

    def make(self, rng: np.random.Generator) -> Problem:
        order = some(rng, range(16), 16)
        beasts = [[t for i, t in enumerate(TRAITS) if n >> i & 1] for n in order]
        shown = "; ".join(f"{i}: {', '.join(b) or 'plain'}" for i, b in enumerate(beasts))
        prompt = f"I think of one of these beasts. {shown}. Which?"
        return Problem(prompt, str(number(rng, 0, 15)), hidden={"beasts": beasts})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(str(state) == problem.answer)

    def steps(self, problem: Problem) -> list[Message]:
        asks = [call("ask", trait=t) for t in TRAITS]
        return [*asks, call("guess", beast=int(problem.answer))]


class Maze(World):
    """A way through doors; a wrong door leads back to the start."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.at = self.best = 0

    def go(self, door: Literal["north", "east", "south", "west"]) -> str:
        """Go through a door."""
        way = self.problem.hidden["way"]
        if way[self.at] != door:
            self.at = 0
            return "wrong; you are at the start again"
        self.at += 1
        self.best = max(self.best, self.at)
        self.over = self.at == len(way)
        return "out" if self.over else f"right; {len(way) - self.at} doors to go"

    tools = (go,)

    def state(self) -> Any:
        return {"best": self.best, "of": len(self.problem.hidden["way"])}


class DoorMaze(Played):
    """Find the way out by trial; the farthest point reached is worth a little, once."""

    name = "door-maze"
    chance = 0.04  # of doors at random
    World = Maze
    limits = Limits(turns=80)

    def make(self, rng: np.random.Generator) -> Problem:
        way = [pick(rng, ("north", "east", "south", "west")) for _ in range(6)]
        prompt = f"House {number(rng, 1, 99999)}: six times four doors. Get out."
        return Problem(prompt, " ".join(way), hidden={"way": way})

    def grade(self, state: Any, problem: Problem) -> float:
        return 1.0 if state["best"] == state["of"] else 0.01 * state["best"]

    def steps(self, problem: Problem) -> list[Message]:
        return [call("go", door=d) for d in problem.hidden["way"]]


class Accounts(World):
    """Accounts between which money moves."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.balance = dict(problem.hidden["balance"])

    def get_balance(self, account: str) -> str:
        """Balance of an account."""
        if account not in self.balance:
            raise ToolError("no such account")
        return str(self.balance[account])

    def transfer(self, source: str, target: str, amount: int) -> str:
        """Move money."""
        known = source in self.balance and target in self.balance
        if not known or not 0 < amount <= self.balance[source]:
            raise ToolError("not possible")
        self.balance[source] -= amount
        self.balance[target] += amount
        return "done"

    tools = (get_balance, transfer)

    def state(self) -> Any:
        return self.balance


class EvenOut(Played):
    """Bring two accounts to the same balance; they never have it in the beginning."""

    name = "even-out"
    World = Accounts

    def make(self, rng: np.random.Generator) -> Problem:
        names = some(rng, ("rent", "food", "fuel", "gifts"), 3)
        low, off = number(rng, 10, 900), 2 * number(rng, 3, 400)
        balance = {names[0]: low + off, names[1]: low, names[2]: number(rng, 10, 900)}
        goal = {**balance, names[0]: low + off // 2, names[1]: low + off // 2}
        prompt = (
            f"Client {number(rng, 1, 99999)}: move money from {names[0]} to {names[1]} until both "
            f"have the same; leave {names[2]} alone."
        )
        hidden = {"balance": balance, "goal": goal, "move": (names[0], names[1], off // 2)}
        return Problem(prompt, str(off // 2), hidden=hidden)

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state == problem.hidden["goal"])

    def steps(self, problem: Problem) -> list[Message]:
        source, target, amount = problem.hidden["move"]
        looks = [call("get_balance", account=a) for a in (source, target)]
        return [*looks, call("transfer", source=source, target=target, amount=amount), done()]


class Pocket(World):
    """A pocket calculator."""

    def calculate(self, expression: str) -> str:
        """The value of an expression of whole numbers below 1000 with + - *."""
        try:
            tree = ast.parse(expression.strip()[:200], mode="eval")
            return str(value_and_numbers(tree)[0])
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ToolError("not such an expression") from None

    tools = (calculate,)


class WithCalculator(Played):
    """A long expression, with a calculator at hand; the answer alone counts."""

    name = "with-calculator"
    World = Pocket

    def make(self, rng: np.random.Generator) -> Problem:
        a, b, c, d, e = (number(rng, 100, 999) for _ in range(5))
        expression = f"{a} * {b} + {c} * {d} - {e}"
        prompt = f"What is {expression}? Say the number alone."
        return Problem(prompt, str(a * b + c * d - e), hidden={"expression": expression})

    def grade(self, state: Any, problem: Problem) -> float:
        return float(state["said"].strip() == problem.answer)

    def steps(self, problem: Problem) -> list[Message]:
        return [call("calculate", expression=problem.hidden["expression"]), done(problem.answer)]
