"""A scene: one customer, what they want, what they say, and the rows that this adds to the shop.

`draw(stream(0, "shop", "train", 5), "train", 2, 0.4, small=False)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from puna.envs.shop.database import CATEGORIES, METHODS, NAMES, STREETS, Row, order_row
from puna.envs.shop.phrases import INTENTS, PAIRS, PHRASES
from puna.envs.shop.policy import RETURN_DAYS

REASONS = {  # why a request is forbidden, and how often
    "cancel": {"shipped": 0.4, "delivered": 0.4, "owner": 0.2},
    "address": {"shipped": 0.4, "delivered": 0.4, "owner": 0.2},
    "refund": {"pending": 0.15, "shipped": 0.15, "late": 0.3, "method": 0.2, "owner": 0.2},
    "swap": {"category": 0.4, "stock": 0.4, "owner": 0.2},
}
SMALL = 8
_TWO, _NO_NAME, _NO_ORDER, _METHOD = 0.67, 0.3, 0.2, 0.3


@dataclass(frozen=True)
class Request:
    """What the customer wants: the write `tool(**arguments)`, or its refusal because of `reason`.

    `opening` is how it is asked for; where that leaves the order out, `which` tells it.
    """

    tool: str
    arguments: tuple[tuple[str, Any], ...]
    reason: str
    opening: str
    which: str
    tells_order: bool

    @property
    def order(self) -> int:
        """The order's number."""
        return int(dict(self.arguments)["id"])


@dataclass(frozen=True)
class Scene:
    """All of an episode but the agent; `lines` are what the customer says besides requests."""

    name: str
    number: int
    requests: tuple[Request, ...]
    lines: tuple[tuple[str, str], ...]
    tells_name: bool
    foreign: int  # an order of somebody else
    rows: tuple[Row, ...]

    @property
    def opening(self) -> str:
        """The first thing the customer says."""
        return dict(self.lines)["opening"]


class _Draw:
    """One scene being drawn: who and what is free, and the rows so far."""

    def __init__(self, rng: np.random.Generator, split: str, forbidden: float, small: bool) -> None:
        self.rng, self.phrases, self.forbidden = rng, PHRASES[split], forbidden
        self.share = SMALL if small else 1
        # As in any shop, a number tells by itself what it is the number of.
        self.number, other = self.pool(range(200, 400))[:2]
        self.foreign, *self.free = self.pool(range(400, 1000))
        self.items = self.pool(range(30, 100))
        names = self.pool(NAMES)
        self.name = names[0]
        self.rows: list[Row] = [
            ("customers", (self.number, self.name)),
            ("customers", (other, names[1])),
        ]
        self.add_order(self.foreign, owner=other)

    def pool(self, values: Sequence[Any]) -> list[Any]:
        """The values that this shop has, shuffled."""
        return self.rng.permutation(np.array(values[: -(-len(values) // self.share)])).tolist()  # type: ignore[no-any-return]

    def some(self, values: Any) -> Any:
        """One of `values`."""
        return values[int(self.rng.integers(len(values)))]

    def say(self, key: str, **filled: Any) -> str:
        """A phrasing of this split, filled."""
        return str(self.some(self.phrases[key])).format(**filled)

    def add_order(self, order: int, owner: int, **told: Any) -> dict[str, Any]:
        """An order with what `told` says and the rest drawn; a new item too."""
        known = {
            "status": self.some(("pending", "shipped", "delivered", "delivered")),
            "days": 1 + int(self.rng.integers(2 * RETURN_DAYS)),
            "category": self.some(CATEGORIES),
            "pay": self.some(METHODS),
            **told,
        }
        item, address = self.items.pop(), self.street()
        self.rows.append(("items", (item, known["category"], int(self.rng.integers(5)))))
        values = (known["status"], known["days"], known["pay"], address)
        self.rows.append(("orders", order_row(order, owner, item, *values)))
        return known

    def street(self) -> str:
        """An address."""
        return f"{1 + int(self.rng.integers(99 // self.share))} {self.some(STREETS)}"

    def request(self, tool: str) -> Request:
        """A request with the order, and the item, that make it right or forbidden."""
        reason = ""
        if self.rng.random() < self.forbidden:
            kinds = REASONS[tool]
            reason = str(self.rng.choice(list(kinds), p=list(kinds.values())))
        order = self.foreign if reason == "owner" else self.free.pop()
        own = {"status": "pending" if tool in ("cancel", "address") else "delivered"}
        days = {"days": 1 + int(self.rng.integers(RETURN_DAYS))} if tool == "refund" else {}
        if reason in ("pending", "shipped", "delivered"):
            own["status"] = reason
        if reason == "late":
            days = {"days": RETURN_DAYS + 1 + int(self.rng.integers(RETURN_DAYS))}
        world = self.add_order(self.free.pop() if reason == "owner" else order, self.number,
                               **({} if reason == "owner" else {**own, **days}))  # fmt: skip
        extra = self.extra(tool, reason, world)
        tells = self.rng.random() >= _NO_ORDER
        named = self.say("order", o=order) if tells else self.say("no order")
        opening = self.say(tool, o=named, i=extra.get("item"), a=extra.get("to"))
        if tool == "refund" and (reason == "method" or self.rng.random() < _METHOD):
            opening += " " + self.say("method", m=extra["to"])
        opening = opening[0].upper() + opening[1:]
        arguments = (("id", order), *extra.items())
        return Request(tool, arguments, reason, opening, self.say("which", o=order), tells)

    def extra(self, tool: str, reason: str, world: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments besides the order."""
        match tool:
            case "address":
                return {"to": self.street()}
            case "refund":
                others = [m for m in METHODS if m != world["pay"]]
                return {"to": self.some(others) if reason == "method" else world["pay"]}
            case "swap":
                others = [c for c in CATEGORIES if c != world["category"]]
                category = self.some(others) if reason == "category" else world["category"]
                stock = 0 if reason == "stock" else 1 + int(self.rng.integers(9))
                item = self.items.pop()
                self.rows.append(("items", (item, category, stock)))
                return {"item": item}
        return {}


def draw(
    rng: np.random.Generator, split: str, intents: int, forbidden: float, small: bool
) -> Scene:
    """A scene of one or two requests (at most `intents`), each forbidden with that probability.

    A `small` shop has an eighth of the numbers and names.
    """
    made = _Draw(rng, split, forbidden, small)
    tools = [made.some(INTENTS)]
    if intents == 2 and rng.random() < _TWO:
        tools = rng.permutation(np.array(made.some(PAIRS[split]))).tolist()
    requests = tuple(made.request(str(tool)) for tool in tools)
    if len(requests) == 2 and requests[0].order == requests[1].order:  # both of somebody else's
        return draw(rng, split, intents, forbidden, small)
    if len(requests) == 1:
        made.add_order(made.free.pop(), made.number)
    identity = made.say("identity", n=made.name, c=made.number)
    parts = [requests[0].opening]
    tells_name = rng.random() >= _NO_NAME
    if tells_name:
        parts.insert(int(rng.integers(2)), identity)
    lines = {"opening": " ".join(parts), "who": identity}
    lines |= {key: made.say(key) for key in ("yes", "no", "what", "go on", "also")}
    rows = tuple(made.rows[i] for i in rng.permutation(len(made.rows)))
    rows = tuple(sorted(rows, key=lambda r: ("customers", "items", "orders").index(r[0])))
    return Scene(made.name, int(made.number), requests, tuple(lines.items()), bool(tells_name),
                 int(made.foreign), rows)  # fmt: skip
