"""Bytes that a vision encoder takes to look at tiles: `looking(preset("llama4-scout"), 13, 2)`.

Legend: N tiles, P patches of a tile and one CLS, D the encoder's width, T tokens of a tile,
A the adapter's width; widths are the compute dtype's bytes, 2 or 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from puna.models.config import ModelConfig
from puna.models.vision import TILES_AT_ONCE
from puna.models.vision_config import VisionConfig


@dataclass(frozen=True)
class Looking:
    """What N tiles take: `tiles`, their pixels, and `features` [N * T, the decoder's width], which
    stay beside the decoder's work; `passing`, the most that the encoder adds without gradients;
    `saved`, what its backward pass needs; `backward`, the most that pass adds.
    """

    tiles: int
    features: int
    passing: int
    saved: int
    backward: int


def looking(config: ModelConfig, tiles: int, width: int) -> Looking:
    """N `tiles` for the model, as `VisionEncoder.look` reads them; all 0 where it has no eyes.

    Pixels are kept in bfloat16 for the next time. Without gradients as many tiles as
    `TILES_AT_ONCE` are encoded together; with them all are kept.
    """
    vision = config.vision
    if vision is None or not tiles:
        return Looking(0, 0, 0, 0, 0)
    hidden = config.hidden_size
    size, patches, tokens = vision.hidden_size, vision.side**2 + 1, vision.tiling.tokens
    pixels = tiles * vision.channels * vision.tile_size**2
    features = tiles * tokens * hidden * width
    at_once = min(tiles, TILES_AT_ONCE)
    flat = at_once * (pixels // tiles) * width  # the patches as vectors, all along
    # In fp32 the MLP's two wide activations are the most, in bf16 the rotation of the keys.
    layer = at_once * patches * size * (40 if width == 4 else 22)
    adapter = at_once * tokens * width * (8 * size + 2 * vision.adapter_size)
    before = features - at_once * tokens * hidden * width  # of tiles encoded already
    passing = pixels * width + max(flat + before + max(layer, adapter), 2 * features)
    return Looking(
        tiles=2 * pixels,
        features=features,
        passing=passing,
        saved=tiles * _saved(vision, width),
        backward=features + tiles * patches * size * width,
    )


def _saved(vision: VisionConfig, width: int) -> int:
    """What a tile leaves for the backward pass: patches, a layer's 16 numbers a channel, the
    adapter's inputs and those of its GELUs.
    """
    size, places = vision.hidden_size, vision.side**2
    flat = places * vision.channels * vision.patch_size**2 * width
    statistics = 8
    layer = 16 * size * width + 2 * statistics + 4 * vision.num_heads
    around = 2 * (size * width + statistics)
    adapter = vision.tiling.tokens * 4 * vision.adapter_size * width
    shuffled = places * size * width
    return flat + (places + 1) * (vision.num_layers * layer + around) + shuffled + adapter
