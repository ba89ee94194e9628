"""MovieLens 100K as behaviour logs: an event is a film's first genre, liked or not.

`read_movielens(Path("ml-100k"))` reads `ml-100k.inter`, `.item` and `.user`, tab-separated with a
first line of `name:type`, as recbole ships them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from puna.core.errors import UserError

Ids = NDArray[np.int64]
LIKED = 4.0  # a rating from here on says that the film was liked


@dataclass(frozen=True)
class Ratings:
    """`histories`: each user's events in time's order; `labels`: one number a user by task.

    An event is 2 * genre + liked; `kinds` are the genres by name.
    """

    histories: list[Ids]
    labels: dict[str, NDArray[np.float64]]
    kinds: tuple[str, ...]


def read_movielens(folder: Path) -> Ratings:
    """The users of the three files who rated something, in the order of their names.

    Raises UserError naming file and row: a field that is no number, a rating outside 1..5, a film
    or user that is not there, a pair that comes twice, a file that is missing or empty.
    """
    genre = {}
    for where, row in _rows(folder / "ml-100k.item", ("item_id", "class")):
        if row["item_id"] in genre:
            raise UserError(f"{where}: film {row['item_id']} comes twice", "remove one")
        genre[row["item_id"]] = (row["class"].split() or ["unknown"])[0]
    kinds = tuple(sorted(set(genre.values())))
    users = {}
    for where, row in _rows(folder / "ml-100k.user", ("user_id", "age", "gender")):
        if row["user_id"] in users:
            raise UserError(f"{where}: user {row['user_id']} comes twice", "remove one")
        if row["gender"] not in ("F", "M"):
            raise UserError(f"{where}: gender is {row['gender']!r:.40}", "F or M")
        users[row["user_id"]] = (_number(where, row, "age", 0, 150), float(row["gender"] == "F"))
    logs: dict[str, list[tuple[float, int, int]]] = {}
    pairs = set()
    needed = ("user_id", "item_id", "rating", "timestamp")
    for number, (where, row) in enumerate(_rows(folder / "ml-100k.inter", needed)):
        pair = row["user_id"], row["item_id"]
        if pair in pairs:
            raise UserError(f"{where}: user {pair[0]} rates film {pair[1]} twice", "remove one")
        if pair[0] not in users or pair[1] not in genre:
            what = f"user {pair[0]}" if pair[0] not in users else f"film {pair[1]}"
            raise UserError(f"{where}: there is no {what}", "the three files must belong together")
        pairs.add(pair)
        liked = _number(where, row, "rating", 1, 5) >= LIKED
        event = 2 * kinds.index(genre[pair[1]]) + int(liked)
        when = _number(where, row, "timestamp", 0, 1e12)
        logs.setdefault(pair[0], []).append((when, number, event))
    names = sorted(logs)
    histories = [np.array([e for *_, e in sorted(logs[name])], dtype=np.int64) for name in names]
    age, gender = np.array([users[name] for name in names]).T
    return Ratings(histories, {"gender": gender, "age": age}, kinds)


def _number(where: str, row: dict[str, str], name: str, low: float, high: float) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        fix = f"a number from {low:g} to {high:g}"
        raise UserError(f"{where}: {name} is {row[name]!r:.40}", fix)
    return value


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """(`FILE row N`, its fields by name); the first line is row 1."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"no file {path}", "name the folder ml-100k of recbole") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    lines = text.split("\n")
    names = [field.partition(":")[0] for field in lines[0].rstrip("\r").split("\t")]
    missing = [name for name in needed if name not in names]
    if missing:
        raise UserError(f"{path} row 1: no field {missing[0]}", "as recbole's: NAME:TYPE, tabs")
    found = False
    for number, line in enumerate(lines[1:], 2):
        fields = line.rstrip("\r").split("\t")
        if fields == [""]:
            continue
        if len(fields) != len(names):
            what = f"{path} row {number}: {len(fields)} fields"
            raise UserError(what, f"there should be {len(names)}")
        found = True
        yield f"{path} row {number}", dict(zip(names, fields, strict=True))
    if not found:
        raise UserError(f"{path} has no rows", "copy it from its source again")
