"""Tiny random models of both families, ours and transformers' with the same weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from puna.models import Decoder, ModelConfig, build, load

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


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> ModelConfig:
    """Every Llama 4 feature in eight layers; chunk 8, temperature from token 4 on."""
    return TINY


def spread(model: torch.nn.Module, seed: int = 0) -> None:
    """Weights wide enough that attention is far from uniform: small ones hide mask mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.08, generator=generator)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.0, generator=generator)


def wide(config: ModelConfig, seed: int = 0) -> Decoder:
    """A model of `config` with wide random weights."""
    model = build(config)
    spread(model, seed)
    return model.eval()


def tokens(rows: int, count: int, vocab: int = 128, seed: int = 0) -> Tensor:
    """Random token ids [rows, count]."""
    return torch.randint(0, vocab, (rows, count), generator=torch.Generator().manual_seed(seed))


@cache
def rows_matter() -> bool:
    """Whether a row of a product has other last bits here when other rows stand beside it.

    transformers sends every token through every expert, we each through its own: on a processor
    (or a build) where the number of rows decides the last bit, no equality to the bit can be.
    """
    x, w = torch.randn(64, 64), torch.randn(64, 192)
    whole, batched = x @ w, torch.bmm(x.expand(4, 64, 64), w.expand(4, 64, 192))
    return any(
        not torch.equal(x[:n] @ w, rest[:n]) for n in range(4, 64) for rest in (whole, batched[0])
    )


def assert_same_bits(ours: Tensor, theirs: Tensor, what: str = "") -> None:
    """Equal to the bit, or where `rows_matter` to 2e-6."""
    if not rows_matter():
        assert torch.equal(ours, theirs), what
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0, msg=what or None)


def peer(directory: Path, config: Any, cls: Any) -> tuple[Any, Decoder]:
    """A transformers model with wide weights and, through its files, ours."""
    theirs = cls(config).eval()
    spread(theirs)
    theirs.save_pretrained(directory)
    return theirs, load(directory)[0]
