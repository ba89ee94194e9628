"""Llama 4's vision encoder and the reading of pictures, beside transformers'.

`theirs, ours = vision_pair(EYES)`; `features(theirs, pixels)` are the peer's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.parity.case import Found, case
from benchmarks.parity.models import TINY, largest, library, logits, ours_of, read_back, tokens
from puna.models import Decoder, VisionConfig, build, save
from puna.models import vision as module
from puna.models.hf_config import config_to_hf
from puna.models.vision import VisionEncoder

EYES = VisionConfig(32, 2, 4, tile_size=16, patch_size=4, adapter_size=24, patch_id=99)
SHAPES = [
    EYES,
    VisionConfig(48, 3, 2, tile_size=12, patch_size=2, adapter_size=16, patch_id=5),
    VisionConfig(32, 2, 1, tile_size=28, patch_size=14, adapter_size=24, patch_id=0),
    VisionConfig(88, 2, 2, tile_size=24, patch_size=4, shuffle=1, adapter_size=40, patch_id=7),
]
# Rows and columns of the pictures in a row of tokens.
LAYOUTS = {"one tile": [(1, 1)], "several tiles": [(2, 3)], "two images": [(1, 2), (1, 1)]}


def scatter(model: torch.nn.Module, seed: int = 0) -> None:
    """Wide weights everywhere, biases and norms included: no part of the sum is idle."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0.0, 0.15, generator=generator)


