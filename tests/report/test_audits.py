"""Audits as a page, a table and records: nothing in them can break out of the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from puna.core.errors import UserError
from puna.gym.audit import Audit, Finding
from puna.report.audits import markdown, page, write

EVIL = "<script>alert(1)</script>|`x`\n\x1b[2J"


def made(*findings: Finding, target: str = "mine") -> Audit:
    return Audit(target, {"name": target, "version": "1.0", "hash": "abc"}, 12, 0, findings)


HOLE = Finding("many answers", "why", "hole", EVIL, "puna audit mine --probe x", (EVIL,), 0.9)
FINE = Finding("idle", "why", "ok", "1 agent, none paid", earned=0.0)


def test_one_audit_is_a_page_with_bars_and_commands() -> None:
    text = page([made(FINE, HOLE)])
    assert "Failed: many answers." in text
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "\x1b" not in text
    assert "width: 90.0%" in text
    assert "puna audit mine --probe x" in text
    assert "Passed: no probe found a hole." in page([made(FINE)])


def test_several_have_a_line_each() -> None:
    text = page([made(FINE, target="a:one"), made(FINE, HOLE, target="a:two")])
    assert "1 of 2 pass." in text
    assert 'href="#a-two"' in text
    assert 'id="a-two"' in text
    blind = Finding("hidden fields", "why", "hole", "2 of 24 tasks")
    table = markdown([made(FINE, target="a:one"), made(FINE, HOLE, blind, target="a:two")])
    rows = table.splitlines()[-2:]
    assert rows[0] == "| one | passed | – |  |"
    assert rows[1].startswith("| two | **failed** | many answers 0.90, hidden fields | <script>")
    assert rows[1].count("|") - rows[1].count("\\|") == 5
    assert "`puna audit 'a:*'`" in table


def test_the_ending_says_what_is_written(tmp_path: Path) -> None:
    audits = [made(FINE, HOLE)]
    write(audits, tmp_path / "new" / "a.json")
    (record,) = json.loads((tmp_path / "new" / "a.json").read_text())
    assert Audit.from_json(record) == audits[0]
    for name in ("a.html", "a.md"):
        assert write(audits, tmp_path / name).read_text()
    with pytest.raises(UserError, match="no such kind of file"):
        write(audits, tmp_path / "a.pdf")
