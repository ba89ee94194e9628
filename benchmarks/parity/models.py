"""Tiny models of every shape, transformers' and Puna's, with the same weights.

`theirs, ours = pair("scout"); peer_logits(theirs, ids) - logits(ours, ids)`.
Weights are wide: with the usual small ones attention is nearly uniform and hides mistakes.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor

from puna.engine.cache import KVCache
from puna.models import Decoder, ModelConfig, build, load
from puna.models.decoder import Block, additive

CLOSE = 2e-6
# Every feature of Llama 4 in eight layers; chunk 8, temperature from token 4 on.
TINY = ModelConfig(
    family="llama4",
    vocab_size=128,
    hidden_size=64,
    num_layers=8,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=128,
    expert_size=96,
    num_experts=4,
    moe_every=2,
    attention_chunk=8,
    nope_every=4,
    qk_norm=True,
    temperature_tuning=True,
    floor_scale=4,
    max_positions=256,
)
LENGTHS = (1, 7, 8, 9, 29)  # chunk - 1, chunk, chunk + 1, 3 chunks + 5
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def scaling(factor: float, high: float, original: int = 64) -> dict[str, Any]:
    """Llama 3.1's stretching of slow rotations; with `high` = low = 1 it is Scout's step."""
    return {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


_BOTH = {
    "vocab_size": 128,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
_LLAMA3 = _BOTH | {"model_type": "llama", "num_hidden_layers": 4, "intermediate_size": 128}
_LLAMA4 = _BOTH | {
    "model_type": "llama4_text",
    "num_hidden_layers": 8,
    "intermediate_size": 96,
    "intermediate_size_mlp": 128,
    "num_local_experts": 4,
    "attention_chunk_size": 8,
    "floor_scale": 4,
}
_OTHERS = _BOTH | {
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
SHAPES: dict[str, dict[str, Any]] = {
    "scout": _LLAMA4 | {"rope_parameters": scaling(16.0, 1.0)},
    "scout, tied": _LLAMA4 | {"tie_word_embeddings": True},
    # Scout's own rotations: heads of 128, stretched beyond 8192 tokens.
    "scout, heads of 128": _LLAMA4
    | {
        "head_dim": 128,
        "num_hidden_layers": 4,
        "attention_chunk_size": 256,
        "rope_parameters": scaling(16.0, 1.0, 8192),
    },
    "maverick": _LLAMA4 | {"interleave_moe_layer_step": 2, "use_qk_norm": False},
    "maverick, moe_layers given": _LLAMA4 | {"moe_layers": [1, 3, 5, 7], "use_qk_norm": False},
    # transformers cannot run a chunk of null: one that is never reached is the same.
    "guard 4": _LLAMA4
    | {
        "moe_layers": [],
        "no_rope_layers": [1] * 8,
        "attention_chunk_size": 1 << 20,
        "rope_parameters": scaling(16.0, 1.0),
    },
    "llama 3": _LLAMA3 | {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}},
    "llama 3.1": _LLAMA3 | {"rope_parameters": scaling(8.0, 4.0)},
    "llama 3.1, heads of 128": _LLAMA3
    | {"head_dim": 128, "rope_parameters": scaling(8.0, 4.0, 8192)},
    "llama 3.2, tied": _LLAMA3
    | {"rope_parameters": scaling(32.0, 4.0), "tie_word_embeddings": True},
    "qwen2": _OTHERS | {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": _OTHERS | {"model_type": "qwen3", "head_dim": 24},
    "mistral": _OTHERS | {"model_type": "mistral", "head_dim": 24, "sliding_window": None},
}
# What is written over config.json before Puna reads it: the peer's detour is not in the file.
_EDITS: dict[str, dict[str, Any]] = {
    "guard 4": {
        "attention_chunk_size": None,
        "no_rope_layers": [],
        "no_rope_layer_interval": 0,
        "layer_types": None,
    },
}


def peer_config(shape: str, **changes: Any) -> Any:
    """transformers' configuration of a shape."""
    given = SHAPES[shape] | changes
    return library().AutoConfig.for_model(**given)


def library() -> Any:
    """transformers without its progress bars; torch with one thread."""
    import transformers

    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(1)
    return transformers


def peer(config: Any, std: float = 0.08) -> Any:
    """transformers' model with wide weights, evaluating."""
    model: Any = library().AutoModelForCausalLM.from_config(config)
    spread(model.eval(), std=std)
    return model


