"""Tiny random models, and what equal to the bit means on this processor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.parity.models import TINY, rows_matter, spread, tokens, wide
from puna.models import ModelConfig

__all__ = ["TINY", "assert_same_bits", "spread", "tokens", "wide"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> ModelConfig:
    """Every Llama 4 feature in eight layers; chunk 8, temperature from token 4 on."""
    return TINY


def assert_same_bits(ours: Tensor, theirs: Tensor, what: str = "") -> None:
    """Equal to the bit, or where `rows_matter` to 2e-6."""
    if not rows_matter():
        assert torch.equal(ours, theirs), what
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0, msg=what or None)
