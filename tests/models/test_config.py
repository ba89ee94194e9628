"""Shapes: validation by name, presets, and parameter counts against published figures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from puna.core.errors import UserError
from puna.models import ModelConfig, build, preset
from puna.models.config import RopeScaling
from puna.models.presets import preset_names
from puna.models.rope import frequencies

COUNTS = {
    "llama3-1b": 1_235_814_400,
    "llama3-3b": 3_212_749_824,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3-405b": 405_853_388_800,
    "llama4-scout": 107_769_861_120,
    "llama4-maverick": 400_711_848_960,
}
ACTIVE = {"llama4-scout": 17_172_894_720, "llama4-maverick": 17_184_691_200}


@pytest.mark.parametrize("name", preset_names())
def test_presets_have_the_published_size(name: str) -> None:
    config = preset(name)
    on_meta = sum(p.numel() for p in build(config, device="meta").parameters())
    assert config.num_parameters() == on_meta
    assert on_meta == COUNTS.get(name, on_meta)
    if config.num_experts == 0:
        assert config.active_parameters() == on_meta
    assert config.active_parameters() == ACTIVE.get(name, config.active_parameters())


def test_small_presets_are_small() -> None:
    assert 0.3e6 < preset("nano").num_parameters() < 0.4e6
    assert 4e6 < preset("micro").num_parameters() < 7e6


def test_guard_shape_without_routed_experts() -> None:
    guard = preset(
        "llama4-scout", num_experts=0, intermediate_size=8192, attention_chunk=None, nope_every=0
    )
    vision = 850_960_896 + 20_971_520
    assert guard.num_parameters() + vision == 12_001_097_216


def test_layer_kinds_of_maverick() -> None:
    config = preset("llama4-maverick")
    assert [i for i in range(48) if config.is_nope(i)] == list(range(3, 48, 4))
    assert [i for i in range(48) if config.is_moe(i)] == list(range(1, 48, 2))
    assert config.num_moe_layers == 24
    assert sum(config.is_local(i) for i in range(48)) == 36


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": 0}, "hidden_size = 0"),
        ({"num_kv_heads": 3}, "num_kv_heads = 3"),
        ({"head_dim": 15}, "head_dim = 15"),
        ({"family": "llama2"}, "family = 'llama2'"),
        ({"attention_chunk": 0}, "attention_chunk = 0"),
        ({"expert_size": 0}, "expert_size = 0"),
        ({"eos_ids": (999,)}, r"eos_ids = \(999,\)"),
        ({"family": "llama3"}, "num_experts = 4"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(
    tiny: ModelConfig, changes: dict[str, object], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        replace(tiny, **changes)


def test_unknown_preset_and_field_name_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'nano'"):
        preset("nanno")
    with pytest.raises(UserError, match="did you mean 'hidden_size'"):
        preset("nano", hiden_size=3)


def test_a_preset_is_changed_as_a_recipe_can_write_it() -> None:
    scaling = {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    table = {"attention_chunk": 0, "rope_scaling": {**scaling, "original_max_position": 64}}
    changed = preset("nano", **table)
    assert changed.attention_chunk is None
    assert changed.rope_scaling == RopeScaling(2.0, 1.0, 4.0, 64)
    with pytest.raises(UserError, match="rope_scaling: 'original_max_position' is missing"):
        preset("nano", rope_scaling=scaling)


def test_llama31_scaling_divides_slow_pairs() -> None:
    config = preset("llama3-8b")
    divisors = frequencies(replace(config, rope_scaling=None)) / frequencies(config)
    assert torch.equal(divisors[:29], torch.ones(29))
    expected = torch.tensor([1.21, 1.55, 2.03, 2.70, 3.68, 5.26])
    torch.testing.assert_close(divisors[29:35], expected, rtol=0, atol=6e-3)
    assert torch.equal(divisors[35:], torch.full((29,), 8.0))


def test_scout_scaling_is_a_step_at_pair_35() -> None:
    config = preset("llama4-scout")
    divisors = frequencies(replace(config, rope_scaling=None)) / frequencies(config)
    assert torch.equal(divisors, torch.tensor([1.0] * 35 + [16.0] * 29))


def test_same_seed_same_weights_and_residual_projections_are_smaller() -> None:
    one, two, other = (build(preset("nano"), seed) for seed in (1, 1, 2))
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    assert not torch.equal(one.embed, other.embed)
    attention = one.layers[0].attention
    assert float(attention.qkv.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(attention.out.weight.detach().std()) == pytest.approx(0.02 / 8**0.5, rel=0.05)
