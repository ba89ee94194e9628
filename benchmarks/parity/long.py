"""Beyond 32K positions, with Llama 4's real numbers: chunks and temperature steps of 8192 tokens.

The peer's masks grow with the square of a row's length, so it reads it in blocks through its
cache; on a shorter row its full forward pass is the oracle.
"""

from __future__ import annotations

import resource
import sys
from functools import cache
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
    scaling,
    tokens,
)
from puna.models import Decoder

# Weights four times as wide as elsewhere, and sums over 34,000 keys in another order: the peer
# itself differs this much between blocks of 1,000 and of 1,700 tokens (see the note it prints).
TOLERANCE = 2e-5
FEATURES = ("chunks", "temperature", "factor 16")
NARROW: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 32, "intermediate_size_mlp": 32,
    "interleave_moe_layer_step": 2, "attention_chunk_size": 8192, "floor_scale": 8192,
    "max_position_embeddings": 65536, "rope_parameters": scaling(16.0, 1.0, 8192),
}  # fmt: skip


@cache
def narrow(head_dim: int = 32) -> tuple[Any, Decoder]:
    """Four layers of width 32."""
    return pair("scout", std=0.3, **NARROW, head_dim=head_dim)


@torch.no_grad()
def peer_in_blocks(theirs: Any, ids: Tensor, size: int) -> Tensor:
    """The peer's logits, a block at a time."""
    import transformers

    held = transformers.DynamicCache(config=theirs.config)
    blocks = torch.split(ids, size, 1)
    return torch.cat([theirs(b, past_key_values=held, use_cache=True).logits for b in blocks], 1)


def peak_mib() -> int:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (
        20 if sys.platform == "darwin" else 10
    )


@case("scout: 9,000 tokens, one pass", TOLERANCE, slow=True)
def _one_pass() -> Found:
    theirs, ours = narrow(128)  # as wide as Scout's own heads
    ids = tokens(1, 9000)
    expected = peer_logits(theirs, ids)
    off = {f: largest(logits(without(ours, f), ids), expected) for f in FEATURES}
    return Found(largest(logits(ours, ids), expected), off)


@case("scout: 34,000 tokens", TOLERANCE, slow=True)
def _far() -> Found:
    """In one pass, and through the cache in blocks that no chunk divides by."""
    theirs, ours = narrow()
    ids = tokens(1, 34_000)
    before = peak_mib()
    got = logits(ours, ids)
    sizes = [1500] * 22 + [999, 1]
    in_blocks = cached_logits(ours, ids, sizes)
    memory = peak_mib() - before
    expected = peer_in_blocks(theirs, ids, 1000)
    itself = largest(peer_in_blocks(theirs, ids, 1700), expected)
    note = f"{memory} MiB; the peer in other blocks is {itself:.0e} off itself"
    gap = max(largest(got, expected), largest(in_blocks, expected))
    return Found(gap, {f: largest(logits(without(ours, f), ids), expected) for f in FEATURES}, note)


@case("scout: 20,000 tokens packed", TOLERANCE, slow=True)
def _long_packed() -> Found:
    """Documents longer than a chunk, in one row: every one as if it were alone."""
    theirs, ours = narrow()
    lengths = (9000, 300, 10_700)
    texts = [tokens(1, n, seed=n) for n in lengths]
    documents = torch.arange(3).repeat_interleave(torch.tensor(lengths))[None]
    ids = torch.cat(texts, 1)
    expected = torch.cat([peer_in_blocks(theirs, text, 1000) for text in texts], 1)
    off = {"documents apart": largest(logits(ours, ids), expected)}
    return Found(largest(logits(ours, ids, documents_BT=documents), expected), off)
