"""Qwen 2.5, Qwen 3 and Mistral: the same decoder with a switch, in one pass and token by token.

`theirs, ours = family_pair("qwen3")`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.parity.broken import without
from benchmarks.parity.case import Found, case
from benchmarks.parity.models import (
    CLOSE,
    largest,
    library,
    logits,
    ours_of,
    peer_logits,
    reloaded,
    spread,
    tokens,
)
from puna.engine.cache import KVCache
from puna.engine.step import Step, suits
from puna.models import Decoder

SHAPE: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2", {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 1e6}}),
    "qwen3": ("Qwen3", {"head_dim": 24, "rope_parameters": {"rope_theta": 1e6}}),
    "mistral": ("Mistral", {"head_dim": 24, "sliding_window": None}),
}
FEATURES = {
    "qwen2": ("bias", "rotated pairs"),
    "qwen3": ("own head", "head norms", "head norms' weights", "rotated pairs"),
    "mistral": ("own head", "rotated pairs"),
}


def family_pair(family: str, dtype: str = "fp32") -> tuple[Any, Decoder]:
    """transformers' model of a family with wide weights, and Puna's from its files."""
    transformers = library()
    name, changes = FAMILIES[family]
    rope = {"rope_type": "default"} | changes.get("rope_parameters", {"rope_theta": 1e4})
    config = getattr(transformers, f"{name}Config")(**(SHAPE | changes | {"rope_parameters": rope}))
    theirs: Any = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    spread(theirs)
    with torch.no_grad():  # it begins with biases of 0, which would hide their loss
        for key, parameter in theirs.named_parameters():
            if key.endswith("bias"):
                parameter.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(1))
    ours = ours_of(theirs, dtype)
    assert ours.config.family == family
    return (theirs if dtype == "fp32" else reloaded(theirs, dtype)), ours


def full(family: str, dtype: str) -> Found:
    """Rows of several lengths in one pass."""
    theirs, ours = family_pair(family, dtype)
    gaps = []
    for length in (1, 8, 29):
        ids = tokens(2, length, seed=length)
        expected = peer_logits(theirs, ids)
        gaps.append(largest(logits(ours, ids), expected))
    off = {f: largest(logits(without(ours, f), ids), expected) for f in FEATURES[family]}
    return Found(max(gaps), off)


@torch.no_grad()
def decoded(model: Decoder, ids: Tensor, prompt: int, fast: bool) -> Tensor:
    """A prompt in one call, then a token at a time, by the folded step or by the model."""
    rows, count = ids.shape
    cache = KVCache(model.config, rows, count)
    out = [logits(model, ids[:, :prompt], cache=cache)]
    step = Step(model)
    for i in range(prompt, count):
        at = torch.full((rows,), i)
        if fast:
            out.append(step(ids[:, i], at, cache)[:, None])
        else:
            token = ids[:, i : i + 1]
            out.append(logits(model, token, positions_BT=at[:, None], cache=cache))
    return torch.cat(out, 1)


def by_token(family: str) -> Found:
    """Decoding through a cache, by the model and by the step that folds its layers."""
    theirs, ours = family_pair(family)
    assert suits(ours)
    ids = tokens(3, 24)
    expected = peer_logits(theirs, ids)
    gaps = [largest(decoded(ours, ids, 7, fast), expected) for fast in (False, True)]
    off = {}
    for feature in FEATURES[family]:
        broken = without(ours, feature)
        seen = [largest(decoded(broken, ids, 7, fast), expected) for fast in (False, True)]
        off[feature] = min(seen)
    return Found(max(gaps), off)


for _family in FAMILIES:
    for _dtype in ("fp32", "bf16"):
        _loose = CLOSE if _dtype == "fp32" else None
        case(f"{_family}: full, {_dtype}", 0, dtype=_dtype, loose=_loose)(
            partial(full, _family, _dtype)
        )
    case(f"{_family}: token by token")(partial(by_token, _family))
