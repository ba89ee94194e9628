"""Any value in any field of config.json: a model, or a line with file, field and value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from puna.core.errors import UserError
from puna.models import Decoder, ModelConfig, RopeScaling, VisionConfig
from puna.models.hf import read_config
from puna.models.hf_config import config_to_hf
from puna.models.hf_vision import vision_to_hf
from puna.text.images import read_tiling

from .conftest import TINY

DENSE = ModelConfig(
    "llama3", 128, 64, 2, 4, 2, 16, 96, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 64), eos_ids=(2, 3)
)
SCOUT = replace(TINY, rope_scaling=RopeScaling(16.0, 1.0, 4.0, 64), bos_id=1, pad_id=0)
EYES = VisionConfig(32, 2, 4, tile_size=16, patch_size=4, adapter_size=24, patch_id=99)
JUNK: tuple[Any, ...] = (
    None, 0, -1, "x", "", [], {}, [None], ["x"], [[]], {"x": [1]}, 1.5, True, 1e30, 10**30,
    float("inf"), float("nan"),
)  # fmt: skip
# What an older release, another family or a conversion may have written beside the rest.
BESIDE = {"sliding_window": None, "use_sliding_window": False, "max_window_layers": 2}
BESIDE |= {"layer_types": None, "quantization_config": None, "partial_rotary_factor": 1.0}


def files(directory: Path) -> dict[str, dict[str, Any]]:
    """A config.json of every kind; the last is of a model with eyes."""
    out = {}
    for family in ("llama3", "qwen2", "qwen3", "mistral"):
        config = replace(DENSE, family=family)  # type: ignore[arg-type]
        out[family] = config_to_hf(config, torch.float32) | BESIDE
    mistral = out["mistral"]  # as transformers writes it since 5.0
    rope = mistral.pop("rope_scaling") | {"rope_theta": mistral.pop("rope_theta")}
    mistral["rope_parameters"] = rope
    out["steps"] = config_to_hf(SCOUT, torch.float32)
    out["lists"] = dict(out["steps"])
    for name in ("moe_layers", "no_rope_layers", "layer_types"):
        del out["steps"][name]
    out["eyes"] = vision_to_hf(EYES, out["lists"], directory)
    return out


def spoilt(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Every field with every junk value: its path, the value, and the whole table."""
    for name, value in data.items():
        for junk in JUNK:
            yield prefix + name, junk, data | {name: junk}
        if isinstance(value, dict):
            for path, junk, inner in spoilt(value, f"{prefix}{name}."):
                yield path, junk, data | {name: inner}


def refused(path: Path) -> str:
    """The line that refuses a file; empty where it is read and a model made of it."""
    try:
        config = read_config(path)
        read_tiling(path.parent)
        with torch.device("meta"):
            Decoder(config)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["llama3", "qwen2", "qwen3", "mistral", "steps", "lists", "eyes"])
def test_any_value_in_any_field_is_read_or_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.json"
    answers = {"read": 0, "refused": 0}
    for field, value, data in spoilt(files(tmp_path)[kind]):
        path.write_text(json.dumps(data))
        line = refused(path)
        answers["refused" if line else "read"] += 1
        within = isinstance(value, dict) and line.startswith(f"{path} has no field {field}.")
        assert not line or within or line.startswith(f"{path}: {field} = {value!r} is"), line
        assert "\n" not in line
    assert min(answers.values()) > 80, answers


@pytest.mark.parametrize("kind", ["llama3", "qwen3", "steps", "lists", "eyes"])
def test_a_field_that_is_absent_is_named_or_not_needed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.json"
    data = files(tmp_path)[kind]
    needed = set()
    for name in data:
        path.write_text(json.dumps({n: v for n, v in data.items() if n != name}))
        if line := refused(path):
            assert line.startswith(f"{path} has no field {name};"), line
            needed.add(name)
    assert "model_type" in needed
    assert ("hidden_size" in needed) != (kind == "eyes")


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        ("llama3", {"num_attention_heads": 0}, "num_attention_heads = 0 .* above 0"),
        ("llama3", {"num_key_value_heads": 3}, "num_key_value_heads = 3 .* divisor of the 4 heads"),
        ("llama3", {"num_key_value_heads": 0}, "num_key_value_heads = 0 .* above 0"),
        ("llama3", {"head_dim": None, "hidden_size": 60}, "hidden_size = 60 .* multiple of"),
        ("llama3", {"head_dim": 15}, "head_dim = 15 .* even"),
        ("llama3", {"eos_token_id": [2, 128]}, r"eos_token_id = \[2, 128\] .* vocabulary of 128"),
        ("llama3", {"rope_scaling": "yarn"}, "rope_scaling = 'yarn' .* a table"),
        ("llama3", {"rope_scaling": {"type": "yarn"}}, "rope_scaling.type = 'yarn'"),
        ("llama3", {"rope_scaling": {"rope_type": "llama3"}}, "no field rope_scaling.factor"),
        ("mistral", {"sliding_window": "x"}, "sliding_window = 'x' .* whole number"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": None}, "use_sliding_window = "),
        ("steps", {"no_rope_layer_interval": None}, "no_rope_layer_interval = None .* whole"),
        ("steps", {"interleave_moe_layer_step": None}, "interleave_moe_layer_step = None"),
        ("steps", {"interleave_moe_layer_step": 0}, "interleave_moe_layer_step = 0"),
        ("steps", {"num_local_experts": 0}, "num_local_experts = 0"),
        ("steps", {"intermediate_size": 0}, "intermediate_size = 0 .* above 0"),
        ("steps", {"intermediate_size_mlp": 0}, "intermediate_size_mlp = 0 .* above 0"),
        ("lists", {"moe_layers": [-1]}, r"moe_layers = \[-1\]"),
        ("eyes", {"text_config": {"model_type": "mllama"}}, "text_config.model_type = 'mllama'"),
        ("eyes", {"image_token_index": 128}, "image_token_index = 128 .* vocabulary of 128"),
        ("eyes", {"vision_config": {"num_channels": 1}}, "vision_config.num_channels = 1 .* 3"),
        ("eyes", {"vision_config": {"image_size": 18}}, "vision_config.image_size = 18 .*multiple"),
        ("eyes", {"vision_config": {"hidden_size": 34}}, "vision_config.hidden_size = 34 .*multip"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_as_it_stands_in_the_file(
    tmp_path: Path, kind: str, change: dict[str, Any], told: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(files(tmp_path)[kind] | change))
    with pytest.raises(UserError, match=f"config.json.*{told}") as raised:
        read_config(path)
    assert str(path) in str(raised.value)


def test_what_the_processor_says_is_named_by_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(files(tmp_path)["eyes"]))
    read_config(tmp_path / "config.json")
    beside = tmp_path / "preprocessor_config.json"
    beside.write_text('{"max_patches": "x"}')
    with pytest.raises(UserError, match=rf"{beside}: max_patches = 'x' is not supported"):
        read_config(tmp_path / "config.json")
