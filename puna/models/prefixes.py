"""Rows that begin alike, computed once: what a causal model makes of a prefix is the same in each.

`tree = grow([[5, 6, 7], [5, 6, 8]])`; `model(tree.ids_1N, tree.positions_1N, tree=tree)[0]` has a
hidden state for each of the N = 4 distinct tokens, and `tree.nodes_BT` says which of them stand
where. Everything but attention runs on the N tokens; only attention lays them out as rows.
Shapes: B rows, T places of the longest, N distinct tokens ("nodes"), K marks of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PrefixTree:
    """`places_N` is one flat place (row * T + position) of each node; padding shows node 0."""

    ids_1N: Tensor
    positions_1N: Tensor
    nodes_BT: Tensor
    places_N: Tensor

    def spread(self, x_1N: Tensor) -> Tensor:
        """Nodes [1, N, ...] laid out as rows [B, T, ...]."""
        # An embedding: on a GPU index_select would add up its gradients in no fixed order.
        rows = F.embedding(self.nodes_BT, x_1N[0].flatten(1))
        return rows.view(*self.nodes_BT.shape, *x_1N.shape[2:])

    def gather(self, x_BT: Tensor) -> Tensor:
        """Rows [B, T, ...] back to nodes [1, N, ...]."""
        return x_BT.reshape(-1, *x_BT.shape[2:]).index_select(0, self.places_N)[None]


def shared(rows: Sequence[Sequence[int]], marks: Sequence[Any] | None = None) -> list[int]:
    """How many first tokens each row has in common with the row before it (the first row: 0).

    `marks` are arrays [tokens, K] that must agree too, such as the experts a token was given.
    """
    out = [0]
    for i in range(1, len(rows)):
        length = min(len(rows[i - 1]), len(rows[i]))
        same = np.equal(rows[i - 1][:length], rows[i][:length])
        if marks is not None:
            same = same & np.equal(marks[i - 1][:length], marks[i][:length]).all(-1)
        out.append(length if same.all() else int(same.argmin()))
    return out


def grow(
    rows: Sequence[Sequence[int]],
    common: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> PrefixTree:
    """The tree of rows of token ids; sort them first, since a row shares with its predecessor only.

    `common` is what `shared` returns for these rows, with 0 for the first.
    """
    lengths = np.array([len(row) for row in rows])
    common_B = np.array(shared(rows) if common is None else common)
    places_T = np.arange(lengths.max())
    fresh_BT = (places_T >= common_B[:, None]) & (places_T < lengths[:, None])
    count = int(fresh_BT.sum())
    nodes_BT = np.full(fresh_BT.shape, -1)
    nodes_BT[fresh_BT] = np.arange(count)
    # A shared token was last fresh in the nearest row above, and numbers grow downwards.
    nodes_BT = np.maximum(np.maximum.accumulate(nodes_BT, 0), 0)
    nodes_BT = np.where(places_T < lengths[:, None], nodes_BT, 0)
    ids_BT = np.zeros(fresh_BT.shape, dtype=np.int64)
    for i, row in enumerate(rows):
        ids_BT[i, : len(row)] = row
    positions_BT = np.broadcast_to(places_T, fresh_BT.shape)
    return PrefixTree(
        torch.from_numpy(ids_BT[fresh_BT])[None].to(device),
        torch.from_numpy(positions_BT[fresh_BT])[None].to(device),
        torch.from_numpy(nodes_BT).to(device),
        torch.from_numpy(np.flatnonzero(fresh_BT)).to(device),
    )
