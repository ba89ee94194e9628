"""The scripted customer: a small state machine that answers by keyword, and leaves at the end.

`Customer(scene).hear("Who are you?", verified=False)` -> ("I am Ana, 417.", "other").
"""

from __future__ import annotations

import re
from collections.abc import Set

from puna.envs.shop.scene import Request, Scene

PATIENCE = 3  # fruitless speeches and failed calls after which the customer leaves
_WHO = re.compile(r"\b(who|name|identi\w*|verif\w*|customer number|your number)\b", re.I)
_WHICH = re.compile(r"\b(which|what order|order number|order id)\b", re.I)
_ASKS = re.compile(r"\?|\bconfirm", re.I)
_NUMBER = re.compile(r"(?<!\w)\d{3}(?!\w)")


class Customer:
    """Says one request after the other; `at` is the open one."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.lines = scene, dict(scene.lines)
        self.at = 0
        self.patience = PATIENCE
        self.told: set[tuple[str, int]] = set()  # what was asked already, and at which request

    def sees(self, settled: Set[int]) -> bool:
        """Whether the open request is settled: something was written or refused on its order."""
        return self.scene.requests[self.at].order in settled

    def next_request(self) -> tuple[str | None, str]:
        """The next request, or None where there is none and the customer leaves; and its kind."""
        self.at += 1
        if self.at == len(self.scene.requests):
            return None, "left"
        return f"{self.lines['also']} {self.scene.requests[self.at].opening}", "other"

    def hear(self, text: str, verified: bool) -> tuple[str | None, str]:
        """The answer to what the agent said (None: the customer left), and its kind.

        Kind is "yes" where the customer agreed to what was asked, else "left" or "other".
        """
        requests = self.scene.requests
        asked = text[:2000]
        if _ASKS.search(asked) and (verified or not _WHO.search(asked)):
            named = {int(n) for n in _NUMBER.findall(asked)} - {self.scene.number}
            if named:
                agrees = self._agrees(asked, named, requests[self.at])
                return self.lines["yes" if agrees else "no"], "yes" if agrees else "other"
        wanted = {"who": _WHO.search(asked), "which": _WHICH.search(asked)}
        told = {"who": self.lines["who"], "which": requests[self.at].which}
        named_now = [what for what, found in wanted.items() if found]
        fresh = {(what, self.at if what == "which" else 0) for what in named_now} - self.told
        self.told |= fresh
        if not fresh and not self.bears():
            return None, "left"
        if named_now:
            return " ".join(told[what] for what in named_now), "other"
        return self.lines["what" if _ASKS.search(asked) else "go on"], "other"

    def bears(self) -> bool:
        """Whether the customer bears one more fruitless thing; if not, they leave."""
        self.patience -= 1
        return self.patience > 0

    def _agrees(self, asked: str, named: Set[int], request: Request) -> bool:
        """Whether a question about the orders `named` is about this request and no other item."""
        items = {int(n) for n in re.findall(r"(?<!\w)\d{2}(?!\w)", asked)}
        item = dict(request.arguments).get("item")
        wrong = request.tool == "swap" and bool(items) and item not in items
        return named == {request.order} and not wrong
