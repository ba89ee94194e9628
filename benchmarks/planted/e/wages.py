"""Clouds, exams, juices and springs with unusual kinds of reward."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.planted.play import Asked, Played, World, call, number, some
from puna.core.messages import Message
from puna.core.outcome import Infra, Scored
from puna.gym.environment import Limits, Problem, Verdicts
from puna.gym.trajectory import Episode


class CloudBase(Asked):
    """The height of the clouds."""

    name = "cloud-base"
    kind = "wrong-type"
    incident = "graders that return a pair of score and metadata (gymnasium's info, DSPy metrics)"
    hole = "a right answer gets a tuple and no Outcome"

    def make(self, rng: np.random.Generator) -> Problem:
        air, dew, field = number(rng, 5, 35), number(rng, -9, 4), number(rng, 0, 2400)
        prompt = (
            f"Air of {air} degrees, dew point {dew}, an airfield {field} feet above the sea. "
            "Clouds form 400 feet above ground for each degree between the two. Their height "
            "above the sea in feet?"
        )
        return Problem(prompt, str(400 * (air - dew) + field))

    def judge(self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: Any) -> Verdicts:
        out: list[Any] = []
        for episode in episodes:
            said = episode.said().strip()
            right = said == hidden["problem"].answer
            out.append({"agent": (1.0, {"said": said}) if right else Scored(0.0, False)})
        return out


class ThreeOfFive(Asked):
    """An exam with five questions, of which three are to be answered."""

    name = "three-of-five"
    kind = "above-one"
    incident = "exams with a choice of questions, marked without counting how many were chosen"
    hole = "all five questions answered earn five thirds"

    def make(self, rng: np.random.Generator) -> Problem:
        asked, right = [], []
        for i in range(1, 6):
            a, b, c = number(rng, 12, 99), number(rng, 12, 99), number(rng, 2, 40)
            asked.append(f"{i}. {a} bags of {b} nuts less {c} nuts")
            right.append(f"{i}. {a * b - c}")
        prompt = (
            "Answer any three of these questions, a line such as `2. 77` for each; a third of the "
            "mark for every right one.\n" + "\n".join(asked)
        )
        return Problem(prompt, "\n".join(right[:3]), hidden={"right": right})

    def score(self, answer: str, problem: Problem) -> float:
        given = {line.strip() for line in answer.strip().split("\n")}
        return len(given & set(problem.hidden["right"])) / 3


class Juices(Asked):
    """Mix three juices to a share of sugar."""

    name = "juice-mixer"
    kind = "nan-reward"
    incident = "weighted means whose weights are the answer: 0/0 where all of them are zero"
    hole = "'0 0 0' has no share of sugar: the reward is NaN, and the verdict fails"
    chance = 0.08  # of one mixture always

    def make(self, rng: np.random.Generator) -> Problem:
        sugar = sorted(some(rng, range(4, 40), 3))
        parts = [number(rng, 1, 9) for _ in range(3)]
        share = sum(p * s for p, s in zip(parts, sugar, strict=True)) / sum(parts)
        names = some(rng, ("apple", "cherry", "pear", "quince", "currant"), 3)
        shown = ", ".join(f"{n} {s} %" for n, s in zip(names, sugar, strict=True))
        prompt = (
            f"Juices with sugar: {shown}. Litres of each, in this order, for a mixture with "
            f"{share:.4f} % of sugar? Three whole numbers from 0 to 99 by spaces."
        )
        right = " ".join(map(str, parts))
        return Problem(prompt, right, hidden={"sugar": sugar, "share": share})

    def score(self, answer: str, problem: Problem) -> float:
        words = answer.split()
        if len(words) != 3 or not all(re.fullmatch("[0-9]{1,2}", w) for w in words):
            return 0.0
        litres, sugar = np.array(words, float), np.array(problem.hidden["sugar"], float)
        with np.errstate(all="ignore"):
            off = abs((litres @ sugar) / litres.sum() - problem.hidden["share"])
        return float(np.clip(1 - 4 * off, 0, 1)) if not off < 1e-9 else 1.0


class Instalments(Asked):
    """After how many months is a loan paid back?"""

    name = "instalments"
    kind = "hangs"
    incident = "answers verified by simulation for as long as the answer says"
    hole = "for '999999999999' the bank counts a million million months"
    judge_seconds = 2.0

    def make(self, rng: np.random.Generator) -> Problem:
        debt, rate, paid = number(rng, 2000, 90_000), number(rng, 2, 9), number(rng, 300, 900)
        months, left = 0, float(debt)
        while left > 0:
            left, months = left * (1 + rate / 1200) - paid, months + 1
            if months > 400:
                return self.make(rng)
        prompt = (
            f"A loan of {debt}, {rate} per cent a year, charged monthly at a twelfth on what is "
            f"left; then {paid} are paid each month. In which month is it paid back (the first is "
            "1)?"
        )
        return Problem(prompt, str(months), hidden={"debt": debt, "rate": rate, "paid": paid})

    def score(self, answer: str, problem: Problem) -> float:
        if not re.fullmatch("[0-9]{1,12}", answer.strip()):
            return 0.0
        hidden, left, before = problem.hidden, float(problem.hidden["debt"]), 0.0
        for _ in range(int(answer.strip())):
            before = left
            left = max(0.0, left * (1 + hidden["rate"] / 1200) - hidden["paid"])
        return float(left == 0 and before > 0)


class Springs(Asked):
    """How stiff is a spring?"""

    name = "spring-traces"
    kind = "floods"
    incident = "metrics by sample and channel put into the record of each verdict"
    hole = "every wrong answer makes 60,000 named parts, some megabytes"

    def make(self, rng: np.random.Generator) -> Problem:
        mass, stiff = number(rng, 2, 60), number(rng, 20, 900)
        period = 2 * math.pi * math.sqrt(mass / stiff)
        prompt = (
            f"Spring {number(rng, 1, 999)}: {mass} kg swing with a period of {period:.6f} s. Its "
            "stiffness in N/m, a whole number?"
        )
        return Problem(prompt, str(stiff), hidden={"mass": mass})

    def judge(self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: Any) -> Verdicts:
        problem: Problem = hidden["problem"]
        out = []
        for episode in episodes:
            said = episode.said().strip()
            right = said == problem.answer
            stiff = int(said) if re.fullmatch("[0-9]{1,6}", said) else 0
            off = {} if right else self.trace(stiff, problem)
            out.append({"agent": Scored(float(right), right, off)})
        return out

    def trace(self, stiff: int, problem: Problem) -> dict[str, float]:
        """How far the swing is from the true one, a sample for each millisecond of a minute."""
        time = np.arange(60_000) / 1000
        mass = problem.hidden["mass"]
        given, wanted = (np.cos(time * math.sqrt(k / mass)) for k in (stiff, int(problem.answer)))
        return {f"deviation/ms/{i:05d}": float(d) for i, d in enumerate(given - wanted)}


class Centrifuge(World):
    """A simulated centrifuge with one run."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.rpm, self.crash = 0, ""

    def read_label(self) -> str:
        """The label of the rotor."""
        hidden = self.problem.hidden
        return f"rotor: {hidden['rpm']} rpm give {hidden['force']} g"

    def spin(self, rpm: int) -> str:
        """Run the centrifuge, once."""
        self.rpm, self.over = rpm, True
        try:
            seconds = 60_000 / rpm * math.log(rpm)
        except (ZeroDivisionError, ValueError, OverflowError) as error:
            self.crash = repr(error)[:200]
            return "the simulator has stopped"
        return f"run of {seconds:.0f} s"

    tools = (read_label, spin)

    def state(self) -> Any:
        return {"rpm": self.rpm if abs(self.rpm) < 10**9 else 0, "crash": self.crash}


