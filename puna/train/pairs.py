"""Pairs in tokens, and as padded rows of tensors.

`for lot in cut_pairs(pairs, 4096): batch = pair_batch(lot, formatting, device)`.
Legend: B rows, T positions, M learnt tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from puna.text.template import Rendered


@dataclass(frozen=True)
class Pair:
    """Two sides in tokens, each a Rendered for every append-only run of them (usually one)."""

    chosen: tuple[Rendered, ...]
    rejected: tuple[Rendered, ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest run."""
        return max(len(part.ids) for part in (*self.chosen, *self.rejected))

    def to_json(self) -> dict[str, Any]:
        """Plain data; `Pair.from_json` reads it back."""
        sides = {"chosen": self.chosen, "rejected": self.rejected}
        return {
            name: [{"ids": p.ids, "mask": [int(m) for m in p.mask]} for p in side]
            for name, side in sides.items()
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Pair:
        """The inverse of `to_json`."""
        sides = (
            tuple(Rendered(p["ids"], [bool(m) for m in p["mask"]]) for p in data[name])
            for name in ("chosen", "rejected")
        )
        return Pair(*sides)


@dataclass(frozen=True)
class PairBatch:
    """Pairs as padded rows, side after side. `learn_BT` marks positions whose next token is learnt.

    `content_M` marks the targets that are no formatting; `sizes` has the targets of each side,
    the chosen and the rejected in turn.
    """

    ids_BT: Tensor
    learn_BT: Tensor
    targets_M: Tensor
    content_M: Tensor
    sizes: list[int]


def pair_batch(pairs: Sequence[Pair], formatting: Tensor, device: torch.device) -> PairBatch:
    """One forward pass; `formatting` are the ids of turn headers and ends."""
    sides = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
    rows: list[Rendered] = [part for side in sides for part in side]
    width = max(len(r.ids) for r in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, : len(row.mask)] = torch.tensor(row.mask)
    targets = ids[:, 1:][mask[:, 1:]]
    content = ~torch.isin(targets, formatting)
    sizes = [sum(sum(part.mask[1:]) for part in side) for side in sides]
    return PairBatch(
        ids[:, :-1].to(device),
        mask[:, 1:].to(device),
        targets.to(device),
        content.to(device),
        sizes,
    )


def cut_pairs(pairs: Sequence[Pair], budget: int) -> Iterator[list[Pair]]:
    """Pairs, longest first, in lots of at most `budget` padded tokens; a pair is never split."""
    lot: list[Pair] = []
    rows = width = 0
    for pair in sorted(pairs, key=lambda p: -p.longest):
        more = len(pair.chosen) + len(pair.rejected)
        if lot and (rows + more) * width > budget:
            yield lot
            lot, rows = [], 0
        if not lot:
            width = pair.longest - 1
        lot.append(pair)
        rows += more
    yield lot
