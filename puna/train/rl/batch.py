"""Rows to tensors: micro-batches under a token budget, in which what rows share is computed once.

A group's prompt, and the tokens on which its samples agree, pass through the model once for all of
them (`puna.models.prefixes`); the gradient is that of separate rows.
Legend: B rows, T places of the longest, N distinct tokens, M sampled tokens, U distinct tokens that
predict one of them, V vocabulary, L routed layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puna.models.decoder import Decoder
from puna.models.moe import Routes
from puna.models.prefixes import PrefixTree, grow, shared
from puna.train.loss import token_logprobs
from puna.train.rl.rows import Row

# Attention sees rows padded to the longest: at most this many places for each token of the budget.
_PLACES = 4


@dataclass(frozen=True)
class MicroBatch:
    """Vectors [M] follow the rows in order. `heads_U` are the nodes that predict sampled tokens,
    `heads_of_M` says which of them predicts which.
    """

    tree: PrefixTree
    heads_U: Tensor
    heads_of_M: Tensor
    targets_M: Tensor
    sampled_logp_M: Tensor
    advantages_M: Tensor
    weights_M: Tensor
    routes_1NL: Tensor | None

    def hidden(self, model: Decoder) -> Tensor:
        """Hidden states [U, D] that predict sampled tokens, through the sampler's experts."""
        routes = None if self.routes_1NL is None else Routes(replay=self.routes_1NL)
        tree = self.tree
        hidden = model(tree.ids_1N, tree.positions_1N, routes=routes, tree=tree)
        # Each head once, so that no gradients are added up here.
        return hidden[0].index_select(0, self.heads_U)  # type: ignore[no-any-return]

    def logprobs(self, model: Decoder, temperature: float = 1.0) -> Tensor:
        """Log-probabilities [M] of the sampled tokens, at the temperature they were drawn at."""
        logits_UV = model.logits(self.hidden(model))
        return token_logprobs(logits_UV, self.targets_M, temperature, self.heads_of_M)


def micro_batches(
    rows: Sequence[Row], budget: int, replay: bool, device: torch.device
) -> Iterator[MicroBatch]:
    """Cut rows, those that begin alike together, into micro-batches of at most `budget` nodes.

    With `replay`, rows without recorded routes come after those with, in batches of their own.
    """
    recorded = [replay and row.branch.routes is not None for row in rows]
    for routed in (True, False):
        some = [row for row, has in zip(rows, recorded, strict=True) if has == routed]
        yield from _cut(some, budget, routed, device)


def _cut(
    rows: Sequence[Row], budget: int, replay: bool, device: torch.device
) -> Iterator[MicroBatch]:
    rows = sorted(rows, key=lambda row: row.branch.ids)
    common = _common(rows, replay)
    if 4 * sum(common) < sum(len(_inputs(row)) for row in rows):
        # They share little: rows of one length together, since attention pays for padding.
        rows = sorted(rows, key=lambda row: -len(row.branch.ids))
        common = _common(rows, replay)
    inputs = [_inputs(row) for row in rows]
    start = nodes = width = 0
    for i, ids in enumerate(inputs):
        wide = max(width, len(ids))
        full = nodes + len(ids) - common[i] > budget or wide * (i - start + 1) > _PLACES * budget
        if i > start and full:
            yield _micro(rows[start:i], common[start:i], replay, device)
            start, nodes, wide = i, 0, len(ids)
        nodes += len(ids) - (common[i] if i > start else 0)
        width = wide
    if rows:
        yield _micro(rows[start:], common[start:], replay, device)


def _inputs(row: Row) -> list[int]:
    """The tokens up to the last sampled one: a branch may end in a prompt that no longer fitted."""
    last = len(row.branch.mask) - 1 - row.branch.mask[::-1].index(True)
    return row.branch.ids[:last]


def _common(rows: Sequence[Row], replay: bool) -> list[int]:
    """How much of its beginning each row shares with the one before it."""
    marks = [row.branch.routes for row in rows] if replay else None
    return shared([_inputs(row) for row in rows], marks)


def _micro(
    rows: Sequence[Row], common: Sequence[int], replay: bool, device: torch.device
) -> MicroBatch:
    tree = grow([_inputs(row) for row in rows], [0, *common[1:]], device)
    nodes_BT = tree.nodes_BT.cpu().numpy()
    predicts, targets, logps, advantages, weights = [], [], [], [], []
    for row, nodes_T in zip(rows, nodes_BT, strict=True):
        branch, end = row.branch, len(_inputs(row)) + 1
        mask = np.array(branch.mask[1:end], dtype=bool)
        predicts.append(nodes_T[: len(mask)][mask])
        targets.append(np.array(branch.ids[1:end], dtype=np.int64)[mask])
        logps.append(np.array(branch.logprobs[1:end], dtype=np.float32)[mask])
        advantages.append(np.full(len(targets[-1]), row.advantage, dtype=np.float32))
        weights.append(np.full(len(targets[-1]), row.weight, dtype=np.float32))
    heads_U, heads_of_M = np.unique(np.concatenate(predicts), return_inverse=True)

    def joined(parts: list[np.ndarray[Any, Any]]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts)).to(device)

    return MicroBatch(
        tree,
        torch.from_numpy(heads_U).to(device),
        torch.from_numpy(heads_of_M).to(device),
        targets_M=joined(targets),
        sampled_logp_M=joined(logps),
        advantages_M=joined(advantages),
        weights_M=joined(weights),
        routes_1NL=_routes(rows, tree).to(device) if replay else None,
    )


def _routes(rows: Sequence[Row], tree: PrefixTree) -> Tensor:
    """Recorded experts [1, N, L] of the nodes."""
    rows_N, positions_N = np.divmod(tree.places_N.cpu().numpy(), tree.nodes_BT.shape[1])
    recorded = [r.branch.routes for r in rows if r.branch.routes is not None]
    found = [recorded[row][at] for row, at in zip(rows_N, positions_N, strict=True)]
    return torch.from_numpy(np.array(found, dtype=np.int64))[None]