def ours_of(theirs: Any, dtype: str = "fp32", **edits: Any) -> Decoder:
    """Puna's model from the peer's files, with these fields of config.json changed."""
    with TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        path = Path(directory, "config.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | edits))
        return load(directory, DTYPES[dtype])[0]


def reloaded(theirs: Any, dtype: str) -> Any:
    """The peer's model as it loads itself in another dtype: its rotations stay fp32."""
    with TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        return type(theirs).from_pretrained(directory, dtype=DTYPES[dtype]).eval()


def pair(
    shape: str, dtype: str = "fp32", backend: str = "sdpa", std: float = 0.08, **changes: Any
) -> tuple[Any, Decoder]:
    """The peer's model and Puna's, with the same weights."""
    theirs = peer(peer_config(shape, **changes), std)
    ours = ours_of(theirs, dtype, **_EDITS.get(shape, {}))
    if dtype != "fp32":
        theirs = reloaded(theirs, dtype)
    theirs.set_attn_implementation(backend)
    if backend == "eager":
        llama4 = SHAPES[shape]["model_type"] == "llama4_text"
        for layer in ours.layers:
            cast(Block, layer).attention.attention = eager if llama4 else eager_fp32
    return theirs, ours


def eager(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention as its equation says, in the dtype of the queries."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return torch.softmax(_scores(q, k, mask, scale), -1) @ v


def eager_fp32(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The same with the softmax in fp32, as transformers has it for Llama 3."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return torch.softmax(_scores(q, k, mask, scale), -1, dtype=torch.float32).to(q.dtype) @ v


def _scores(q: Tensor, k: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    if mask is None:
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
        mask = additive(seen, q.dtype)
    return q @ k.transpose(2, 3) * scale + mask


def spread(model: torch.nn.Module, seed: int = 0, std: float = 0.08) -> None:
    """Give a model wide random weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, std, generator=generator)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.0, generator=generator)
            elif name.endswith("bias"):  # begun at 0, which would hide its loss
                parameter.normal_(0.0, 0.5, generator=generator)


def wide(config: ModelConfig, seed: int = 0) -> Decoder:
    """Puna's model with wide random weights."""
    model = build(config)
    spread(model, seed)
    return model.eval()


def read_back(cls: Any, directory: str, dtype: str = "fp32") -> tuple[Any, str]:
    """The peer's model from files that Puna wrote, and what the peer complains of, or ""."""
    theirs, info = cls.from_pretrained(directory, dtype=DTYPES[dtype], output_loading_info=True)
    bad = {name: keys for name, keys in info.items() if keys}
    return theirs.eval(), f"the peer complains: {bad}" if bad else ""


def unlike(ours: list[int], expected: list[int]) -> int:
    """In how many places two lists of ids differ."""
    same = sum(a == b for a, b in zip(ours, expected, strict=False))
    return max(len(ours), len(expected)) - same


def tokens(rows: int, count: int, vocab: int = 128, seed: int = 0) -> Tensor:
    """Random token ids [rows, count]."""
    return torch.randint(0, vocab, (rows, count), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def peer_logits(theirs: Any, ids: Tensor, **options: Any) -> Tensor:
    """transformers' full forward pass, fp32 [B, T, V]."""
    out: Tensor = theirs(ids, use_cache=False, **options).logits.float()
    return out


@torch.no_grad()
def logits(model: Decoder, ids: Tensor, **options: Any) -> Tensor:
    """Puna's full forward pass, or a call with a cache, [B, T, V]."""
    return model.logits(model(ids, **options))


def cached_logits(
    model: Decoder, ids: Tensor, sizes: list[int], capacity: int | None = None
) -> Tensor:
    """Puna's logits from blocks of these sizes, one after the other through a cache."""
    rows, count = ids.shape
    cache = KVCache.fresh(model.config, rows, capacity or count, model.dtype)
    places = torch.arange(count).expand(rows, count)
    blocks = zip(torch.split(ids, sizes, 1), torch.split(places, sizes, 1), strict=True)
    return torch.cat([logits(model, i, positions_BT=p, cache=cache) for i, p in blocks], 1)


def largest(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors; infinite where one is not a number."""
    gap = (a - b).abs()
    return float(gap.max()) if bool(torch.isfinite(gap).all()) else float("inf")


@cache
def rows_matter(dtype: str = "fp32") -> bool:
    """Whether a row of a product has other last bits here when other rows stand beside it.

    transformers sends every token through every expert, Puna each through its own: on a processor
    (or a build) where the number of rows decides the last bit, no equality to the bit can be.
    """
    x, w = torch.randn(64, 64, dtype=DTYPES[dtype]), torch.randn(64, 192, dtype=DTYPES[dtype])
    whole, batched = x @ w, torch.bmm(x.expand(4, 64, 64), w.expand(4, 64, 192))
    return any(
        not torch.equal(x[:n] @ w, rest[:n]) for n in range(4, 64) for rest in (whole, batched[0])
    )
