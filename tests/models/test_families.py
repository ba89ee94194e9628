"""Qwen 2.5, Qwen 3 and Mistral: their sizes, and one-line refusals (numbers: test_parity)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from benchmarks.parity.families import FAMILIES
from benchmarks.parity.models import pair, peer_config
from puna.core.errors import UserError
from puna.models.hf_config import config_from_hf


@pytest.mark.parametrize("family", FAMILIES)
def test_the_count_of_parameters_is_theirs(family: str) -> None:
    theirs, ours = pair(family)
    count = sum(p.numel() for p in theirs.parameters())
    assert ours.config.num_parameters() == count == sum(p.numel() for p in ours.parameters())


WINDOWED = ["full_attention", "sliding_attention", "full_attention"]


@pytest.mark.parametrize(
    ("family", "change", "told"),
    [
        ("mistral", {"sliding_window": 128}, "sliding_window = 128"),
        ("mistral", {"sliding_window": ...}, None),
        ("mistral", {"sliding_window": 256}, None),
        (
            "qwen2",
            {"use_sliding_window": True, "max_window_layers": 2},
            "use_sliding_window = True",
        ),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 3}, None),
        ("qwen3", {"layer_types": WINDOWED}, "layer_types = "),
        ("qwen3", {"attention_bias": True}, "attention_bias = True"),
        ("qwen3", {"num_key_value_heads": ...}, "no field num_key_value_heads"),
        ("qwen3", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type = 'yarn'"),
        ("qwen2", {"model_type": "qwen2_moe"}, "model_type = 'qwen2_moe'"),
        ("qwen3", {"model_type": "qwen3_moe"}, "model_type = 'qwen3_moe'"),
    ],
)
def test_what_is_not_computed_is_refused(
    tmp_path: Path, family: str, change: dict[str, Any], told: str | None
) -> None:
    peer_config(family).save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    data.pop("rope_parameters" if "rope_scaling" in change else "", None)
    data.pop("layer_types" if "use_sliding_window" in change else "", None)
    if change == {"sliding_window": ...}:  # transformers takes 4096 then: more than the positions
        del data["sliding_window"]
    elif ... in change.values():
        del data[next(iter(change))]
    else:
        data |= change
    if told is None:
        assert config_from_hf(data, tmp_path).family == family
        return
    with pytest.raises(UserError, match=told) as raised:
        config_from_hf(data, tmp_path)
    assert "\n" not in str(raised.value)


def test_mistrals_default_window_counts(tmp_path: Path) -> None:
    peer_config("mistral").save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    del data["sliding_window"]
    with pytest.raises(UserError, match="sliding_window = 4096"):
        config_from_hf(data | {"max_position_embeddings": 32768}, tmp_path)
