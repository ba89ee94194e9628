"""Attention inside runs of packed tokens on a GPU: what a mask would hide is never touched.

`packed(shape_BT, positions, documents, chunk, largest, device)` -> the runs of local and of global
layers; `runs.attend(q, k, v, scale)`. `puna.models.decoder.masks` says the same and is the twin.
`ragged(...)` are runs that go on from keys in pages. PyTorch's kernel is imported with this file,
which takes a second.
Shapes: B rows, T tokens, H query heads, K key heads, D head width, P pages of S tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

# Before torch 2.12 heads may share keys without saying so.
Ints = np.ndarray[Any, np.dtype[np.int64]]
_SHARED: dict[str, Any] = (
    {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}
)


@dataclass(frozen=True)
class Packed:
    """Runs of all rows one behind the other.

    `ends` [runs + 1] int32 are their bounds among all B * T tokens; none is longer than `longest`.
    """

    ends: Tensor
    longest: int

    def attend(self, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, scale: float) -> Tensor:
        """Causal attention inside every run, [B, H, T, D]."""
        rows, heads, tokens, width = q_BHTD.shape
        q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q_BHTD, k_BKTD, v_BKTD))
        out = causal(q, k, v, (self.ends, self.ends), (self.longest, self.longest), scale)
        return out.view(rows, tokens, heads, width).transpose(1, 2)


def causal(
    q_NHD: Tensor,
    k_MKD: Tensor,
    v_MKD: Tensor,
    ends: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    scale: float,
) -> Tensor:
    """Each run's queries over its keys, the last query seeing all of them, [N, H, D].

    `ends` are the bounds of the runs among queries and among keys.
    """
    out = varlen_attn(
        q_NHD, k_MKD, v_MKD, *ends, *longest, scale=scale, window_size=(-1, 0), **_SHARED
    )
    assert isinstance(out, Tensor)
    return out


def causal_plain(
    q_NHD: Tensor,
    k_MKD: Tensor,
    v_MKD: Tensor,
    ends: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    scale: float,
) -> Tensor:
    """The same, run by run."""
    out = torch.zeros_like(q_NHD)
    group = q_NHD.shape[1] // k_MKD.shape[1]
    for (a, b), (c, d) in zip(pairwise(ends[0].tolist()), pairwise(ends[1].tolist()), strict=True):
        if d > c:
            k, v = (x[c:d].repeat_interleave(group, 1) for x in (k_MKD, v_MKD))
            score = torch.einsum("nhd,mhd->hnm", q_NHD[a:b], k) * scale
            seen = torch.ones(b - a, d - c, dtype=torch.bool, device=k.device).tril(d - c - (b - a))
            share = score.masked_fill(~seen, float("-inf")).softmax(-1)
            out[a:b] = torch.einsum("hnm,mhd->nhd", share, v)
    return out


@dataclass(frozen=True)
class Ragged:
    """Runs of new tokens, each behind keys of its own that lie in pages.

    `old` [O * K] are flat places of those keys, which become keys `old_to` [O] of all runs one
    behind the other; `new` [M] are the new tokens (of B * T) whose keys become `new_to` [M].
    """

    ends: tuple[Tensor, Tensor]
    longest: tuple[int, int]
    old: Tensor
    old_to: Tensor
    new: Tensor
    new_to: Tensor

    def attend(
        self,
        q_BHTD: Tensor,
        k_BKTD: Tensor,
        v_BKTD: Tensor,
        flat: tuple[Tensor, Tensor],
        scale: float,
    ) -> Tensor:
        """Causal attention of every run, [B, H, T, D]; `flat` are the pages' keys and values."""
        rows, heads, tokens, width = q_BHTD.shape
        q = q_BHTD.transpose(1, 2).flatten(0, 1)
        whole = []
        for fresh, kept in zip((k_BKTD, v_BKTD), flat, strict=True):
            near = fresh.transpose(1, 2).flatten(0, 1)
            both = near.new_empty(len(self.old_to) + len(self.new), *near.shape[1:])
            if len(self.old_to):
                far = kept.index_select(0, self.old).view(-1, *near.shape[1:])
                both.index_copy_(0, self.old_to, far)
            both.index_copy_(0, self.new_to, near.index_select(0, self.new))
            whole.append(both)
        out = causal(q, whole[0], whole[1], self.ends, self.longest, scale)
        return out.view(rows, tokens, heads, width).transpose(1, 2)


def ragged(
    starts: Sequence[int],
    counts: Sequence[int],
    tokens: int,
    chunk: int | None,
    pages_Bn: Ints,
    shape: tuple[int, int],
    device: torch.device,
) -> Ragged:
    """Runs of rows that hold `starts` tokens and get `counts` more, padded to `tokens`.

    Runs end with a `chunk`; `pages_Bn` says where a row's pages are, `shape` [K, S] what they hold.
    """
    heads, size = shape
    q_ends, k_ends, old, old_to, new, new_to = [0], [0], [], [], [], []
    for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
        at = start
        while at < start + count:
            begin = 0 if chunk is None else at // chunk * chunk
            end = start + count if chunk is None else min(start + count, begin + chunk)
            kept = np.arange(begin, max(begin, start)) if at == start else np.arange(0)
            place = pages_Bn[row, kept // size] * heads * size + kept % size
            old.append(place[:, None] + np.arange(heads) * size)
            old_to.append(k_ends[-1] + np.arange(len(kept)))
            fresh = np.arange(at, end)
            new.append(row * tokens + fresh - start)
            new_to.append(k_ends[-1] + len(kept) + np.arange(len(fresh)))
            q_ends.append(q_ends[-1] + end - at)
            k_ends.append(k_ends[-1] + len(kept) + len(fresh))
            at = end
        if count < tokens:  # padding sees nothing
            q_ends.append(q_ends[-1] + tokens - count)
            k_ends.append(k_ends[-1])

    def whole(parts: list[Ints]) -> Tensor:
        joined = np.concatenate(parts or [np.arange(0)]).reshape(-1)
        return torch.from_numpy(joined).to(device)

    longest = max(np.diff(q_ends)), max(np.diff(k_ends))
    bounds = (torch.tensor(x, dtype=torch.int32, device=device) for x in (q_ends, k_ends))
    first, second = bounds
    return Ragged(
        (first, second), (int(longest[0]), int(longest[1])),
        whole(old), whole(old_to), whole(new), whole(new_to),
    )  # fmt: skip


def packed(
    shape: Sequence[int],
    positions: Tensor | None,
    documents: Tensor | None,
    chunk: int | None,
    largest: int,
    device: torch.device,
) -> tuple[Packed, Packed]:
    """Runs of local and of global layers for rows of `shape` [B, T], the same where they agree."""
    rows, tokens = shape
    labels = [torch.arange(rows, device=device)[:, None].expand(rows, tokens)]
    if documents is not None:
        labels.append(documents)
    everywhere = _bounds(labels, tokens)
    if chunk is None or largest < chunk:
        return everywhere, everywhere
    places = torch.arange(tokens, device=device)[None] if positions is None else positions
    grid = (places // chunk).expand(rows, tokens)
    return _bounds([*labels, grid], min(tokens, chunk)), everywhere


def _bounds(labels_BT: Sequence[Tensor], longest: int) -> Packed:
    changes = torch.stack([x.reshape(-1).diff() != 0 for x in labels_BT]).any(0)
    inner = changes.nonzero()[:, 0] + 1
    total = labels_BT[0].numel()
    ends = torch.cat((inner.new_zeros(1), inner, inner.new_full((1,), total)))
    return Packed(ends.to(torch.int32), longest)
