"""HTML that cannot be injected into: whatever is not already `Html` is escaped on its way in.

`tag("p", "a <b>", class_="note")` -> `<p class="note">a &lt;b&gt;</p>`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

# Control characters are shown as their pictures; HTML forbids most of them as they are.
_CONTROLS = {c: chr(0x2400 + c) for c in range(32) if c not in (9, 10)}
_CONTROLS |= {0x7F: "\u2421"} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")
# Direction overrides would turn round the page's own words that follow.
_CONTROLS |= dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")
LONGEST = 4000


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def esc(value: object) -> Html:
    """`value` as text safe anywhere in a page; `Html` passes as it is."""
    return value if isinstance(value, Html) else Html(html.escape(plain(value)))


def plain(value: object) -> str:
    """`value` as text without controls, for a picture that escapes what it is given."""
    # A lone surrogate cannot be written as UTF-8.
    return str(value).translate(_CONTROLS).encode("utf-8", "replace").decode()


def tag(name: str, *children: object, **attributes: object) -> Html:
    """An element; `class_` means class, other underscores become hyphens, None is left out."""
    given = {k.rstrip("_").replace("_", "-"): v for k, v in attributes.items() if v is not None}
    inside = "".join(f' {k}="{esc(v)}"' for k, v in given.items())
    return Html(f"<{name}{inside}>{join(children)}</{name}>")


def join(parts: Iterable[object], between: str = "") -> Html:
    """The parts escaped and put one after another."""
    return Html(esc(between).join(esc(p) for p in parts))


def table(head: Sequence[object], rows: Iterable[Html], class_: str | None = None) -> Html:
    """A table in a container of its own that scrolls sideways; `rows` are `row(...)`."""
    top = tag("thead", tag("tr", *(tag("th", h, scope="col") for h in head)))
    return tag("div", tag("table", top, tag("tbody", *rows), class_=class_), class_="scroll")


def row(cells: Sequence[object], class_: str | None = None) -> Html:
    """A table row whose first cell is its heading."""
    first, *rest = cells
    return tag("tr", tag("th", first, scope="row"), *(tag("td", c) for c in rest), class_=class_)


def section(title: str, *body: object, note: str = "") -> Html:
    """A titled section, or nothing where its body is empty."""
    if not any(body):
        return Html("")
    return tag("section", tag("h2", title), tag("p", note, class_="note") if note else "", *body)


def details(summary: object, *body: object, open_: bool = False) -> Html:
    """A part that is folded until it is clicked."""
    start = Html("<details open>" if open_ else "<details>")
    return join((start, tag("summary", summary), *body, Html("</details>")))


def clip(text: str, longest: int = LONGEST) -> str:
    """`text`, or its beginning and how much was left out."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}\n[{len(text) - longest:,} more characters]"


def number(value: object) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond any float
        return None


def count(value: float | None) -> str:
    """12345 -> "12,345"; 12345678 -> "12.3 M"; None -> a dash."""
    if value is None:
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.1f}"
