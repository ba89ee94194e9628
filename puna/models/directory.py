"""A model's directory in either layout, Hugging Face's or Meta's, as a decoder.

`model, config = load("DIR")`; which of the two it is, `puna.core.runs.is_meta` tells.
"""

from __future__ import annotations

from pathlib import Path

import torch

from puna.core.runs import is_meta
from puna.models import hf, meta
from puna.models.config import ModelConfig
from puna.models.decoder import Decoder


def load(
    directory: str | Path, dtype: torch.dtype | None = torch.float32, text_only: bool = False
) -> tuple[Decoder, ModelConfig]:
    """The model in `directory`, its parameters as `dtype` (None: as stored), and its shape.

    With `text_only` a vision encoder is left out; of Meta's layout it always is. Memory peaks at
    the model and what one file, or of Meta's layout one layer, takes. Raises UserError naming file
    and tensor, or field and value, for what is broken or not computed here.
    """
    if is_meta(Path(directory)):
        model = meta.load_meta(directory, dtype)
        return model, model.config
    return hf.load(directory, dtype, text_only)


def read_shape(directory: Path) -> ModelConfig:
    """The shape of the model in `directory`. Raises UserError as `load` does."""
    if is_meta(directory):
        return meta.read_shape(directory)
    return hf.read_config(directory / "config.json")
