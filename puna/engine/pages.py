"""Memory for keys and values, in pages of a fixed number of tokens that sequences may share.

`pages = Pages(config)`; `held = Held()`; `pages.extend(held, 300)` makes room for 300 tokens.
Layers of one kind (local, global) have their pages in common: local layers need those of the
current attention chunk only, and past ones are given back.
Shapes: P pages, K key heads, S tokens of a page, D head width.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from puna.models.config import ModelConfig

SIZE = 256  # tokens of a page, where no chunk asks for less
SPARE = 8  # a pool grows by an eighth at least


class Page:
    """A place in a pool, and how many hold it: one that is held twice is never written."""

    __slots__ = ("holders", "id")

    def __init__(self, place: int) -> None:
        self.id, self.holders = place, 1


@dataclass(eq=False)
class Held:
    """What a sequence has in the cache: `length` tokens, in pages by kind of layer.

    Page `i` of a list holds tokens from `i * S` on; None where no token to come will see it. What
    stands behind the tokens is room for others. Local layers have none before page `past`.
    """

    length: int = 0
    past: int = 0
    pages: dict[bool, list[Page | None]] = field(default_factory=lambda: {True: [], False: []})


class Pool:
    """The pages of all layers of one kind, [P, K, S, D] keys and values of each layer.

    Behind the last page lies one slot more, where padding goes. `moves` counts how often pages
    that somebody holds changed their places.
    """

    def __init__(
        self, layers: int, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.layers, self.shape, self.count, self.moves = layers, shape, 0, 0
        self._like = torch.empty(0, dtype=dtype, device=device)
        self._free: list[int] = []
        self._at: list[Page | None] = []
        self._flat: list[tuple[Tensor, Tensor]] = []
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.grow(0)

    @property
    def page_bytes(self) -> int:
        """What one page takes, keys and values of all layers."""
        heads, size, width = self.shape
        return 2 * self.layers * heads * size * width * self._like.element_size()

    @property
    def bytes(self) -> int:
        """What the pool takes."""
        return sum(t.numel() * t.element_size() for pair in self._flat for t in pair)

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    @property
    def waste(self) -> int:
        """The flat place that holds nothing."""
        heads, size, _ = self.shape
        return self.count * heads * size

    def flat(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer by their flat places, [P * K * S + 1, D]."""
        return self._flat[layer]

    def grow(self, count: int) -> None:
        """Have `count` pages, which must be at least as many as now."""
        heads, size, width = self.shape
        slots = count * heads * size
        for layer in range(self.layers):
            # Zeros, not empty: unwritten slots are read under a mask, and 0 * NaN would be NaN.
            made = tuple(self._like.new_zeros(slots + 1, width) for _ in range(2))
            if self.count:
                for new, old in zip(made, self._flat[layer], strict=True):
                    new[: old.shape[0] - 1] = old[:-1]
            self._flat[layer : layer + 1] = [(made[0], made[1])]
            for views, flat in zip((self.keys, self.values), made, strict=True):
                views[layer : layer + 1] = [flat[:slots].view(count, heads, size, width)]
        for place in range(self.count, count):
            heapq.heappush(self._free, place)
            self._at.append(None)
        self.count = count

    def take(self) -> Page:
        """The free page with the lowest place."""
        page = Page(heapq.heappop(self._free))
        self._at[page.id] = page
        return page

    def give(self, page: Page) -> None:
        """Hold it no longer."""
        page.holders -= 1
        if not page.holders:
            self._at[page.id] = None
            heapq.heappush(self._free, page.id)

    def write(self, layer: int, index: Tensor, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        """Keep new keys and values of a layer at flat places [B * K * T]."""
        keys, values = self._flat[layer]
        width = self.shape[2]
        keys.index_copy_(0, index, k_BKTD.reshape(-1, width))
        values.index_copy_(0, index, v_BKTD.reshape(-1, width))

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Pages `targets` become as `sources` are now."""
        device = self._like.device
        at, to = torch.tensor(sources, device=device), torch.tensor(targets, device=device)
        for views in (self.keys, self.values):
            for layer in views:
                layer[to] = layer[at]

    def arrange(self, pages: Sequence[Page]) -> None:
        """Put these pages first, in this order; whatever lies there changes places with them."""
        at = list(range(self.count))  # what place holds which old page
        where = list(range(self.count))
        for place, page in enumerate(pages):
            old = page.id
            now, other = where[old], at[place]
            at[place], at[now] = old, other
            where[old], where[other] = place, now
        moves = {place: old for place, old in enumerate(at) if place != old}
        if not moves:
            return
        self.moves += 1
        self.copy(list(moves.values()), list(moves))
        before = list(self._at)
        for place, old in moves.items():
            page_there = before[old]
            self._at[place] = page_there
            if page_there is not None:
                page_there.id = place
        self._free = [place for place, held in enumerate(self._at) if held is None]
        heapq.heapify(self._free)


class Pages:
    """The pools of a model, and the sequences' share of them.

    `limit`: bytes that all pages together may take, None for no limit. The page size divides the
    attention chunk, so that no page belongs to two.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        size: int = SIZE,
        limit: int | None = None,
    ) -> None:
        self.config, self.limit = config, limit
        self.chunk = config.attention_chunk
        self.size = size if self.chunk is None else divisor(self.chunk, size)
        local = [config.is_local(i) for i in range(config.num_layers)]
        self.layers = [(kind, local[:i].count(kind)) for i, kind in enumerate(local)]
        shape = (config.num_kv_heads, self.size, config.head_dim)
        self.pools = {
            kind: Pool(local.count(kind), shape, dtype, torch.device(device))
            for kind in sorted(set(local))
        }

    @property
    def bytes(self) -> int:
        """Memory of all pools."""
        return sum(pool.bytes for pool in self.pools.values())

    @property
    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Another one where pages lie elsewhere than before, so that plans over them are void."""
        return tuple((pool.count, pool.moves) for pool in self.pools.values())

    @property
    def used(self) -> int:
        """Bytes of the pages that somebody holds."""
        return sum((p.count - p.free) * p.page_bytes for p in self.pools.values())

    def needed(self, length: int) -> int:
        """Bytes that a sequence of so many tokens takes, at its most."""
        return sum(len(self._wanted(k, 0, length)) * p.page_bytes for k, p in self.pools.items())

    def expect(self, lengths: Sequence[int]) -> None:
        """Grow once for sequences of so many tokens that are about to come, as far as it goes."""
        counts = {k: sum(len(self._wanted(k, 0, n)) for n in lengths) for k in self.pools}
        self._room(counts)

    def extend(self, held: Held, length: int) -> bool:
        """Room for tokens `held.length` to `length`; False, and nothing done, where there is none.

        Pages of past chunks become room further on, or are given back. So whoever asked at once
        for all of a long prompt finds room for one piece of it after the other, if none but the
        first runs over a chunk's end.
        """
        missing: dict[bool, list[int]] = {}
        for kind in self.pools:
            self._forget(kind, held)
            own = held.pages[kind]
            wanted = self._wanted(kind, held.length, length)
            missing[kind] = [i for i in wanted if i >= len(own) or own[i] is None]
            later = [i for i in range(wanted.stop, len(own)) if own[i] is not None]
            for to, place in zip(list(missing[kind]), later, strict=False):
                own[to], own[place] = own[place], None
                missing[kind].remove(to)
        if not self._room({kind: len(places) for kind, places in missing.items()}):
            return False
        for kind, places in missing.items():
            own = held.pages[kind]
            for i in places:
                own.extend([None] * (i + 1 - len(own)))
                own[i] = self.pools[kind].take()
        return True

    def release(self, held: Held) -> None:
        """Give all its pages back."""
        for kind, pool in self.pools.items():
            for page in held.pages[kind]:
                if page is not None:
                    pool.give(page)
            held.pages[kind] = []
        held.length = held.past = 0

    def fork(
        self, held: Sequence[Held], lengths: Sequence[int], share: bool = True
    ) -> list[Held] | None:
        """Sequences that begin with the first `lengths` tokens of these.

        Full pages are shared, the last one is copied; without `share` all are. None, and nothing
        done, where there is no room. What a local layer has of a past chunk is gone: `lengths` must
        be in the current one.
        """
        pieces = {
            kind: [h.pages[kind][: -(-n // self.size)] for h, n in zip(held, lengths, strict=True)]
            for kind in self.pools
        }
        shared = [n // self.size if share else 0 for n in lengths]
        copied = {
            kind: sum(p is not None for row, n in zip(rows, shared, strict=True) for p in row[n:])
            for kind, rows in pieces.items()
        }
        if not self._room(copied):
            return None
        made = [Held(length=n) for n in lengths]
        for kind, pool in self.pools.items():
            sources, targets = [], []
            for new, row, full in zip(made, pieces[kind], shared, strict=True):
                for place, old in enumerate(row):
                    page = old
                    if old is not None and place < full:
                        old.holders += 1
                    elif old is not None:
                        page = pool.take()
                        sources.append(old.id)
                        targets.append(page.id)
                    new.pages[kind].append(page)
            if sources:
                pool.copy(sources, targets)
        return made

    def _wanted(self, kind: bool, start: int, end: int) -> range:
        """Which pages of a layer tokens `start` to `end` go to: local layers need a chunk's."""
        first, last = start // self.size, -(-end // self.size)
        if kind and self.chunk is not None:
            first = max(first, last - self.chunk // self.size)
        return range(first, last)

    def _forget(self, kind: bool, held: Held) -> None:
        if not kind or self.chunk is None:
            return
        own = held.pages[kind]
        gone = min(held.length // self.chunk * self.chunk // self.size, len(own))
        before = [page for page in own[held.past : gone] if page is not None]
        if not before:
            return
        own[:gone] = [None] * gone
        held.past = gone
        later = [i for i in range(gone, len(own)) if own[i] is None]
        for page in before:
            if later and page.holders == 1:
                own[later.pop()] = page
            else:
                self.pools[kind].give(page)

    def _room(self, counts: dict[bool, int]) -> bool:
        """Whether there are so many free pages of each kind, after growing within the limit."""
        lacking = {k: n - self.pools[k].free for k, n in counts.items() if n > self.pools[k].free}
        if not lacking:
            return True
        least = sum(n * self.pools[k].page_bytes for k, n in lacking.items())
        taken = sum(p.count * p.page_bytes for p in self.pools.values())
        left = None if self.limit is None else self.limit - taken
        if left is not None and least > left:
            return False
        for kind, count in lacking.items():
            pool = self.pools[kind]
            more = max(count, pool.count // SPARE)
            if left is not None:
                left -= count * pool.page_bytes
                more = count + min(more - count, left // pool.page_bytes // len(lacking))
                left -= (more - count) * pool.page_bytes
            pool.grow(pool.count + more)
        return True


def divisor(chunk: int, most: int) -> int:
    """The largest divisor of `chunk` that is at most `most`."""
    return next(n for n in range(min(chunk, most), 0, -1) if chunk % n == 0)
