"""Behaviour logs: users' events in order, what happened to them later, and windows of them.

`read_movielens(Path("ml-100k"))` is MovieLens 100K in RecBole's files; `cut(log, 128, seed=0)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from puna.core.errors import UserError
from puna.core.rng import stream

from .tables import Floats, Ints

WINDOWS = 4
LATER = 0.2
LIKED = 4.0


@dataclass(frozen=True)
class Log:
    """N users in order of their names: events (integers from 0 below `vocab`) and what is known.

    labels_N: what came after the events, or what they do not say, by name. cohort_N: a group.
    """

    names_N: NDArray[np.str_]
    events: tuple[Ints, ...]
    vocab: int
    labels_N: Mapping[str, Floats]
    cohort_N: NDArray[np.str_]

    def only(self, users: Ints) -> Log:
        """The log of these users (indices in order)."""
        labels = {name: label[users] for name, label in self.labels_N.items()}
        events = tuple(self.events[user] for user in users)
        return Log(self.names_N[users], events, self.vocab, labels, self.cohort_N[users])


@dataclass(frozen=True)
class Windows:
    """Windows of those users who have enough: `WINDOWS` short ones each, in order, and two long.

    users_N: indices in the log. short: R = N x WINDOWS windows of events; start_R: where each
    begins. long: 2N windows, each user's first and second.
    """

    users_N: Ints
    short: tuple[Ints, ...]
    start_R: Ints
    long: tuple[Ints, ...]


def cut(log: Log, length: int, seed: int) -> Windows:
    """Disjoint windows of length/2 to `length` events, one in each quarter of a user's events.

    Lengths are drawn apart from all else, so that length tells nothing of the user. The long ones
    are the two halves, of at most 4 x `length` events. Users with fewer than 2 x `length` events
    have none. Raises UserError where fewer than 20 users are left.
    """
    users = [u for u, events in enumerate(log.events) if len(events) // WINDOWS >= length // 2]
    if len(users) < 20:
        least = length // 2 * WINDOWS
        what = f"{len(users)} users held out have {least} events or more"
        raise UserError(what, "20 are needed: give more users, or a smaller --set length=")
    short, starts, long = [], [], []
    for user in users:
        events = log.events[user]
        quarter = len(events) // WINDOWS
        sizes = stream(seed, "windows", user).integers(
            length // 2, min(length, quarter) + 1, size=WINDOWS
        )
        for place, size in enumerate(sizes):
            starts.append(place * quarter)
            short.append(events[place * quarter : place * quarter + size])
        for start in (0, 2 * quarter):
            long.append(events[start : start + min(4 * length, 2 * quarter)])
    return Windows(np.array(users), tuple(short), np.array(starts), tuple(long))


def read_movielens(folder: Path) -> Log:
    """MovieLens 100K as `ml-100k.{inter,item,user}`: events are (first genre, liked or not).

    The last fifth of a user's ratings is kept apart: what share of it was liked is the label of
    later behaviour. Labels besides: male, student, age. Raises UserError naming file and row (from
    1, the header not counted).
    """
    genres = _genres(folder / "ml-100k.item")
    people = _people(folder / "ml-100k.user")
    known = sorted(set(genres.values()))
    rated: dict[str, list[tuple[float, str, bool]]] = {name: [] for name in people}
    seen: dict[tuple[str, str], int] = {}
    path = folder / "ml-100k.inter"
    for row, (user, item, rating, time) in _rows(path, "user_id", "item_id", "rating", "timestamp"):
        if user not in people or item not in genres:
            what = f"user {user!r}" if user not in people else f"item {item!r}"
            raise UserError(f"{path} row {row}: unknown {what}", "it has no row in its own file")
        first = seen.setdefault((user, item), row)
        if first != row:
            what = f"user {user!r} rated item {item!r} in row {first} already"
            raise UserError(f"{path} row {row}: {what}", "leave one out")
        liked = _number(path, row, "rating", rating) >= LIKED
        rated[user].append((_number(path, row, "timestamp", time), item, liked))
    names = np.array(sorted(name for name in people if len(rated[name]) >= 1 / LATER))
    if not len(names):
        raise UserError(f"{path} has no user with {1 / LATER:.0f} ratings", "give the whole file")
    events, later = [], []
    for name in names:
        history = sorted(rated[name])  # by time, then by item
        end = math.floor(len(history) * (1 - LATER))
        ids = [2 * known.index(genres[item]) + liked for _, item, liked in history[:end]]
        events.append(np.array(ids, dtype=np.int64))
        later.append(float(np.mean([liked for _, _, liked in history[end:]])))
    ages, sexes, jobs = zip(*(people[name] for name in names), strict=True)
    labels = {
        "male": np.array([float(sex == "M") for sex in sexes]),
        "student": np.array([float(job == "student") for job in jobs]),
        "age": np.array(ages),
        "later_liked": np.array(later),
    }
    return Log(names, tuple(events), 2 * len(known), labels, np.array(sexes))


def _genres(path: Path) -> dict[str, str]:
    found = {}
    for row, (item, genres) in _rows(path, "item_id", "class"):
        if not genres.split():
            raise UserError(f"{path} row {row}: no genre", "give one or more, with spaces between")
        found[item] = genres.split()[0]
    return found


def _people(path: Path) -> dict[str, tuple[float, str, str]]:
    rows = _rows(path, "user_id", "age", "gender", "occupation")
    return {user: (_number(path, row, "age", age), sex, job) for row, (user, age, sex, job) in rows}


def _rows(path: Path, *wanted: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The wanted columns of each row of a tab-separated file whose header has `name:type`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        fix = "--data takes a folder with ml-100k.inter, ml-100k.item and ml-100k.user"
        raise UserError(f"cannot read {path}: {error}", fix) from error
    header = [cell.partition(":")[0] for cell in lines[0].rstrip("\r").split("\t")]
    for name in wanted:
        if name not in header:
            raise UserError(f"{path} has no column '{name}'", "its first line names the columns")
    places = [header.index(name) for name in wanted]
    for row, line in enumerate(lines[1:], 1):
        cells = line.rstrip("\r").split("\t")
        if not line.strip():
            continue
        if len(cells) != len(header):
            what = f"{len(cells)} cells, the header has {len(header)}"
            raise UserError(f"{path} row {row}: {what}", "separate them by tabs")
        yield row, tuple(cells[place] for place in places)


def _number(path: Path, row: int, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{path} row {row}: {name} is {text!r:.40}", "give a finite number")
    return value


def shares(windows: Sequence[Ints], vocab: int) -> Floats:
    """Share of each event in each window, (R, V)."""
    counts = np.stack([np.bincount(events, minlength=vocab) for events in windows])
    return np.asarray(counts / counts.sum(1, keepdims=True))
