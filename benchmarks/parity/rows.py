"""Where a token stands: blocks through a cache, packed rows, padding, other rows beside it.

The oracle is the peer's full forward pass over each text alone, without cache, pads or neighbours.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.parity.broken import without
from benchmarks.parity.case import Found, case
from benchmarks.parity.models import (
    cached_logits,
    largest,
    logits,
    pair,
    peer_logits,
    tokens,
)

COUNT = 29
# Prefill and decoding in blocks that do and do not divide a chunk of 8.
SPLITS = (
    [COUNT],
    [1] * COUNT,
    [11, *[1] * 18],
    [8, 8, 8, 5],
    [7, 9, 2, 11],
    [3, 5, 17, 4],
    [1, 20, 1, 1, 6],
)
CACHED_FEATURES = {
    "scout": ("chunks", "NoPE phase", "QK norm", "temperature", "rope scaling"),
    "maverick": ("chunks", "NoPE phase", "no QK norm", "temperature"),
    "guard 4": ("no chunk", "QK norm", "rope scaling"),
    "llama 3.1": ("rope scaling",),
}


@torch.no_grad()
def peer_cached(theirs: Any, ids: Tensor, sizes: list[int], static: bool) -> Tensor:
    """The peer's logits from blocks of these sizes through a cache of its own."""
    import transformers

    held: Any = transformers.DynamicCache(config=theirs.config)
    if static:
        held = transformers.StaticCache(config=theirs.config, max_cache_len=64)
    blocks = torch.split(ids, sizes, 1)
    return torch.cat([theirs(b, past_key_values=held, use_cache=True).logits for b in blocks], 1)


def cached(shape: str) -> Found:
    """Any split, in a cache that fits and in one with room; against the peer's caches as well."""
    theirs, ours = pair(shape)
    ids = tokens(3, COUNT)
    expected = peer_logits(theirs, ids)
    gaps = []
    for sizes in SPLITS:
        for capacity in (COUNT, 8 * COUNT):
            got = cached_logits(ours, ids, sizes, capacity)
            gaps.append(largest(got, expected))
        for static in (False, True):
            gaps.append(largest(got, peer_cached(theirs, ids, sizes, static)))
    off = {
        f: largest(cached_logits(without(ours, f), ids, SPLITS[2]), expected)
        for f in CACHED_FEATURES[shape]
    }
    return Found(max(gaps), off)


for _shape in CACHED_FEATURES:
    case(f"{_shape}: any split through a cache")(partial(cached, _shape))


def packed(shape: str) -> Found:
    """Three documents and padding in a row: chunks, positions and temperature start anew."""
    theirs, ours = pair(shape)
    lengths = (13, 21, 5)
    texts = [tokens(1, n, seed=n) for n in lengths]
    ids, last = torch.cat([*texts, tokens(1, 3)], 1), sum(lengths)
    documents = torch.tensor([0, 1, 2, -1]).repeat_interleave(torch.tensor([*lengths, 3]))[None]
    places = torch.cat([torch.arange(n) for n in lengths])[None]
    expected = torch.cat([peer_logits(theirs, text) for text in texts], 1)
    gap = largest(logits(ours, ids, documents_BT=documents)[:, :last], expected)

    def seen(model: Any, **options: Any) -> float:
        return largest(logits(model, ids, **options)[:, :last], expected)

    off = {"documents apart": seen(ours)}
    if ours.config.family == "llama4":
        straight = torch.arange(ids.shape[1])[None]
        off["positions anew"] = seen(ours, documents_BT=documents, positions_BT=straight)
        by_place = without(ours, "temperature by position")
        off["temperature anew"] = seen(by_place, documents_BT=documents)
    theirs_packed = peer_logits(theirs, ids[:, :last], position_ids=places)
    note = f"the peer's own packed row is {largest(theirs_packed, expected):.0e} off"
    return Found(gap, off, note)


def padded(shape: str) -> Found:
    """Rows padded on the left and on the right: each as if it were alone."""
    theirs, ours = pair(shape)
    lengths = torch.tensor([COUNT, 18, 5])
    texts = [tokens(1, int(n), seed=int(n)) for n in lengths]
    alone = [peer_logits(theirs, text)[0] for text in texts]
    ids = torch.zeros(3, COUNT, dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        row[COUNT - text.shape[1] :] = text[0]
    real = torch.arange(COUNT) >= COUNT - lengths[:, None]
    documents = torch.where(real, 0, -1)
    expected = torch.cat(alone)

    def seen(model: Any, **options: Any) -> float:
        return largest(logits(model, ids, **options)[real], expected)

    gap = seen(ours, documents_BT=documents)
    on_right = real.flip(1)
    right = torch.zeros_like(ids)
    right[on_right] = ids[real]
    gap = max(gap, largest(logits(ours, right)[on_right], expected))
    off = {"pads unseen": seen(ours)}
    if ours.config.family == "llama4":
        straight = torch.arange(COUNT).expand(3, COUNT)
        off["true positions"] = seen(ours, documents_BT=documents, positions_BT=straight)
        by_place = without(ours, "temperature by position")
        off["true temperature"] = seen(by_place, documents_BT=documents)
    places = (real.cumsum(1) - 1).clamp_min(0)
    theirs_padded = peer_logits(theirs, ids, attention_mask=real.long(), position_ids=places)
    note = f"the peer's own left-padded rows are {largest(theirs_padded[real], expected):.0e} off"
    return Found(gap, off, note)


for _shape in ("scout", "maverick", "llama 3.1"):
    case(f"{_shape}: packed documents")(partial(packed, _shape))
    case(f"{_shape}: padded rows")(partial(padded, _shape))


@case("scout: beside other rows")
def _beside() -> Found:
    """A row alone, and in a batch whose rows crowd the same experts."""
    theirs, ours = pair("scout")
    ids = torch.cat([tokens(1, COUNT), tokens(1, COUNT).flip(1), tokens(1, 1).expand(6, COUNT)])
    expected = torch.cat([peer_logits(theirs, row[None]) for row in ids])
    crowded = without(ours, "no dropped tokens")
    off = {"no dropped tokens": largest(logits(crowded, ids), expected)}
    return Found(largest(logits(ours, ids), expected), off)


def shifted(shape: str, shift: int) -> Found:
    """All positions moved alike: only distances count, where there is no temperature."""
    changes: dict[str, Any] = {} if "llama" in shape else {"attn_temperature_tuning": False}
    theirs, ours = pair(shape, **changes)
    ids = tokens(2, COUNT)
    expected = peer_logits(theirs, ids)
    places = torch.arange(COUNT).expand(2, COUNT)
    got = logits(ours, ids, positions_BT=places + shift)
    theirs_moved = peer_logits(theirs, ids, position_ids=places + shift)
    note = f"by {shift}; the peer, moved, is {largest(theirs_moved, expected):.0e} off"
    off = {"distances kept": largest(logits(ours, ids, positions_BT=places * 2), expected)}
    return Found(largest(got, expected), off, note)


case("scout: positions moved alike", 2e-5)(partial(shifted, "scout", 96))
case("llama 3.1: positions moved alike", 2e-5)(partial(shifted, "llama 3.1", 96))
