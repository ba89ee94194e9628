"""The vision encoder and its fusion equal transformers' bit for bit; each of its parts matters."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from puna.core.errors import UserError
from puna.models import ModelConfig, VisionConfig, build, load, preset, save
from puna.models import vision as module
from puna.models.decoder import Decoder
from puna.models.vision import VisionEncoder

from .conftest import TINY, assert_same_bits, tokens

EYES = VisionConfig(32, 2, 4, tile_size=16, patch_size=4, adapter_size=24, patch_id=99)
SHAPES = [
    EYES,
    VisionConfig(48, 3, 2, tile_size=12, patch_size=2, adapter_size=16, patch_id=5),
    VisionConfig(16, 1, 1, tile_size=28, patch_size=14, adapter_size=8, patch_id=0),
    VisionConfig(88, 2, 2, tile_size=24, patch_size=4, shuffle=1, adapter_size=40, patch_id=7),
]
TOLERANCE = 2e-6


def scatter(model: torch.nn.Module, seed: int = 0) -> None:
    """Wide weights everywhere, biases and norms included: no part of the sum is idle."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0.0, 0.15, generator=generator)


def theirs_of(eyes: VisionConfig, text: ModelConfig = TINY, seed: int = 0) -> Any:
    """transformers' model of these shapes, with wide weights."""
    transformers = pytest.importorskip("transformers")
    from puna.models.hf_config import config_to_hf

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
    given = config_to_hf(text, torch.float32)
    config = transformers.Llama4Config(
        text_config=given, vision_config=vision.to_dict(), image_token_index=eyes.patch_id
    )
    model = transformers.Llama4ForConditionalGeneration(config).eval()
    scatter(model, seed)
    return model


def tiles(count: int, eyes: VisionConfig = EYES, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, eyes.tile_size, eyes.tile_size, generator=generator) * 2 - 1


@torch.no_grad()
def features(theirs: Any, pixels: Tensor) -> Tensor:
    seen = theirs.vision_model(pixels).last_hidden_state
    out: Tensor = theirs.multi_modal_projector(seen.flatten(0, 1))
    return out


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Decoder]:
    """transformers' model and, through its files, ours."""
    directory = tmp_path_factory.mktemp("vision")
    theirs = theirs_of(EYES)
    theirs.save_pretrained(directory)
    return theirs, load(directory)[0]


@pytest.mark.parametrize("eyes", SHAPES)
@torch.no_grad()
def test_the_encoder_equals_transformers(tmp_path: Path, eyes: VisionConfig) -> None:
    theirs = theirs_of(eyes)
    theirs.save_pretrained(tmp_path)
    ours, config = load(tmp_path)
    assert config.vision == eyes
    assert ours.vision is not None
    for count in (1, 5):
        pixels = tiles(count, eyes)
        expected = features(theirs, pixels)
        assert float(expected.abs().max()) > 0.1
        assert torch.equal(ours.vision(pixels), expected)


