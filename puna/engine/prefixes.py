"""What conversations hold in the cache between their turns, so that a turn reads only what is new.

`prefixes.find(request, stamp)` -> the rows of an earlier batch that hold the request's beginning.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch

from puna.engine.cache import KVCache

KEPT = 256 << 20  # bytes


@dataclass(frozen=True)
class Held:
    """A row of a cache that nobody writes to any more, and the tokens whose keys it holds."""

    ids: tuple[int, ...]
    cache: KVCache
    row: int
    stamp: Hashable


class Prefixes:
    """The last conversations decoded, by name; the oldest batch goes where they take too much.

    `stamp` stands for the weights that computed the keys: others never read them.
    """

    def __init__(self, limit: int = KEPT) -> None:
        self.limit = limit
        self._batches: list[tuple[KVCache, list[Hashable]]] = []
        self._held: dict[Hashable, Held] = {}

    def find(self, name: Hashable, ids: Sequence[int], stamp: Hashable) -> Held | None:
        """What is held of conversation `name` where `ids` go on from it, else None."""
        held = self._held.get(name)
        if held is None or held.stamp != stamp or len(held.ids) >= len(ids):
            return None
        return held if tuple(ids[: len(held.ids)]) == held.ids else None

    def keep(
        self,
        cache: KVCache,
        rows: Iterable[tuple[Hashable, int, tuple[int, ...]]],
        stamp: Hashable,
    ) -> None:
        """Hold `rows` of `cache`, (name, row, its tokens) each; the cache is given away."""
        names: list[Hashable] = []
        for name, row, ids in rows:
            self._held[name] = Held(ids, cache, row, stamp)
            names.append(name)
        self._batches.append((cache, names))
        while sum(c.bytes for c, _ in self._batches) > self.limit:
            gone, names = self._batches.pop(0)
            for name in names:
                if name in self._held and self._held[name].cache is gone:
                    del self._held[name]


def fill(cache: KVCache, found: Sequence[Held | None]) -> torch.Tensor:
    """Put into row i of `cache` what `found[i]` holds; how many tokens each row then has [B]."""
    batches: dict[int, list[int]] = {}
    for i, held in enumerate(found):
        if held is not None:
            batches.setdefault(id(held.cache), []).append(i)
    for rows in batches.values():
        those = [held for i in rows if (held := found[i]) is not None]
        used = max(len(held.ids) for held in those)
        cache.adopt(rows, those[0].cache, [held.row for held in those], used)
    return torch.tensor([0 if held is None else len(held.ids) for held in found])
