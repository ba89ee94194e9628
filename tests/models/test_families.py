"""Qwen 2.5, Qwen 3 and Mistral: transformers' own numbers, and one-line refusals of the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from puna.core.errors import UserError
from puna.engine.cache import KVCache
from puna.engine.step import Step, suits
from puna.models import Decoder, load, save
from puna.models.hf_config import config_from_hf

from .conftest import assert_same_bits, spread, tokens

CACHED = 2e-6
WIDE_MARGIN = 100 * CACHED
SHAPE: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2", {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 1e6}}),
    "qwen3": ("Qwen3", {"head_dim": 24, "rope_parameters": {"rope_theta": 1e6}}),
    "mistral": ("Mistral", {"head_dim": 24, "sliding_window": None}),
}


def family_peer(directory: Path, family: str) -> tuple[Any, Decoder]:
    transformers = pytest.importorskip("transformers")
    name, changes = FAMILIES[family]
    rope = {"rope_type": "default"} | changes.get("rope_parameters", {"rope_theta": 1e4})
    config = getattr(transformers, f"{name}Config")(**(SHAPE | changes | {"rope_parameters": rope}))
    theirs = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    spread(theirs)
    theirs.save_pretrained(directory)
    ours = load(directory)[0]
    if family != "qwen2":
        return theirs, ours
    with torch.no_grad():  # transformers begins with biases of 0, which would hide their loss
        for name, parameter in theirs.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(1))
    theirs.save_pretrained(directory)
    return theirs, load(directory)[0]


@torch.no_grad()
def logits(model: Decoder, ids: torch.Tensor, **options: Any) -> torch.Tensor:
    return model.logits(model(ids, **options))


@torch.no_grad()
def decoded(model: Decoder, ids: torch.Tensor, prompt: int, fast: bool) -> torch.Tensor:
    """A prompt in one call, then a token at a time, by the folded step or by the model."""
    rows, count = ids.shape
    cache = KVCache(model.config, rows, count)
    out = [logits(model, ids[:, :prompt], cache=cache)]
    step = Step(model)
    for i in range(prompt, count):
        at = torch.full((rows,), i)
        if fast:
            out.append(step(ids[:, i], at, cache)[:, None])
        else:
            token = ids[:, i : i + 1]
            out.append(logits(model, token, positions_BT=at[:, None], cache=cache))
    return torch.cat(out, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_full_pass_equals_transformers_bitwise(tmp_path: Path, family: str) -> None:
    theirs, ours = family_peer(tmp_path, family)
    assert ours.config.family == family
    for length in (1, 8, 29):
        ids = tokens(2, length, seed=length)
        with torch.no_grad():
            assert_same_bits(logits(ours, ids), theirs(ids, use_cache=False).logits, family)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_decoding_equals_transformers(tmp_path: Path, family: str, fast: bool) -> None:
    theirs, ours = family_peer(tmp_path, family)
    assert suits(ours)
    ids = tokens(3, 24)
    with torch.no_grad():
        expected = theirs(ids, use_cache=False).logits
    torch.testing.assert_close(decoded(ours, ids, 7, fast), expected, rtol=0, atol=CACHED)


@pytest.mark.parametrize(
    ("family", "off"), [("qwen2", "bias"), ("qwen3", "head_norms"), ("qwen3", "norm_weights")]
)
@pytest.mark.parametrize("fast", [False, True])
def test_without_its_feature_a_family_is_far_off(
    tmp_path: Path, family: str, off: str, fast: bool
) -> None:
    """The tests above would notice: each feature moves the logits by 100 tolerances and more."""
    theirs, ours = family_peer(tmp_path, family)
    if off == "head_norms":
        plain = Decoder(replace(ours.config, family="llama3")).eval()
        kept = {
            k: v
            for k, v in ours.state_dict().items()
            if not k.endswith(("q_norm.weight", "k_norm.weight"))
        }
        plain.load_state_dict(kept)
        ours = plain
    for name, parameter in ours.named_parameters():
        if off == "bias" and name.endswith("bias"):
            parameter.data.zero_()
        if off == "norm_weights" and name.endswith(("q_norm.weight", "k_norm.weight")):
            parameter.data.fill_(1.0)
    ids = tokens(2, 24)
    with torch.no_grad():
        expected = theirs(ids, use_cache=False).logits
    assert (decoded(ours, ids, 7, fast) - expected).abs().max() > WIDE_MARGIN


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_decodes_what_we_write_alike(tmp_path: Path, family: str) -> None:
    transformers = pytest.importorskip("transformers")
    theirs, ours = family_peer(tmp_path / "theirs", family)
    save(ours, tmp_path / "ours")
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", dtype=torch.float32, output_loading_info=True
    )
    assert type(again) is type(theirs)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    prompt = tokens(1, 5)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = theirs.generate(prompt, **options)
    assert torch.equal(again.generate(prompt, **options), expected)
    ids = prompt
    for _ in range(12):
        ids = torch.cat((ids, logits(ours, ids)[:, -1:].argmax(-1)), 1)
    assert torch.equal(ids, expected)
    assert len(set(expected[0].tolist())) > 5, "a model that repeats itself shows nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_count_of_parameters_is_theirs(tmp_path: Path, family: str) -> None:
    theirs, ours = family_peer(tmp_path, family)
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
    family_peer(tmp_path, family)
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
    family_peer(tmp_path, "mistral")
    data = json.loads((tmp_path / "config.json").read_text())
    del data["sliding_window"]
    with pytest.raises(UserError, match="sliding_window = 4096"):
        config_from_hf(data | {"max_position_embeddings": 32768}, tmp_path)
