"""Tiny random models, and what equal to the bit means on this processor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.parity.models import rows_matter, spread, tokens
from puna.models import Decoder, ModelConfig, build

__all__ = ["TINY", "assert_same_bits", "spread", "tokens", "wide"]

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


def wide(config: ModelConfig, seed: int = 0) -> Decoder:
    """A model of `config` with wide random weights."""
    model = build(config)
    spread(model, seed)
    return model.eval()


def assert_same_bits(ours: Tensor, theirs: Tensor, what: str = "") -> None:
    """Equal to the bit, or where `rows_matter` to 2e-6."""
    if not rows_matter():
        assert torch.equal(ours, theirs), what
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0, msg=what or None)
