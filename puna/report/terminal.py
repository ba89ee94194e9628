"""The end of a run on a terminal: `print_summary(Path("runs/quickstart"), Console())`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from puna.report.markup import count
from puna.report.read import open_run
from puna.report.summary import Row, headline, rows_of

if TYPE_CHECKING:
    from rich.console import Console


def print_summary(run_dir: Path, console: Console) -> None:
    """The final table on a terminal and three things to try next."""
    from rich.table import Table
    from rich.text import Text

    run = open_run(run_dir)
    rows = rows_of(run)
    shown = Table(title=Text(run.title), title_justify="left", pad_edge=False)
    for name in ("stage", "steps", "tokens", "CPU-s", "metric", "before", "after", "difference"):
        right = name in ("steps", "tokens", "CPU-s")
        shown.add_column(name, justify="right" if right else "left", no_wrap=right)
    shown.add_column("")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in plain_cells(row)))
    console.print(shown)
    console.print(Text(headline(run, rows)))
    where = shlex.quote(str(run_dir))
    env = next((e.env.split()[0] for e in run.exams if e.env), "arithmetic")
    for line in (
        f"puna chat {where}",
        f"puna eval {where} --env {env} -k 8",
        f"open {run_dir / 'report.html'}",
    ):
        console.print(Text(f"  {line}"), soft_wrap=True)


def plain_cells(row: Row) -> list[str]:
    """A row as text, one cell a column of the terminal's table."""
    name = f"{row.stage} (mean of {len(row.seeds)})" if row.seeds else row.stage
    return [
        f"  {name}" if row.of_group else name,
        count(row.steps),
        count(row.tokens),
        count(row.cpu_seconds),
        row.metric,
        row.before.text() if row.before else "–",
        row.after.text() if row.after else "–",
        row.difference.text("+") if row.difference else "–",
        row.verdict if row.state == "done" else row.state,
    ]
