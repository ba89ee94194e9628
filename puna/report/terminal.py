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


WIDE = 100
COSTS = ("steps", "tokens", "CPU-s")


def print_summary(run_dir: Path, console: Console) -> None:
    """The final table, one sentence, and three things to try next; fits 80 columns.

    Raises UserError where `run_dir` holds no run.
    """
    from rich.table import Table
    from rich.text import Text

    run = open_run(run_dir)
    rows = rows_of(run)
    heads = ["stage", "CPU-s", "metric", "before", "after", "difference"]
    if console.width >= WIDE:
        heads[1:1] = ["steps", "tokens"]
    shown = Table(title=Text(run.title), title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in heads:
        fixed = name not in ("metric", "difference")
        shown.add_column(name, justify="right" if name in COSTS else "left", no_wrap=fixed)
    for row in rows:
        if row.kind != "eval" or row.state != "done":
            cells = plain_cells(row)
            shown.add_row(*(Text(cells[name]) for name in heads))
    console.print(shown)
    console.print(Text(headline(run, rows)))
    where = shlex.quote(str(run_dir))
    env = next((e.env.split()[0] for e in reversed(run.exams) if e.env), "arithmetic")
    console.print("\nWhat to try next:")
    for line in (
        f"puna chat {where}",
        f"puna eval {where} --env {env} -k 8",
        f"open {run_dir / 'report.html'}",
    ):
        console.print(Text(f"  {line}"), soft_wrap=True)


def plain_cells(row: Row) -> dict[str, str]:
    """A row as text by column; an interval stands beneath its figure."""
    name = "  " + row.stage.partition("@")[2] if row.of_group else row.stage
    verdict = row.verdict if row.state == "done" else row.state
    mean, _, span = row.difference.text("+").partition(" ") if row.difference else ("", "", "")
    return {
        "stage": f"{name}\n  mean of {len(row.seeds)}" if row.seeds else name,
        "steps": count(row.steps),
        "tokens": count(row.tokens),
        "CPU-s": count(row.cpu_seconds),
        "metric": row.metric,
        "before": f"{row.before.mean:.3f}" if row.before else "–",
        "after": row.after.text().replace(" ", "\n", 1) if row.after else "–",
        "difference": f"{mean} {verdict}\n{span}".strip(),
    }
