"""A second oracle: Meta's own Llama 4, as the package llama-models has it.

Only full forward passes are compared: its decoding drops the chunks at one token a call.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.parity.broken import without
from benchmarks.parity.case import Found, case
from benchmarks.parity.models import LENGTHS, largest, logits, pair, tokens

PEER, NAME = "llama-models", "llama_models"
FOLDER = Path(__file__).parents[2] / ".peers" / "llama-models"
INSTALL = "pip install --no-deps --target .peers/llama-models llama-models==0.3.0 fairscale==0.4.13"
STEPS = {"scout": 1, "maverick": 2}


def started() -> Any:
    """The package's modules, with its model-parallel group of one process."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    initialize = import_module("fairscale.nn.model_parallel.initialize")

    if not torch.distributed.is_initialized():
        with TemporaryDirectory() as directory:
            torch.distributed.init_process_group(
                "gloo", init_method=f"file://{directory}/group", rank=0, world_size=1
            )
            initialize.initialize_model_parallel(1)
    return [import_module(f"llama_models.llama4.{m}") for m in ("args", "datatypes", "model")]


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' tensors under Meta's names."""
    plain = {
        "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk",
        "self_attn.v_proj": "attention.wv", "self_attn.o_proj": "attention.wo",
        "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
        "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2", "model.embed_tokens":
        "tok_embeddings", "model.norm": "norm", "lm_head": "output", "model.layers": "layers",
    }  # fmt: skip
    out = {}
    for name, value in weights.items():
        if name.endswith("router.weight"):
            out[name.replace("model.", "").replace("router.weight", "router_DE")] = value.t()
            continue
        if name.endswith("experts.gate_up_proj"):
            stem = name.replace("model.", "").removesuffix("gate_up_proj")
            out[stem + "w1"], out[stem + "w3"] = value.chunk(2, -1)
            continue
        if name.endswith("experts.down_proj"):
            out[name.replace("model.", "").replace("down_proj", "w2")] = value
            continue
        for theirs, own in plain.items():
            name = name.replace(theirs, own)
        out[name] = value
    return out


def meta(shape: str) -> Found:
    """Scout and Maverick in fp32, through a chunk's end and the temperature's steps."""
    args, datatypes, model = started()
    width = 192 if STEPS[shape] == 2 else 96
    changes: dict[str, Any] = {"intermediate_size": 96, "intermediate_size_mlp": width}
    if shape == "scout":  # its stretching is fixed to 8192 tokens
        changes["rope_parameters"] = {
            "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 16.0,
            "low_freq_factor": 1.0, "high_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
        }  # fmt: skip
    theirs, ours = pair(shape, **changes)
    config = ours.config
    with patch.object(torch.Tensor, "cuda", lambda self: self):  # it knows no other device
        oracle = model.Transformer(
            args.ModelArgs(
                dim=64, n_layers=8, n_heads=4, n_kv_heads=2, head_dim=16, vocab_size=128,
                multiple_of=32, ffn_dim_multiplier=9 / 8, ffn_exp=4.0, norm_eps=config.norm_eps,
                attention_chunk_size=8, rope_theta=config.rope_theta,
                use_scaled_rope=config.rope_scaling is not None, nope_layer_interval=4,
                use_qk_norm=config.qk_norm, attn_temperature_tuning=True, floor_scale=4.0,
                moe_args=args.MoEArgs(num_experts=4, interleave_moe_layer_step=STEPS[shape]),
                max_batch_size=2, max_seq_len=64,
            )
        ).eval()  # fmt: skip
    oracle.load_state_dict(renamed(theirs.state_dict()))
    gaps = []
    for length in LENGTHS:
        ids = tokens(2, length, seed=length)
        expected = oracle(datatypes.TransformerInput(tokens=ids, tokens_position=0)).logits
        gaps.append(largest(logits(ours, ids), expected))
    features = ("chunks", "NoPE phase", "temperature", "score on the input")
    return Found(max(gaps), {f: largest(logits(without(ours, f), ids), expected) for f in features})


for _shape in STEPS:
    case(f"{_shape}: Meta's own", peer=PEER, slow=True)(partial(meta, _shape))
