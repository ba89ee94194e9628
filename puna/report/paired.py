"""Two pictures of a comparison: `forest` of differences, `scatter` of one suite's tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from puna.core.stats import Difference
from puna.evals.compare import Pair
from puna.report.markup import Html, clip, plain
from puna.report.plot import BAD, FLAT, GOOD, INK, LINE, RULE, picture

_COLOURS = {"good": GOOD, "bad": BAD, "flat": FLAT}
CELLS = 20  # a side of the grid that tasks are gathered on where their scores are many
FEW = 16  # circles that still have room for their number


def forest(rows: Sequence[tuple[str, Difference, str]]) -> Html:
    """A dot and a whisker for each (name, difference, tone: good, bad or flat), over one axis."""

    def draw(axes: Any) -> None:
        for y, (name, d, tone) in enumerate(rows):
            colour = _COLOURS[tone]
            axes.barh(y, 2 * d.detectable, 0.34, -d.detectable, color=RULE, alpha=0.6)
            axes.plot([d.low, d.high], [y, y], color=colour, linewidth=2.2)
            axes.plot([d.mean], [y], "o", color=colour, markersize=6.5)
            _say(axes, 0.0, y - 0.34, name, transform=axes.get_yaxis_transform())
        axes.axvline(0, color=INK, linewidth=0.9)
        reach = 1.08 * max(abs(v) for _, d, _ in rows for v in (d.low, d.high, d.detectable))
        axes.set_xlim(-reach, reach)
        axes.set_ylim(len(rows) - 0.55, -0.75)
        axes.set_yticks([])
        axes.set_xlabel("A better  ←  B minus A  →  B better", fontsize=9)
        high = axes.figure.get_size_inches()[1]
        axes.figure.subplots_adjust(left=0.03, right=0.97, top=1 - 0.05 / high, bottom=0.5 / high)

    told = "; ".join(f"{name}: {d.mean:+.3f}" for name, d, _ in rows)
    label = f"differences and their intervals: {told}"
    return picture("forest", label, (3.9, 0.6 + 0.58 * len(rows)), draw, **{"axes.grid.axis": "x"})


def scatter(name: str, pairs: Sequence[Pair]) -> Html:
    """Tasks by their score on both sides, as circles whose areas are numbers of tasks."""
    spots = _gathered(pairs)

    def draw(axes: Any) -> None:
        ends = [v for spot in spots for v in spot]
        low, high = min(0.0, *ends), max(1.0, *ends)
        pad = 0.13 * (high - low)
        axes.plot([low, high], [low, high], color=RULE, linewidth=1)
        most, few = max(spots.values()), len(spots) <= FEW
        for tone, sign in ((GOOD, 1), (BAD, -1), (LINE, 0)):
            mine = [(x, y, n) for (x, y), n in spots.items() if (y > x) - (y < x) == sign]
            if mine:
                xs, ys, counts = zip(*mine, strict=True)
                sizes = [14 + (700 if few else 120) * n / most for n in counts]
                axes.scatter(xs, ys, s=sizes, color=tone, alpha=0.55, linewidths=0)
        for (x, y), n in spots.items() if few else ():
            _say(axes, x, y, f"{n:,}", ha="center", va="center")
        axes.set_xlim(low - pad, high + pad)
        axes.set_ylim(low - pad, high + pad)
        axes.set_xlabel("score of A", fontsize=9)
        axes.set_ylabel("score of B", fontsize=9)
        axes.figure.subplots_adjust(left=0.15, right=0.98, top=0.98, bottom=0.14)

    ahead = sum(n for (x, y), n in spots.items() if y > x)
    behind = sum(n for (x, y), n in spots.items() if y < x)
    label = f"scores of both on each task: B ahead on {ahead}, A on {behind}"
    return picture(name, label, (3.6, 3.4), draw, **{"axes.grid": False})


def _gathered(pairs: Sequence[Pair]) -> Counter[tuple[float, float]]:
    """How many tasks have which two scores; on a grid where there are too many to draw."""
    spots = Counter((pair.a, pair.b) for pair in pairs)
    if len(spots) <= CELLS * CELLS:
        return spots
    ends = [v for spot in spots for v in spot]
    low, step = min(ends), (max(ends) - min(ends)) / (CELLS - 1)
    on_grid: Counter[tuple[float, float]] = Counter()
    for (x, y), n in spots.items():
        on_grid[low + step * round((x - low) / step), low + step * round((y - low) / step)] += n
    return on_grid


def _say(axes: Any, x: float, y: float, text: str, **style: Any) -> None:
    # A dollar in a name is a dollar, not the beginning of a formula.
    axes.text(x, y, plain(clip(text, 60)), fontsize=8.5, parse_math=False, **style)
