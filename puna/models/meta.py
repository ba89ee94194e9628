"""Meta's own layout (`params.json`, `consolidated.*.pth`) of Llama 3 and of Llama 4's text part.

`save(load_meta("DIR"), "OUT")` makes a Hugging Face directory of it, for any number of shards.
Shapes: D model width, F width of a feed-forward, E experts; a shard holds a slice of F or of heads.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puna.core.errors import UserError
from puna.models.config import ModelConfig, RopeScaling
from puna.models.decoder import Block, Decoder, allocated
from puna.models.moe import GatedMLP, MoE

# Statistics, tables and the image encoder, none of which the text model reads.
_UNUSED = re.compile(
    r"rope\.freqs|freqs_cis|vision_|.*(_extra_state|gate_stats_3E|expert_activation_DE)$"
)
_CONTEXT = {"llama3": 8192, "llama4": 262_144}
_TOKENS: dict[int, dict[str, Any]] = {
    128_256: {"bos_id": 128_000, "eos_ids": (128_001, 128_008, 128_009), "pad_id": 128_004},
    202_048: {"bos_id": 200_000, "eos_ids": (200_001, 200_007, 200_008), "pad_id": 200_018},
}


@torch.no_grad()
def load_meta(directory: str | Path, dtype: torch.dtype = torch.bfloat16) -> Decoder:
    """The model in `directory` with parameters as `dtype`.

    params.json leaves some things out; they are taken as Hugging Face's converters take them: the
    widths from the tensors, 131,072 positions where the rotation is scaled (else 8,192, for Llama 4
    262,144), the factor of scaling 32 up to a width of 3,072, else 8, for Llama 4 16 with a step.
    Raises UserError naming file or tensor for what is missing, too much, cut off or misshapen.
    """
    directory = Path(directory)
    params = _params(directory / "params.json")
    source = _Shards(directory)
    config = _config(directory / "params.json", params, source)
    model = allocated(config, dtype)
    _put(model.embed, source.joined("tok_embeddings.weight", 0), "tok_embeddings.weight")
    _put(model.norm.weight, source.one("norm.weight"), "norm.weight")
    if model.head is not None:
        _put(model.head.weight, source.joined("output.weight", 0), "output.weight")
    for i, block in enumerate(model.layers):
        assert isinstance(block, Block)
        _fill(block, config, source, f"layers.{i}.")
    source.require_all_used(tied=config.tie_embeddings)
    return model.eval()


class _Shards:
    """The tensors of all shards, mapped from the disk; who asks for one has used it."""

    def __init__(self, directory: Path) -> None:
        self.files = sorted(directory.glob("consolidated.*.pth")) or [
            directory / "consolidated.pth"
        ]
        self.shards = [_mapped(file) for file in self.files]
        for file, shard in zip(self.files, self.shards, strict=True):
            if shard.keys() != self.shards[0].keys():
                name = min(shard.keys() ^ self.shards[0].keys())
                what = f"{name} is not in both {self.files[0]} and {file.name}"
                raise UserError(what, "copy the directory again")
        self.used: set[str] = set()

    def has(self, name: str) -> bool:
        return name in self.shards[0]

    def each(self, name: str) -> list[Tensor]:
        """The slice of every shard."""
        if not self.has(name):
            raise UserError(f"{self.files[0]} has no tensor {name}", "the checkpoint is incomplete")
        self.used.add(name)
        return [shard[name] for shard in self.shards]

    def one(self, *names: str) -> Tensor:
        """What all shards hold alike, under the first of `names` that is there."""
        return self.each(next((n for n in names if self.has(n)), names[0]))[0]

    def joined(self, name: str, dim: int) -> Tensor:
        """The whole of a tensor that is cut along `dim`."""
        return _cat(self.each(name), dim, name)

    def require_all_used(self, tied: bool) -> None:
        """Raises UserError for a tensor that nothing reads."""
        known = self.used | ({"output.weight"} if tied else set())
        for name in self.shards[0]:
            if name not in known and not _UNUSED.match(name):
                what = f"{self.files[0]} has a tensor {name}, which is not of Llama 3 or 4"
                raise UserError(what, "convert another checkpoint")


def _cat(pieces: Sequence[Tensor], dim: int, name: str) -> Tensor:
    try:
        return torch.cat(list(pieces), dim) if len(pieces) > 1 else pieces[0]
    except RuntimeError as error:
        raise UserError(f"shards of {name} do not fit: {error}", "copy them again") from error


def _mapped(file: Path) -> dict[str, Tensor]:
    """A shard's tensors; nothing is unpickled but tensors and the byte buffers beside them."""
    try:
        with torch.serialization.safe_globals([io.BytesIO]):
            found = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no file {file}", "name a directory with params.json beside it") from None
    except pickle.UnpicklingError as error:
        what = f"{file} holds more than tensors"
        raise UserError(what, "take a checkpoint from its source") from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"{file} is not whole: {str(error)[:200]}", "copy it again") from error
    if not isinstance(found, Mapping):
        raise UserError(f"{file} holds no tensors by name", "take a checkpoint from its source")
    tensors = {str(k): v for k, v in found.items() if isinstance(v, Tensor)}
    for name, tensor in tensors.items():
        if not _UNUSED.match(name) and not tensor.is_floating_point():
            raise UserError(
                f"{file}: {name} is {tensor.dtype}", "quantised files are not supported"
            )
    return tensors


