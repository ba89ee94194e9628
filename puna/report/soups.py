"""How soups were chosen: `soups(run)` -> markup, `write_soup(record, Path("soup.html"))` -> a page.

A record is what `puna.soup.stage.cook` returns and a soup stage leaves in stage.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from puna.core.files import write_text
from puna.report.interval import interval, verdict_of
from puna.report.markup import Html, clip, join, number, plain, row, section, table, tag
from puna.report.plot import BAD, INK, LINE, picture
from puna.report.read import Run, mapping, sequence
from puna.report.style import frame
from puna.report.tables import shown

MOST = 40  # categories that a map has room for
WRITTEN = 12  # ... and whose numbers it has room for
PAIRS = 10
THRESHOLDS = (0.2, 0.3, 0.4)
_LEGEND = (
    "Pearson's correlation between categories over the models of the pool: blue is positive, red "
    "negative. A frame: outside of what 95 % of permutations give, so that it is told from none."
)


def write_soup(record: Mapping[str, Any], path: Path) -> Path:
    """Write the page about one soup to `path`; returns it. Raises UserError where it cannot be."""
    names = [str(mapping(m).get("stage")) for m in sequence(record.get("members"))]
    title = f"Soup of {', '.join(names)}"
    body = (tag("header", tag("h1", clip(title, 200)), _verdict(record)), *_parts("soup", record))
    write_text(path, frame(title, join(body, "\n")), "report")
    return path


def soups(run: Run) -> Html:
    """A part for each soup of the run whose members were searched for.

    Correlations that several soups have in common are drawn once.
    """
    parts: list[object] = []
    seen: list[tuple[Mapping[str, Any], str]] = []
    for stage in run.stages:
        search = mapping(stage.result.get("search"))
        if stage.kind != "soup" or not search:
            continue
        found = mapping(search.get("correlations"))
        same = next((name for known, name in seen if known == found), "")
        if found and not same:
            seen.append((found, stage.id))
        parts += [tag("h3", stage.id), *_parts(f"soup-{stage.id}", stage.result, same)]
    return section("How soups were chosen", *parts)


def _verdict(record: Mapping[str, Any]) -> Html:
    difference = interval(record.get("difference"))
    if difference is None:
        return tag("p", "Not measured.", class_="lead")
    best = record.get("best_member")
    end = "" if record.get("kept") else f" Reverted: the model is {record.get('model')}."
    text = f"{difference.text('+')} against the best member, {best}: {verdict_of(difference)}.{end}"
    return tag("p", text, class_="lead")


def _parts(name: str, record: Mapping[str, Any], same: str = "") -> list[Html]:
    """`same` is the soup that these correlations have been drawn for."""
    search = mapping(record.get("search"))
    notes = [tag("p", str(note), class_="note") for note in sequence(record.get("notes"))]
    return [
        _members(record, search),
        _luck(search),
        *notes,
        *_correlations(name, search, same),
        _drawn(sequence(search.get("drawn"))),
        _steps(sequence(search.get("steps"))),
        _barriers(sequence(search.get("barriers"))),
    ]


def _members(record: Mapping[str, Any], search: Mapping[str, Any]) -> Html:
    found, lines = mapping(search.get("members")), []
    for member in map(mapping, sequence(record.get("members"))):
        stage = str(member.get("stage"))
        dev = mapping(found.get(stage)).get("dev")
        score = shown(interval(member.get("score")))
        lines.append(row((stage, _figure(member.get("weight")), _figure(dev), score)))
    dev = _figure(search.get("dev"))
    lines.append(row(("the soup", "", dev, shown(interval(record.get("soup"))))))
    return table(
        ("member", "share", "dev half, over categories", "what decides, over tasks"), lines
    )


def _luck(search: Mapping[str, Any]) -> Html:
    """How much better the soup looks where it was searched than elsewhere."""
    if number(search.get("optimism")) is None:
        return Html("")
    tried = len(sequence(search.get("tried")))
    text = (
        f"{f'{tried} weightings were tried. ' if tried else ''}Over categories the soup has "
        f"{_figure(search.get('dev'))} on the half it was chosen on and "
        f"{_figure(search.get('test'))} on the other: optimism "
        f"{_figure(search.get('optimism'), '+')}; members, which nothing chose: "
        f"{_figure(search.get('members_optimism'), '+')}."
    )
    return tag("p", text)


def _correlations(name: str, search: Mapping[str, Any], same: str) -> list[Html]:
    """How categories correlate over the pool, and which members are experts."""
    found = mapping(search.get("correlations"))
    if same:
        return [tag("p", f"Correlations and experts: as of {same}.")]
    experts = _experts(mapping(search.get("experts")))
    return [_map(name, found), _pairs(found), _thresholds(search, found), experts]


def _thresholds(search: Mapping[str, Any], found: Mapping[str, Any]) -> Html:
    """How many categories would be weakly correlated at other thresholds."""
    names = sequence(found.get("categories"))
    tau, rho = number(search.get("tau")), _square(found.get("rho"), len(names))
    if not names or tau is None:
        return Html("")
    told = []
    for limit in THRESHOLDS:
        rows = [[abs(v) < limit for j, v in enumerate(r) if j != i] for i, r in enumerate(rho)]
        told.append(f"{sum(map(any, rows))} at {limit:g}")
    text = f"Taken as weakly correlated at {tau:g}; of {len(names)} categories it would be "
    return tag("p", f"{text}{', '.join(told)}.")


def _drawn(names: Sequence[Any]) -> Html:
    if not names:
        return Html("")
    return tag("p", f"Drawn at random instead of the experts: {', '.join(map(str, names))}.")


def _map(name: str, found: Mapping[str, Any]) -> Html:
    """The heat map of correlations."""
    names = [str(c) for c in sequence(found.get("categories"))][:MOST]
    if len(names) < 2:
        return Html("")
    rho, low, high = (_square(found.get(k), len(names)) for k in ("rho", "low", "high"))
    told = len(names) <= WRITTEN
    side = 0.42 if told else 0.2

    def draw(axes: Any) -> None:
        for y in range(len(names)):
            for x in range(len(names)):
                value = rho[y][x]
                if x == y or math.isnan(value):
                    continue
                apart = not low[y][x] <= value <= high[y][x]
                _cell(axes, x, y, value, apart)
                if told:
                    axes.text(x, y, f"{value:.2f}", fontsize=7, ha="center", va="center")
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_ylim(len(names) - 0.5, -0.5)
        labels = [plain(clip(n, 30)).replace("$", r"\$") for n in names]
        axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=7.5)
        axes.set_yticks(range(len(names)), labels, fontsize=7.5)
        axes.set_aspect("equal")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.figure.subplots_adjust(left=0.3, right=0.99, top=0.99, bottom=0.3)

    label = f"correlations between {len(names)} categories"
    size = (side * len(names) / 0.69 + 0.4,) * 2
    drawn = picture(f"{name}-map", label, size, draw, **{"axes.grid": False})
    pool = len(sequence(found.get("pool")))
    more = len(sequence(found.get("categories"))) - len(names)
    text = f"{_LEGEND} Pool: {pool} models."
    text += f" {more} more categories are not drawn." if more else ""
    return tag("figure", tag("div", drawn, class_="heat"), tag("figcaption", text))


def _cell(axes: Any, x: int, y: int, value: float, apart: bool) -> None:
    from matplotlib.patches import Rectangle

    corner, colour = (x - 0.46, y - 0.46), LINE if value > 0 else BAD
    axes.add_patch(Rectangle(corner, 0.92, 0.92, color=colour, alpha=abs(value), linewidth=0))
    if apart:
        axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=INK, linewidth=0.7))


def _pairs(found: Mapping[str, Any]) -> Html:
    """The pairs of categories that correlate least, with what permutations give."""
    names = [str(c) for c in sequence(found.get("categories"))]
    rho, low, high = (_square(found.get(k), len(names)) for k in ("rho", "low", "high"))
    known = [(i, j) for i, j in combinations(range(len(names)), 2) if not math.isnan(rho[i][j])]
    lines = []
    for i, j in sorted(known, key=lambda pair: abs(rho[pair[0]][pair[1]]))[:PAIRS]:
        span = f"{low[i][j]:+.2f} to {high[i][j]:+.2f}"
        lines.append(row((f"{names[i]}, {names[j]}", f"{rho[i][j]:+.2f}", span)))
    head = ("weakest pairs", "correlation", "95 % of permutations")
    return table(head, lines) if lines else Html("")


def _experts(found: Mapping[str, Any]) -> Html:
    lines = [row((category, str(model))) for category, model in found.items()]
    return table(("weakly correlated category", "its expert"), lines) if lines else Html("")


def _steps(found: Sequence[Any]) -> Html:
    lines = [
        row((str(s.get("added")), _figure(s.get("score")), "kept" if s.get("kept") else "left out"))
        for s in map(mapping, found)
    ]
    return table(("with", "dev half", ""), lines) if lines else Html("")


def _barriers(found: Sequence[Any]) -> Html:
    lines = [
        row((" and ".join(map(str, sequence(b.get("members")))), _figure(b.get("barrier"), "+")))
        for b in map(mapping, found)
    ]
    return table(("between", "loss barrier, nats a token"), lines) if lines else Html("")


def _figure(value: object, sign: str = "") -> str:
    found = number(value)
    return "–" if found is None else f"{found:{sign}.3f}"


def _square(rows: object, size: int) -> list[list[float]]:
    """`size` by `size` numbers, NaN for what is none or not there."""
    found = [list(sequence(r)) for r in sequence(rows)][:size]
    found += [[]] * (size - len(found))
    padded = [(r + [None] * size)[:size] for r in found]
    return [[math.nan if (n := number(v)) is None else n for v in r] for r in padded]
