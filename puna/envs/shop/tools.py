"""What the agent can do: tools over the database. They keep it sound; policy is not theirs.

`TOOLBOX.dispatch(ToolCall("call_0", "order", '{"id": 482}'), Desk(db))`.
"""

from __future__ import annotations

import sqlite3
from typing import Annotated, Any, Literal

from puna.envs.shop.database import days_since
from puna.gym.tools import Toolbox, ToolError

Order = Annotated[int, "order number"]
Method = Literal["card", "gift", "bank"]
Reason = Literal["owner", "pending", "shipped", "delivered", "late", "category", "stock", "method"]
WRITES = ("cancel", "refund", "swap", "address")


class Desk:
    """The tools at work on one database; `verified` is the customer who was identified."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.verified: int | None = None

    def verify(
        self, name: Annotated[str, "first name"], no: Annotated[int, "customer number"]
    ) -> str:
        """Verify who the customer is. Gives the orders: number, status; once delivered also days
        since then, category, how it was paid."""
        found = self.db.execute("SELECT 1 FROM customers WHERE no = ? AND name = ?", (no, name))
        if found.fetchone() is None:
            raise ToolError("no such customer")
        self.verified = no
        return "\n".join(
            _line(row) for row in self.db.execute(f"{_ORDERS} WHERE o.customer = ?", (no,))
        )

    def order(self, id: Order) -> str:
        """Look one order up."""
        return _line(self._order(id))

    def item(self, id: Annotated[int, "item number"]) -> str:
        """Category of an item, and how many are in stock."""
        row = self.db.execute("SELECT category, stock FROM items WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise ToolError("no such item")
        return f"{row[0]} {row[1]}"

    def cancel(self, id: Order) -> str:
        """Cancel an order."""
        self._order(id)
        self.db.execute("UPDATE orders SET status = 'cancelled' WHERE id = ?", (id,))
        return "ok"

    def refund(self, id: Order, to: Method) -> str:
        """Take an order back and refund it."""
        self._order(id)
        if self.db.execute("SELECT 1 FROM refunds WHERE order_id = ?", (id,)).fetchone():
            raise ToolError("refunded already")
        self.db.execute("UPDATE orders SET status = 'returned' WHERE id = ?", (id,))
        self.db.execute("INSERT INTO refunds VALUES (?, ?)", (id, to))
        return "ok"

    def swap(self, id: Order, item: Annotated[int, "the new item's number"]) -> str:
        """Exchange the item of an order for another one."""
        self._order(id)
        self.item(item)
        self.db.execute("UPDATE orders SET item = ?, status = 'exchanged' WHERE id = ?", (item, id))
        return "ok"

    def address(self, id: Order, to: Annotated[str, "the new address"]) -> str:
        """Change where an order is sent."""
        self._order(id)
        if not 0 < len(to) <= 100:
            raise ToolError("an address has 1 to 100 characters")
        self.db.execute("UPDATE orders SET address = ? WHERE id = ?", (to, id))
        return "ok"

    def refuse(self, id: Order, why: Reason) -> str:
        """Record that a request about an order is refused, and why: the order is not the
        customer's (owner), its status forbids it (pending, shipped, delivered), it came too late,
        category or stock forbid it, or the refund is asked to another method."""
        self._order(id)
        known = "SELECT 1 FROM refusals WHERE order_id = ? AND reason = ?"
        if self.db.execute(known, (id, why)).fetchone():
            raise ToolError("recorded already")
        self.db.execute("INSERT INTO refusals VALUES (?, ?)", (id, why))
        return "ok"

    def _order(self, id: int) -> tuple[Any, ...]:
        row = self.db.execute(f"{_ORDERS} WHERE o.id = ?", (id,)).fetchone()
        if row is None:
            raise ToolError("no such order")
        found: tuple[Any, ...] = row
        return found


_ORDERS = (
    "SELECT o.id, o.status, o.delivered, i.category, o.pay "
    "FROM orders o JOIN items i ON i.id = o.item"
)


def _line(row: tuple[Any, ...]) -> str:
    number, status, delivered, category, pay = row
    if delivered is None:
        return f"{number} {status}"
    return f"{number} {status} {days_since(delivered)} {category} {pay}"


TOOLBOX = Toolbox(
    *(Desk.verify, Desk.order, Desk.item),
    *(Desk.cancel, Desk.refund, Desk.swap, Desk.address, Desk.refuse),
)