def _params(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
        data = data.get("model", data)
        return {"n_kv_heads": data["n_heads"]} | {k: v for k, v in data.items() if v is not None}
    except FileNotFoundError:
        raise UserError(f"no file {path}", "name a directory in Meta's layout") from None
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise UserError(f"{path} is broken: {error!r}", "copy it again") from error


def _config(path: Path, params: Mapping[str, Any], source: _Shards) -> ModelConfig:
    """The shape, widths read off the tensors. Raises UserError for a field that is missing."""
    embed = source.joined("tok_embeddings.weight", 0)
    moe = params.get("moe_args") or {}
    llama4 = source.has("layers.0.attention.wqkv.weight")
    try:
        layers, heads = int(params["n_layers"]), int(params["n_heads"])
        every = int(moe.get("interleave_moe_layer_step", 1)) if moe else 1
        config = ModelConfig(
            family="llama4" if llama4 else "llama3",
            vocab_size=embed.shape[0],
            hidden_size=int(params["dim"]),
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=int(params["n_kv_heads"]),
            head_dim=int(params.get("head_dim", params["dim"] // heads)),
            intermediate_size=_dense_width(params, source, layers),
            rope_theta=float(params.get("rope_theta", 500_000.0)),
            rope_scaling=_scaling(params, llama4),
            norm_eps=float(params["norm_eps"]),
            tie_embeddings=not llama4 and _tied(source, embed),
            max_positions=131_072
            if params.get("use_scaled_rope") and not llama4
            else _CONTEXT["llama4" if llama4 else "llama3"],
            **_TOKENS.get(embed.shape[0], {}),
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
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is broken: {error!r}", "copy it again") from error


def _tied(source: _Shards, embed: Tensor) -> bool:
    """Small models carry their embedding twice, or once."""
    if not source.has("output.weight"):
        return True
    return torch.equal(source.joined("output.weight", 0), embed)


def _dense_width(params: Mapping[str, Any], source: _Shards, layers: int) -> int:
    for i in range(layers):
        stem = f"layers.{i}.feed_forward."
        if source.has(stem + "w1.weight"):
            return sum(t.shape[0] for t in source.each(stem + "w1.weight"))
        if source.has(stem + "mlp.fc1_weight"):
            return sum(t.shape[0] // 2 for t in source.each(stem + "mlp.fc1_weight"))
    # No layer has it: what the formula says, as other libraries write it down.
    width = int(params.get("ffn_dim_multiplier", 1.0) * int(2 * 4 * params["dim"] / 3))
    multiple = int(params.get("multiple_of", 256))
    return math.ceil(width / multiple) * multiple


def _expert_width(source: _Shards, every: int) -> int:
    name = f"layers.{every - 1}.feed_forward.experts.moe_w_in_eD_F"
    return sum(t.shape[-1] for t in source.each(name))


def _scaling(params: Mapping[str, Any], llama4: bool) -> RopeScaling | None:
    if not params.get("use_scaled_rope"):
        return None
    usual = (16.0, 1.0) if llama4 else (32.0 if params["dim"] <= 3072 else 8.0, 4.0)
    factor = float(params.get("rope_scaling_factor", usual[0]))
    return RopeScaling(factor, 1.0, float(params.get("rope_high_freq_factor", usual[1])), 8192)


def _fill(block: Block, config: ModelConfig, source: _Shards, stem: str) -> None:
    """One layer's parameters from the tensors that begin with `stem`."""
    attention, mlp = stem + "attention.", stem + "feed_forward."
    norm = source.one(stem + "attention_norm.weight", attention + "wqkv.layer_norm_weight")
    _put(block.attention_norm.weight, norm, stem + "attention_norm")
    norms = (stem + "ffn_norm.weight", mlp + "norm.weight", mlp + "mlp.layer_norm_weight")
    _put(block.feed_forward_norm.weight, source.one(*norms), stem + "ffn_norm")
    _put(block.attention.qkv.weight, torch.cat(_qkv(config, source, attention)), attention)
    _put(block.attention.out.weight, source.joined(attention + "wo.weight", 1), attention + "wo")
    feed_forward = block.feed_forward
    if not isinstance(feed_forward, MoE):
        _fill_dense(feed_forward, source, mlp)
        return
    halves = [source.joined(mlp + n, 0) for n in ("w_in_shared_FD.weight", "w_swiglu_FD.weight")]
    _put(feed_forward.shared.gate_up.weight, torch.cat(halves), mlp + "w_in_shared_FD")
    down = mlp + "w_out_shared_DF.weight"
    _put(feed_forward.shared.down.weight, source.joined(down, 1), down)
    _put(feed_forward.router.weight, source.one(mlp + "router_DE").t(), mlp + "router_DE")
    experts = mlp + "experts."
    name = experts + "moe_w_out_eF_D"
    _put(feed_forward.experts.down, _cat(_by_expert(config, source, name), 1, name), name)
    halves = []
    for name in (experts + "moe_w_in_eD_F", experts + "moe_w_swiglu_eD_F"):
        halves.append(_cat(_by_expert(config, source, name), 2, name))
    _put(feed_forward.experts.gate_up, torch.cat(halves, 2), name)


def _by_expert(config: ModelConfig, source: _Shards, name: str) -> list[Tensor]:
    """Every shard's slice [E * rows, columns] as [E, rows, columns]."""
    slices = source.each(name)
    if any(t.shape[0] % config.num_experts for t in slices):
        what = f"{name} has {slices[0].shape[0]} rows for {config.num_experts} experts"
        raise UserError(what, "check params.json beside it")
    return [t.reshape(config.num_experts, -1, t.shape[-1]) for t in slices]


def _fill_dense(mlp: GatedMLP, source: _Shards, stem: str) -> None:
    """Gate and up, in each shard's own halves of one matrix or apart, and down."""
    fused = stem + "mlp.fc1_weight"
    if source.has(fused):
        cut = [t.chunk(2, 0) for t in source.each(fused)]
        halves, down = [_cat([c[i] for c in cut], 0, fused) for i in range(2)], "mlp.fc2_weight"
    else:
        halves, down = [source.joined(f"{stem}w{i}.weight", 0) for i in (1, 3)], "w2.weight"
    _put(mlp.gate_up.weight, torch.cat(halves), stem)
    _put(mlp.down.weight, source.joined(stem + down, 1), stem + down)


def _qkv(config: ModelConfig, source: _Shards, stem: str) -> list[Tensor]:
    """q, k and v, each shard having some heads; Llama 3's rotation pairs halves, not neighbours."""
    heads = {"q": config.num_heads, "k": config.num_kv_heads, "v": config.num_kv_heads}
    rows = {part: count * config.head_dim for part, count in heads.items()}
    fused = stem + "wqkv.weight"
    if source.has(fused):
        shards = source.each(fused)
        sizes = [count // len(shards) for count in rows.values()]
        try:
            cut = [torch.split(t, sizes) for t in shards]
        except RuntimeError as error:
            raise UserError(f"{fused} has {shards[0].shape[0]} rows, not {sum(sizes)}") from error
        return [_cat([c[i] for c in cut], 0, fused) for i in range(3)]
    out = []
    for part, count in heads.items():
        name = f"{stem}w{part}.weight"
        shards = source.each(name)
        # With more shards than key heads, neighbours hold the same head.
        repeats = max(1, sum(t.shape[0] for t in shards) // rows[part])
        weight = _cat(shards[::repeats], 0, name)
        if part != "v" and config.family == "llama3":
            pairs = weight.reshape(count, config.head_dim // 2, 2, -1)
            weight = pairs.transpose(1, 2).reshape(weight.shape)
        out.append(weight)
    return out


def _put(target: Tensor, found: Tensor, name: str) -> None:
    if target.shape != found.shape:
        shapes = f"{list(found.shape)}, params.json says {list(target.shape)}"
        raise UserError(f"{name} is {shapes}", "check params.json beside it")
    target.copy_(found)
