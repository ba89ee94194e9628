"""The models to measure, their arithmetic, and what a tokenizer has to be for that."""

from __future__ import annotations

import torch

from puna.core.stage import Weights
from puna.kernels.quantised import GROUP
from puna.models.config import ModelConfig
from puna.models.decoder import Decoder

MEMORY = 4.8e12  # bytes a second of an H200, by the maker's datasheet
PEAK = 989e12  # bf16 operations a second of an H100 or H200, by the maker's datasheet
VOCAB, SEQUENCE = 32_768, 2048
ROUTED = ModelConfig(
    "llama4", VOCAB, 1024, 16, 16, 4, 64, 4096, expert_size=1024, num_experts=16,
    attention_chunk=2048, nope_every=4, qk_norm=True, temperature_tuning=True,
    max_positions=131_072,
)  # fmt: skip
DENSE = ModelConfig("llama3", VOCAB, 2048, 16, 32, 8, 64, 8192, max_positions=8192)


def bytes_each(weights: Weights) -> float:
    """Bytes of a number with its share of a scale."""
    return {"auto": 2.0, "fp8": 1 + 4 / ROUTED.hidden_size, "int4": 0.5 + 4 / GROUP}[weights]


class NoStops:
    """As much of a tokenizer as the engine asks for: no token ends a completion."""

    vocab_size = 0

    def token(self, name: str) -> None:
        return None


def drawn(config: ModelConfig, dtype: torch.dtype, seed: int = 0) -> Decoder:
    """A model of normal random weights (0.02) on the GPU."""
    with torch.device("cuda"):
        model = Decoder(config).to(dtype)
        random = torch.Generator("cuda").manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.fill_(1)
            else:
                parameter.normal_(0, 0.02, generator=random)
    return model


def active(config: ModelConfig) -> int:
    """Parameters that a token multiplies: one routed expert a layer, the head, no embedding."""
    return config.active_parameters() - config.vocab_size * config.hidden_size


def operations(config: ModelConfig, sequence: int) -> int:
    """Of one trained token: 6 a parameter, and attention over half of `sequence` on average.

    12 * layers * heads * head width * sequence / 2, forward and backward together.
    """
    width = config.num_heads * config.head_dim
    return 6 * active(config) + 6 * config.num_layers * width * sequence


def saved(model: Decoder, directory: str) -> torch.nn.Module:
    """The same model in transformers, on the GPU, through a checkpoint in `directory`."""
    from transformers import AutoModelForCausalLM

    from puna.models.hf import save

    save(model, directory)
    peer = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
    found: torch.nn.Module = peer.to("cuda")
    return found
