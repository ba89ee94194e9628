"""Rows that a GPU decodes by captured graphs, one step launched before the last one is read.

`batch = Ahead(rows, step, pages, seed)`; `batch.launch()`, then `batch.collect(stops)` takes the
oldest step that is under way. A row that ended is decoded once more before anybody knows: its token
is dropped. Between two plans every row has room for so many tokens as `room` says.
Shapes: B rows, L MoE layers, n page-table entries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puna.engine.batch import ENDED
from puna.engine.captured import AHEAD, Captured
from puna.engine.pages import Pages
from puna.engine.policy import SamplingParams
from puna.engine.running import Running
from puna.engine.sampling import cuts

Ints = np.ndarray[Any, np.dtype[np.int32]]
Slot = tuple[torch.cuda.Event | None, Tensor]
"""Where a step's result lands on the host, and when."""


def fits(params: SamplingParams) -> bool:
    """Whether a graph draws under these: temperature only."""
    return not (cuts(params) or params.top_logprobs or params.grammar is not None)


class Ahead:
    """A batch on the device; all that rows share with the host goes through `collect`."""

    def __init__(self, rows: Sequence[Running], step: Captured, pages: Pages, seed: int) -> None:
        self.rows, self.step, self.pages, self.seed = list(rows), step, pages, seed
        most = max(r.longest for r in rows)
        self.buffers = to = step.buffers(len(rows), -(-most // pages.size) + 1)
        self.under_way: deque[Slot] = deque()
        self._spare: list[Slot] = []
        self._routes: list[Ints] = []
        self._live = np.zeros(to.rows, dtype=np.int32)
        self._live[: len(rows)] = 1
        self._age, self._left, self._longest = AHEAD, 0, 0
        self._stamp = pages.stamp
        params = [r.request.params for r in rows]
        self._fill(to.ids, [r.ids[-1] for r in rows])
        self._fill(to.positions, [r.held.length for r in rows])
        self._fill(to.greedy, [p.temperature == 0 for p in params])
        self._fill(to.heat, [p.temperature or 1.0 for p in params])
        self._fill(to.live, self._live)

    @property
    def live(self) -> list[Running]:
        """Rows that have not ended."""
        return [r for r in self.rows if not r.finish]

    @property
    def sparse(self) -> bool:
        """Whether so many have ended that it pays to make a batch of the others."""
        ended = len(self.rows) - int(self._live.sum())
        return ended * ENDED >= len(self.rows) and ended > 0

    @property
    def turning(self) -> bool:
        """Whether rows may lack room for a token, or lie elsewhere: give room, then `plan`."""
        return self._left <= 0 or self._stamp != self.pages.stamp

    def plan(self) -> None:
        """Take the rows' pages as they are now; nothing may be under way."""
        assert not self.under_way
        live, self._stamp = self.live, self.pages.stamp
        self._left = min(room(r, self.pages) - r.held.length for r in live)
        self._longest = max(r.held.length for r in live) + self._left
        for kind, table_Bn in self.buffers.tables.items():
            table = np.full(table_Bn.shape, -1, dtype=np.int32)
            for i, row in enumerate(self.rows):
                pages = row.held.pages[kind]
                table[i, : len(pages)] = [-1 if page is None else page.id for page in pages]
            table_Bn.copy_(torch.from_numpy(table))

    def launch(self) -> None:
        """One step more of all rows."""
        to = self.buffers
        if self._age == AHEAD:
            self._draw_uniforms()
        self.step.launch(to, self._longest)
        self._age += 1
        self._left -= 1
        event, out = self._spare.pop() if self._spare else self._slot()
        out.copy_(to.out, non_blocking=True)
        if event is not None:
            event.record()
        self.under_way.append((event, out))

    def collect(self, stops: Sequence[int]) -> tuple[list[Running], list[Running]]:
        """Wait for the oldest step under way: the rows it told a token, those that ended with it.

        They keep what they hold.
        """
        event, out = self.under_way.popleft()
        if event is not None:
            event.synchronize()
        found = out.numpy()
        tokens, logprobs = found[0].tolist(), found[1].view(np.float32).tolist()
        if len(found) > 2:
            self._routes.append(found[2:].astype(np.int16))
        self._spare.append((event, out))
        told, ended = [], []
        for i, row in enumerate(self.rows):
            if row.finish:
                continue
            row.held.length += 1
            told.append(row)
            if row.hear(tokens[i], logprobs[i], stops):
                ended.append(row)
        self.retire(ended)
        return told, ended

    def retire(self, rows: Sequence[Running]) -> None:
        """Keep nothing more of rows that have ended."""
        gone = [i for i, row in enumerate(self.rows) if row in rows and self._live[i]]
        if not gone:
            return
        for i in gone:
            self._note_routes(i)
        self._live[gone] = 0
        self._fill(self.buffers.live, self._live)

    def close(self) -> None:
        """Give the rows what was recorded for them; nothing may be under way."""
        for i in range(len(self.rows)):
            if self._live[i]:
                self._note_routes(i)

    def _note_routes(self, i: int) -> None:
        if self._routes:
            self.rows[i].routes.append(np.stack([taken[:, i] for taken in self._routes]))

    def _draw_uniforms(self) -> None:
        none, ahead = np.zeros(AHEAD, dtype=np.float32), len(self.under_way)
        drawn = np.zeros((AHEAD, self.buffers.rows), dtype=np.float32)
        for i, row in enumerate(self.rows):
            drawn[:, i] = none if row.finish else row.draws(self.seed, AHEAD, ahead)
        self.buffers.uniforms.copy_(torch.from_numpy(drawn))
        self.buffers.tick.fill_(-1)
        self._age = 0

    def _slot(self) -> Slot:
        if not self.buffers.out.is_cuda:
            return None, torch.empty_like(self.buffers.out)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        return event, torch.empty_like(self.buffers.out, device="cpu").pin_memory()

    def _fill(self, target_B: Tensor, values: Sequence[float] | Ints) -> None:
        target_B.fill_(float(target_B.is_floating_point()))  # where nobody is: heat 1, all else 0
        target_B[: len(values)].copy_(torch.from_numpy(np.asarray(values)))


def room(row: Running, pages: Pages) -> int:
    """How many tokens of a row there are pages for."""
    ends = []
    for kind in pages.pools:
        own = row.held.pages[kind]
        ends.append(max((i + 1 for i, page in enumerate(own) if page is not None), default=0))
    return min(ends) * pages.size
