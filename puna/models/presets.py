"""Named shapes from `presets.toml`, and models built from a shape with weights from a seed.

`model = build(preset("nano"), seed=0)`; with `device="meta"` even "llama4-scout" costs nothing.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

import torch

from puna.core import config as tables
from puna.core.errors import UserError, nearest
from puna.models.config import ModelConfig
from puna.models.decoder import Decoder, allocated


@cache
def _tables() -> dict[str, dict[str, Any]]:
    return tomllib.loads((files("puna.models") / "presets.toml").read_text())


def preset_names() -> list[str]:
    """The names that `preset` knows."""
    return [name for name in _tables() if not name.startswith("_")]


def preset(name: str, **overrides: Any) -> ModelConfig:
    """The named shape, with some fields replaced, as a recipe can write them.

    An `attention_chunk` of 0 is none, and `rope_scaling` may be a table of its fields. Raises
    UserError for an unknown name or field and for values that do not fit together.
    """
    if name not in preset_names():
        raise UserError(f"no model preset '{name}'", nearest(name, preset_names()))
    table = dict(_tables()[name])
    values = {**_tables()[table.pop("like")], **table} if "like" in table else table
    values |= overrides
    values["attention_chunk"] = values.get("attention_chunk") or None
    return tables.build(ModelConfig, values, "model")


def build(
    config: ModelConfig,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Decoder:
    """A model with fresh weights; on device "meta" only its shapes.

    Normal with `initializer_range`; what writes into the residual stream is scaled down by
    1/sqrt(2 * layers) (GPT-2's rule), norms are 1, biases 0. Drawn on the CPU in fp32, so
    the same seed gives the same weights on any device.
    """
    if str(device) == "meta":
        with torch.device("meta"):
            return Decoder(config).to(dtype)
    model = allocated(config, torch.float32)
    generator = torch.Generator().manual_seed(seed)
    initialise(model, generator)
    return model.to(device=device, dtype=dtype)


@torch.no_grad()
def initialise(model: Decoder, generator: torch.Generator) -> None:
    """Draw every weight of `model` in the order of its parameters' names."""
    std = model.config.initializer_range
    residual = std / (2 * model.config.num_layers) ** 0.5
    for name, parameter in model.named_parameters():
        if name.startswith("vision."):
            continue
        if parameter.ndim == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            writes = name.endswith(("out.weight", "down.weight", "experts.down"))
            parameter.normal_(0.0, residual if writes else std, generator=generator)
    if model.vision is not None:
        model.vision.initialise(generator)
    for buffer in model.buffers():
        buffer.zero_()
