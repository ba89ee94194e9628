"""A table of user vectors judged as psychometrics judges a test: is it reliable, is it valid?

`report_text("mine", measure_table(read_table(Path("vectors.parquet"))))`: a line a figure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from puna.core.errors import UserError
from puna.core.rng import stream

from .figures import Figure, Work, agreement, invariance, prediction, reliability, validity
from .tables import Ints, Table

MOST_USERS = 2_000


@dataclass(frozen=True)
class Measurement:
    """The figures of a table, and what could not be measured, each with what that would take."""

    users: int
    windows: int
    width: int
    figures: tuple[Figure, ...]
    left_out: tuple[str, ...]

    def numbers(self) -> dict[str, float]:
        """Value by name."""
        return {figure.name: figure.value for figure in self.figures}


def measure_table(table: Table, other: Table | None = None, seed: int = 0) -> Measurement:
    """All figures that the table's columns allow; `other` is the same users' in another training.

    Above 2,000 users a fixed draw of 2,000 is measured: the figures compare all pairs. Raises
    UserError where `other` has other rows.
    """
    if other is not None and not _same_rows(table, other):
        raise UserError("the two tables have other users or windows", "embed the same windows")
    kept = _draw(table.users, seed)
    table = table.only(kept)
    work = Work(table, other.only(kept) if other is not None else None, seed)
    figures: list[Figure] = []
    left_out: list[str] = []
    for part in (reliability, agreement, validity, prediction, invariance):
        for found in part(work):
            if isinstance(found, Figure):
                figures.append(found)
            else:
                left_out.append(found)
    windows, width = table.vectors_RD.shape
    return Measurement(table.users, windows, width, tuple(figures), tuple(left_out))


def _same_rows(table: Table, other: Table) -> bool:
    return np.array_equal(table.names_N, other.names_N) and np.array_equal(
        table.owner_R, other.owner_R
    )


def _draw(users: int, seed: int) -> Ints:
    if users <= MOST_USERS:
        return np.arange(users)
    return np.sort(stream(seed, "users", users).choice(users, MOST_USERS, replace=False))


def report_text(title: str, found: Measurement) -> str:
    """The figures as a page of plain text."""
    lines = [f"{title}: {found.users} users, {found.windows} windows, {found.width} dimensions"]
    width = max((len(figure.name) for figure in found.figures), default=0)
    section = ""
    for figure in found.figures:
        if figure.section != section:
            section = figure.section
            lines += ["", section]
        bounds = ""
        if figure.low is not None and figure.high is not None:
            bounds = f"[{figure.low:.3f}, {figure.high:.3f}]"
        name = f"{figure.name:<{width}}"
        lines.append(f"  {name}  {figure.value:6.3f} {bounds:<17} {figure.reading}")
    if found.left_out:
        lines += ["", "not measured", *(f"  {what}" for what in found.left_out)]
    return "\n".join(lines)
