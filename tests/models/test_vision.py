"""The vision encoder in its model: counts, files, refusals, sizes (numbers: test_parity)."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from benchmarks.parity.vision import EYES, layout, scatter, tiles, vision_pair
from puna.core.errors import UserError
from puna.models import VisionConfig, build, load, preset, save

from .conftest import TINY, tokens

TOLERANCE = 2e-6


@torch.no_grad()
def test_pictures_are_causal_tokens() -> None:
    _, ours = vision_pair()
    ids = layout([(1, 1), (1, 1)])
    where, pixels = ids == EYES.patch_id, tiles(2)
    logits = ours.logits(ours(ids, images=ours.see(where, pixels)))
    changed = torch.cat((pixels[:1], tiles(1, seed=9)))
    other = ours.logits(ours(ids, images=ours.see(where, changed)))
    second = int(where[0].nonzero()[EYES.tiling.tokens])
    assert torch.equal(logits[:, :second], other[:, :second])
    assert float((logits[:, second:] - other[:, second:]).abs().max()) > 100 * TOLERANCE


def test_counts_must_agree() -> None:
    _, ours = vision_pair()
    where = layout([(1, 2)]) == EYES.patch_id
    for count in (0, 2, 4):
        with pytest.raises(UserError, match=r"12 <\|patch\|> tokens stand for"):
            ours.see(where, tiles(count))


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


def test_the_text_model_alone(tmp_path: Path) -> None:
    theirs, ours = vision_pair()
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
