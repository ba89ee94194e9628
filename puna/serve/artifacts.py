"""What an episode changed: artifacts before and after it, as rows of tables or lines of text.

`changes({"shop.db": before}, {"shop.db": after})`. Artifacts are files that a policy had a hand in:
any bytes give an answer, within a stated size and time.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import json
import sqlite3
import time
from collections.abc import Mapping
from typing import Any

MAX_BYTES = 64_000_000
ROWS = 20_000  # of a table, read
SHOWN = 200  # rows of a table, or lines around none of which anything changed
LINES = 2_000
CLIP = 400
SECONDS = 2.0
_SQLITE = b"SQLite format 3\x00"
Row = tuple[str | None, ...]


def changes(before: Mapping[str, bytes] | None, after: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """An entry an artifact; `before` None where it is not known, then contents alone are told.

    A "database" has `tables`: columns, rows `added` and `removed`, rows `changed` (both versions of
    one key) and how many stayed the `same`. A "text" has `lines`: (" ", "+" or "-", text). "bytes"
    have their size only.
    """
    names = dict.fromkeys([*after, *(before or {})])
    return [_one(n, None if before is None else before.get(n, b""), after.get(n)) for n in names]


def _one(name: str, before: bytes | None, after: bytes | None) -> dict[str, Any]:
    data = after or b""
    out: dict[str, Any] = {"name": name, "bytes": len(data), "compared": before is not None}
    if after is None:
        return {**out, "kind": "gone"}
    if max(len(data), len(before or b"")) > MAX_BYTES:
        return {**out, "kind": "bytes"}
    if data.startswith(_SQLITE):
        try:
            new, old = _tables(data), _tables(before) if before else None
        except (sqlite3.Error, ValueError, OverflowError):
            return {**out, "kind": "bytes"}
        return {**out, "kind": "database", "tables": _compared(old, new)}
    lines = _lines(data)
    if lines is None:
        return {**out, "kind": "bytes"}
    return {**out, "kind": "text", **_difference(_lines(before or b"") or [], lines, before)}


def _lines(data: bytes) -> list[str] | None:
    """Lines of a text, JSON with a line a value; None where it is no text."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    if "\x00" in text:
        return None
    if text[:1] in ("{", "[") and len(text) < 1_000_000:
        with contextlib.suppress(ValueError, RecursionError):
            text = json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    return text.splitlines()


def _difference(old: list[str], new: list[str], before: bytes | None) -> dict[str, Any]:
    """Lines that changed, with two around each; all of a text that nothing is compared with."""
    cut = max(len(old), len(new)) > LINES
    old, new = old[:LINES], new[:LINES]
    if before is None or old == new:
        told = [(" ", line[:CLIP]) for line in new[:SHOWN]]
        return {"lines": told, "cut": cut or len(new) > SHOWN}
    found = difflib.unified_diff(old, new, n=2, lineterm="")
    told = [(line[0], line[1 : CLIP + 1]) for line in list(found)[2:]]
    return {"lines": told[:LINES], "cut": cut or len(told) > LINES}


class _Table:
    """Columns, the places of the key among them, and rows as text."""

    def __init__(self, columns: list[str], key: list[int], rows: list[Row]) -> None:
        self.columns, self.key, self.rows = columns, key, rows

    def keyed(self) -> dict[Row, list[Row]]:
        """Rows by key, or by all they hold where there is none."""
        places = self.key or list(range(len(self.columns)))
        out: dict[Row, list[Row]] = {}
        for row in self.rows:
            out.setdefault(tuple(row[i] for i in places), []).append(row)
        return out


def _tables(data: bytes) -> dict[str, _Table]:
    """Every plain table. Raises sqlite3.Error where the bytes are broken or reading takes long."""
    until = time.monotonic() + SECONDS
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.execute("PRAGMA trusted_schema = OFF")
        db.text_factory = lambda raw: raw.decode("utf-8", "replace")
        db.deserialize(data)
        db.set_progress_handler(lambda: int(time.monotonic() > until), 10_000)
        asked = "SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name"
        named = [(str(name), str(sql)) for name, sql in db.execute(asked).fetchmany(SHOWN)]
        plain = [n for n, sql in named if not sql.upper().startswith("CREATE VIRTUAL")]
        return {name: _table(db, name) for name in plain}


def _table(db: sqlite3.Connection, name: str) -> _Table:
    quoted = '"' + name.replace('"', '""') + '"'
    described = db.execute(f"PRAGMA table_info({quoted})").fetchall()
    columns = [str(row[1]) for row in described]
    key = [i for i, row in enumerate(described) if row[5]]
    order = ", ".join(str(i + 1) for i in range(len(columns))) or "1"
    rows = db.execute(f"SELECT * FROM {quoted} ORDER BY {order}").fetchmany(ROWS)
    return _Table(columns, key, [tuple(map(_cell, row)) for row in rows])


def _cell(value: Any) -> str | None:
    if value is None:
        return None
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= CLIP else text[:CLIP] + "…"


def _compared(old: Mapping[str, _Table] | None, new: Mapping[str, _Table]) -> list[dict[str, Any]]:
    """Each table's difference, those that changed first."""
    out = []
    for name in dict.fromkeys([*new, *(old or {})]):
        none = _Table([], [], [])
        now = new.get(name, none)
        was = now if old is None else old.get(name, none)
        found = _rows(was, now)
        entry = {"table": name, "columns": now.columns or was.columns, **found}
        if old is None:
            entry["rows"] = now.rows[:SHOWN]
        out.append(entry)
    changed = ("added", "removed", "changed")
    return sorted(out, key=lambda entry: not any(entry[kind] for kind in changed))


def _rows(was: _Table, now: _Table) -> dict[str, Any]:
    left, right = was.keyed(), now.keyed()
    out: dict[str, Any] = {"added": [], "removed": [], "changed": [], "same": 0}
    for key in dict.fromkeys([*left, *right]):
        a, b = left.get(key, []), right.get(key, [])
        pairs = zip(a, b, strict=False)
        alike = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        out["same"] += alike
        if len(a) == len(b) == 1 and not alike:
            out["changed"].append([a[0], b[0]])
        else:
            out["removed"] += a[alike:]
            out["added"] += b[alike:]
    for kind in ("added", "removed", "changed"):
        out[kind] = out[kind][:SHOWN]
    return out
