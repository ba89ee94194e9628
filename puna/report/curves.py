"""Curves of a stage as inline SVG panels: `figure_of("rl", [stage])` -> markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from puna.report.markup import Html, number, section, tag
from puna.report.plot import BAD, LINE, picture
from puna.report.read import Run, Stage, mapping
from puna.report.summary import BASELINES

Series = tuple[list[float], list[float]]
PANELS = {
    "loss": "loss, nats per token",
    "bits_per_byte": "bits per byte, held out",
    "minutes": "bits per byte, by minutes",
    "reward": "reward",
    "held_out": "held-out score",
    "length_p50": "tokens per episode, median",
    "surprisal": "surprisal, nats per token",
    "pass_rate": "median pass rate of the pool, by round",
    "solved": "share of the pool solved, by round",
    "unique": "share of the proposals that are new, by round",
    "stub_share": "share of the proposals met by a stub, by round",
}
MARKED = ("bits_per_byte", "minutes", "held_out", "pass_rate", "solved", "unique", "stub_share")
POINTS = 240


def curves(run: Run) -> Html:
    """A figure for every stage that left metrics; seeds of one stage share theirs."""
    found = [figure_of(name, stages) for name, stages in run.groups().items()]
    note = (
        "Over steps, or minutes of work. Thin: as measured, a line a seed; bold: the mean over "
        "seeds, and over neighbouring steps."
    )
    figures = tag("div", *found, class_="figures") if any(found) else ""
    return section("Curves", figures, note=note)


def figure_of(name: str, stages: Sequence[Stage]) -> Html:
    """The panels of one stage: each seed thin, their mean bold."""
    panels = []
    for key, label in PANELS.items():
        what = ("bits_per_byte", key) if key == "minutes" else (key, "step")
        lines = [line for s in stages if len((line := series(s, *what))[0]) > 1]
        if lines and not (key == "loss" and any(series(s, "reward")[0] for s in stages)):
            panel = Panel(f"{name}-{key}", label, lines, key in MARKED)
            beside = {"reward": _shadowed, "minutes": _beside_baseline}.get(key)
            panels.append(_panel(beside(panel, stages) if beside else panel))
    if not panels:
        return Html("")
    span = f"span{min(4, len(panels))}"
    return tag("figure", tag("h3", name), tag("div", *panels, class_="panels"), class_=span)


@dataclass(frozen=True)
class Panel:
    """One picture: lines, beside them dashed ones, and steps to mark with a word."""

    name: str
    label: str
    lines: Sequence[Series]
    marked: bool
    dashed: Sequence[Series] = ()
    marks: Mapping[float, str] = field(default_factory=dict)


def _shadowed(panel: Panel, stages: Sequence[Stage]) -> Panel:
    """The reward's panel with the stricter verifier's line, and where an alarm was raised."""
    dashed = [line for s in stages if len((line := series(s, "shadow"))[0]) > 1]
    alarms = [a for s in stages for a in s.alarms if a.get("level") == "alarm"]
    marks = {float(a["step"]): "alarm" for a in alarms}
    label = f"{panel.label} (dashed: shadow)" if dashed else panel.label
    return replace(panel, label=label, dashed=dashed, marks=marks)


def _beside_baseline(panel: Panel, stages: Sequence[Stage]) -> Panel:
    """The panel with the best of what no network is needed for, where that was measured."""
    found = [mapping(s.result.get("bits_per_byte")) for s in stages]
    known = [v for bits in found for k in BASELINES if (v := number(bits.get(k))) is not None]
    if not known:
        return panel
    minutes = [at for line in panel.lines for at in line[0]]
    level = ([min(minutes), max(minutes)], [min(known)] * 2)
    return replace(panel, label=f"{panel.label} (dashed: best baseline)", dashed=[level])


def series(stage: Stage, key: str, over: str = "step") -> Series:
    """Places and values of one figure of a stage, records that lack either left out."""
    found = [(number(m.get(over)), number(m.get(key))) for m in stage.metrics]
    pairs = [(at, value) for at, value in found if at is not None and value is not None]
    return [at for at, _ in pairs], [value for _, value in pairs]


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


def _panel(panel: Panel) -> Html:
    def draw(axes: Any) -> None:
        _draw(axes, panel)
        axes.set_title(panel.label, loc="left", fontsize=9.5)
        axes.figure.subplots_adjust(left=0.14, right=0.97, top=0.88, bottom=0.12)

    return picture(panel.name, panel.label, (3.3, 2.15), draw)


def _draw(axes: Any, panel: Panel) -> None:
    style = {"marker": "o", "markersize": 4} if panel.marked else {}
    kinds: list[tuple[Sequence[Series], dict[str, Any]]] = [
        (panel.lines, {"color": LINE, **style}),
        (panel.dashed, {"color": BAD, "linestyle": (0, (4, 2))}),
    ]
    for lines, look in kinds:
        if not panel.marked or len(lines) > 1:
            for line in lines:
                axes.plot(*thin_out(line), color=look["color"], linewidth=0.8, alpha=0.45)
        if lines:
            axes.plot(*bold_line(lines, not panel.marked), linewidth=1.8, **look)
    for step, word in panel.marks.items():
        axes.axvline(step, color=BAD, linewidth=1)
        axes.annotate(
            word,
            (step, 0.5),
            xycoords=("data", "axes fraction"),
            xytext=(-2, 0),
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="center",
            fontsize=8,
            color=BAD,
        )
