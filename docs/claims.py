"""The table of docs/papers.md, from the results in docs/papers; see docs/generate.py.

A result is the `claims.json` that `puna paper run NAME` left, as docs/papers/NAME.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- claims: made by docs/generate.py -->\n", "<!-- end of claims -->\n"
HEAD = "| claim | difference, 95 % interval | verdict |\n|---|---|---|\n"


def page(text: str, results: Path) -> str:
    """The page with its table made anew. Raises SystemExit where its marks are gone."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit("docs/papers.md has lost the marks around its table")
    files = sorted(results.glob("*.json"))
    lines = "".join(
        line for file in files for line in rows(file.stem, json.loads(file.read_text()))
    )
    return before + BEGIN + "\n" + HEAD + lines + "\n" + END + after


def rows(name: str, result: dict[str, Any]) -> list[str]:
    """A line for each claim of a paper."""
    return [
        f"| `{name}`: {claim['id']} | {interval(claim)} | {claim['verdict']} |\n"
        for claim in result["claims"]
    ]


def interval(claim: dict[str, Any]) -> str:
    """What was measured, as `puna paper claims` prints it."""
    found = claim["difference"]
    if found is None:
        return "-"
    return f"{found['mean']:+.3g} [{found['low']:+.3g}, {found['high']:+.3g}]"
