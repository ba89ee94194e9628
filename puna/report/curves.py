"""Curves of a stage as inline SVG panels, drawn by matplotlib without a display.

`figure_of("rl", [stage])` -> markup. Colours are the page's, so they follow light and dark.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from typing import Any

from puna.report.markup import Html, number, section, tag
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
_INK, _RULE, _LINE, _OTHER = "#0a0b0c", "#0a0b0d", "#0a0b0e", "#0a0b0f"
_THEME = {
    _INK: "currentColor",
    _RULE: "var(--rule)",
    _LINE: "var(--accent)",
    _OTHER: "var(--bad)",
}


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
            panel = Panel(f"{name}-{key}", label, lines, key in MARKED)
            panels.append(_panel(_shadowed(panel, stages) if key == "reward" else panel))
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


def _panel(panel: Panel) -> Html:
    try:
        import matplotlib
    except ImportError:
        return Html("<p>Curves need matplotlib: pip install 'puna[report]'</p>")
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the reader's matplotlibrc must not change the page
        settings: Any = _settings(panel.name)
        matplotlib.rcParams.update(settings)
        figure = Figure(figsize=(3.3, 2.15))
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        _draw(axes, panel)
        axes.set_title(panel.label, loc="left", fontsize=9.5)
        figure.subplots_adjust(left=0.14, right=0.97, top=0.88, bottom=0.12)
        out = StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _inline(out.getvalue(), panel.name, panel.label)


def _settings(name: str) -> dict[str, Any]:
    inks = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
    return dict.fromkeys(inks, _INK) | {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "axes.edgecolor": _RULE,
        "grid.color": _RULE,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.axisbelow": True,
        "ytick.major.size": 0,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "path.simplify": True,
    }


def _draw(axes: Any, panel: Panel) -> None:
    style = {"marker": "o", "markersize": 4} if panel.marked else {}
    kinds: list[tuple[Sequence[Series], dict[str, Any]]] = [
        (panel.lines, {"color": _LINE, **style}),
        (panel.dashed, {"color": _OTHER, "linestyle": (0, (4, 2))}),
    ]
    for lines, look in kinds:
        if not panel.marked or len(lines) > 1:
            for line in lines:
                axes.plot(*thin_out(line), color=look["color"], linewidth=0.8, alpha=0.45)
        if lines:
            axes.plot(*bold_line(lines, not panel.marked), linewidth=1.8, **look)
    for step, word in panel.marks.items():
        axes.axvline(step, color=_OTHER, linewidth=1)
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
            color=_OTHER,
        )


def _inline(svg: str, name: str, label: str) -> Html:
    """The picture alone: scaled by the page, coloured by it, its ids unlike any other's."""
    svg = svg[svg.index("<svg") :]
    # Its style sheet would apply to the whole page; the page's own has those two rules.
    svg = re.sub(r"<(metadata|style)\b.*?</\1>|<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    prefix = re.sub(r"\W", "-", name)

    def renamed(found: re.Match[str]) -> str:
        return f' id="{prefix}-{found[1]}"' if found[1] in used else ""

    svg = re.sub(r' id="([^"]+)"', renamed, svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    head = re.search(r'viewBox="[^"]+"', svg)
    assert head is not None
    svg = re.sub(r"<svg[^>]*>", f'<svg role="img" aria-label="{label}" {head[0]}>', svg, count=1)
    svg = re.sub(r"font: ?([\d.]+)px [^;\"]*", r"font-size: \1px; font-family: inherit", svg)
    for colour, theirs in _THEME.items():
        svg = svg.replace(colour, theirs)
    return Html(re.sub(r"\n\s*", "\n", svg))
