"""The full forward pass: every shape, both attention back ends, fp32 and bf16, equal to the bit."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

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
        "no QK norm in NoPE layers", "temperature", "rope scaling", "factor 16",
        "score on the input", "sigmoid", "shared expert unscaled",
    ),
    "scout, tied": ("chunks", "rotated pairs"),
    "maverick": (
        "own head", "chunks", "NoPE phase", "no QK norm", "temperature", "score on the input",
        "sigmoid", "shared expert unscaled",
    ),
    "maverick, moe_layers given": ("chunks", "score on the input"),
    "guard 4": (
        "no chunk", "rotary everywhere", "QK norm", "QK norm per head", "rope scaling", "factor 16",
    ),
    "llama 3": ("own head", "rotated pairs"),
    "llama 3.1": ("rope scaling", "factor 8", "blend"),
    "llama 3.2, tied": ("rotated pairs", "rope scaling", "factor 32", "blend"),
    "qwen2": ("bias", "rotated pairs"),
    "qwen3": ("own head", "head norms", "head norms' weights", "rotated pairs"),
    "mistral": ("own head", "rotated pairs"),
}  # fmt: skip

# What shows only where numbers are rounded.
ROUNDED = {
    "scout": (
        "QK norm after rotation", "cast before the weight", "rotation's dtype", "fp32 temperature",
    ),
    "maverick": ("rotation's dtype", "fp32 temperature"),
    "llama 3": ("cast before the weight", "rotation's dtype"),
}  # fmt: skip


def full(shape: str, dtype: str, backend: str) -> Found:
    """Rows of every length around a chunk's ends."""
    theirs, ours = pair(shape, dtype, backend)
    gaps = []
    for length in LENGTHS:
        ids = tokens(2, length, seed=length)
        expected = peer_logits(theirs, ids)
        gaps.append(largest(logits(ours, ids), expected))
    features = FEATURES[shape]
    if dtype == "bf16":
        features += ROUNDED.get(shape, ())
        features += ("rounded scores",) if backend == "eager" else ()
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
            _loose = CLOSE if _dtype == "fp32" else None  # routes flip: far off, and rightly so
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


@case("scout: experts that tie", 0)
def _ties() -> Found:
    """Experts that are one and the same: any may be taken, but only one."""
    theirs = peer(peer_config("scout"))

    def expected(alike: bool) -> Tensor:
        with torch.no_grad():
            for layer in theirs.model.layers:
                moe = layer.feed_forward
                moe.router.weight[:] = moe.router.weight[:1]
                if alike:
                    moe.experts.gate_up_proj[:] = moe.experts.gate_up_proj[:1]
                    moe.experts.down_proj[:] = moe.experts.down_proj[:1]
        return peer_logits(theirs, ids)

    ids = tokens(2, 29)
    apart = expected(alike=False)
    unlike = largest(logits(ours_of(theirs), ids), apart)
    wanted, ours = expected(alike=True), ours_of(theirs)
    off = {"one of equals": largest(logits(without(ours, "one of equals"), ids), wanted)}
    note = f"of unlike ones Puna takes the first, the peer any: {unlike:.0e} off"
    return Found(largest(logits(ours, ids), wanted), off, note)
