"""A tokenizer, a tiny model with experts, and a stage's context in a temporary directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from puna.core.stage import Machine, StageContext
from puna.models.decoder import Decoder
from puna.models.presets import build, preset
from puna.text.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["one and one is two, and so it goes"], 290)


@pytest.fixture
def new_model(tokenizer) -> Callable[..., Decoder]:
    def make(seed: int = 0, **changes: object) -> Decoder:
        shape = {"hidden_size": 32, "num_layers": 2, "intermediate_size": 48, "expert_size": 24}
        shape |= {"vocab_size": tokenizer.vocab_size, "initializer_range": 0.2}
        return build(preset("nano", **(shape | changes)), seed)

    return make


@pytest.fixture
def ctx(tmp_path: Path) -> StageContext:
    return StageContext("stage", tmp_path / "stage", 7, Machine())
