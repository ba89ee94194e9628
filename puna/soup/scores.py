"""Scores of models by category: a table from a CSV file, as leaderboards have them.

`table = read_scores(Path("data_overall.csv")); table.categories, table.of("watt-tool-8B (FC)")`.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from puna.core.errors import UserError, nearest

MISSING = ("", "-", "–", "n/a", "na", "nan", "none", "null")
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*(%?)")
# Columns over other columns, and places in an order, are no categories.
_TOTAL = re.compile(r"\b(overall|average|avg|mean|total|rank)\b", re.IGNORECASE)
_EXAMPLE = "the first line names the columns, each other line has a model and its scores"


@dataclass(frozen=True)
class Scores:
    """`values` [M, C]: M models by C categories, more is better; what to know about them."""

    models: tuple[str, ...]
    categories: tuple[str, ...]
    values: NDArray[np.float64]
    notes: tuple[str, ...] = ()

    def of(self, models: Sequence[str]) -> Scores:
        """The rows of `models`, in that order. Raises UserError for one that is not there."""
        for name in models:
            if name not in self.models:
                raise UserError(f"the scores have no model '{name}'", nearest(name, self.models))
        rows = [self.models.index(name) for name in models]
        return Scores(tuple(models), self.categories, self.values[rows], self.notes)


def read_scores(path: Path) -> Scores:
    """The scores in a CSV file: a line a model, a column a category.

    The model's name is in the column Model, or else in the first one. Where columns hold
    percentages they alone are the categories (a leaderboard has costs and dates beside them), else
    all columns of numbers; columns called overall, average, mean, total or rank are left out, and
    those that most models lack. Models that lack a score in another are left out, and said.
    Raises UserError naming the line and the cell that is wrong.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if any(cell.strip() for cell in line)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}", _EXAMPLE) from error
    if len(lines) < 2:
        raise UserError(f"{path} has no scores", _EXAMPLE)
    head, rows = [cell.strip() for cell in lines[0]], lines[1:]
    for i, row in enumerate(rows, 2):
        if len(row) != len(head):
            raise UserError(f"{path} row {i}: {len(row)} cells for {len(head)} columns", _EXAMPLE)
    where = next((i for i, name in enumerate(head) if name.lower() == "model"), 0)
    models = [row[where].strip() for row in rows]
    for what, names in (("model", models), ("column", head)):
        if twice := [name for name, n in Counter(names).items() if n > 1]:
            raise UserError(f"{path}: {what} '{twice[0]}' is there twice", "leave one out")
    columns = {name: [row[i].strip() for row in rows] for i, name in enumerate(head) if i != where}
    kept = _categories(path, columns)
    table = np.array([[_value(cell) for cell in columns[name]] for name in kept]).T
    whole = ~np.isnan(table).any(1)
    lost = int((~whole).sum())
    note = f"{path}: {lost} of {len(models)} models lack a score and are left out"
    if not whole.any():
        raise UserError(f"{path}: no model has a score in every column", "leave columns out")
    found = tuple(m for m, here in zip(models, whole, strict=True) if here)
    return Scores(found, tuple(kept), table[whole], (note,) if lost else ())


def _categories(path: Path, columns: dict[str, list[str]]) -> list[str]:
    """The columns that hold scores. Raises UserError where there are none, or one is spoilt."""
    numeric, percent = [], []
    for name, cells in columns.items():
        told = [cell for cell in cells if cell.lower() not in MISSING]
        found = [_NUMBER.fullmatch(cell) for cell in told]
        if 2 * len(told) < len(cells) or sum(map(bool, found)) <= len(told) / 2:
            continue
        if odd := [cell for cell, match in zip(told, found, strict=True) if not match]:
            what = f"{path} row {2 + cells.index(odd[0])}: {name} is '{odd[0]:.40}', no number"
            raise UserError(what, "write numbers as 0.5 or 50%, N/A where there is none")
        if not _TOTAL.search(name):
            numeric.append(name)
            percent += [name] if any(match and match[4] for match in found) else []
    if not numeric:
        raise UserError(f"{path} has no column of scores", _EXAMPLE)
    return percent or numeric


def _value(cell: str) -> float:
    match = _NUMBER.fullmatch(cell)
    if match is None:
        return float("nan")
    return float(cell.rstrip("%")) / 100 if match[4] else float(cell)
