"""Every field of config.json that transformers acts upon: Puna's logits agree, or it refuses.

The fields are those of the peer's own class, those its base classes read, and a few of neighbours
that a converted file may carry.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from benchmarks.parity.case import Found, case
from benchmarks.parity.models import (
    CLOSE,
    largest,
    logits,
    peer,
    peer_config,
    peer_logits,
    scaling,
    tokens,
)
from puna.core.errors import UserError
from puna.models import load

ELSEWHERE: dict[str, list[Any]] = {
    "is_causal": [False],
    "partial_rotary_factor": [0.5],
    "sliding_window": [4],
    "logits_scaling": [2.0],
    "final_logit_softcapping": [1.0],
    "attn_logit_softcapping": [1.0],
    "embedding_multiplier": [2.0],
    "original_max_position_embeddings": [16],
    "rope_theta": [None, 10.0],
    "rope_scaling": [{"rope_type": "linear", "factor": 4.0}, {"type": "dynamic", "factor": 4.0}],
    "quantization_config": [{"quant_method": "fp8"}],
}
NAMED: dict[str, list[Any]] = {
    "hidden_act": ["gelu", "relu", "swish"],
    "layer_types": [["full_attention"] * 4, ["chunked_attention"] * 4],
    "moe_layers": [[], [0], [1, 3], [0, 1, 3], [3]],
    "no_rope_layers": [[1] * 4, [0] * 4, [1, 0, 1, 0], [0, 1, 1, 1]],
    "no_rope_layer_interval": [2, 3],
    "model_type": ["mistral", "granite"],
    "rope_parameters": [
        {"rope_type": "default", "rope_theta": 500_000.0},
        {"rope_type": "default", "rope_theta": 10.0},
        {"rope_type": "default", "rope_theta": 500_000.0, "partial_rotary_factor": 0.5},
        scaling(4.0, 1.0),
        scaling(16.0, 2.0),
        scaling(16.0, 1.0) | {"low_freq_factor": 0.5},
        scaling(16.0, 1.0) | {"attention_factor": 3.0},
        scaling(16.0, 1.0) | {"partial_rotary_factor": 0.5},
        {"rope_type": "yarn", "rope_theta": 500_000.0, "factor": 4.0},
        {"rope_type": "linear", "rope_theta": 500_000.0, "factor": 4.0},
    ],
}


GONE = "(absent)"
# Fields as releases before transformers 5 wrote them, and contradictions between the two.
TOGETHER: list[dict[str, Any]] = [
    {"attention_chunk_size": None},
    {"rope_parameters": GONE},
    {"rope_parameters": GONE, "rope_theta": 10.0},
    {"rope_parameters": GONE, "rope_theta": 10.0, "rope_scaling": scaling(4.0, 1.0)},
    {"rope_parameters": {"rope_type": "default"}, "rope_theta": 10.0},
    {"rope_parameters": {"full_attention": scaling(4.0, 1.0)}},
    *({"no_rope_layers": v, "layer_types": GONE} for v in NAMED["no_rope_layers"]),
    *({"no_rope_layers": GONE, "layer_types": GONE, "no_rope_layer_interval": n} for n in (1, 2)),
    *({"moe_layers": GONE, "interleave_moe_layer_step": n} for n in (1, 2, 4, 5)),
]


def changes(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What fields might hold instead."""
    for name, value in data.items():
        yield {name: GONE}
        if name in NAMED:
            continue
        if isinstance(value, bool):
            yield {name: not value}
        elif isinstance(value, int):
            yield from ({name: v} for v in (0, 1, 2, value * 2, value + 1))
        elif isinstance(value, float):
            yield from ({name: v} for v in (0.0, 0.3, value * 100))
    yield from ({n: v} for n, values in NAMED.items() if n in data for v in values)
    yield from ({n: v} for n, values in ELSEWHERE.items() for v in values)
    yield from (together for together in TOGETHER if together.keys() & data.keys())


def asked_of_peer(directory: Path, ids: Tensor) -> Tensor | None:
    """The peer's logits with this config.json; None where it cannot load or run it."""
    import transformers

    try:
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, output_loading_info=True
        )
        model, info = loaded
        whole = not info["missing_keys"] and not info["mismatched_keys"]
        return peer_logits(model.eval(), ids) if whole else None
    except Exception:  # the peer's own errors are of every kind
        return None


def fields(shape: str) -> Found:
    """Every change of every field: refused by name, or computed as the peer computes it."""
    config = peer_config(shape, num_hidden_layers=4)
    ids = tokens(1, 29)
    gap, off, refused, alike, unreadable = 0.0, {}, 0, 0, 0
    with TemporaryDirectory() as folder:
        directory = Path(folder)
        peer(config).save_pretrained(directory)
        path = directory / "config.json"
        data = json.loads(path.read_text())
        before = asked_of_peer(directory, ids)
        assert before is not None
        for change in changes(data):
            changed = {n: v for n, v in (data | change).items() if v is not GONE}
            path.write_text(json.dumps(changed))
            try:
                ours = logits(load(directory)[0], ids)
            except UserError:
                refused += 1
                continue
            expected = asked_of_peer(directory, ids)
            if expected is None:
                unreadable += 1
                continue
            alike += 1
            gap = max(gap, largest(ours, expected))
            seen = largest(before, expected)
            if seen > CLOSE:  # a field that acts: to pass over it would be noticed
                off[", ".join(f"{n} = {v}" for n, v in change.items())] = seen
    return Found(gap, off, f"{refused} refused, {alike} alike, {unreadable} only read by Puna")


for _shape in ("scout", "maverick", "llama 3.1"):
    case(f"{_shape}: fields of config.json")(partial(fields, _shape))
