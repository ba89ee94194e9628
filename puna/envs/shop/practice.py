"""Practice at the desk: tools called at random on random databases, without customer or policy.

`practice(stream(0, "shop", "practice", 5), small=False)` is a conversation whose other side only
names numbers, names and words in any order. It teaches what a tool is called with and what it
answers, and nothing of which call is right: what a clerk learns from the manual, before the first
customer.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from puna.core.messages import Message, ToolCall
from puna.envs.shop import database
from puna.envs.shop.database import METHODS, STREETS
from puna.envs.shop.phrases import INTENTS
from puna.envs.shop.scene import draw
from puna.envs.shop.tools import TOOLBOX, Desk

WORDS = [
    "please",
    "now",
    "it",
    "that",
    "the",
    "order",
    "item",
    "my",
    "for",
    "is",
    "new",
    "to",
    "here",
    "back",
    "want",
    "can",
    "you",
    "not",
    "this",
    "from",
    "could",
    "so",
    "need",
    "take",
    "stop",
    "send",
    "ship",
    "moved",
    "me",
    "us",
    "too",
    "late",
    "customer",
    "number",
    "name",
    "money",
    "refund",
    "return",
    "cancel",
    "swap",
    "exchange",
    "change",
    "address",
    "instead",
    "no",
    "longer",
    "get",
    "have",
    "do",
    "what",
    "with",
    "one",
    "mean",
    "go",
]
REASONS = ("owner", "pending", "shipped", "delivered", "late", "category", "stock", "method")
_NAMED, _LOOK, _REFUSE = 0.7, 0.5, 0.5


class _Drill:
    """One conversation being made."""

    def __init__(self, rng: np.random.Generator, small: bool) -> None:
        self.rng = rng
        self.scene = draw(rng, "train", 1, 0.5, small)
        self.desk = Desk(database.open_copy(database.template(), self.scene.rows))
        self.messages: list[Message] = []

    def some(self, values: Any) -> Any:
        """One of `values`."""
        return values[int(self.rng.integers(len(values)))]

    def note(self, *named: Any) -> Message:
        """What is named among a few words, in any order."""
        words = [*map(str, named), *(self.some(WORDS) for _ in range(self.rng.integers(2, 6)))]
        text = " ".join(words[i] for i in self.rng.permutation(len(words)))
        return Message.user(text[0].upper() + text[1:] + self.some((".", ".", "?", ":")))

    def ask(self, text: str, answer: Message) -> None:
        """Say something, and be answered."""
        self.messages += [Message.assistant(text), answer]

    def do(self, tool: str, **arguments: Any) -> None:
        """Call a tool."""
        text = json.dumps(arguments, separators=(",", ":"))
        call = ToolCall("call_0", tool, text)
        result = TOOLBOX.dispatch(call, self.desk)
        self.messages += [Message("assistant", (call,)), Message("tool", (result,))]

    def all(self) -> tuple[Message, ...]:
        """Name things, look some of them up, write something."""
        scene = self.scene
        orders = [row[0] for table, row in scene.rows if table == "orders"]
        items = [row[0] for table, row in scene.rows if table == "items"]
        order, tool = self.some(orders), self.some(INTENTS)
        extra: dict[str, Any] = {
            "cancel": {},
            "refund": {"to": self.some(METHODS)},
            "swap": {"item": self.some(items)},
            "address": {"to": f"{1 + int(self.rng.integers(99))} {self.some(STREETS)}"},
        }[tool]
        who, what = (scene.name, scene.number), (order, *extra.values())
        named = self.rng.random() < _NAMED
        self.messages.append(self.note(*(who if named else ()), *what))
        if not named:
            self.ask(self.some(("Who are you?", "Which order?")), self.note(*who))
        steps = ["verify", *(s for s in ("order", "item", "ask") if self.rng.random() < _LOOK)]
        for i in self.rng.permutation(len(steps)):
            if steps[i] == "verify":
                self.do("verify", name=scene.name, no=scene.number)
            elif steps[i] == "order":
                self.do("order", id=order)
            elif steps[i] == "item" and tool == "swap":
                self.do("item", id=extra["item"])
            elif steps[i] == "ask":
                self.ask(" ".join([tool, *map(str, what)]) + "?", self.note())
        if self.rng.random() < _REFUSE:
            self.do("refuse", id=order, why=self.some(REASONS))
        else:
            self.do(tool, id=order, **extra)
        self.desk.db.close()
        return (*self.messages, self.note())


def practice(rng: np.random.Generator, small: bool) -> tuple[Message, ...]:
    """One conversation at random."""
    return _Drill(rng, small).all()
