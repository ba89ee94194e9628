"""Each probe finds the hole that it is for in a planted environment, and none in sound ones.

What share of all planted holes is found, benchmarks/audit_holes.py says.
"""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from benchmarks.planted import classes
from puna.gym.audit.probes import PROBES, ask_here
from puna.gym.environment import Problem, SingleTurn

PLANTED = {
    c.name: c
    for folder in ("a", "b", "c", "d", "sound", "sound2", "sound3")
    for c in classes(folder)
}
HOLES = [
    ("day-of-year", "oracle"),
    ("airline", "idle"),
    ("anagram", "empty answer"),
    ("halting", "constant answer"),
    ("transfers", "frequent answer"),
    ("digest", "echo"),
    ("countdown", "pieces of the prompt"),
    ("stack-machine", "pieces of the prompt"),
    ("parts", "options"),
    ("volumes", "options"),
    ("comparisons", "numbering"),
    ("sheets", "numbering"),
    ("admissions", "numbering"),
    ("home-assistant", "wrong answer in form"),
    ("extensions", "part of the answer"),
    ("exact-length", "hollow answer"),
    ("indent", "hollow answer"),
    ("small-change", "hollow answer"),
    ("market", "many answers"),
    ("time-zones", "many answers"),
    ("palindromes", "later verdict"),
    ("averages", "wrong type"),
    ("remainders", "broken answers"),
    ("claims", "forged verdict"),
    ("coin-flips", "own cheats"),
    ("dining", "any call"),
    ("ratings", "any call"),
    ("loans", "readable labels"),
    ("invoices", "readable labels"),
    ("issue-fix", "readable labels"),
    ("decode", "readable labels"),
    ("houses", "sample handed in"),
    ("timetable", "sample handed in"),
    ("meter", "told by refusals"),
    ("quiz-night", "over and over"),
    ("gem-hunt", "over and over"),
    ("configure", "tampering"),
    ("clean-up", "tampering"),
    ("squares", "same verdict"),
    ("pressure", "same verdict"),
    ("next-term", "value range"),
    ("letter-census", "value range"),
    ("tagged-products", "hidden fields"),
    ("safe", "hidden fields"),
    ("caesar", "hidden fields"),
    ("puzzle-page", "hidden fields"),
    ("dice", "determinism"),
    ("fractions", "train/test overlap"),
    ("friendly-hours", "train/test overlap"),
    ("digit-sums", "train/test overlap"),
    ("harvest-table", "part of the answer"),
    ("cable-cars", "part of the answer"),
    ("connections", "many answers"),
    ("banknotes", "numbering"),
    ("lipogram", "look-alikes"),
    ("drone-survey", "other work"),
    ("clocks", "stub programs"),
    ("robot-arm", "forged verdict"),
    ("payroll", "tampering"),
    ("normals", "form alone"),
    ("letter-archive", "broken calls"),
    ("tiling", "train/test overlap"),
    ("translation-memory", "hidden fields"),
    ("kiln", "told by refusals"),
    ("museum", "readable labels"),
    ("wiki-table", "readable labels"),
    ("tempo", "readable labels"),
    ("triage", "readable labels"),
    ("customs", "told by refusals"),
    ("cheques", "look-alikes"),
    ("tax-form", "sample handed in"),
    ("pond-area", "same verdict"),
]
# Sound, and near to a hole: tools, files, games, options, lists, tolerance.
SOUND = (
    "boxed",
    "knight-moves",
    "lamp-row",
    "letter-lock",
    "teller",
    "edit-config",
    "nim",
    "options",
    "fields",
    "ranking",
    "even-out",
    "one-per-cent",
)


class Folds(SingleTurn):
    """Reads Cyrillic letters as the Latin ones they look like."""

    name = "folds"

    def make(self, rng: np.random.Generator) -> Problem:
        word = "".join(rng.choice(list("aceopxy"), size=8))
        return Problem(f"Backwards: {word[::-1]}", word)

    def score(self, answer: str, problem: Problem) -> float:
        latin = str.maketrans("асеорху", "aceopxy")
        return float(answer.translate(latin) == problem.answer)


def test_letters_that_look_alike_are_not_the_answer() -> None:
    found = asyncio.run(ask_here(Folds(), 12, ["look-alikes"]))["look-alikes"]
    assert found.status == "hole", found

    class Strict(Folds):
        def score(self, answer: str, problem: Problem) -> float:
            return float(answer == problem.answer)

    assert asyncio.run(ask_here(Strict(), 12, ["look-alikes"]))["look-alikes"].status == "ok"


def asked(name: str, *probes: str) -> dict[str, str]:
    found = asyncio.run(ask_here(PLANTED[name](), 12, probes))
    return {probe: f"{r.status}: {r.seen}" for probe, r in found.items()}


@pytest.mark.parametrize(("name", "probe"), HOLES)
def test_the_hole_is_found(name: str, probe: str) -> None:
    assert asked(name, probe)[probe].startswith("hole: ")


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_one_is_not_accused(name: str) -> None:
    found = asked(name)
    assert len(found) == len(PROBES)
    assert not [f"{p}: {seen}" for p, seen in found.items() if seen.startswith("hole")]
