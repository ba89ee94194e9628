"""A picture of a paper's claims: every seed's two numbers, a panel a claim.

`plot_claims(verdicts, rows, Path("claims.svg"))`; needs matplotlib (the extra `report`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from puna.core.claims import SHOWN, Rows, Verdict


def plot_claims(verdicts: Sequence[Verdict], rows: Rows, path: Path) -> None:
    """Write an SVG: a dot a seed for `metric` and for `against`, each claim on its own scale."""
    import matplotlib
    from matplotlib.figure import Figure

    tested = [v for v in verdicts if v.difference is not None]
    if not tested:
        return
    with matplotlib.rc_context({"svg.hashsalt": "puna", "svg.fonttype": "none"}):
        figure = Figure(figsize=(6.5, 1.1 * len(tested) + 0.3), layout="constrained")
        panels = figure.subplots(len(tested), squeeze=False)[:, 0]
        for axes, verdict in zip(panels, tested, strict=True):
            _panel(axes, verdict, rows)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _panel(axes: Any, verdict: Verdict, rows: Rows) -> None:
    claim = verdict.claim
    axes.plot([r[claim.metric] for r in rows.values()], [1] * len(rows), "o", alpha=0.6)
    if isinstance(claim.against, str):
        axes.plot([r[claim.against] for r in rows.values()], [0] * len(rows), "s", alpha=0.6)
    else:
        axes.axvline(claim.against, color="grey", linewidth=1)
    axes.set_yticks([0, 1], [str(claim.against), claim.metric], fontsize=8)
    axes.set_ylim(-0.6, 1.6)
    weight = "bold" if verdict.verdict == SHOWN else "normal"
    axes.set_title(f"{claim.id}: {verdict.verdict}", loc="left", fontsize=8, fontweight=weight)
    axes.tick_params(axis="x", labelsize=7)
