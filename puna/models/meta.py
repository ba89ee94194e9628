"""Meta's own layout (`params.json`, `consolidated.*.pth`) of Llama 3 and of Llama 4's text part.

`save(load_meta("DIR"), "OUT")` makes a Hugging Face directory of it, for any number of shards.
Shapes: D model width, F width of a feed-forward, E experts; a shard holds a slice of F or of heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puna.core.errors import UserError
from puna.models.config import ModelConfig, RopeScaling
from puna.models.decoder import Block, Decoder, allocated
from puna.models.meta_files import Shards, read_params
from puna.models.moe import GatedMLP, MoE

_CONTEXT = {"llama3": 8192, "llama4": 262_144}
BIAS = "puna_expert_bias"  # ours, of experts that were balanced; not in files by Meta
_TOKENS: dict[int, dict[str, Any]] = {
    128_256: {"bos_id": 128_000, "eos_ids": (128_001, 128_008, 128_009), "pad_id": 128_004},
    202_048: {"bos_id": 200_000, "eos_ids": (200_001, 200_007, 200_008), "pad_id": 200_018},
}


@torch.no_grad()
def read(directory: Path, dtype: torch.dtype | None) -> tuple[Decoder, list[str]]:
    """The model in `directory` with parameters as `dtype` (None: as its embedding), and what of
    the files it does without, one phrase for each kind.

    params.json leaves some things out; they are taken as Hugging Face's converters take them: the
    widths from the tensors, 131,072 positions where the rotation is scaled (else 8,192, for Llama 4
    262,144), the factor of scaling 32 up to a width of 3,072, else 8, for Llama 4 16 with a step.
    Memory peaks at the model and one layer or the largest tensor of the files. Raises UserError
    naming file or tensor for what is missing, too much, cut off, misshapen or not finite.
    """
    source = Shards(directory)
    config = _config(directory / "params.json", source)
    model = allocated(config, dtype or source.look("tok_embeddings.weight")[0].dtype)
    _put(model.embed, source.each("tok_embeddings.weight"), 0, "tok_embeddings.weight")
    _put(model.norm.weight, [source.one("norm.weight")], 0, "norm.weight")
    source.release()
    if model.head is not None:
        _put(model.head.weight, source.each("output.weight"), 0, "output.weight")
    for i, block in enumerate(model.layers):
        assert isinstance(block, Block)
        source.release()
        _fill(block, config, source, f"layers.{i}.")
    source.require_all_used(tied=config.tie_embeddings)
    return model.eval(), source.left_out()


def load_meta(directory: str | Path, dtype: torch.dtype | None = torch.bfloat16) -> Decoder:
    """The model that `read` gives."""
    return read(Path(directory), dtype)[0]


def read_shape(directory: Path) -> ModelConfig:
    """The shape of the model in `directory`, widths read off its tensors; raises as `load_meta`."""
    return _config(directory / "params.json", Shards(directory))


def _config(path: Path, source: Shards) -> ModelConfig:
    """The shape, widths read off the tensors. Raises UserError for a field that is missing."""
    params = read_params(path)
    embed = source.look("tok_embeddings.weight")
    vocab = sum(t.shape[0] for t in embed)
    moe = params.get("moe_args") or {}
    llama4 = source.has("layers.0.attention.wqkv.weight")
    try:
        layers, heads = int(params["n_layers"]), int(params["n_heads"])
        head_dim = int(params.get("head_dim", params["dim"] // heads))
        _require_shards(source, heads, int(params["n_kv_heads"]), head_dim)
        every = int(moe.get("interleave_moe_layer_step", 1)) if moe else 1
        config = ModelConfig(
            family="llama4" if llama4 else "llama3",
            vocab_size=vocab,
            hidden_size=int(params["dim"]),
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=int(params["n_kv_heads"]),
            head_dim=head_dim,
            intermediate_size=_dense_width(params, source, layers),
            rope_theta=float(params.get("rope_theta", 500_000.0)),
            rope_scaling=_scaling(params, llama4),
            norm_eps=float(params["norm_eps"]),
            tie_embeddings=not llama4 and _tied(source),
            max_positions=131_072
            if params.get("use_scaled_rope") and not llama4
            else _CONTEXT["llama4" if llama4 else "llama3"],
            **_TOKENS.get(vocab, {}),
        )
        if not llama4:
            return config
        return replace(
            config,
            num_experts=int(moe.get("num_experts", 0)),
            moe_every=every,
            expert_size=_expert_width(source, every) if moe else 0,
            attention_chunk=params.get("attention_chunk_size"),
            nope_every=int(params.get("nope_layer_interval", 0)),
            qk_norm=bool(params.get("use_qk_norm", False)),
            # Off by default in Meta's code, on in what was published for other libraries.
            temperature_tuning=bool(params.get("attn_temperature_tuning", True)),
            floor_scale=int(params.get("floor_scale", 8192)),
            attn_scale=float(params.get("attn_scale", 0.1)),
        )
    except KeyError as error:
        raise UserError(f"{path} has no field {error}", "copy it again") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{path} is broken: {error!r}", "copy it again") from error


def _require_shards(source: Shards, heads: int, kv_heads: int, head_dim: int) -> None:
    """Raises UserError where the shards that are there hold too few heads to be all."""
    name, all_heads = "layers.0.attention.wqkv.weight", heads + 2 * kv_heads
    if not source.has(name):
        name, all_heads = "layers.0.attention.wq.weight", heads
    rows, count = source.look(name)[0].shape[0], len(source.files)
    whole, rest = divmod(all_heads * head_dim, max(1, rows))
    if rest == 0 and whole > count:
        what = f"{source.files[0].parent} has {count} of {whole} files consolidated.*.pth"
        raise UserError(what, "copy the missing ones, or check params.json beside them")


def _tied(source: Shards) -> bool:
    """Small models carry their embedding twice, or once."""
    if not source.has("output.weight"):
        return True
    pairs = zip(source.look("output.weight"), source.look("tok_embeddings.weight"), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _dense_width(params: Mapping[str, Any], source: Shards, layers: int) -> int:
    for i in range(layers):
        stem = f"layers.{i}.feed_forward."
        if source.has(stem + "w1.weight"):
            return sum(t.shape[0] for t in source.look(stem + "w1.weight"))
        if source.has(stem + "mlp.fc1_weight"):
            return sum(t.shape[0] // 2 for t in source.look(stem + "mlp.fc1_weight"))
    # No layer has it: what the formula says, as other libraries write it down.
    width = int(params.get("ffn_dim_multiplier", 1.0) * int(2 * 4 * params["dim"] / 3))
    multiple = int(params.get("multiple_of", 256))
    return math.ceil(width / multiple) * multiple


def _expert_width(source: Shards, every: int) -> int:
    name = f"layers.{every - 1}.feed_forward.experts.moe_w_in_eD_F"
    return sum(t.shape[-1] for t in source.look(name))


def _scaling(params: Mapping[str, Any], llama4: bool) -> RopeScaling | None:
    if not params.get("use_scaled_rope"):
        return None
    usual = (16.0, 1.0) if llama4 else (32.0 if params["dim"] <= 3072 else 8.0, 4.0)
    factor = float(params.get("rope_scaling_factor", usual[0]))
    return RopeScaling(factor, 1.0, float(params.get("rope_high_freq_factor", usual[1])), 8192)


def _fill(block: Block, config: ModelConfig, source: Shards, stem: str) -> None:
    """One layer's parameters from the tensors that begin with `stem`."""
    attention, mlp = stem + "attention.", stem + "feed_forward."
    norm = source.one(stem + "attention_norm.weight", attention + "wqkv.layer_norm_weight")
    _put(block.attention_norm.weight, [norm], 0, stem + "attention_norm")
    norms = (stem + "ffn_norm.weight", mlp + "norm.weight", mlp + "mlp.layer_norm_weight")
    _put(block.feed_forward_norm.weight, [source.one(*norms)], 0, stem + "ffn_norm")
    _fill_qkv(block.attention.qkv.weight, config, source, attention)
    out = attention + "wo.weight"
    _put(block.attention.out.weight, source.each(out), 1, out)
    feed_forward = block.feed_forward
    if not isinstance(feed_forward, MoE):
        _fill_dense(feed_forward, source, mlp)
        return
    shared, experts, size = feed_forward.shared, feed_forward.experts, config.expert_size
    for i, name in enumerate(("w_in_shared_FD.weight", "w_swiglu_FD.weight")):
        half = shared.gate_up.weight[i * size : (i + 1) * size]
        _put(half, source.each(mlp + name), 0, mlp + name)
    down = mlp + "w_out_shared_DF.weight"
    _put(shared.down.weight, source.each(down), 1, down)
    router = mlp + "router_DE"
    _put(feed_forward.router.weight, [source.one(router).t()], 0, router)
    if source.has(mlp + BIAS):
        _put(feed_forward.expert_bias, [source.one(mlp + BIAS)], 0, mlp + BIAS)
    mlp += "experts."
    for i, name in enumerate(("moe_w_in_eD_F", "moe_w_swiglu_eD_F")):
        half = experts.gate_up[:, :, i * size : (i + 1) * size]
        _put(half, _by_expert(config, source, mlp + name), 2, mlp + name)
    down = mlp + "moe_w_out_eF_D"
    _put(experts.down, _by_expert(config, source, down), 1, down)


