"""Where everything came from: the graph of stages as SVG, and the run's machine and versions.

`lineage(run)` -> markup.
"""

from __future__ import annotations

from puna.report.markup import Html, count, join, number, section, tag
from puna.report.read import Run, Stage, mapping

WIDTH, HEIGHT, GAP_X, GAP_Y, PAD = 158, 62, 46, 28, 6


def lineage(run: Run) -> Html:
    """The section: graph, data digests, machine, versions, commit, seed."""
    note = "Boxes are stages, with the first digits of the SHA-256 of their weights."
    return section("Lineage", tag("div", graph(run), class_="scroll"), facts(run), note=note)


def graph(run: Run) -> Html:
    """Stages left to right by their distance from the start, arrows from parent to child."""
    places = _places(run)
    wide = 1 + max(x for x, _ in places.values())
    high = 1 + max(y for _, y in places.values())
    # Arrows that pass over a stage in between swing above it, so the top row needs room.
    edges = [(s.id, p) for s in run.stages for p in s.parents if p in places]
    lift = max((places[child][0] - places[p][0] for child, p in edges), default=1)
    top = PAD + (9 * lift if lift > 1 else 0)
    width = wide * (WIDTH + GAP_X) - GAP_X + 2 * PAD
    height = high * (HEIGHT + GAP_Y) - GAP_Y + top + PAD
    corner = {
        name: (PAD + x * (WIDTH + GAP_X), top + y * (HEIGHT + GAP_Y))
        for name, (x, y) in places.items()
    }
    arrows = [
        _arrow(corner[parent], corner[child], places[child][0] - places[parent][0])
        for child, parent in edges
    ]
    boxes = [_box(stage, *corner[stage.id]) for stage in run.stages]
    tip = tag("path", d="M0 0 7 3.5 0 7z", fill="var(--soft)")
    size = {"markerWidth": 8, "markerHeight": 8, "refX": 7, "refY": 3.5}
    head = tag("marker", tip, id="tip", orient="auto", **size)
    return tag(
        "svg",
        tag("defs", head),
        *arrows,
        *boxes,
        class_="lineage",
        role="img",
        aria_label="stages and their parents",
        width=width,
        height=height,
        viewBox=f"0 0 {width} {height}",
    )


def _places(run: Run) -> dict[str, tuple[int, int]]:
    """Column and row of each stage; the first child of its nearest parent keeps to its row."""
    columns: dict[str, int] = {}
    children: dict[str, list[str]] = {}
    for stage in run.stages:
        known = [p for p in reversed(stage.parents) if p in columns]
        nearest = max(known, key=lambda p: columns[p], default="")
        columns[stage.id] = 1 + columns.get(nearest, -1)
        children.setdefault(nearest, []).append(stage.id)
    rows: dict[str, int] = {}

    def place(name: str, row: int) -> int:
        rows[name] = below = row
        for child in children.get(name, ()):
            below = place(child, below)
        return max(below, row + 1)

    below = 0
    for root in children[""]:
        below = place(root, below)
    return {name: (columns[name], rows[name]) for name in columns}


def _arrow(a: tuple[int, int], b: tuple[int, int], columns: int) -> Html:
    x1, y1, x2, y2 = a[0] + WIDTH, a[1] + HEIGHT // 2, b[0], b[1] + HEIGHT // 2
    if columns > 1:
        x1, y1 = a[0] + WIDTH // 2, a[1]
        over = min(y1, b[1]) - 12 * columns
        y2 = b[1] + 14
        path = f"M{x1} {y1}C{x1} {over} {x2 - GAP_X} {over} {x2 - 1} {y2}"
    else:
        middle = (x1 + x2) // 2
        path = f"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2 - 1} {y2}"
    return tag("path", d=path, fill="none", stroke="var(--soft)", marker_end="url(#tip)")


def _box(stage: Stage, x: int, y: int) -> Html:
    dashed = None if stage.state == "done" else "4 3"
    place = {"x": x, "y": y, "width": WIDTH, "height": HEIGHT, "rx": 7}
    ink = {"fill": "var(--wash)", "stroke": "var(--rule)", "stroke_dasharray": dashed}
    known = stage.weights or ("no weights" if stage.state == "done" else stage.state)
    small = {"fill": "var(--soft)", "font_size": 12}
    return tag(
        "g",
        tag("title", stage.id),
        tag("rect", **place, **ink),
        tag(
            "text",
            _short(stage.id),
            x=x + 12,
            y=y + 20,
            fill="currentColor",
            font_weight=600,
            font_size=14,
        ),
        tag("text", stage.kind, x=x + 12, y=y + 37, **small),
        tag("text", known, x=x + 12, y=y + 54, **small),
    )


def _short(text: str, longest: int = 18) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def facts(run: Run) -> Html:
    """Data, machine, versions, commit and seed as a list of terms."""
    sources: dict[Html, list[str]] = {}
    for stage in run.stages:
        for text in _data(stage):
            sources.setdefault(text, []).append(stage.group)
    pairs: list[tuple[str, object]] = [
        (f"data of {', '.join(dict.fromkeys(names))}", text) for text, names in sources.items()
    ]
    for env, known in {e.env: e.digest for e in run.exams if e.digest}.items():
        pairs.append(("environment", join((f"{env} ", tag("code", known[:16])))))
    for key in ("machine", "versions"):
        found = mapping(run.record.get(key))
        if found:
            pairs.append((key, ", ".join(f"{k} {v}" for k, v in found.items())))
    for key in ("commit", "seed"):
        if run.record.get(key) not in (None, ""):
            pairs.append((key, str(run.record[key])))
    return tag("dl", *(tag(n, v) for k, value in pairs for n, v in (("dt", k), ("dd", value))))


def _data(stage: Stage) -> list[Html]:
    """What a stage learned from, with its digest."""
    out = []
    data = mapping(stage.result.get("data"))
    if data:
        files, size = count(number(data.get("files"))), count(number(data.get("bytes")))
        digest = tag("code", str(data.get("digest", ""))[:16])
        out.append(join((f"{files} files, {size} bytes, digest ", digest)))
    if stage.result.get("data_hash"):
        rows = count(number(stage.result.get("rows")))
        digest = tag("code", str(stage.result["data_hash"])[:16])
        out.append(join((f"{rows} rows, digest ", digest)))
    return out
