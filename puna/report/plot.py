"""Pictures of a page as inline SVG, drawn by matplotlib without a display.

`picture("name", "what it shows", (3.3, 2.15), draw)` -> markup. Colours are the page's, so they
follow light and dark.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from io import StringIO
from typing import Any

from puna.report.markup import Html, esc

INK, RULE, LINE = "#0a0b0c", "#0a0b0d", "#0a0b0e"
GOOD, BAD, FLAT = "#0a0b1a", "#0a0b1b", "#0a0b1c"
_THEME = {
    INK: "currentColor",
    RULE: "var(--rule)",
    LINE: "var(--accent)",
    GOOD: "var(--good)",
    BAD: "var(--bad)",
    FLAT: "var(--flat)",
}


def picture(
    name: str, label: str, size: tuple[float, float], draw: Callable[[Any], None], **rc: object
) -> Html:
    """What `draw(axes)` draws, `size` inches wide and high at scale 1; `rc` overrides the style.

    `name` sets its ids apart from any other picture's in the page; `label` is read to the blind.
    """
    try:
        import matplotlib
    except ImportError:
        return Html("<p>Curves need matplotlib: pip install 'puna[report]'</p>")
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        # The reader's browser has the glyphs; only their widths are guessed here.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        matplotlib.rcdefaults()  # the reader's matplotlibrc must not change the page
        settings: Any = _settings(name) | rc
        matplotlib.rcParams.update(settings)
        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        out = StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _inline(out.getvalue(), name, label)


def _settings(name: str) -> dict[str, Any]:
    inks = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
    return dict.fromkeys(inks, INK) | {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "axes.edgecolor": RULE,
        "grid.color": RULE,
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
    start = f'<svg role="img" aria-label="{esc(label)}" {head[0]}>'
    svg = re.sub(r"<svg[^>]*>", lambda _: start, svg, count=1)
    svg = re.sub(r"font: ?([\d.]+)px [^;\"]*", r"font-size: \1px; font-family: inherit", svg)
    for colour, theirs in _THEME.items():
        svg = svg.replace(colour, theirs)
    return Html(re.sub(r"\n\s*", "\n", svg))
