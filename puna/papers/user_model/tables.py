"""Tables of vectors, from any model: a row a user and window, read strictly, written as .npz.

`read_table(Path("vectors.parquet"))`; columns are `user`, `window` (if several a user),
`embedding` (a list) or `e0, e1, ...`, and any `label_*`, `content_*`, `nuisance_*`, `group_*`.
"""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puna.core.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Columns = Mapping[str, Sequence[Any]]

FEWEST_USERS = 10
LARGEST = 1e38  # about what float32 holds; squares of squares must fit into float64
KINDS = ("label_", "content_", "nuisance_", "group_")
HELP = "columns: user, window, embedding (or e0, e1, ...), label_*, content_*, nuisance_*, group_*"
_DIMENSION = re.compile(r"e(0|[1-9]\d*)")
_COLUMN = re.compile(rf"user|window|embedding|{_DIMENSION.pattern}|({'|'.join(KINDS)}).+")


@dataclass(frozen=True)
class Table:
    """R rows in order of user and window; N users, in order of their names.

    names_N: the users. owner_R: the row's user, from 0. vectors_RD. contents_RC, nuisances_RC:
    numbers of the row, by name. labels_N, groups_N: of the user, by name (numbers, texts).
    """

    names_N: NDArray[np.str_]
    owner_R: Ints
    vectors_RD: Floats
    contents_RC: Mapping[str, Floats] = field(default_factory=dict)
    nuisances_RC: Mapping[str, Floats] = field(default_factory=dict)
    labels_N: Mapping[str, Floats] = field(default_factory=dict)
    groups_N: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)

    @property
    def users(self) -> int:
        """N."""
        return len(self.names_N)

    def place_R(self) -> Ints:
        """The how manieth window of its user each row is, from 0."""
        first = np.searchsorted(self.owner_R, np.arange(self.users))
        return np.arange(len(self.owner_R)) - first[self.owner_R]

    def mean_by_user(self, rows_RC: Floats) -> Floats:
        """Mean over each user's rows, (N, C)."""
        total = np.zeros((self.users, rows_RC.shape[1]))
        np.add.at(total, self.owner_R, rows_RC)
        return total / np.bincount(self.owner_R)[:, None]

    def only(self, users: Ints) -> Table:
        """The table of these users alone (indices, in order), numbered anew."""
        rows = np.isin(self.owner_R, users)
        return Table(
            self.names_N[users],
            np.searchsorted(users, self.owner_R[rows]),
            self.vectors_RD[rows],
            {k: v[rows] for k, v in self.contents_RC.items()},
            {k: v[rows] for k, v in self.nuisances_RC.items()},
            {k: v[users] for k, v in self.labels_N.items()},
            {k: v[users] for k, v in self.groups_N.items()},
        )


def read_table(path: Path) -> Table:
    """The table in a .parquet, .npz or .csv file.

    Raises UserError in one line that names the file and the row (from 1, the header not counted).
    """
    if not path.is_file():
        raise UserError(f"no table {path}", "give a .parquet, .npz or .csv file")
    readers = {".parquet": _parquet, ".npz": _npz, ".csv": _csv}
    if path.suffix not in readers:
        raise UserError(f"{path} is no .parquet, .npz or .csv file", "save it as one of these")
    columns = readers[path.suffix](path)
    for name in columns:
        if not _COLUMN.fullmatch(name):
            raise UserError(f"{path}: unknown column '{name}'", HELP)
    if "user" not in columns:
        raise UserError(f"{path} has no column 'user'", HELP)
    if not len(columns["user"]):
        raise UserError(f"{path} has no rows", "give a row a user, or a row a user and window")
    return _table(path, columns)


def _table(path: Path, columns: Columns) -> Table:
    users = [_text(path, row, "user", value) for row, value in enumerate(columns["user"], 1)]
    windows = _numbers(path, "window", columns.get("window", [0] * len(users)))
    vectors = _vectors(path, columns)
    first_row: dict[tuple[str, float], int] = {}
    for row, key in enumerate(zip(users, windows.tolist(), strict=True), 1):
        if first_row.setdefault(key, row) != row:
            what = f"user {key[0]!r}, window {key[1]:g} again"
            fix = f"it was in row {first_row[key]}; give each window once, numbered in 'window'"
            raise UserError(f"{path} row {row}: {what}", fix)
    names = sorted(set(users))
    if len(names) < FEWEST_USERS:
        raise UserError(f"{path} has {len(names)} users", f"give {FEWEST_USERS} or more")
    index = {name: i for i, name in enumerate(names)}
    owner = np.array([index[user] for user in users])
    order = np.lexsort((windows, owner))
    number = {k: _numbers(path, k, v) for k, v in columns.items() if k.startswith(KINDS[:3])}
    text = {
        k: [_text(path, row, k, value) for row, value in enumerate(v, 1)]
        for k, v in columns.items()
        if k.startswith("group_")
    }
    return Table(
        np.array(names),
        owner[order],
        vectors[order],
        {_bare(k): v[order] for k, v in number.items() if k.startswith("content_")},
        {_bare(k): v[order] for k, v in number.items() if k.startswith("nuisance_")},
        {
            _bare(k): np.array(_of_users(path, k, v.tolist(), owner), dtype=np.float64)
            for k, v in number.items()
            if k.startswith("label_")
        },
        {_bare(k): np.array(_of_users(path, k, v, owner)) for k, v in text.items()},
    )


