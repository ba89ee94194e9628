"""Rows to padded tensors: micro-batches of similar length under a token budget.

Legend: B rows, T positions (padded right), M sampled tokens of the micro-batch, L routed layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from puna.models.decoder import Decoder
from puna.models.moe import Routes
from puna.train.rl.rows import Row


@dataclass(frozen=True)
class MicroBatch:
    """`chosen_BT` marks positions whose next token was sampled; vectors [M] follow its order."""

    ids_BT: Tensor
    chosen_BT: Tensor
    targets_M: Tensor
    sampled_logp_M: Tensor
    advantages_M: Tensor
    weights_M: Tensor
    routes_BTL: Tensor | None

    def hidden(self, model: Decoder) -> Tensor:
        """Hidden states [M, D] that predict the sampled tokens, through the sampler's experts."""
        routes = None if self.routes_BTL is None else Routes(replay=self.routes_BTL)
        hidden = model(self.ids_BT, routes=routes)
        chosen: Tensor = hidden[self.chosen_BT]
        return chosen


def micro_batches(
    rows: Sequence[Row], budget: int, replay: bool, device: torch.device
) -> Iterator[MicroBatch]:
    """Cut rows, longest first, into micro-batches of at most `budget` padded tokens.

    With `replay`, rows without recorded routes come after those with, in batches of their own.
    """
    recorded = [replay and row.branch.routes is not None for row in rows]
    for routed in (True, False):
        some = [row for row, has in zip(rows, recorded, strict=True) if has == routed]
        yield from _cut(some, budget, routed, device)


def _cut(
    rows: Sequence[Row], budget: int, replay: bool, device: torch.device
) -> Iterator[MicroBatch]:
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].branch.ids), i))
    start = 0
    while start < len(order):
        width = len(rows[order[start]].branch.ids) - 1
        count = max(1, budget // max(1, width))
        yield _micro([rows[i] for i in order[start : start + count]], width, replay, device)
        start += count


def _micro(rows: Sequence[Row], width: int, replay: bool, device: torch.device) -> MicroBatch:
    ids = np.zeros((len(rows), width), dtype=np.int64)
    chosen = np.zeros((len(rows), width), dtype=bool)
    targets, logps, advantages, weights = [], [], [], []
    for i, row in enumerate(rows):
        branch = row.branch
        length = len(branch.ids) - 1
        ids[i, :length] = branch.ids[:-1]
        mask = np.array(branch.mask[1:])
        chosen[i, :length] = mask
        targets.append(np.array(branch.ids[1:], dtype=np.int64)[mask])
        logps.append(np.array(branch.logprobs[1:], dtype=np.float32)[mask])
        advantages.append(np.full(int(mask.sum()), row.advantage, dtype=np.float32))
        weights.append(np.full(int(mask.sum()), row.weight, dtype=np.float32))
    routes = _routes(rows, width) if replay else None
    return MicroBatch(
        torch.from_numpy(ids).to(device),
        torch.from_numpy(chosen).to(device),
        torch.from_numpy(np.concatenate(targets)).to(device),
        torch.from_numpy(np.concatenate(logps)).to(device),
        torch.from_numpy(np.concatenate(advantages)).to(device),
        torch.from_numpy(np.concatenate(weights)).to(device),
        None if routes is None else torch.from_numpy(routes).to(device),
    )


def _routes(rows: Sequence[Row], width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Recorded experts [B, T, L]; 0 under the padding, which nothing reads."""
    recorded = [r.branch.routes for r in rows if r.branch.routes is not None]
    assert len(recorded) == len(rows)
    out = np.zeros((len(rows), width, recorded[0].shape[-1]), dtype=np.int64)
    for i, routes in enumerate(recorded):
        out[i, : len(routes)] = routes[:width]
    return out
