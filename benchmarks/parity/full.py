"""The full forward pass: every shape, both attention back ends, fp32 and bf16, equal to the bit."""

from __future__ import annotations

import math
from functools import partial

import torch

from benchmarks.parity.broken import without
from benchmarks.parity.case import Found, case
from benchmarks.parity.models import (
    CLOSE,
    LENGTHS,
    largest,
    logits,
    ours_of,
    pair,
    peer,
    peer_config,
    peer_logits,
    tokens,
)
from puna.models.rope import frequencies

# What each shape is made of: leaving it out must show.
FEATURES = {
    "scout": (
        "own head", "rotated pairs", "chunks", "NoPE phase", "QK norm", "QK norm per head",
        "temperature", "rope scaling", "factor 16", "score on the input",
    ),
    "scout, tied": ("chunks", "rotated pairs"),
    "maverick": (
        "own head", "chunks", "NoPE phase", "no QK norm", "temperature", "score on the input",
    ),
    "maverick, moe_layers given": ("chunks", "score on the input"),
    "guard 4": (
        "no chunk", "rotary everywhere", "QK norm", "QK norm per head", "rope scaling", "factor 16",
    ),
    "llama 3": ("own head", "rotated pairs"),
    "llama 3.1": ("rope scaling", "factor 8", "blend"),
    "llama 3.2, tied": ("rotated pairs", "rope scaling", "factor 32", "blend"),
}  # fmt: skip


def full(shape: str, dtype: str, backend: str) -> Found:
    """Rows of every length around a chunk's ends."""
    theirs, ours = pair(shape, dtype, backend)
    gaps = []
    for length in LENGTHS:
        ids = tokens(2, length, seed=length)
        expected = peer_logits(theirs, ids)
        gaps.append(largest(logits(ours, ids), expected))
    bf16 = {
        "scout": ("QK norm after rotation", "cast before the weight"),
        "llama 3": ("cast before the weight",),
    }
    features = (*FEATURES[shape], *(bf16.get(shape, ()) if dtype == "bf16" else ()))
    off = {f: largest(logits(without(ours, f), ids), expected) for f in features}
    note = ""
    if dtype == "bf16":
        theirs.to(torch.bfloat16)
        cast = largest(peer_logits(theirs, ids), expected)
        note = f"the peer, cast in place, rounds its rotations and is {cast:.0e} off"
    return Found(max(gaps), off, note)


for _shape in FEATURES:
    for _dtype in ("fp32", "bf16"):
        for _backend in ("sdpa", "eager"):
            _loose = CLOSE if _dtype == "fp32" else 0.3
            case(f"{_shape}: full, {_backend}, {_dtype}", 0, dtype=_dtype, loose=_loose)(
                partial(full, _shape, _dtype, _backend)
            )


def frequency(shape: str, feature: str) -> Found:
    """Every pair's rotation a token, as a ratio to the peer's, with heads of 128."""
    theirs, ours = pair(shape)
    expected = theirs.model.rotary_emb.inv_freq
    wrong = frequencies(without(ours, feature).config)
    plain = frequencies(without(ours, "rope scaling").config)
    slow = int((frequencies(ours.config) < plain).nonzero()[0, 0])
    note = f"first stretched pair {slow}, wavelength {2 * math.pi / float(plain[slow]):.1f}"
    one = torch.ones(())
    gap = largest(frequencies(ours.config) / expected, one)
    return Found(gap, {feature: largest(wrong / expected, one)}, note)


@case("scout, heads of 128: rotations", 0)
def _scout_rotations() -> Found:
    return frequency("scout, heads of 128", "factor 16")


@case("llama 3.1, heads of 128: rotations", 0)
def _llama31_rotations() -> Found:
    return frequency("llama 3.1, heads of 128", "factor 8")


@case("scout, heads of 128: 600 tokens", CLOSE)
def _real_heads() -> Found:
    """Far enough that Scout's step shows in the logits; three chunks."""
    theirs, ours = pair("scout, heads of 128", std=0.15)
    ids = tokens(1, 600)
    expected = peer_logits(theirs, ids)
    off = {
        f: largest(logits(without(ours, f), ids), expected) for f in ("factor 16", "rope scaling")
    }
    return Found(largest(logits(ours, ids), expected), off)


@case("scout: QK norm's epsilon")
def _epsilon() -> Found:
    """With small queries and keys the epsilon decides; a common mistake is 1e-6."""
    theirs = peer(peer_config("scout"))
    with torch.no_grad():
        for layer in theirs.model.layers:
            layer.self_attn.q_proj.weight.mul_(0.01)
            layer.self_attn.k_proj.weight.mul_(0.01)
    ours, ids = ours_of(theirs), tokens(2, 29)
    expected = peer_logits(theirs, ids)
    broken = without(ours, "QK norm's epsilon")
    off = {"QK norm's epsilon": largest(logits(broken, ids), expected)}
    return Found(largest(logits(ours, ids), expected), off)