def _bare(column: str) -> str:
    return column.partition("_")[2]


def _vectors(path: Path, columns: Columns) -> Floats:
    wide = sorted((int(name[1:]), name) for name in columns if _DIMENSION.fullmatch(name))
    if ("embedding" in columns) == bool(wide):
        what = "both 'embedding' and e0, e1, ..." if wide else "no vectors"
        raise UserError(f"{path} has {what}", HELP)
    if wide:
        for place, (number, _) in enumerate(wide):
            if number != place:
                raise UserError(f"{path} has no column 'e{place}'", "name them e0, e1, ...")
        return np.column_stack([_numbers(path, name, columns[name]) for _, name in wide])
    cells = columns["embedding"]
    for row, cell in enumerate(cells, 1):
        if not isinstance(cell, list | np.ndarray) or not len(cell):
            what = f"embedding is {_short(cell)}"
            raise UserError(f"{path} row {row}: {what}", "give a list of numbers")
        if len(cell) != len(cells[0]):
            what = f"embedding has {len(cell)} numbers, that of row 1 has {len(cells[0])}"
            raise UserError(f"{path} row {row}: {what}", "give vectors of one length")
    return _numbers(path, "embedding", cells, (len(cells[0]),))


def _numbers(path: Path, name: str, cells: Sequence[Any], shape: tuple[int, ...] = ()) -> Floats:
    """A column as float64, each cell of `shape`. Raises UserError for the first that is not so."""
    try:
        found = np.array(list(cells), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        found = np.full((len(cells), *shape), np.nan)
    if found.shape == (len(cells), *shape) and (np.abs(found) <= LARGEST).all():
        return found
    for row, cell in enumerate(cells, 1):
        try:
            number = np.array(cell, dtype=np.float64)
            fine = number.shape == shape and bool((np.abs(number) <= LARGEST).all())
        except (TypeError, ValueError, OverflowError):
            fine = False
        if not fine:
            fix = "give finite numbers" if shape else "give a finite number"
            raise UserError(f"{path} row {row}: {name} is {_short(cell)}", fix)
    raise AssertionError(f"{name}: cells that are right one by one are wrong together")


def _text(path: Path, row: int, name: str, value: Any) -> str:
    text = (
        ""
        if value is None or isinstance(value, float | np.floating | bytes)
        else str(value).strip()
    )
    if not text:
        raise UserError(f"{path} row {row}: {name} is {_short(value)}", "give a text or an integer")
    return text


def _of_users(path: Path, name: str, values: Sequence[Any], owner: Ints) -> list[Any]:
    """A value a user. Raises UserError where two rows of a user differ."""
    found: dict[int, tuple[Any, int]] = {}
    for row, (user, value) in enumerate(zip(owner.tolist(), values, strict=True), 1):
        known, first = found.setdefault(user, (value, row))
        if known != value:
            what = f"{name} is {_short(value)}, in row {first} of the same user {_short(known)}"
            raise UserError(
                f"{path} row {row}: {what}", "labels and groups are a user's: repeat it"
            )
    return [found[user][0] for user in range(len(found))]


def _short(value: Any) -> str:
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    text = "empty" if value is None or value == "" else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _csv(path: Path) -> Columns:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}", HELP) from error
    header = [name.strip() for name in lines[0]] if lines else []
    if len(set(header)) < len(header):
        twice = next(name for i, name in enumerate(header) if name in header[:i])
        raise UserError(f"{path} has two columns '{twice}'", "keep one")
    for row, line in enumerate(lines[1:], 1):
        if len(line) != len(header):
            what = f"{len(line)} cells, the header has {len(header)}"
            raise UserError(f"{path} row {row}: {what}", "give each row every column")
    return {name: [line[i] for line in lines[1:]] for i, name in enumerate(header)}


def _npz(path: Path) -> Columns:
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        what = f"{path} is no .npz of plain arrays: {error}"
        raise UserError(what, "np.savez it again") from error
    for name, array in columns.items():
        if array.ndim != (2 if name == "embedding" else 1):
            raise UserError(f"{path}: {name} has shape {array.shape}", "a row a user and window")
        rows = len(columns.get("user", array))
        if len(array) != rows:
            what = f"{name} has {len(array)} rows, user has {rows}"
            raise UserError(f"{path}: {what}", "give each array the same rows")
    return columns


def _parquet(path: Path) -> Columns:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError("reading Parquet needs pyarrow", "pip install 'puna[parquet]'") from None
    try:
        table = pq.read_table(path)
        # Vectors of many users as Python's own lists would not fit into memory.
        columns = {name: table.column(name).to_numpy() for name in table.column_names}
    except Exception as error:
        raise UserError(f"{path} is not a readable Parquet file: {error}") from error
    return columns


def write_table(path: Path, table: Table) -> None:
    """`table` as an .npz file that `read_table` reads."""
    columns: dict[str, Any] = {
        "user": table.names_N[table.owner_R],
        "window": table.place_R(),
        "embedding": table.vectors_RD,
    }
    columns |= {f"content_{k}": v for k, v in table.contents_RC.items()}
    columns |= {f"nuisance_{k}": v for k, v in table.nuisances_RC.items()}
    columns |= {f"label_{k}": v[table.owner_R] for k, v in table.labels_N.items()}
    columns |= {f"group_{k}": v[table.owner_R] for k, v in table.groups_N.items()}
    np.savez(path, **columns)
