"""Sequences that are done, whose keys a later request may begin with.

`kept.add(held, ids)`; `kept.find(ids)` -> a sequence that begins with as much of `ids` as is known.
A conversation's last turn is found by its name and taken over as it stands; anybody else shares
full pages and gets a copy of the last one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from puna.engine.pages import Held, Page, Pages

LIMIT = 256 << 20  # bytes
LEAST = 16  # tokens: fewer are sooner read again than looked for

Conversation = tuple[str, str]
"""An episode's name and a role in it."""


@dataclass(eq=False)
class Entry:
    """A sequence that is done: its tokens, where their keys are, the experts they took."""

    ids: tuple[int, ...]
    held: Held
    routes: np.ndarray[Any, Any] | None
    conversation: Conversation | None
    marks: list[int] = field(default_factory=list)


class Kept:
    """What sequences left behind, the least used given up first.

    With `common` any request may begin with them; else only the conversation that they belong to,
    since the weights may have changed in place.
    """

    def __init__(self, pages: Pages, common: bool, limit: int = LIMIT) -> None:
        self.pages, self.common, self.limit = pages, common, limit
        self._entries: dict[int, Entry] = {}  # the least used first
        self._named: dict[Conversation, Entry] = {}
        self._marked: dict[int, Entry] = {}
        self._pages: dict[bool, Counter[Page]] = {kind: Counter() for kind in pages.pools}

    @property
    def bytes(self) -> int:
        """Memory of the pages of all entries; those that are shared count once."""
        pools = self.pages.pools
        return sum(len(held) * pools[kind].page_bytes for kind, held in self._pages.items())

    def add(
        self,
        held: Held,
        ids: tuple[int, ...],
        routes: np.ndarray[Any, Any] | None = None,
        conversation: Conversation | None = None,
    ) -> None:
        """Keep a sequence of `held.length` tokens, or give it back where it serves nobody."""
        ids = ids[: held.length]
        if not self.common and conversation is None:
            self.pages.release(held)
            return
        entry = Entry(ids, held, None if routes is None else routes[: len(ids)], conversation)
        self._entries[id(entry)] = entry
        self._count(entry, 1)
        if conversation is not None:
            old = self._named.pop(conversation, None)
            if old is not None:
                self._drop(old)
            self._named[conversation] = entry
        if self.common:
            for mark in self._marks(ids):
                entry.marks.append(mark)
                self._marked[mark] = entry
        while self.bytes > self.limit:
            self.give_up()

    def find(
        self, ids: Sequence[int], conversation: Conversation | None = None
    ) -> tuple[Held, np.ndarray[Any, Any] | None] | None:
        """A sequence of its own that holds the beginning of `ids`, and the experts it took.

        At least one token of `ids` is left to read.
        """
        ids = tuple(ids)
        entry = None if conversation is None else self._named.get(conversation)
        if entry is not None and len(entry.ids) < len(ids) and ids[: len(entry.ids)] == entry.ids:
            self._forget(entry)
            return entry.held, entry.routes
        if not self.common:
            return None
        for mark in reversed(list(self._marks(ids[:-1]))):
            entry = self._marked.get(mark)
            length = 0 if entry is None else _alike(entry.ids, ids[:-1])
            if entry is None or length < LEAST:
                continue
            length = self._usable(entry, length)
            if length < LEAST:
                continue
            self._entries[id(entry)] = self._entries.pop(id(entry))
            made = self.pages.fork([entry.held], [length])
            routes = None if entry.routes is None else entry.routes[:length]
            return None if made is None else (made[0], routes)
        return None

    def give_up(self) -> bool:
        """Let go of the least used; False where there is nothing."""
        for entry in self._entries.values():
            self._drop(entry)
            return True
        return False

    def forget(self, episode: str | None = None) -> None:
        """Let go of an episode's conversations, or of all there is."""
        entries = list(self._entries.values())
        for entry in entries:
            if episode is None or (entry.conversation and entry.conversation[0] == episode):
                self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        self._forget(entry)
        self.pages.release(entry.held)

    def _count(self, entry: Entry, by: int) -> None:
        for kind, held in self._pages.items():
            for page in entry.held.pages[kind]:
                if page is not None:
                    held[page] += by
                    if not held[page]:
                        del held[page]

    def _forget(self, entry: Entry) -> None:
        del self._entries[id(entry)]
        self._count(entry, -1)
        if entry.conversation is not None and self._named.get(entry.conversation) is entry:
            del self._named[entry.conversation]
        for mark in entry.marks:
            if self._marked.get(mark) is entry:
                del self._marked[mark]

    def _marks(self, ids: Sequence[int]) -> Iterator[int]:
        """Names of the beginnings that are looked for: a few tokens, then page after page."""
        mark = 0
        ends = [LEAST, *range(self.pages.size, len(ids) + 1, self.pages.size)]
        start = 0
        for end in ends:
            if len(ids) >= end > start:
                mark = hash((mark, tuple(ids[start:end])))
                start = end
                yield mark

    def _usable(self, entry: Entry, length: int) -> int:
        """How much of the beginning can be used: local layers lack what past chunks held."""
        chunk = self.pages.chunk
        if chunk is None or True not in self.pages.pools:
            return length
        own = entry.held.pages[True]
        first = length // chunk * chunk // self.pages.size
        last = -(-length // self.pages.size)
        there = all(i < len(own) and own[i] is not None for i in range(first, last))
        return length if there else length // chunk * chunk


def _alike(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many tokens both begin with."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