def _by_expert(config: ModelConfig, source: Shards, name: str) -> list[Tensor]:
    """Every shard's slice [E * rows, columns] as [E, rows, columns]."""
    slices = source.each(name)
    if any(t.shape[0] % config.num_experts for t in slices):
        what = f"{name} has {slices[0].shape[0]} rows for {config.num_experts} experts"
        raise UserError(what, "check params.json beside it")
    return [t.reshape(config.num_experts, -1, t.shape[-1]) for t in slices]


def _fill_dense(mlp: GatedMLP, source: Shards, stem: str) -> None:
    """Gate and up, in each shard's own halves of one matrix or apart, and down."""
    halves = mlp.gate_up.weight.chunk(2)
    fused = stem + "mlp.fc1_weight"
    if source.has(fused):
        cut = [t.chunk(2, 0) for t in source.each(fused)]
        for i, half in enumerate(halves):
            _put(half, [c[i] for c in cut], 0, fused)
    else:
        for half, name in zip(halves, (f"{stem}w1.weight", f"{stem}w3.weight"), strict=True):
            _put(half, source.each(name), 0, name)
    down = stem + ("mlp.fc2_weight" if source.has(fused) else "w2.weight")
    _put(mlp.down.weight, source.each(down), 1, down)


def _fill_qkv(target: Tensor, config: ModelConfig, source: Shards, stem: str) -> None:
    """q, k and v, each shard having some heads; Llama 3's rotation pairs halves, not neighbours."""
    heads = {"q": config.num_heads, "k": config.num_kv_heads, "v": config.num_kv_heads}
    rows = {part: count * config.head_dim for part, count in heads.items()}
    parts = dict(zip(rows, torch.split(target, list(rows.values())), strict=True))
    fused = stem + "wqkv.weight"
    if source.has(fused):
        shards = source.each(fused)
        sizes = [count // len(shards) for count in rows.values()]
        try:
            cut = [torch.split(t, sizes) for t in shards]
        except RuntimeError as error:
            raise UserError(f"{fused} has {shards[0].shape[0]} rows, not {sum(sizes)}") from error
        for i, whole in enumerate(parts.values()):
            _put(whole, [c[i] for c in cut], 0, fused)
        return
    for part, wanted in parts.items():
        name = f"{stem}w{part}.weight"
        pieces = source.each(name)
        # With more shards than key heads, neighbours hold the same head.
        pieces = pieces[:: max(1, sum(t.shape[0] for t in pieces) // rows[part])]
        if part != "v" and config.family == "llama3":
            pieces = [_halves(t, config.head_dim, name) for t in pieces]
        _put(wanted, pieces, 0, name)


def _halves(weight: Tensor, head_dim: int, name: str) -> Tensor:
    """Rows of heads in which neighbours turn together, as rows in which halves do."""
    if weight.shape[0] % head_dim:
        what = f"{name} has {weight.shape[0]} rows in a shard, not heads of {head_dim}"
        raise UserError(what, "check params.json beside it")
    pairs = weight.reshape(-1, head_dim // 2, 2, weight.shape[-1])
    return pairs.transpose(1, 2).reshape(weight.shape)


def _put(target: Tensor, pieces: Sequence[Tensor], dim: int, name: str) -> None:
    """Fill `target` with the pieces that it is cut into along `dim`."""
    first = pieces[0].shape
    shape = [*first[:dim], sum(t.shape[dim] for t in pieces if t.dim() > dim), *first[dim + 1 :]]
    for piece in pieces:
        if [*piece.shape[:dim], *piece.shape[dim + 1 :]] != [*first[:dim], *first[dim + 1 :]]:
            sizes = " and ".join(str(list(s)) for s in (first, piece.shape))
            raise UserError(f"shards of {name} do not fit: {sizes}", "copy them again")
    if shape != list(target.shape):
        shapes = f"{shape}, params.json says {list(target.shape)}"
        raise UserError(f"{name} is {shapes}", "check params.json beside it")
    start = 0
    for piece in pieces:
        target.narrow(dim, start, piece.shape[dim]).copy_(piece)
        start += piece.shape[dim]
    # One sum tells: it is finite only if every value is (and else each is looked at).
    whole = math.isfinite(float(target.sum()))
    if not whole and not bool(target.isfinite().all()):
        raise UserError(f"{name} holds values that are not finite", "copy the files again")
