"""One maker a skill: a random generator and a level 1 to 8 in, a prompt and its only answer out.

`SKILLS["sorting"](stream(0, "x"), 1)` -> `("sort: 52 7 90 31", "7 31 52 90")`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from string import ascii_lowercase

import numpy as np

Maker = Callable[[np.random.Generator, int], tuple[str, str]]

LEVELS = range(1, 9)
# Units from small to large, each in terms of the one before it.
SCALES = (
    (("s", 1), ("min", 60), ("h", 60), ("d", 24)),
    (("mm", 1), ("cm", 10), ("m", 100), ("km", 1000)),
    (("mg", 1), ("g", 1000), ("kg", 1000), ("t", 1000)),
)
CLOSERS = {"(": ")", "[": "]", "{": "}", "<": ">"}
DEVICES = ("lamp", "radio", "oven", "heater", "camera", "door", "fan", "pump")
NUMBERS = ("level", "volume", "minutes", "speed", "channel", "delay")
WORDS = {
    "room": ("attic", "cellar", "hall", "kitchen", "office", "garage", "bath", "nursery"),
    "colour": ("red", "green", "blue", "white", "amber", "pink", "black", "teal"),
    "mode": ("quiet", "eco", "turbo", "night", "guest", "away", "party", "manual"),
}


def addition(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Two numbers of `level` + 1 digits."""
    a, b = rng.integers(10**level, 10 ** (level + 1), 2).tolist()
    return f"add: {a} {b}", str(a + b)


def reversal(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """`level` + 3 letters, the last one first; no palindrome."""
    while True:
        letters = _letters(rng, level + 3)
        if letters != letters[::-1]:
            return f"reverse: {' '.join(letters)}", " ".join(letters[::-1])


def sorting(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """`level` + 3 different numbers below 100, the least first; not given so."""
    while True:
        numbers = rng.permutation(100)[: level + 3].tolist()
        if numbers != sorted(numbers):
            return f"sort: {_spaced(numbers)}", _spaced(sorted(numbers))


def brackets(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """What closes `level` + 3 open brackets, among which `level` pairs are closed already."""
    text, open_ = "", ""
    kinds = rng.choice(list(CLOSERS), 2 * level + 3).tolist()
    for move in rng.permutation([True] * len(kinds) + [False] * level).tolist():
        if move:
            open_ += kinds.pop()
            text += open_[-1]
        elif open_:
            text, open_ = text + CLOSERS[open_[-1]], open_[:-1]
    while len(open_) > level + 3:  # a pair whose closing came too early
        text, open_ = text + CLOSERS[open_[-1]], open_[:-1]
    return f"close: {text}", "".join(CLOSERS[b] for b in reversed(open_))


def units(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """An amount in one to three units, the first of up to five digits, in a smaller one."""
    parts, digits = 1 + (level - 1) // 3, 3 + (level - 1) % 3
    scale = SCALES[int(rng.integers(len(SCALES)))]
    top = int(rng.integers(parts, len(scale)))
    target = int(rng.integers(0, top - parts + 1))
    told, total = [], 0
    for i in range(top, target, -1):
        if i > top - parts:
            most = 10**digits if i == top else scale[i + 1][1]
            amount = int(rng.integers(2, most))
            told.append(f"{amount} {scale[i][0]}")
            total += amount
        total *= scale[i][1]
    return f"convert: {' '.join(told)} to {scale[target][0]}", str(total)


def calls(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """`level` + 1 arguments in one to three tool calls, as a JSON list."""
    names = rng.permutation(DEVICES)[: 1 + (level - 1) // 3].tolist()
    wanted: dict[str, dict[str, int | str]] = {}
    for i, name in enumerate(names):
        share = len(range(i, level + 1, len(names)))
        keys = rng.permutation([*NUMBERS, *WORDS])[:share].tolist()
        wanted[name] = {k: _value(rng, k) for k in keys}
    told = (f"{n} with {' and '.join(f'{k} {v}' for k, v in a.items())}" for n, a in wanted.items())
    answer = [{"name": name, "arguments": arguments} for name, arguments in wanted.items()]
    return f"call: {'; '.join(told)}", json.dumps(answer)


def tally(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """How often each of a few letters occurs among `level` + 5, in the alphabet's order."""
    kinds = _letters(rng, 3 + level // 3)
    letters = [kinds[i] for i in rng.integers(len(kinds), size=level + 5).tolist()]
    counts = (f"{letter}{letters.count(letter)}" for letter in sorted(set(letters)))
    return f"tally: {' '.join(letters)}", " ".join(counts)


def clock(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """The time after one to four changes of up to 99 minutes, or 999 at even levels."""
    most = 1000 if level % 2 == 0 else 100
    begun = int(rng.integers(1440))
    changes = rng.integers(2, most, 1 + (level - 1) // 2) * rng.choice(
        [-1, 1], 1 + (level - 1) // 2
    )
    told = " ".join(f"{c:+d}" for c in changes.tolist())
    return f"clock: {_time(begun)} {told}", _time(begun + int(changes.sum()))


SKILLS: Mapping[str, Maker] = {
    m.__name__: m for m in (addition, reversal, sorting, brackets, units, calls, tally, clock)
}


def _letters(rng: np.random.Generator, count: int) -> list[str]:
    return [ascii_lowercase[i] for i in rng.integers(26, size=count).tolist()]


def _spaced(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))


def _value(rng: np.random.Generator, key: str) -> int | str:
    if key in WORDS:
        return WORDS[key][int(rng.integers(len(WORDS[key])))]
    return int(rng.integers(2, 100))


def _time(minutes: int) -> str:
    hour, minute = divmod(minutes % 1440, 60)
    return f"{hour:02d}:{minute:02d}"
