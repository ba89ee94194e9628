"""Rows to tensors: micro-batches under a token budget, in which what rows share is computed once.

A group's prompt, and the tokens on which its samples agree, pass through the model once for all of
them (`puna.models.prefixes`); the gradient is that of separate rows.
Legend: B rows, T places of the longest, N distinct tokens, M sampled tokens, U distinct tokens that
predict one of them, V vocabulary, L routed layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puna.core.messages import Image
from puna.models.decoder import Decoder
from puna.models.moe import Routes
from puna.models.prefixes import PrefixTree, grow, shared
from puna.models.vision import Seen
from puna.text.images import Picture
from puna.train.lanes import even_budget
from puna.train.loss import token_logprobs
from puna.train.rl.rows import Row

# Attention sees rows padded to the longest: at most this many places for each token of the budget.
_PLACES = 4


@dataclass(frozen=True)
class MicroBatch:
    """Vectors [M] follow the rows in order. `heads_U` are the nodes that predict sampled tokens,
    `heads_of_M` says which of them predicts which. `pictures` stand at the nodes of their branch.
    """

    tree: PrefixTree
    heads_U: Tensor
    heads_of_M: Tensor
    targets_M: Tensor
    sampled_logp_M: Tensor
    advantages_M: Tensor
    weights_M: Tensor
    routes_1NL: Tensor | None
    pictures: tuple[tuple[np.ndarray[Any, Any], Picture], ...] = ()

    def hidden(self, model: Decoder) -> Tensor:
        """Hidden states [U, D] that predict sampled tokens, through the sampler's experts."""
        routes = None if self.routes_1NL is None else Routes(replay=self.routes_1NL)
        tree = self.tree
        hidden = model(
            tree.ids_1N, tree.positions_1N, routes=routes, tree=tree, images=self.images(model)
        )
        # Each head once, so that no gradients are added up here.
        return hidden[0].index_select(0, self.heads_U)  # type: ignore[no-any-return]

    def images(self, model: Decoder) -> Seen | None:
        """The pictures at the nodes, one that rows share counted once."""
        if not self.pictures or model.vision is None:
            return None
        tiling = model.vision.config.tiling
        spots: dict[int, tuple[Image, list[int]]] = {}
        for nodes_T, picture in self.pictures:
            places = nodes_T[picture.patches(tiling)].tolist()
            spots[places[0]] = (picture.part, places)
        shape = (1, self.tree.ids_1N.shape[1])
        return model.vision.look(shape, list(spots.values()), model.dtype)

    def logprobs(self, model: Decoder, temperature: float = 1.0) -> Tensor:
        """Log-probabilities [M] of the sampled tokens, at the temperature they were drawn at."""
        logits_UV = model.logits(self.hidden(model))
        return token_logprobs(logits_UV, self.targets_M, temperature, self.heads_of_M)


def micro_batches(
    rows: Sequence[Row],
    budget: int,
    replay: bool,
    device: torch.device,
    even: Callable[[int], int] = int,
) -> Iterator[MicroBatch]:
    """Cut rows, those that begin alike together, into micro-batches of at most `budget` nodes.

    Where `even(n)` is more than the `n` that would do, there are about so many, as large as each
    other. With `replay`, rows without recorded routes come after those with, in batches of
    their own.
    """
    recorded = [replay and row.branch.routes is not None for row in rows]
    for routed in (True, False):
        some = [row for row, has in zip(rows, recorded, strict=True) if has == routed]
        yield from _cut(some, budget, routed, device, even)


def _cut(
    rows: Sequence[Row], budget: int, replay: bool, device: torch.device, even: Callable[[int], int]
) -> Iterator[MicroBatch]:
    rows = sorted(rows, key=_seen_and_read)
    common = _common(rows, replay)
    if 4 * sum(common) < sum(len(_inputs(row)) for row in rows):
        # They share little: rows of one length together, since attention pays for padding.
        rows = sorted(rows, key=lambda row: -len(row.branch.ids))
        common = _common(rows, replay)
    inputs = [_inputs(row) for row in rows]
    total, longest = sum(map(len, inputs)) - sum(common[1:]), max(map(len, inputs), default=0)
    budget = even_budget(budget, total, longest, even)
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
    marks = None
    if replay or any(row.branch.pictures for row in rows):
        numbers: dict[Image, int] = {}
        marks = [_marks(row, replay, numbers) for row in rows]
    return shared([_inputs(row) for row in rows], marks)


def _marks(row: Row, replay: bool, numbers: dict[Image, int]) -> np.ndarray[Any, Any]:
    """What two tokens must agree in beside their ids [T, K]: their experts, the pictures so far."""
    pictures = np.zeros((len(row.branch.ids), 1), dtype=np.int64)
    for picture in row.branch.pictures:
        # From its first token on, which is before the first patch.
        pictures[picture.at :] = numbers.setdefault(picture.part, len(numbers) + 1)
    if not replay:
        return pictures
    assert row.branch.routes is not None
    routes = row.branch.routes
    return np.concatenate((routes, pictures[: len(routes)]), 1)


def _seen_and_read(row: Row) -> tuple[list[str], list[int]]:
    """Rows that saw the same pictures stand together, in the order of what they read."""
    return [p.part.sha256 or p.part.ref for p in row.branch.pictures], row.branch.ids


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
        pictures=tuple(
            (nodes_T, picture)
            for row, nodes_T in zip(rows, nodes_BT, strict=True)
            for picture in row.branch.pictures
        ),
    )


def _routes(rows: Sequence[Row], tree: PrefixTree) -> Tensor:
    """Recorded experts [1, N, L] of the nodes."""
    rows_N, positions_N = np.divmod(tree.places_N.cpu().numpy(), tree.nodes_BT.shape[1])
    recorded = [r.branch.routes for r in rows if r.branch.routes is not None]
    found = [recorded[row][at] for row, at in zip(rows_N, positions_N, strict=True)]
    return torch.from_numpy(np.array(found, dtype=np.int64))[None]
