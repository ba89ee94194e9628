"""Audits as files: a page (.html), a table (.md), records (.json).

`write([audit], Path("audit.html"))`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from puna.core.errors import UserError
from puna.core.files import write_text
from puna.gym.audit.findings import MARKS, Audit, Finding
from puna.report.markup import Html, details, esc, join, row, section, table, tag
from puna.report.style import frame

KINDS = (".html", ".md", ".json")
SHOWN = 120  # characters of a cell


def write(audits: Sequence[Audit], path: Path) -> Path:
    """Write what was found; the ending of `path` says how. Raises UserError for another ending."""
    if path.suffix == ".html":
        text = page(audits)
    elif path.suffix == ".md":
        text = markdown(audits)
    elif path.suffix == ".json":
        text = json.dumps([a.to_json() for a in audits], indent=1) + "\n"
    else:
        raise UserError(f"{path}: no such kind of file", f"end it with {', '.join(KINDS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path


def page(audits: Sequence[Audit]) -> str:
    """One page: the verdicts, a line a target where there are several, every finding."""
    failed = [a for a in audits if not a.passed]
    one = audits[0]
    title = f"Audit of {one.env['name']} {one.env['version']}" if len(audits) == 1 else "Audits"
    if len(audits) == 1:
        holes = ", ".join(f.probe for f in one.holes)
        lead = f"Failed: {holes}." if failed else "Passed: no probe found a hole."
    else:
        lead = f"{len(audits) - len(failed)} of {len(audits)} pass."
    top = tag("header", tag("h1", title), tag("p", lead, class_="lead"), _facts(one, len(audits)))
    parts: list[Html] = [top]
    if len(audits) > 1:
        parts += [_bars(audits), _grid(audits)]
    parts += [_one(a, open_=len(audits) == 1) for a in audits]
    return frame(title, join(parts, "\n"))


def _facts(one: Audit, many: int) -> Html:
    if many > 1:
        text = f"{one.n} tasks of each split, more where luck was in question."
    else:
        text = f"record {one.id} · hash {one.env['hash']} · {one.n} tasks of each split · "
        text += f"{one.seconds:.1f} s"
    return tag("p", text, class_="meta")


def _bars(audits: Sequence[Audit]) -> Html:
    """How many targets each probe found a hole in."""
    counts: dict[str, int] = {}
    for each in audits:
        for finding in each.holes:
            counts[finding.probe] = counts.get(finding.probe, 0) + 1
    if not counts:
        return Html("")
    most = max(counts.values())
    cells = []
    for probe, count in sorted(counts.items(), key=lambda item: -item[1]):
        bar = tag("div", class_="bar mine", style=f"width: {100 * count / most:.0f}%")
        cells += [tag("span", probe), bar, tag("span", count)]
    return section("Holes by probe", tag("div", *cells, class_="bars"))


def _grid(audits: Sequence[Audit]) -> Html:
    """A line a target: its verdict, and the probes that found something."""
    rows = []
    for each in audits:
        holes = ", ".join(f.probe for f in each.holes)
        verdict = tag("span", "failed", class_="bad") if holes else "passed"
        link = tag("a", each.target, href=f"#{_anchor(each)}")
        rows.append(row((link, verdict, holes or "–")))
    return section("All targets", table(("target", "verdict", "holes found by"), rows))


def _anchor(audit: Audit) -> str:
    return "".join(c if c.isalnum() else "-" for c in audit.target)


def _one(audit: Audit, open_: bool) -> Html:
    rows = [_row(f) for f in audit.findings]
    body = table(("probe", "", "seen, and why it is asked"), rows, "audit")
    if open_:
        return join((_earned(audit), section("Findings", body, *_proofs(audit))))
    verdict = "passed" if audit.passed else "failed"
    inside = details(f"{audit.target}: {verdict}", body, *_proofs(audit))
    return tag("div", inside, id=_anchor(audit))


def _row(f: Finding) -> Html:
    mark = tag("span", MARKS[f.status], class_="bad" if f.status == "hole" else None)
    seen = tag("span", f.seen, tag("span", f.reason, class_="under"), class_="say")
    return row((f.probe, mark, seen))


def _earned(audit: Audit) -> Html:
    """What each kind of answer that deserves nothing earned at most."""
    cells: list[Html] = []
    for f in audit.findings:
        if f.earned is not None:
            width = f"width: {100 * min(1.0, max(0.0, f.earned)):.1f}%"
            kind = "bar bad-bar" if f.status == "hole" else "bar mine"
            bar = tag("div", class_=kind, style=width)
            cells += [tag("span", f.probe), tag("div", bar), tag("span", f"{f.earned:.2f}")]
    note = "The mean over tasks of the best of its answers. A full bar is what the right one earns."
    return section(
        "What answers that deserve nothing earn", tag("div", *cells, class_="bars"), note=note
    )


def _proofs(audit: Audit) -> list[Html]:
    """What shows each hole again, and its first cases."""
    return [
        details(
            f"{f.probe}: how to see it again",
            tag("pre", f.command),
            tag("ul", *(tag("li", esc(e)) for e in f.evidence)) if f.evidence else "",
            open_=not f.passed,
        )
        for f in audit.findings
        if f.evidence or not f.passed
    ]


def markdown(audits: Sequence[Audit]) -> str:
    """A table for a repository: a line a target, what its holes pay, what the first looks like."""
    failed = [a for a in audits if not a.passed]
    name = audits[0].target.partition(":")[0] if len(audits) > 1 else audits[0].target
    command = f"puna audit '{name}:*'" if len(audits) > 1 else f"puna audit {name}"
    version = audits[0].env["version"]
    lines = [
        f"# Audit of {name}",
        "",
        f"Made by `{command}`: version {version}, {audits[0].n} tasks of each split, seed "
        f"{audits[0].seed}. {len(audits) - len(failed)} of {len(audits)} pass. A hole is a way to "
        "be paid without solving the task, or a verdict that cannot be trusted; the figure is the "
        "most that one of its answers earned, in the mean over tasks (1 is full marks).",
        "",
        f"| {'dataset' if len(audits) > 1 else 'target'} | verdict | holes | the first of them |",
        "|---|---|---|---|",
    ]
    for each in audits:
        holes = ", ".join(map(_earning, each.holes)) or "–"
        first = _cell(each.holes[0].seen) if each.holes else ""
        verdict = "passed" if each.passed else "**failed**"
        named = each.target.removeprefix(f"{name}:") if len(audits) > 1 else each.target
        lines.append(f"| {_cell(named)} | {verdict} | {holes} | {first} |")
    return "\n".join(lines) + "\n"


def _earning(hole: Finding) -> str:
    """A hole, and what it pays where answers were paid."""
    return f"{hole.probe} {hole.earned:.2f}" if hole.earned else hole.probe


def _cell(text: str) -> str:
    flat = " ".join(text.split()).replace("|", "\\|").replace("`", "'")
    return "".join(c if c.isprintable() else "\ufffd" for c in flat)[:SHOWN]