def cls_first(encoder: VisionEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    # Attention does not mind the order, so CLS may stand where it is: it takes the first place and
    # rotation, and every patch those of the next.
    turns, places = encoder.turns(torch.device("cpu")), encoder.places.data
    monkeypatch.setattr(encoder, "_turns", torch.cat((turns[1:], turns[:1])))
    monkeypatch.setattr(encoder.places, "data", torch.cat((places[1:], places[:1])))


def zero_based(encoder: VisionEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    # Counted from 0 the patches turn back by one step of each axis; CLS stays where it is.
    turns = encoder.turns(torch.device("cpu"))
    one = turns[:1]
    moved = torch.cat((turns[:-1] * one.conj(), turns[-1:]))
    monkeypatch.setattr(encoder, "_turns", moved)


def tanh_gelu(encoder: VisionEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = F.gelu
    monkeypatch.setattr(module.F, "gelu", lambda x: exact(x, approximate="tanh"))


def one_gelu(encoder: VisionEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, width = F.gelu, encoder.config.adapter_size
    seen: list[int] = []

    def once(x: Tensor) -> Tensor:
        seen.append(x.shape[-1])
        return x if seen.count(width) == 2 else exact(x)

    monkeypatch.setattr(module.F, "gelu", once)


def columns_first(encoder: VisionEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def shuffled(x: Tensor, side: int, block: int) -> Tensor:
        x = x.view(x.shape[0], side // block, block, side // block, block, -1)
        return x.permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2)

    monkeypatch.setattr(module, "pixel_shuffle", shuffled)


@pytest.mark.parametrize("spoil", [cls_first, zero_based, tanh_gelu, one_gelu, columns_first])
@torch.no_grad()
def test_each_part_of_the_encoder_matters(
    pair: tuple[Any, Decoder],
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[VisionEncoder, pytest.MonkeyPatch], None],
) -> None:
    theirs, ours = pair
    encoder, pixels = ours.vision, tiles(3)
    assert encoder is not None
    expected = features(theirs, pixels)
    assert torch.equal(encoder(pixels), expected)
    spoil(encoder, monkeypatch)
    assert float((encoder(pixels) - expected).abs().max()) > 100 * TOLERANCE


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


CASES = {"one tile": [(1, 1)], "several tiles": [(2, 3)], "two images": [(1, 2), (1, 1)]}


@pytest.mark.parametrize("images", CASES.values(), ids=CASES.keys())
@torch.no_grad()
def test_reading_pictures_equals_transformers(
    pair: tuple[Any, Decoder], images: list[tuple[int, int]]
) -> None:
    theirs, ours = pair
    ids = layout(images)
    where = ids == EYES.patch_id
    pixels = tiles(int(where.sum()) // EYES.tiling.tokens)
    expected = theirs(ids, pixel_values=pixels, use_cache=False).logits
    logits = ours.logits(ours(ids, images=ours.see(where, pixels)))
    assert_same_bits(logits, expected)
    blind = ours.logits(ours(ids))
    assert float((blind - expected).abs().max()) > 100 * TOLERANCE
    last_first = ours.logits(ours(ids, images=ours.see(where, tiles(len(pixels), seed=2))))
    assert float((last_first - expected).abs().max()) > 100 * TOLERANCE


@torch.no_grad()
def test_pictures_are_causal_tokens(pair: tuple[Any, Decoder]) -> None:
    _, ours = pair
    ids = layout([(1, 1), (1, 1)])
    where, pixels = ids == EYES.patch_id, tiles(2)
    logits = ours.logits(ours(ids, images=ours.see(where, pixels)))
    changed = torch.cat((pixels[:1], tiles(1, seed=9)))
    other = ours.logits(ours(ids, images=ours.see(where, changed)))
    second = int(where[0].nonzero()[EYES.tiling.tokens])
    assert torch.equal(logits[:, :second], other[:, :second])
    assert float((logits[:, second:] - other[:, second:]).abs().max()) > 100 * TOLERANCE


def test_counts_must_agree(pair: tuple[Any, Decoder]) -> None:
    _, ours = pair
    where = layout([(1, 2)]) == EYES.patch_id
    for count in (0, 2, 4):
        with pytest.raises(UserError, match=r"12 <\|patch\|> tokens stand for"):
            ours.see(where, tiles(count))


@torch.no_grad()
def test_transformers_reads_what_we_write(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = build(replace(TINY, vision=EYES))
    scatter(ours)
    save(ours.eval(), tmp_path)
    theirs, info = transformers.Llama4ForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids, pixels = layout([(2, 1)]), tiles(3)
    expected = theirs(ids, pixel_values=pixels, use_cache=False).logits
    assert_same_bits(ours.logits(ours(ids, images=ours.see(ids == 99, pixels))), expected)


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    eyes = replace(EYES, max_tiles=4)
    model = build(replace(TINY, vision=eyes))
    scatter(model)
    model.layers[3].feed_forward.expert_bias.fill_(0.25)
    save(model, tmp_path)
    again, config = load(tmp_path)
    assert config == model.config
    expected = model.state_dict()
    assert again.state_dict().keys() == expected.keys()
    for name, value in again.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_the_text_model_alone(pair: tuple[Any, Decoder], tmp_path: Path) -> None:
    theirs, ours = pair
    theirs.save_pretrained(tmp_path)
    alone, config = load(tmp_path, text_only=True)
    assert config.vision is None
    assert alone.vision is None
    ids = tokens(2, 21, 90)
    with torch.no_grad():
        assert torch.equal(alone.logits(alone(ids)), ours.logits(ours(ids)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pixel_shuffle_ratio", 0.4),
        ("intermediate_size", 100),
        ("projector_input_dim", 25),
        ("vision_output_dim", 25),
        ("num_channels", 1),
        ("hidden_size", 30),
        ("image_size", 18),
        ("image_size", [16, 16]),
        ("rope_parameters", {"rope_theta": 100.0}),
    ],
)
def test_what_is_not_computed_is_refused_by_name(tmp_path: Path, field: str, value: object) -> None:
    save(build(replace(TINY, vision=EYES)), tmp_path)
    path = tmp_path / "config.json"
    data = json.loads(path.read_text())
    data["vision_config"][field] = value
    path.write_text(json.dumps(data))
    inside = (
        r"\.rope_theta = 100.0" if field == "rope_parameters" else f" = {re.escape(str(value))}"
    )
    with pytest.raises(UserError, match=rf"config.json: vision_config\.{field}{inside} is not"):
        load(tmp_path)


def test_published_sizes() -> None:
    # 850,960,896 in the encoder and 20,971,520 in the projection, as counted on the real model.
    assert VisionConfig().num_parameters(5120) == 850_960_896 + 20_971_520
    scout = replace(preset("llama4-scout"), vision=VisionConfig())
    assert scout.num_parameters() == 108_641_793_536
    model = build(replace(TINY, vision=EYES), device="meta")
    assert model.config.num_parameters() == sum(p.numel() for p in model.parameters())
    with pytest.raises(UserError, match="patch_id inside the vocabulary of 128"):
        replace(TINY, vision=VisionConfig())


def test_fresh_weights_leave_the_text_models_as_they_were() -> None:
    alone = build(TINY, seed=3).state_dict()
    both = build(replace(TINY, vision=EYES), seed=3)
    for name, value in alone.items():
        assert torch.equal(both.state_dict()[name], value), name
    assert both.vision is not None
    with torch.no_grad():
        spread = float(both.vision(tiles(4)).std())
    assert 0.02 < spread < 5, spread