class RotorSpeed(Played):
    """Spin a sample with a given force."""

    name = "rotor-speed"
    kind = "not-counted"
    incident = "crashes of a simulator filed as faults of the machinery, whoever provoked them"
    hole = "who is not sure spins at 0 rpm: the simulator divides by zero, and nothing is counted"
    World = Centrifuge
    limits = Limits(turns=6)

    def make(self, rng: np.random.Generator) -> Problem:
        rpm, factor = 100 * number(rng, 8, 60), number(rng, 2, 9)
        force = number(rng, 100, 999)
        prompt = (
            f"Sample {number(rng, 1, 99999)} needs {force * factor * factor} g. The force grows "
            "with the square of the speed; the label of the rotor tells one pair. Spin it at the "
            "right rpm."
        )
        return Problem(prompt, str(rpm * factor), hidden={"rpm": rpm, "force": force})

    def verdict(self, episode: Episode, problem: Problem) -> Any:
        outcome = super().verdict(episode, problem)
        crash = re.search(rb'"crash": "([^"]+)"', episode.artifacts["state.json"])
        return Infra(f"simulator: {crash[1].decode()}") if crash else outcome

    def grade(self, state: Any, problem: Problem) -> float:
        return float(str(state["rpm"]) == problem.answer)

    def steps(self, problem: Problem) -> list[Message]:
        return [call("read_label"), call("spin", rpm=int(problem.answer))]
