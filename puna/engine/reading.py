"""Reading prompts into the cache: some rows and some tokens of each at a time.

`done, logits = Reader(model, pages, moe=False).read(rows)`: rows whose prompts are read whole, and
the logits [B, V] behind them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from puna.engine.cache import KVCache
from puna.engine.pages import Pages
from puna.engine.running import Running
from puna.models.decoder import Decoder
from puna.models.moe import Routes
from puna.models.vision import Seen

PREFILL = 2048  # tokens of a prompt at once
PASS = 16_384  # tokens of all prompts at once, with padding
PADDED = 1.5  # of them, to the tokens that are read
MASK = 1 << 24  # numbers in the masks of rows that begin at different places
ALIKE = 1 << 27  # in the one mask of rows that begin at the same


class Reader:
    """Chooses which prompts to go on with, and reads a piece of each.

    `even`: a page of one prompt at a time, padded to a whole one, whatever waits beside it.
    """

    def __init__(self, model: Decoder, pages: Pages, moe: bool, even: bool = False) -> None:
        self.model, self.pages, self.moe, self.even = model, pages, moe, even
        self.tokens = 0
        self._seen: tuple[Sequence[Running], Seen | None] = ([], None)

    def read(self, waiting: Sequence[Running]) -> tuple[list[Running], Tensor]:
        """One pass over some of the rows, whose pages must have room for all of their tokens."""
        rows = waiting[:1] if self.even else self._choose(waiting)
        starts = [r.held.length for r in rows]
        longest = max(r.length - s for r, s in zip(rows, starts, strict=True))
        width = self.pages.size if self.even else self._width(starts, min(PREFILL, longest))
        pieces = [r.tokens[s : s + width] for r, s in zip(rows, starts, strict=True)]
        counts = torch.tensor([len(p) for p in pieces])
        self.tokens += int(counts.sum())
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        for i, piece in enumerate(pieces):
            ids[i, : len(piece)] = torch.tensor(piece)
        ramp = torch.arange(width).expand(len(rows), width)
        valid = ramp < counts[:, None]
        positions = torch.tensor(starts)[:, None] + torch.where(valid, ramp, 0)
        device, model = self.model.device, self.model
        ids, positions = ids.to(device), positions.to(device)
        cache = KVCache(self.pages, [r.held for r in rows])
        cache.begin(positions, None if bool(valid.all()) else valid.to(device))
        routes = Routes(even=self.even) if self.moe else None
        seen = self._look(rows)
        seen = seen and seen.within(slice(starts[0], starts[0] + width))
        hidden = model(ids, positions, cache=cache, routes=routes, begun=True, images=seen)
        cache.sync()
        if routes is not None:
            taken = routes.recorded.cpu().numpy()
            for i, row in enumerate(rows):
                row.routes.append(taken[i, : len(pieces[i])])
        done = [i for i, r in enumerate(rows) if r.held.length == r.length]
        if len(done) == len(rows):
            self._seen = [], None
        last = hidden[done, (counts[done] - 1).to(device)]
        return [rows[i] for i in done], model.logits(last)

    def _choose(self, waiting: Sequence[Running]) -> list[Running]:
        """The first row and those that go well with it."""
        first = waiting[0]
        if first.request.pictures:
            alike = [
                r for r in waiting if r.request.pictures and r.held.length == first.held.length
            ]
        else:
            fresh = not first.held.length
            alike = [r for r in waiting if (not r.held.length) == fresh and not r.request.pictures]
        chosen: list[Running] = []
        real = width = 0
        for row in alike:
            left = min(PREFILL, row.length - row.held.length)
            wide = max(width, left)
            padded = wide * (len(chosen) + 1)
            if chosen and (padded > PASS or padded > PADDED * (real + left) + 64):
                break
            chosen.append(row)
            real, width = real + left, wide
        return chosen

    def _look(self, rows: Sequence[Running]) -> Seen | None:
        """What the rows show, once for all their pieces."""
        if self._seen[0] != rows:
            pictures = [(i, p) for i, r in enumerate(rows) for p in r.request.pictures]
            longest = max(r.length for r in rows)
            self._seen = rows, self.model.look((len(rows), longest), pictures)
        return self._seen[1]

    def _width(self, starts: Sequence[int], width: int) -> int:
        """Narrower where the masks over what the rows hold would be large, or a chunk ends."""
        if not any(starts):
            return width
        chunk = self.pages.chunk
        if chunk is not None:
            width = min(width, *(chunk - s % chunk for s in starts))
        longest = max(starts) + width
        most = ALIKE // longest if len(set(starts)) == 1 else MASK // (len(starts) * longest)
        return max(1, min(width, most))
