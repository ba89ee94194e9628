"""Hugging Face directories: round trips both ways, shards, prefixes, and refusals by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from puna.core.errors import UserError
from puna.models import ModelConfig, RopeScaling, load, preset, save
from puna.models.hf_config import config_from_hf, config_to_hf
from puna.models.presets import preset_names

from .conftest import assert_same_bits, tokens, wide

DENSE = ModelConfig(
    "llama3", 128, 64, 2, 4, 2, 16, 96,
    rope_scaling=RopeScaling(8.0, 1.0, 4.0, 64), tie_embeddings=True, bos_id=1, eos_ids=(2, 3),
)  # fmt: skip


def edit(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("family", ["llama3", "llama4"])
def test_transformers_reads_what_we_write(tmp_path: Path, tiny: ModelConfig, family: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = DENSE if family == "llama3" else tiny
    model = wide(config)
    save(model, tmp_path)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids = tokens(2, 29)
    with torch.no_grad():
        assert_same_bits(model.logits(model(ids)), theirs(ids, use_cache=False).logits)


@pytest.mark.parametrize("family", ["llama3", "llama4"])
def test_round_trip_keeps_every_bit(tmp_path: Path, tiny: ModelConfig, family: str) -> None:
    model = wide(DENSE if family == "llama3" else tiny)
    save(model, tmp_path)
    again, config = load(tmp_path)
    assert config == model.config
    expected = model.state_dict()
    assert again.state_dict().keys() == expected.keys()
    for name, value in again.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_survives_config_json(name: str) -> None:
    config = replace(preset(name), vision=None)  # an encoder's fields stand beside the decoder's
    text = json.dumps(config_to_hf(config, torch.bfloat16))
    assert config_from_hf(json.loads(text), Path("config.json")) == config


def test_layout_of_a_written_file(tmp_path: Path, tiny: ModelConfig) -> None:
    save(wide(tiny), tmp_path, dtype=torch.bfloat16)
    tensors = load_file(tmp_path / "model.safetensors")
    assert all(t.dtype == torch.bfloat16 for t in tensors.values())
    stem = "model.layers.1.feed_forward."
    assert tensors[stem + "experts.gate_up_proj"].shape == (4, 64, 192)
    assert tensors[stem + "experts.down_proj"].shape == (4, 96, 64)
    assert tensors[stem + "shared_expert.gate_proj.weight"].shape == (96, 64)
    assert tensors["model.layers.0.feed_forward.gate_proj.weight"].shape == (128, 64)
    assert tensors["model.layers.0.self_attn.k_proj.weight"].shape == (32, 64)
    assert not any(name.startswith("puna.") for name in tensors)


def test_a_moved_bias_is_kept(tmp_path: Path, tiny: ModelConfig) -> None:
    model = wide(tiny)
    model.layers[3].feed_forward.expert_bias.copy_(torch.tensor([0.1, 0.0, -0.2, 0.0]))
    save(model, tmp_path, dtype=torch.bfloat16)
    assert load_file(tmp_path / "model.safetensors")["puna.layers.3.expert_bias"].dtype == (
        torch.float32
    )
    again, _ = load(tmp_path)
    expected = model.layers[3].feed_forward.expert_bias
    assert torch.equal(again.layers[3].feed_forward.expert_bias, expected)


def test_shards_and_the_multimodal_prefix(tmp_path: Path, tiny: ModelConfig) -> None:
    model = wide(tiny)
    save(model, tmp_path)
    tensors = {
        "language_model." + name: value
        for name, value in load_file(tmp_path / "model.safetensors").items()
    }
    (tmp_path / "model.safetensors").unlink()
    names, weight_map = sorted(tensors), {}
    for shard in range(3):
        file = f"model-{shard}.safetensors"
        save_file({n: tensors[n] for n in names[shard::3]}, tmp_path / file)
        weight_map |= dict.fromkeys(names[shard::3], file)
    weight_map["vision_model.class_embedding"] = "absent.safetensors"
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    inner = json.loads((tmp_path / "config.json").read_text())
    outer = {"model_type": "llama4", "text_config": inner, "vision_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(outer))
    again, config = load(tmp_path)
    assert config == tiny
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("num_experts_per_tok", 2),
        ("moe_layers", [1, 2]),
        ("no_rope_layers", [1, 1, 0, 1, 1, 1, 1, 1]),
        ("rope_scaling", {"rope_type": "yarn", "factor": 2.0}),
        ("model_type", "mixtral"),
        ("is_causal", False),
        ("partial_rotary_factor", 0.5),
        ("layer_types", ["full_attention"] * 8),
        ("quantization_config", {"bits": 4}),
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    tmp_path: Path, tiny: ModelConfig, field: str, value: object
) -> None:
    save(wide(tiny), tmp_path)
    edit(tmp_path, **{field: value})
    name = "rope_type" if field == "rope_scaling" else field
    with pytest.raises(UserError, match=f"{name} = "):
        load(tmp_path)


def test_a_head_that_is_not_the_embedding_is_not_tied(tmp_path: Path) -> None:
    model = wide(replace(DENSE, tie_embeddings=False))
    save(model, tmp_path)
    edit(tmp_path, tie_word_embeddings=True)
    with pytest.raises(UserError, match=r"lm_head.weight is not the embedding"):
        load(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    assert load(tmp_path)[0].head is None


def test_broken_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*config\.json"):
        load(tmp_path)
    save(wide(DENSE), tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"\xff" * 100):
        weights.write_bytes(broken)
        with pytest.raises(UserError, match=r"model\.safetensors is not whole"):
            load(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match=r"no file .*model\.safetensors"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not readable JSON"):
        load(tmp_path)


def test_missing_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    save(wide(DENSE), tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    gone = {n: t for n, t in tensors.items() if n != "model.norm.weight"}
    save_file(gone, weights)
    with pytest.raises(UserError, match=r"has no tensor model\.norm\.weight"):
        load(tmp_path)
    save_file(tensors, weights)
    edit(tmp_path, hidden_size=32)
    with pytest.raises(UserError, match=r"embed_tokens\.weight is \[128, 64\]"):
        load(tmp_path)


def test_explicit_lists_of_layers_are_understood(tiny: ModelConfig) -> None:
    data = config_to_hf(tiny, torch.float32)
    del data["interleave_moe_layer_step"], data["no_rope_layer_interval"]
    assert config_from_hf(data, Path("config.json")) == tiny
    data |= {"moe_layers": [], "no_rope_layers": [1] * 8, "layer_types": None}
    plain = config_from_hf(data, Path("config.json"))
    expected = replace(tiny, num_experts=0, moe_every=1, expert_size=0, nope_every=0)
    assert plain == expected
