"""The shop's policy: what the agent is told, and the judgement of one call by the record.

`broken(desk, "cancel", {"id": 482}, asked="")` lists the rules that this call breaks.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from typing import Any

from puna.envs.shop.database import TODAY, days_since
from puna.envs.shop.tools import WRITES, Desk

RETURN_DAYS = 30
RULES = {
    "verify": "Verify the customer before you use any other tool.",
    "owner": "Look up and change only orders of the verified customer.",
    "confirm": "Before you cancel, refund, swap or change an address, ask the customer in one "
    "question that holds every argument of that call, and wait for yes. One yes allows one call.",
    "cancel-pending": "Cancel only orders that are pending.",
    "return-delivered": "Refund only orders that were delivered.",
    "return-window": f"Refund only within {RETURN_DAYS} days of delivery.",
    "refund-method": "Refund only to the method the order was paid by.",
    "exchange-category": "Swap only for an item of the same category.",
    "exchange-stock": "Swap only for an item in stock.",
    "address-pending": "Change an address only while the order is pending.",
    "refuse": "Record every request that these rules forbid with the tool refuse.",
    "refuse-reason": "Refuse nothing that they allow, and give the reason that is true: owner, "
    "the order's status, late, method, category or stock.",
}


def system_text() -> str:
    """The policy as the agent reads it."""
    rules = "\n".join(f"- {rule}" for rule in RULES.values())
    return (
        f"You serve the customers of a shop by its tools. Today is {TODAY}. Rules:\n{rules}\n"
        "The customer sees what you did or refused, and then may ask for more."
    )


def names_all(text: str, arguments: Mapping[str, Any]) -> bool:
    """Whether every argument's value stands in `text` as a word of its own."""
    return all(
        re.search(rf"(?<!\w){re.escape(str(v).casefold())}(?!\w)", text.casefold())
        for v in arguments.values()
    )


def reason(db: sqlite3.Connection, customer: int, tool: str, arguments: Mapping[str, Any]) -> str:
    """Why the policy forbids this write for this customer, as `refuse` takes it; "" if allowed."""
    found = _forbidding(db, customer, tool, arguments)
    return found[1] if found else ""


def broken(
    desk: Desk, tool: str, arguments: Mapping[str, Any], asked: str
) -> list[tuple[str, str]]:
    """(rule, what was done) for each rule that calling `tool` now breaks.

    `asked` is the question that the customer last said yes to and no write has used, or "".
    """
    if tool == "verify":
        return []
    if desk.verified is None:
        return [("verify", "before the customer was verified")]
    found = []
    if tool == "order" and _order(desk.db, arguments["id"])[0] != desk.verified:
        found.append(("owner", "the order is another customer's"))
    if tool in WRITES:
        forbidding = _forbidding(desk.db, desk.verified, tool, arguments)
        if forbidding:
            found.append((forbidding[0], f"the reason against it is {forbidding[1]}"))
        if not asked or not names_all(asked, arguments):
            found.append(("confirm", "the customer did not say yes to just that"))
    return found


def _order(db: sqlite3.Connection, order: int) -> tuple[Any, ...]:
    query = (
        "SELECT o.customer, o.status, o.delivered, o.pay, i.category FROM orders o "
        "JOIN items i ON i.id = o.item WHERE o.id = ?"
    )
    row: tuple[Any, ...] = db.execute(query, (order,)).fetchone()
    return row


def _forbidding(
    db: sqlite3.Connection, customer: int, tool: str, arguments: Mapping[str, Any]
) -> tuple[str, str] | None:
    """(rule, reason) of the first rule against a write."""
    owner, status, delivered, pay, category = _order(db, arguments["id"])
    if owner != customer:
        return "owner", "owner"
    match tool:
        case "cancel" if status != "pending":
            return "cancel-pending", status
        case "address" if status != "pending":
            return "address-pending", status
        case "refund":
            if status != "delivered":
                return "return-delivered", status
            if days_since(delivered) > RETURN_DAYS:
                return "return-window", "late"
            if arguments["to"] != pay:
                return "refund-method", "method"
        case "swap":
            query = "SELECT category, stock FROM items WHERE id = ?"
            new, stock = db.execute(query, (arguments["item"],)).fetchone()
            if new != category:
                return "exchange-category", "category"
            if not stock:
                return "exchange-stock", "stock"
    return None
