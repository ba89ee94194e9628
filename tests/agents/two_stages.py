"""Two stages of random weights to talk to: `write_stages(root, 256)`."""

from __future__ import annotations

from pathlib import Path

import torch

from puna.models import ModelConfig, build, save
from puna.text.tokenizer import Tokenizer

CONFIG = ModelConfig(
    family="llama3", vocab_size=300, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2,
    head_dim=8, intermediate_size=64, max_positions=96, initializer_range=0.2,
)  # fmt: skip


def write_stages(root: Path, spoken: int) -> None:
    """The models of stages `sft` and `rl` of a run; they say the first `spoken` ids only, so that
    they never fall silent.
    """
    torch.set_num_threads(1)
    tokenizer = Tokenizer.train(["0123456789 + - ="] * 3, 300)
    for seed, name in enumerate(("sft", "rl")):
        model = build(CONFIG, seed)
        with torch.no_grad():
            assert model.head is not None
            model.head.weight[spoken:] = 0.0
        save(model, root / name / "model")
        tokenizer.save(root / name / "model")
