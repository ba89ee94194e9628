"""The rows that are decoded together, one token a step.

`batch = Batch(rows, pages, seed)`; `logits = batch.forward(model)`; `batch.draw(logits, stops)`.
A row that has ended stays for a while, computed on but kept nowhere: making a batch costs more.
Shapes: B rows, V vocabulary, L MoE layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puna.engine.cache import KVCache
from puna.engine.pages import Pages
from puna.engine.running import Running, nobody
from puna.engine.sampling import Drawing
from puna.models.moe import Routes

AHEAD = 64  # uniforms taken at once
ENDED = 8  # an eighth of the rows may have ended before a batch is made anew

Forward = Callable[[Tensor, Tensor, KVCache, Routes | None], Tensor]
"""(last ids [B], their positions [B], cache, routes or None) -> logits [B, V]."""


class Batch:
    """Rows in the order of their pages, so that each meets its own without a detour.

    With `places` there are always so many rows: nobody asked for some of them.
    """

    def __init__(
        self, rows: Sequence[Running], pages: Pages, seed: int, moe: bool, places: int = 0
    ) -> None:
        self.seed, self.moe, self.even = seed, moe, places > 0
        spare = max(0, places - len(rows))
        self.cache = KVCache(pages, [r.held for r in rows], spare, self.even)
        self.rows = rows = [*rows, *(nobody() for _ in range(spare))]
        device = self.device = next(iter(pages.pools.values())).keys[0].device
        self.drawing = Drawing([r.request.params for r in rows], device)
        self.positions = torch.tensor([r.held.length for r in rows], device=device)
        self.last_ids = torch.tensor([(r.ids or [0])[-1] for r in rows], device=device)
        self.moves = torch.tensor([0 if r.finish else 1 for r in rows], device=device)
        self.matchers = [r.matcher for r in rows]
        self._uniforms: Tensor | None = None
        self._age = 0

    @property
    def live(self) -> list[Running]:
        """Rows that have not ended."""
        return [r for r in self.rows if not r.finish]

    @property
    def sparse(self) -> bool:
        """Whether so many have ended that it pays to make a batch of the others."""
        return not self.even and (len(self.rows) - len(self.live)) * ENDED >= len(self.rows)

    def forward(self, model: Forward) -> Tensor:
        """Logits [B, V] behind every row's last token, which goes into the cache."""
        routes = Routes(even=self.even) if self.moe else None
        logits = model(self.last_ids, self.positions, self.cache, routes)
        self.positions += self.moves
        if routes is not None:
            taken = routes.recorded[:, 0].cpu().numpy()
            for row, experts in zip(self.rows, taken, strict=True):
                if not row.finish:
                    row.routes.append(experts[None])
        return logits

    def draw(self, logits: Tensor, stops: Sequence[int]) -> list[Running]:
        """Draw the next token of every row; the rows that ended with it, still in the cache."""
        uniforms = self._next_uniforms()
        self.last_ids, ended = draw(self.rows, self.matchers, self.drawing, logits, uniforms, stops)
        self.retire(ended)
        return ended

    def retire(self, rows: Sequence[Running]) -> None:
        """Keep nothing more of rows that have ended."""
        if rows:
            gone = [i for i, row in enumerate(self.rows) if row in rows]
            self.cache.retire(gone)
            self.moves[gone] = 0
            for i in gone:
                self.matchers[i] = None

    def _next_uniforms(self) -> Tensor:
        if self._uniforms is None or self._age == AHEAD:
            none = np.zeros(AHEAD, dtype=np.float32)
            found = [none if r.finish else r.draws(self.seed, AHEAD) for r in self.rows]
            self._uniforms = torch.from_numpy(np.stack(found, 1)).to(self.device)
            self._age = 0
        self._age += 1
        return self._uniforms[self._age - 1]


def draw(
    rows: Sequence[Running],
    matchers: Sequence[Any],
    drawing: Drawing,
    logits: Tensor,
    uniforms_B: Tensor,
    stops: Sequence[int],
) -> tuple[Tensor, list[Running]]:
    """The next token of every row that has not ended, [B]; the rows that ended with it."""
    if any(m is not None for m in matchers):
        from puna.engine.grammar import apply

        logits = apply(logits, matchers)
    token, logprob = drawing(logits, uniforms_B)
    if drawing.top:
        places, values = (x.tolist() for x in drawing.likeliest(logits))
    ended = []
    told = zip(token.tolist(), logprob.tolist(), strict=True)
    for i, (row, (chosen, value)) in enumerate(zip(rows, told, strict=True)):
        if row.finish:
            continue
        if row.request.params.top_logprobs:
            most = row.request.params.top_logprobs
            row.top.append(tuple(zip(places[i][:most], values[i][:most], strict=True)))
        if row.matcher is not None:
            row.matcher.accept(chosen)
        if row.hear(chosen, value, stops):
            ended.append(row)
    return token, ended
