"""One question, one answer: switches, claims, words, roots and tables."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from benchmarks.planted.play import Asked, number, pick, sized, some
from benchmarks.planted.sound.few import Listed
from puna.gym.environment import Problem
from puna.sandbox import Limits as Bounds
from puna.sandbox import shared


class PointSwitch(Asked):
    """Which way is a switch set? Two answers, equally often."""

    name = "point-switch"
    chance = 0.53  # of 'right' always

    def make(self, rng: np.random.Generator) -> Problem:
        first, ways = number(rng, 0, 1), ("left", "right")
        trains = [number(rng, 3, 60) for _ in range(3)]
        prompt = (
            f"A switch is set to the {ways[first]}; every train throws it over. {trains[0]} trains "
            f"pass in the morning, {trains[1]} at noon and {trains[2]} in the evening. left or "
            "right?"
        )
        return Problem(prompt, ways[(first + sum(trains)) % 2])

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip().strip(".").lower() == problem.answer)


class FiveClaims(Asked):
    """True or false, five times; a fifth of the mark for each, so that half comes by itself."""

    name = "five-claims"
    chance = 0.52  # of one row of letters always

    def make(self, rng: np.random.Generator) -> Problem:
        claims, right = [], ""
        for i in range(1, 6):
            a, b, true = number(rng, 12, 99), number(rng, 12, 99), bool(rng.random() < 0.5)
            shown = a * b + (0 if true else 10 * pick(rng, (-3, -2, -1, 1, 2, 3)))
            claims.append(f"{i}. {a} x {b} = {shown}")
            right += "FT"[true]
        return Problem("T or F for each, as five letters.\n" + "\n".join(claims), right)

    def score(self, answer: str, problem: Problem) -> float:
        given = answer.strip().upper()
        if not re.fullmatch("[TF]{5}", given):
            return 0.0
        return sum(a == b for a, b in zip(given, problem.answer, strict=True)) / 5


class Embargo(Asked):
    """A figure, or the word embargo where it may not yet be told (two tasks in five)."""

    name = "press-office"
    chance = 0.45  # of 'embargo' always

    def make(self, rng: np.random.Generator) -> Problem:
        until = number(rng, 5, 24)
        closed = bool(rng.random() < 0.4)
        today = number(rng, 1, until - 1) if closed else number(rng, until, 28)
        sold, grown = 20 * number(rng, 20, 900), number(rng, 2, 60) * 5
        what = pick(rng, ("bicycles", "pianos", "kettles", "tents"))
        prompt = (
            f"Last year {sold} {what} were sold, this year {grown} per cent more. This year's "
            f"figure is under embargo before day {until} of the month; today is day {today}. A "
            "journalist asks for it. The number alone, or the word embargo."
        )
        return Problem(prompt, "embargo" if closed else str(sold + sold * grown // 100))

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.strip().lower() == problem.answer)


ELEMENTS = ("hydrogen H", "helium He", "lithium Li", "beryllium Be", "boron B", "carbon C",
            "nitrogen N", "oxygen O", "fluorine F", "neon Ne", "sodium Na", "magnesium Mg",
            "aluminium Al", "silicon Si", "phosphorus P", "sulfur S", "chlorine Cl", "argon Ar",
            "potassium K", "calcium Ca")  # fmt: skip
ALSO = {"aluminium": "aluminum", "sulfur": "sulphur"}


class Nuclei(Asked):
    """Which element is it? Its name in any spelling, or its symbol."""

    name = "nuclei"
    chance = 0.09  # of the most frequent element

    def make(self, rng: np.random.Generator) -> Problem:
        at, alphas, betas = number(rng, 1, 20), number(rng, 1, 12), number(rng, 1, 9)
        start = at + 2 * alphas - betas
        heavy = 2 * at + 4 * alphas + number(rng, 1, 5)
        prompt = (
            f"A nucleus has {start} protons and {heavy} particles in all. It loses {alphas} alpha "
            f"particles (two protons each), and {betas} of its neutrons become protons. Which "
            "element is it then? Name in English, or symbol."
        )
        return self.make(rng) if start < 1 else Problem(prompt, ELEMENTS[at - 1].split()[0])

    def score(self, answer: str, problem: Problem) -> float:
        said, name = answer.strip(), problem.answer
        symbol = dict(e.split() for e in ELEMENTS)[name]
        return float(said == symbol or said.lower() in (name, ALSO.get(name, name)))


class Bearings(Asked):
    """A course after some turns; -90, 270 and 630 degrees are the same."""

    name = "bearings"
    chance = 0.02  # of one course always

    def make(self, rng: np.random.Generator) -> Problem:
        start = number(rng, 1, 359)
        turns = [pick(rng, (-1, 1)) * number(rng, 11, 350) for _ in range(3)]
        said = ", ".join(f"{abs(t)} to {'starboard' if t > 0 else 'port'}" for t in turns)
        prompt = f"Course {start} degrees; turn {said} (starboard adds). The course, in degrees?"
        return Problem(prompt, str((start + sum(turns)) % 360))

    def score(self, answer: str, problem: Problem) -> float:
        text = answer.strip()
        if not re.fullmatch("-?[0-9]{1,4}", text):
            return 0.0
        return float(int(text) % 360 == int(problem.answer))


class Roots(Asked):
    """Both roots of an equation, in any order and with any of the usual separators."""

    name = "both-roots"

    def make(self, rng: np.random.Generator) -> Problem:
        p, q = some(rng, [n for n in range(-40, 41) if n], 2)
        a = number(rng, 1, 5)
        prompt = (
            f"{a} x^2 {-a * (p + q):+d} x {a * p * q:+d} = 0 has two whole solutions. Give both."
        )
        return Problem(prompt, f"{min(p, q)}, {max(p, q)}")

    def score(self, answer: str, problem: Problem) -> float:
        found = re.fullmatch(r"(-?[0-9]{1,3})(?: *[,;] *| and | +)(-?[0-9]{1,3})", answer.strip())
        if not found:
            return 0.0
        wanted = sorted(int(w) for w in problem.answer.split(", "))
        return float(sorted(int(g) for g in found.groups()) == wanted)


class Stamps(Asked):
    """Stamps for a letter: every exact way within the limit is right."""

    name = "stamps"
    chance = 0.02  # of one way always

    def make(self, rng: np.random.Generator) -> Problem:
        values = sorted(some(rng, range(7, 90), 3))
        counts = [number(rng, 1, 9) for _ in values]
        total, most = sum(v * c for v, c in zip(values, counts, strict=True)), sum(counts)
        prompt = (
            f"Stamps of {values[0]}, {values[1]} and {values[2]} cents. How many of each make "
            f"exactly {total} cents with at most {most} stamps? Three numbers by spaces."
        )
        return Problem(prompt, " ".join(map(str, counts)),
                       hidden={"values": values, "total": total, "most": most})  # fmt: skip

    def score(self, answer: str, problem: Problem) -> float:
        words, hidden = answer.split(), problem.hidden
        if len(words) != 3 or not all(re.fullmatch("[0-9]{1,3}", w) for w in words):
            return 0.0
        counts = [int(w) for w in words]
        paid = sum(v * c for v, c in zip(hidden["values"], counts, strict=True))
        return float(paid == hidden["total"] and sum(counts) <= hidden["most"])


class Magnitudes(Asked):
    """A large number; each power of ten off costs half of the mark."""

    name = "magnitudes"
    chance = 0.65  # of 10000 always

    def make(self, rng: np.random.Generator) -> Problem:
        size = rng.uniform(0.6, 2.2, 3)
        hives, combs, cells = (int(10**s) for s in size)
        prompt = (
            f"{hives} hives with {combs} combs of {cells} cells each: how many cells? A whole "
            "number; near ones count in part."
        )
        return Problem(prompt, str(hives * combs * cells))

    def score(self, answer: str, problem: Problem) -> float:
        text = answer.strip()
        if not re.fullmatch("[1-9][0-9]{0,11}", text):
            return 0.0
        return max(0.0, 1 - abs(math.log10(int(text) / int(problem.answer))) / 2)


class LongTables(Asked):
    """A table of 64 remainders, right as a whole or not at all."""

    name = "remainder-tables"

    def make(self, rng: np.random.Generator) -> Problem:
        rows, columns = some(rng, range(11, 99), 8), some(rng, range(11, 99), 8)
        modulus = number(rng, 13, 97)
        table = "\n".join(" ".join(str(a * b % modulus) for b in columns) for a in rows)
        prompt = (
            f"Products modulo {modulus}: a row for each of {', '.join(map(str, rows))}, in it a "
            f"column for each of {', '.join(map(str, columns))}. Eight lines, numbers by spaces."
        )
        return Problem(prompt, table)

    def score(self, answer: str, problem: Problem) -> float:
        given, wanted = (
            [line.split() for line in t.split("\n") if line.strip()]
            for t in (answer, problem.answer)
        )
        return float(given == wanted)


ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class CountDown(Asked):
    """Count down aloud, digit by digit: a long answer."""

    name = "count-down"

    def make(self, rng: np.random.Generator) -> Problem:
        start, step, times = number(rng, 5000, 9999), number(rng, 3, 97), number(rng, 20, 40)
        said = [" ".join(ONES[int(d)] for d in str(start - step * i)) for i in range(times)]
        prompt = (
            f"Count down from {start} by {step}, {times} numbers with the first, one a line, each "
            "digit as an English word."
        )
        return Problem(prompt, "\n".join(said))

    def score(self, answer: str, problem: Problem) -> float:
        given = [line.lower().split() for line in answer.split("\n") if line.strip()]
        return float(given == [line.split() for line in problem.answer.split("\n")])


TOWNS = ("Ærøskøbing", "Çeşme", "Dún Laoghaire", "Évora", "Győr", "Łódź", "Málaga", "Nîmes",
         "Örebro", "Plzeň", "Šibenik", "Tønder", "Ústí", "Weißenfels", "Žilina")  # fmt: skip


class TownNames(Asked):
    """Names with accents, backwards; composed or not, an accented letter is one letter."""

    name = "towns-backwards"

    def make(self, rng: np.random.Generator) -> Problem:
        towns = some(rng, TOWNS, 3)
        right = " / ".join(unicodedata.normalize("NFC", t)[::-1] for t in towns)
        prompt = f"Write each letter by letter backwards, with ` / ` between: {', '.join(towns)}"
        return Problem(prompt, right)

    def score(self, answer: str, problem: Problem) -> float:
        return float(unicodedata.normalize("NFC", answer[:500].strip()) == problem.answer)


class Groups(Asked):
    """Numbers in groups; neither the order of the groups nor that in them matters."""

    name = "remainder-groups"

    def make(self, rng: np.random.Generator) -> Problem:
        modulus = number(rng, 3, 5)
        numbers = some(rng, range(100, 999), 9)
        groups: dict[int, list[str]] = {}
        for n in numbers:
            groups.setdefault(n % modulus, []).append(str(n))
        prompt = (
            f"Group {', '.join(map(str, numbers))} by their remainder modulo {modulus}: a line for "
            "each group that is not empty, its numbers by spaces."
        )
        return Problem(prompt, "\n".join(" ".join(g) for g in groups.values()))

    def score(self, answer: str, problem: Problem) -> float:
        given, wanted = (
            sorted(sorted(line.split()) for line in t.split("\n") if line.strip())
            for t in (answer, problem.answer)
        )
        return float(given == wanted)


class Leftovers(Asked):
    """What is left over; in one task of four that is nothing, and nothing is to be said."""

    name = "leftovers"
    chance = 0.3  # of saying nothing

    def make(self, rng: np.random.Generator) -> Problem:
        had = [pick(rng, "abcdefghij") for _ in range(number(rng, 7, 10))]
        keep = 0 if rng.random() < 0.25 else number(rng, 1, 3)
        used = some(rng, had[keep:], len(had) - keep)
        prompt = (
            f"Tiles {' '.join(had)}; used are {' '.join(used)}. Which are left? In alphabetical "
            "order by spaces, and an empty answer if there are none."
        )
        return Problem(prompt, " ".join(sorted(had[:keep])))

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer.lower().split() == problem.answer.split())


class OldUnits(Listed):
    """A handful of old units."""

    name = "old-units"
    questions: ClassVar = {
        "train": (
            ("How many inches are there in a hand, by which horses are measured?", "4"),
            ("How many sheets are there in a quire, as paper is sold today?", "25"),
            ("How many shillings did a guinea have in the end?", "21"),
            ("How many links has a surveyor's chain?", "100"),
            ("How many items are in a great gross?", "1728"),
        ),
        "test": (
            ("How many feet are there in a fathom?", "6"),
            ("How many furlongs has a mile?", "8"),
            ("How many pounds has a stone?", "14"),
        ),
    }


class WordMachines(Asked):
    """A function on words; each hidden case counts alike."""

    name = "word-machines"
    tier = "jail"
    sizes: ClassVar[Mapping[str, int]] = sized(1000, 100)

    def make(self, rng: np.random.Generator) -> Problem:
        cut, mark = number(rng, 1, 4), pick(rng, "xyzqw")
        more, vowels = number(rng, 2, 9), pick(rng, ("aeiou", "aei", "eou"))
        words = ["".join(pick(rng, "aeioubdgklmnrst") for _ in range(number(rng, 5, 9)))
                 for _ in range(5)]  # fmt: skip
        wanted = [w[cut:] + mark * (more + sum(c in vowels for c in w)) for w in words]
        prompt = (
            f"Python: f(w) drops the first {cut} letters of w and adds the letter {mark} {more} "
            f"times, and once more for each letter of w that is one of {', '.join(vowels)} (the "
            "dropped ones count, too). Only the code."
        )
        code = (
            f"def f(w):\n    more = {more} + sum(c in {vowels!r} for c in w)\n"
            f"    return w[{cut}:] + {mark!r} * more\n"
        )
        return Problem(prompt, code, hidden={"words": words, "wanted": wanted})

    def score(self, answer: str, problem: Problem) -> float:
        inputs = [(w,) for w in problem.hidden["words"]]
        given = shared().call_now(answer, "f", inputs, Bounds(cpu_s=2, wall_s=10))
        pairs = zip(given, problem.hidden["wanted"], strict=True)
        good = sum(not g.error and bool(g.value == w) for g, w in pairs)
        return good / len(inputs)