@cache
def vision_pair(eyes: VisionConfig = EYES) -> tuple[Any, Decoder]:
    """transformers' model with these eyes and wide weights, and Puna's from its files."""
    transformers = library()
    vision = transformers.Llama4VisionConfig(
        hidden_size=eyes.hidden_size,
        num_hidden_layers=eyes.num_layers,
        num_attention_heads=eyes.num_heads,
        intermediate_size=eyes.intermediate_size,
        image_size=eyes.tile_size,
        patch_size=eyes.patch_size,
        pixel_shuffle_ratio=1 / eyes.shuffle,
        projector_input_dim=eyes.adapter_size,
        projector_output_dim=eyes.adapter_size,
        vision_output_dim=eyes.adapter_size,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    config = transformers.Llama4Config(
        text_config=config_to_hf(TINY, torch.float32),
        vision_config=vision.to_dict(),
        image_token_index=eyes.patch_id,
    )
    theirs = transformers.Llama4ForConditionalGeneration(config).eval()
    scatter(theirs)
    ours = ours_of(theirs)
    assert ours.config.vision == eyes
    return theirs, ours


def tiles(count: int, eyes: VisionConfig = EYES, seed: int = 1) -> Tensor:
    """Random pixels [count, 3, S, S] in -1..1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, eyes.tile_size, eyes.tile_size, generator=generator) * 2 - 1


def layout(images: list[tuple[int, int]], eyes: VisionConfig = EYES) -> Tensor:
    """Ids of a row: text, then each (rows, columns) picture with its separators, then text."""
    patches = [eyes.patch_id] * eyes.tiling.tokens
    out = tokens(1, 5, 90)[0].tolist()
    for rows, columns in images:
        out.append(100)
        for _ in range(rows * (rows * columns > 1)):
            out += [*patches, *([101, *patches] * (columns - 1)), 102]
        out += [103, *patches, 104]
    return torch.tensor([out + tokens(1, 7, 90, seed=4)[0].tolist()])


@torch.no_grad()
def features(theirs: Any, pixels: Tensor) -> Tensor:
    """The peer's features of tiles, as its decoder takes them."""
    seen = theirs.vision_model(pixels).last_hidden_state
    out: Tensor = theirs.multi_modal_projector(seen.flatten(0, 1))
    return out


def _cls_first(encoder: VisionEncoder, pixels: Tensor) -> Tensor:
    # Attention does not mind the order, so CLS may stand where it is: it takes the first place and
    # rotation, and every patch those of the next.
    turns, places = encoder.turns(pixels.device), encoder.places.data
    encoder._turns = torch.cat((turns[1:], turns[:1]))
    encoder.places.data = torch.cat((places[1:], places[:1]))
    return encoder(pixels)  # type: ignore[no-any-return]


def _zero_based(encoder: VisionEncoder, pixels: Tensor) -> Tensor:
    # Counted from 0 the patches turn back by one step of each axis; CLS stays where it is.
    turns = encoder.turns(pixels.device)
    encoder._turns = torch.cat((turns[:-1] * turns[:1].conj(), turns[-1:]))
    return encoder(pixels)  # type: ignore[no-any-return]


def _tanh_gelu(encoder: VisionEncoder, pixels: Tensor) -> Tensor:
    with patch.object(module.F, "gelu", partial(F.gelu, approximate="tanh")):
        return encoder(pixels)  # type: ignore[no-any-return]


def _one_gelu(encoder: VisionEncoder, pixels: Tensor) -> Tensor:
    exact, seen = F.gelu, list[int]()

    def once(x: Tensor) -> Tensor:
        seen.append(x.shape[-1])
        return x if seen.count(encoder.config.adapter_size) == 2 else exact(x)

    with patch.object(module.F, "gelu", once):
        return encoder(pixels)  # type: ignore[no-any-return]


def _columns_first(encoder: VisionEncoder, pixels: Tensor) -> Tensor:
    def shuffled(x: Tensor, side: int, block: int) -> Tensor:
        x = x.view(x.shape[0], side // block, block, side // block, block, -1)
        return x.permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2)

    with patch.object(module, "pixel_shuffle", shuffled):
        return encoder(pixels)  # type: ignore[no-any-return]


SPOILT: dict[str, Callable[[VisionEncoder, Tensor], Tensor]] = {
    "CLS last": _cls_first,
    "places from 1": _zero_based,
    "exact GELU": _tanh_gelu,
    "two GELUs": _one_gelu,
    "rows first": _columns_first,
}


@torch.no_grad()
def encoded(eyes: VisionConfig) -> Found:
    """Tiles to features, one tile and several."""
    theirs, ours = vision_pair(eyes)
    assert ours.vision is not None
    gaps = []
    for count in (1, 5):
        pixels = tiles(count, eyes)
        expected = features(theirs, pixels)
        gaps.append(largest(ours.vision(pixels), expected))
    off = {
        name: largest(spoil(copy.deepcopy(ours.vision), pixels), expected)
        for name, spoil in SPOILT.items()
        if eyes.shuffle > 1 or name != "rows first"
    }
    return Found(max(gaps), off, f"features up to {float(expected.abs().max()):.1f}")


for _eyes in SHAPES:
    case(f"vision: tiles of {_eyes.tile_size}, patches of {_eyes.patch_size}", 0)(
        partial(encoded, _eyes)
    )


@torch.no_grad()
def compared(theirs: Any, ours: Decoder, images: list[tuple[int, int]]) -> Found:
    """Logits of a row with pictures."""
    ids = layout(images)
    where = ids == EYES.patch_id
    pixels = tiles(int(where.sum()) // EYES.tiling.tokens)
    expected = theirs(ids, pixel_values=pixels, use_cache=False).logits
    got = logits(ours, ids, images=ours.see(where, pixels))
    others = ours.see(where, tiles(len(pixels), seed=2))
    off = {
        "pictures": largest(logits(ours, ids), expected),
        "these pictures": largest(logits(ours, ids, images=others), expected),
    }
    if len(pixels) > 1:
        turned = ours.see(where, pixels.flip(0))
        off["order of tiles"] = largest(logits(ours, ids, images=turned), expected)
    return Found(largest(got, expected), off)


def reading(images: list[tuple[int, int]]) -> Found:
    """A model that transformers wrote."""
    return compared(*vision_pair(), images)


for _name, _images in LAYOUTS.items():
    case(f"vision: reading {_name}", 0)(partial(reading, _images))


@case("vision: written by Puna", 0)
def _written() -> Found:
    """The other way round: the peer loads what Puna wrote, nothing missing, nothing too much."""
    ours = build(replace(TINY, vision=EYES))
    scatter(ours)
    with TemporaryDirectory() as directory:
        save(ours.eval(), directory)
        theirs, complaint = read_back(library().Llama4ForConditionalGeneration, directory)
    if complaint:
        return Found(float("inf"), note=complaint)
    return compared(theirs, ours, [(2, 1)])
