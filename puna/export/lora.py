"""Bytes of a training step of LoRA: frozen weights in the compute dtype, adapters in fp32 beside.

`lora_training(preset("llama3-8b"), 1, 4096, width=2, rank=16).total`.
"""

from __future__ import annotations

from puna.export.eyes import looking
from puna.export.memory import Training, layer_flow, layer_saved, norm_bytes, shared_bytes
from puna.models.config import ModelConfig


def adapter_parameters(config: ModelConfig, rank: int) -> int:
    """What `puna.models.lora.attach` adds without `targets`: a pair for each projection of
    attention and of feed-forwards, and one for each matrix of every routed expert.
    """
    return sum(_layer_adapters(config, i, rank) for i in range(config.num_layers))


def _layer_adapters(config: ModelConfig, layer: int, rank: int) -> int:
    size = config.hidden_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = 3 * size + queries + 2 * keys + queries + size
    inner = config.expert_size if config.is_moe(layer) else config.intermediate_size
    feed_forward = 2 * size + 2 * inner + inner + size
    experts = config.num_experts * (size + 2 * inner + inner + size) if config.is_moe(layer) else 0
    return rank * (attention + feed_forward + experts)


def lora_training(
    config: ModelConfig,
    rows: int,
    tokens: int,
    width: int,
    rank: int,
    on_gpu: bool = False,
    tiles: int = 0,
) -> Training:
    """A step as `memory.training` has it, in which only adapters of `rank` learn.

    Frozen matrices have neither gradients nor copies in another dtype; inputs are kept for the
    adapters instead, and of frozen norms no normalised values. A vision encoder is frozen too, so
    that nothing of `tiles` is kept but pixels and features.
    """
    many, adapters = rows * tokens, 4 * adapter_parameters(config, rank)
    layers, saved = range(config.num_layers), []
    for i in layers:
        ranks = 9 if config.is_moe(i) else 7  # projections of a token, each with an inner result
        kept = layer_saved(config, i, tokens, width, frozen=True)
        saved.append(many * (kept + width * rank * ranks))
    saved[0] -= many * (4 + 4 * config.hidden_size)  # nothing below the first norm learns
    casts = adapters // 4 * width if width < 4 else 0
    found = looking(config, tiles, width)
    pixels = 0 if on_gpu else found.tiles
    seen, looked = found.features + pixels, found.passing + pixels
    shared = shared_bytes(config, rows, tokens, width)
    top = many * norm_bytes(config.hidden_size, width, frozen=True)
    logits = 4 * many * config.vocab_size
    head = max(3 * logits, width * many * (config.vocab_size + config.hidden_size))
    peaks = [looked, shared + seen + sum(saved) + casts + top + head]
    for i in layers:
        fresh = 2 * 4 * _layer_adapters(config, i, rank)
        below = shared + seen + sum(saved[: i + 1]) + casts
        peaks.append(below + layer_flow(config, i, many, width) + fresh)
    held = shared + sum(saved) + top
    return Training(
        weights=config.num_parameters() * width,
        gradients=adapters,
        optimizer=2 * adapters,
        saved=held,
        casts=casts,
        logits=logits,
        passing=max(peaks) - held - seen - casts - logits,
        adapters=adapters,
        seen=seen,
    )
