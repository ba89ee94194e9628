"""Requests to the engine, and how far each has come.

`Request(ids, SamplingParams(), ("demo",))`; the engine makes a `Running` of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from puna.core.rng import Key, stream
from puna.engine.kept import Conversation
from puna.engine.pages import Held
from puna.engine.policy import Completion, SamplingParams
from puna.engine.stopping import Stopping
from puna.text.images import Picture

Prompt = tuple[tuple[int, ...], tuple[Picture, ...]]


@dataclass(frozen=True)
class Request:
    """One prompt to continue, with its images; `key` names the random stream of its draws.

    What a `conversation` holds in the cache is kept for its next turn, until it is forgotten.
    """

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    key: tuple[Key, ...]
    pictures: tuple[Picture, ...] = ()
    conversation: Conversation | None = None

    @property
    def prompt(self) -> Prompt:
        """What is computed once for all requests that share it."""
        return self.prompt_ids, self.pictures

    @property
    def place(self) -> tuple[int, tuple[int, ...], tuple[str, ...]]:
        """Where it stands among others; keys as text, since they may mix numbers and names."""
        return len(self.prompt_ids), self.prompt_ids, tuple(map(str, self.key))


@dataclass(eq=False)
class Running:
    """A request on its way: what was drawn, what the cache holds of it, how it ended.

    `finish` is "" while it runs, then "stop", "length" or "cancelled". `followers` have the same
    prompt and wait for it to be read. `pledged` are bytes of pages it may count on;
    `turn` counts who began before.
    """

    request: Request
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    finish: str = ""
    cancelled: bool = False
    held: Held = field(default_factory=Held)
    followers: list[Running] = field(default_factory=list)
    routes: list[np.ndarray[Any, Any]] = field(default_factory=list)
    changes: list[tuple[int, int]] = field(default_factory=list)
    matcher: Any = None
    stopping: Stopping | None = None
    pledged: int = 0
    turn: int = 0
    _draws: np.ndarray[Any, Any] | None = None

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prompt and what was drawn: all that has to be read before the next token."""
        return (*self.request.prompt_ids, *self.ids)

    @property
    def length(self) -> int:
        """How many `tokens` there are."""
        return len(self.request.prompt_ids) + len(self.ids)

    @property
    def longest(self) -> int:
        """How many there may be."""
        return len(self.request.prompt_ids) + self.request.params.max_tokens

    def draws(self, seed: int, count: int, ahead: int = 0) -> np.ndarray[Any, Any]:
        """The next `count` uniforms of its stream, after `ahead` that are being used.

        Those at the same places are always the same.
        """
        if self._draws is None:
            longest = self.request.params.max_tokens
            self._draws = stream(seed, *self.request.key).random(longest, dtype=np.float32)
        start = len(self.ids) + ahead
        found = self._draws[start : start + count]
        return np.pad(found, (0, count - len(found)))

    def hear(self, token: int, logprob: float, stops: Sequence[int]) -> bool:
        """Take a drawn token; whether it was the last.

        A grammar that gave up allows the end only: what it ends is cut off, not complete.
        """
        self.ids.append(token)
        self.logprobs.append(logprob)
        if token in stops:
            cut = self.matcher is not None and self.matcher.failed
            self.finish = "length" if cut else "stop"
        elif self.stopping is not None and self.stopping.hear(token):
            self.finish = "stop"
        elif len(self.ids) >= self.request.params.max_tokens:
            self.finish = "length"
        return bool(self.finish)

    def completion(self) -> Completion:
        """What came of it."""
        ends = [at for at, _ in self.changes[1:]] + [len(self.ids)]
        versions: list[int] = []
        for (_, version), end in zip(self.changes, ends, strict=True):
            versions += [version] * (end - len(versions))
        routes = np.concatenate(self.routes)[: self.length - 1] if self.routes else None
        return Completion(
            tuple(self.ids), tuple(self.logprobs), self.changes[0][1], self.finish, routes,
            tuple(versions), tuple(self.top),
        )  # fmt: skip


def nobody() -> Running:
    """A row that ended before it began, to fill a place."""
    return Running(Request((0,), SamplingParams(1), ()), finish="cancelled")
