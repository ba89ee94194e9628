"""Architectures as plain PyTorch: Llama 3 and Llama 4 decoders, presets, model directories.

`from puna.models import build, preset; model = build(preset("nano"), seed=0)`.
"""

from puna.models.config import ModelConfig, RopeScaling
from puna.models.decoder import Decoder
from puna.models.directory import load
from puna.models.hf import save
from puna.models.moe import Routes
from puna.models.presets import build, preset
from puna.models.vision_config import VisionConfig

__all__ = [
    "Decoder", "ModelConfig", "RopeScaling", "Routes", "VisionConfig", "build", "load", "preset",
    "save",
]  # fmt: skip
