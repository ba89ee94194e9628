"""Curves of a stage as inline SVG panels: `figure_of("rl", [stage])` -> markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from puna.report.markup import Html, number, section, tag
from puna.report.plot import LINE, picture
from puna.report.read import Run, Stage

Series = tuple[list[float], list[float]]
PANELS = {
    "loss": "loss, nats per token",
    "bits_per_byte": "bits per byte, held out",
    "reward": "reward",
    "held_out": "held-out score",
    "length_p50": "tokens per episode, median",
    "surprisal": "surprisal, nats per token",
}
MARKED = ("bits_per_byte", "held_out")
POINTS = 240


def curves(run: Run) -> Html:
    """A figure for every stage that left metrics; seeds of one stage share theirs."""
    found = [figure_of(name, stages) for name, stages in run.groups().items()]
    note = (
        "Over steps. Thin: as measured, a line a seed; bold: the mean over seeds, and over "
        "neighbouring steps."
    )
    figures = tag("div", *found, class_="figures") if any(found) else ""
    return section("Curves", figures, note=note)


def figure_of(name: str, stages: Sequence[Stage]) -> Html:
    """The panels of one stage: each seed thin, their mean bold."""
    panels = []
    for key, label in PANELS.items():
        lines = [line for s in stages if len((line := series(s, key))[0]) > 1]
        if lines and not (key == "loss" and any(series(s, "reward")[0] for s in stages)):
            panels.append(_panel(f"{name}-{key}", label, lines, key in MARKED))
    if not panels:
        return Html("")
    span = f"span{min(4, len(panels))}"
    return tag("figure", tag("h3", name), tag("div", *panels, class_="panels"), class_=span)


def series(stage: Stage, key: str) -> Series:
    """Steps and values of one figure of a stage, steps without it left out."""
    found = [(m["step"], v) for m in stage.metrics if (v := number(m.get(key))) is not None]
    return [s for s, _ in found], [v for _, v in found]


def bold_line(lines: Sequence[Series], smooth: bool = True) -> Series:
    """The mean over lines at the steps they all have, thinned out, and its running mean."""
    tables = [dict(zip(*line, strict=True)) for line in lines]
    common = sorted(set.intersection(*(set(t) for t in tables)))
    steps, values = thin_out((common, [sum(t[s] for t in tables) / len(tables) for s in common]))
    half = len(values) // 40 if smooth else 0
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return steps, [sum(w) / len(w) for w in windows]


def thin_out(line: Series, points: int = POINTS) -> Series:
    """At most `points` points, each the mean of as many neighbours."""
    steps, values = line
    size = -(-len(steps) // points)
    if size <= 1:
        return line
    cuts = range(0, len(steps), size)
    return (
        [sum(steps[i : i + size]) / len(steps[i : i + size]) for i in cuts],
        [sum(values[i : i + size]) / len(values[i : i + size]) for i in cuts],
    )


def _panel(name: str, label: str, lines: Sequence[Series], marked: bool) -> Html:
    def draw(axes: Any) -> None:
        _draw(axes, lines, marked)
        axes.set_title(label, loc="left", fontsize=9.5)
        axes.figure.subplots_adjust(left=0.14, right=0.97, top=0.88, bottom=0.12)

    return picture(name, label, (3.3, 2.15), draw)


def _draw(axes: Any, lines: Sequence[Series], marked: bool) -> None:
    if not marked or len(lines) > 1:
        for line in lines:
            axes.plot(*thin_out(line), color=LINE, linewidth=0.8, alpha=0.45)
    style = {"marker": "o", "markersize": 4} if marked else {}
    axes.plot(*bold_line(lines, not marked), color=LINE, linewidth=1.8, **style)
