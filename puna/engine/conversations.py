"""What conversations hold in the cache between their turns, so that a turn reads only what is new.

`held = conversations.find(("episode", "agent"), ids)` -> a row of an earlier batch that holds their
beginning. Whoever keeps a conversation forgets it at its end, or when the weights change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from puna.engine.cache import KVCache

KEPT = 256 << 20  # bytes

Conversation = tuple[str, str]
"""An episode's name and a role in it."""


@dataclass(frozen=True)
class Held:
    """A row of a cache that nobody writes to any more, and the tokens whose keys it holds."""

    ids: tuple[int, ...]
    cache: KVCache
    row: int


class Conversations:
    """What each conversation that goes on held last; a batch that does not fit is not kept."""

    def __init__(self, limit: int = KEPT) -> None:
        self.limit = limit
        self._held: dict[Conversation, Held] = {}

    @property
    def bytes(self) -> int:
        """Memory held; a batch's rows go together, when none of them is needed any more."""
        return sum({id(h.cache): h.cache.bytes for h in self._held.values()}.values())

    def find(self, name: Conversation | None, ids: Sequence[int]) -> Held | None:
        """What is held of this conversation where `ids` go on from it, else None."""
        held = None if name is None else self._held.get(name)
        if held is None or len(held.ids) >= len(ids):
            return None
        return held if tuple(ids[: len(held.ids)]) == held.ids else None

    def keep(
        self, cache: KVCache, rows: Iterable[tuple[Conversation | None, int, tuple[int, ...]]]
    ) -> None:
        """Hold a copy of some rows of `cache`: (conversation, row, its tokens) each."""
        named = [(name, row, ids) for name, row, ids in rows if name is not None]
        for name, _, _ in named:
            self._held.pop(name, None)
        if not named or self.bytes + cache.bytes_of(len(named)) > self.limit:
            return
        copied = cache.copy(torch.tensor([row for _, row, _ in named]))
        for place, (name, _, ids) in enumerate(named):
            self._held[name] = Held(ids, copied, place)

    def forget(self, episode: str | None = None) -> None:
        """Let go of an episode's conversations, or of all."""
        for name in [n for n in self._held if episode is None or n[0] == episode]:
            del self._held[name]


def worth(lengths: Sequence[int], found: Sequence[Held | None]) -> list[Held | None]:
    """`found`, if the longest row to read is at most half as long with it; else nothing.

    All rows of a batch are read in one pass, as wide as the longest; one that nobody knows makes it
    wide for all, and rows that begin at different places need a mask each.
    """
    left = max(n - (len(h.ids) if h else 0) for n, h in zip(lengths, found, strict=True))
    return list(found) if 2 * left <= max(lengths) else [None] * len(found)


def fill(cache: KVCache, found: Sequence[Held | None]) -> torch.Tensor:
    """Put into row i of `cache` what `found[i]` holds; how many tokens each row then has [B]."""
    batches: dict[int, list[tuple[int, Held]]] = {}
    for i, held in enumerate(found):
        if held is not None:
            batches.setdefault(id(held.cache), []).append((i, held))
    for rows in batches.values():
        used = max(len(held.ids) for _, held in rows)
        cache.adopt([i for i, _ in rows], rows[0][1].cache, [h.row for _, h in rows], used)
    return torch.tensor([0 if held is None else len(held.ids) for held in found])
