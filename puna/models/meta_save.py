"""Writing Meta's layout: `save_meta(model, "OUT")` leaves params.json and consolidated.00.pth.

What params.json has no word for is found by reading it again: a model that would then compute
something else is refused. Shapes as in `puna.models.meta`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puna.core.errors import UserError
from puna.models.config import ModelConfig
from puna.models.decoder import Block, Decoder
from puna.models.meta import BIAS, read_shape
from puna.models.moe import MoE

# Said elsewhere or by custom: nothing that the decoder computes hangs on them.
_SOFT = (
    "max_positions", "initializer_range", "bos_id", "eos_ids", "pad_id", "tie_embeddings", "vision",
)  # fmt: skip


@torch.no_grad()
def save_meta(model: Decoder, directory: Path) -> list[str]:
    """Write `model`, as what it is stored, and return what was left out of it.

    Memory peaks at twice the model. Raises UserError for what Meta's layout cannot say.
    """
    config = model.config
    if config.family not in ("llama3", "llama4"):
        raise UserError(f"Meta's layout has no {config.family}", "leave out --layout")
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in _names(model)}
    torch.save(tensors, directory / "consolidated.00.pth")
    (directory / "params.json").write_text(json.dumps(_params(config), indent=1) + "\n")
    again = read_shape(directory)
    for field in fields(config):
        mine, read = getattr(config, field.name), getattr(again, field.name)
        if mine != read and field.name not in _SOFT:
            what = f"Meta's layout cannot say {field.name} = {mine!r}"
            raise UserError(what, f"it would be read as {read!r}; leave out --layout")
    other = [n for n in _SOFT[:-1] if getattr(config, n) != getattr(again, n)]
    out = [f"what params.json has no word for ({', '.join(other)})"] if other else []
    if config.vision is not None:
        assert model.vision is not None
        eyes = list(model.vision.parameters())
        size = sum(p.nbytes for p in eyes) / 1e6
        out.append(f"image weights ({len(eyes)} tensors, {size:,.1f} MB)")
    return out


def _params(config: ModelConfig) -> dict[str, Any]:
    """The fields that Meta's ModelArgs of that family knows, and for Llama 4 the rotation's."""
    width = config.intermediate_size
    unit = next((m for m in (4096, 1024, 256, 64, 16, 4, 2) if width % m == 0), width)
    data: dict[str, Any] = {
        "dim": config.hidden_size,
        "n_layers": config.num_layers,
        "n_heads": config.num_heads,
        "n_kv_heads": config.num_kv_heads,
        "vocab_size": config.vocab_size,
        # int(factor * int(8 / 3 dim)), made whole upwards, gives the width back.
        "ffn_dim_multiplier": width / int(8 * config.hidden_size / 3),
        "multiple_of": unit,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "use_scaled_rope": config.rope_scaling is not None,
    }
    if config.head_dim * config.num_heads != config.hidden_size:
        data["head_dim"] = config.head_dim
    if config.rope_scaling is not None:
        data["rope_scaling_factor"] = config.rope_scaling.factor
        data["rope_high_freq_factor"] = config.rope_scaling.high_freq_factor
    if config.family == "llama3":
        return data
    data |= {
        "nope_layer_interval": config.nope_every or None,
        "attention_chunk_size": config.attention_chunk,
        "use_qk_norm": config.qk_norm,
        "attn_temperature_tuning": config.temperature_tuning,
        "floor_scale": config.floor_scale,
        "attn_scale": config.attn_scale,
    }
    if config.num_experts:
        moe = {"num_experts": config.num_experts, "interleave_moe_layer_step": config.moe_every}
        data["moe_args"] = moe | {"top_k": 1}
    return data


def _names(model: Decoder) -> Iterator[tuple[str, Tensor]]:
    """Every tensor by Meta's name, in the shape it has there."""
    config = model.config
    yield "tok_embeddings.weight", model.embed
    for i, block in enumerate(model.layers):
        assert isinstance(block, Block)
        yield from _layer(block, config, f"layers.{i}.")
    yield "norm.weight", model.norm.weight
    yield "output.weight", model.embed if model.head is None else model.head.weight


def _layer(block: Block, config: ModelConfig, stem: str) -> Iterator[tuple[str, Tensor]]:
    attention, mlp = stem + "attention.", stem + "feed_forward."
    qkv, second = block.attention.qkv.weight, block.feed_forward_norm.weight
    yield attention + "wo.weight", block.attention.out.weight
    feed_forward = block.feed_forward
    if config.family == "llama3":
        keys = config.num_kv_heads * config.head_dim
        parts = torch.split(qkv, [config.num_heads * config.head_dim, keys, keys])
        for part, weight in zip("qkv", parts, strict=True):
            rows = weight if part == "v" else _neighbours(weight, config.head_dim)
            yield f"{attention}w{part}.weight", rows
        yield stem + "attention_norm.weight", block.attention_norm.weight
        yield stem + "ffn_norm.weight", second
    else:
        yield attention + "wqkv.weight", qkv
        yield attention + "wqkv.layer_norm_weight", block.attention_norm.weight
    if isinstance(feed_forward, MoE):
        yield from _experts(feed_forward, mlp)
        yield mlp + "norm.weight", second
    elif config.family == "llama3":
        gate, up = feed_forward.gate_up.weight.chunk(2)
        yield from ((mlp + "w1.weight", gate), (mlp + "w3.weight", up))
        yield mlp + "w2.weight", feed_forward.down.weight
    else:
        yield mlp + "mlp.fc1_weight", feed_forward.gate_up.weight
        yield mlp + "mlp.fc2_weight", feed_forward.down.weight
        yield mlp + "mlp.layer_norm_weight", second


def _experts(mlp: MoE, stem: str) -> Iterator[tuple[str, Tensor]]:
    """The shared and the routed experts of a layer, those [E * D, F] and [E * F, D]."""
    gate, up = mlp.shared.gate_up.weight.chunk(2)
    yield stem + "w_in_shared_FD.weight", gate
    yield stem + "w_swiglu_FD.weight", up
    yield stem + "w_out_shared_DF.weight", mlp.shared.down.weight
    yield stem + "router_DE", mlp.router.weight.t().contiguous()
    gate, up = mlp.experts.gate_up.chunk(2, 2)
    yield stem + "experts.moe_w_in_eD_F", gate.flatten(0, 1)
    yield stem + "experts.moe_w_swiglu_eD_F", up.flatten(0, 1)
    yield stem + "experts.moe_w_out_eF_D", mlp.experts.down.flatten(0, 1)
    if bool(mlp.expert_bias.any()):
        yield stem + BIAS, mlp.expert_bias


def _neighbours(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of heads in which halves turn together, as rows in which neighbours do."""
    halves = weight.reshape(-1, 2, head_dim // 2, weight.shape[-1])
    return halves.transpose(1, 2).reshape(weight.shape)
