"""The shop's database: SQLite in memory, copied from a template for each episode.

`open_copy(template(), rows)` is a fresh database; `state_hash(db)` names what it holds.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

from puna.core.rng import stream

TODAY = date(2026, 3, 2)
CATEGORIES = ("bag", "hat", "coat", "lamp")
METHODS = ("card", "gift", "bank")
NAMES = (
    *("Ana", "Ben", "Cal", "Dan", "Eva", "Fay", "Gus", "Ida", "Jon", "Kim", "Leo", "Mia", "Ned"),
    *("Ola", "Pat", "Ray", "Sam", "Tom", "Una", "Vic", "Zoe", "Amy", "Bob", "Eli", "Joy", "Max"),
)
STREETS = ("Elm", "Oak", "Bay", "Hill", "Lake", "Park", "Mill", "Rose")

_SCHEMA = """
PRAGMA page_size = 512;
CREATE TABLE customers (no INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE items (id INTEGER PRIMARY KEY, category TEXT NOT NULL,
  stock INTEGER NOT NULL CHECK (stock >= 0));
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER NOT NULL REFERENCES customers,
  item INTEGER NOT NULL REFERENCES items, status TEXT NOT NULL, delivered TEXT,
  pay TEXT NOT NULL, address TEXT NOT NULL);
CREATE TABLE refunds (order_id INTEGER PRIMARY KEY REFERENCES orders, method TEXT NOT NULL);
CREATE TABLE refusals (order_id INTEGER NOT NULL REFERENCES orders, reason TEXT NOT NULL,
  PRIMARY KEY (order_id, reason));
"""
_TABLES = (
    "SELECT * FROM customers ORDER BY no",
    "SELECT * FROM items ORDER BY id",
    "SELECT * FROM orders ORDER BY id",
    "SELECT * FROM refunds ORDER BY order_id",
    "SELECT * FROM refusals ORDER BY order_id, reason",
)
_INSERTS = {
    "customers": "INSERT INTO customers VALUES (?, ?)",
    "items": "INSERT INTO items VALUES (?, ?, ?)",
    "orders": "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?)",
}

Row = tuple[str, tuple[Any, ...]]
"""A table's name and the values of one row of it."""

BACKGROUND = 20  # other customers in the template: their numbers and orders are below 200
BACKGROUND_ITEMS = range(10, 30)


@lru_cache(maxsize=1)
def template() -> bytes:
    """A database with other customers, their orders and some items, as bytes to copy."""
    rng = stream(0, "shop", "template")
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(_SCHEMA)
    rows: list[Row] = [
        ("items", (i, str(rng.choice(CATEGORIES)), int(rng.integers(0, 5))))
        for i in BACKGROUND_ITEMS
    ]
    numbers = rng.permutation(range(100, 200)).tolist()
    for i, no in enumerate(numbers[:BACKGROUND]):
        rows.append(("customers", (no, NAMES[i])))
        item = int(rng.integers(BACKGROUND_ITEMS.start, BACKGROUND_ITEMS.stop))
        days = int(rng.integers(1, 60))
        rows.append(("orders", order_row(numbers[BACKGROUND + i], no, item, days=days)))
    _insert(db, rows)
    data = db.serialize()
    db.close()
    return data


def order_row(
    order: int,
    customer: int,
    item: int,
    status: str = "delivered",
    days: int = 0,
    pay: str = "card",
    address: str = "1 Elm",
) -> tuple[Any, ...]:
    """Values of a row of `orders`; `days` since delivery count only for a delivered one."""
    delivered = str(TODAY - timedelta(days=days)) if status == "delivered" else None
    return (order, customer, item, status, delivered, pay, address)


def days_since(delivered: str) -> int:
    """Days from a date of the database to today."""
    return (TODAY - date.fromisoformat(delivered)).days


def open_copy(data: bytes, rows: Sequence[Row] = ()) -> sqlite3.Connection:
    """A private database in memory: a copy of `data` with `rows` added."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.deserialize(data)
    db.execute("PRAGMA foreign_keys = ON")
    _insert(db, rows)
    return db


def state_hash(db: sqlite3.Connection) -> str:
    """SHA-256 over all rows of all tables: equal states are equal whatever way led to them."""
    state = hashlib.sha256()
    for query in _TABLES:
        state.update(repr(db.execute(query).fetchall()).encode())
    return state.hexdigest()


def _insert(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    db.execute("BEGIN")
    for table, values in rows:
        db.execute(_INSERTS[table], values)
    db.execute("COMMIT")
