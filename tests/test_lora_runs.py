"""Stages that train adapters: the base stays, a killed run resumes, the next stage gets the sum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_rl_runs import ALL_COUNT
from tiny_run import finish, killed, metrics, run, write_stage

from puna.models.hf import load
from puna.models.presets import build, preset
from puna.text.tokenizer import Tokenizer
from puna.train.checkpoint import save_model

LORA = {"rank": 4, "alpha": 8.0}
SHAPE = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1}
SHAPE |= {"intermediate_size": 48, "expert_size": 24}
CHATS = [{"prompt": f"{n}+1=", "completion": str(n + 1)} for n in range(12)]
PAIRS = [{"prompt": f"{n}+1=", "chosen": str(n + 1), "rejected": "no"} for n in range(12)]
STAGES: dict[str, dict[str, Any]] = {
    "sft": {"data": "chats.jsonl", "max_tokens": None},
    "dpo": {"data": "pairs.jsonl", "batch_tokens": None, "batch_pairs": 4},
    "rl": {},
    "rl, ahead": {"staleness": 1},
    "rl, kl": {"loss": {"kl": 0.5}},
}
FAST = {"lr": 2e-2, "warmup": 1, "schedule": "constant"}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("start") / "model"
    tokenizer = Tokenizer.train(["one and one is two, and so it goes"], 290)
    save_model(build(preset("nano", vocab_size=290, **SHAPE), 0), tokenizer, directory)
    return directory


def stage(directory: Path, start: Path, name: str, **settings: Any) -> Path:
    """A recipe of one stage of adapters on the model in `start`."""
    directory.mkdir(parents=True, exist_ok=True)
    for file, rows in (("chats.jsonl", CHATS), ("pairs.jsonl", PAIRS)):
        (directory / file).write_text("\n".join(map(json.dumps, rows)))
    given = {"lora": LORA, "optim": FAST} | STAGES[name] | settings
    if "data" in given:
        given["data"] = str(directory / given["data"])
    recipe = write_stage(directory, name.split(",")[0], start, **given)
    env = directory / "brief.py"
    env.write_text(env.read_text() + ALL_COUNT)
    return recipe


@pytest.fixture(scope="module")
def trained(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name -> its recipe, its stage's directory, its weights' digest; each trained once."""
    where, found = tmp_path_factory.mktemp("trained"), {}

    def train(name: str) -> tuple[Path, Path, str]:
        if name not in found:
            recipe, kind = stage(where / name, start, name), name.split(",")[0]
            found[name] = recipe, where / name / "run" / kind, finish(recipe, where / name / "run")
        recipe, directory, weights = found[name]
        return recipe, directory, weights[directory.name]

    return train


@pytest.mark.parametrize("name", ["sft", "dpo", "rl"])
def test_only_adapted_weights_move_and_by_the_adapter(trained: Any, start: Path, name: str) -> None:
    directory = trained(name)[1]
    before, after = (load_file(d / "model.safetensors") for d in (start, directory / "model"))
    adapter = load_file(directory / "adapter" / "adapter_model.safetensors")
    config = json.loads((directory / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8.0)
    assert config["base_model_name_or_path"] == str(start)
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved == {n for n in before if "_proj" in n}
    query = "model.layers.0.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{query}.lora_{x}.weight"] for x in "AB")
    assert (2.0 * b @ a).abs().max() > 1e-4
    expected = before[f"{query}.weight"] + 2.0 * b @ a
    torch.testing.assert_close(after[f"{query}.weight"], expected, rtol=0, atol=1e-7)
    result = json.loads((directory / "stage.json").read_text())["result"]
    assert result["learned_parameters"] == sum(t.numel() for t in adapter.values())
    assert result["parameters"] == sum(t.numel() for t in before.values()) > 0


@pytest.mark.parametrize(
    "name",
    [
        "sft",
        "rl, ahead",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("dpo", "rl", "rl, kl")),
    ],
)
def test_killed_it_ends_with_the_same_weights(trained: Any, tmp_path: Path, name: str) -> None:
    recipe, directory, weights = trained(name)
    for point in ("checkpoint.renamed:1", "metrics.appended:1"):
        killed(recipe, tmp_path / "run", point)
    (kept,) = (tmp_path / "run" / directory.name / "checkpoints").iterdir()
    names = {p.name for p in kept.iterdir()} - {"extra.safetensors"}
    assert names == {
        "adapters.safetensors", "optimizer.safetensors", "checkpoint.json",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    killed(recipe, tmp_path / "run", "adapter.renamed:1")
    assert finish(recipe, tmp_path / "run")[directory.name] == weights
    other = finish(recipe, tmp_path / "other", f"{directory.name}.lora.alpha=9.0")
    assert other[directory.name] != weights  # equal digests are not a matter of course


def test_the_sampler_has_the_adapted_weights(trained: Any) -> None:
    """One update behind is far off; the same weights are not."""
    fresh = [m["logprob_gap"] for m in metrics(trained("rl")[1].parent, "rl").values()]
    stale = [m["logprob_gap"] for m in metrics(trained("rl, ahead")[1].parent, "rl").values()]
    assert max(fresh) < 1e-5
    assert min(stale[1:]) > 1e-3


def test_the_distance_to_the_start_is_measured_without_adapters(trained: Any) -> None:
    figures = metrics(trained("rl, kl")[1].parent, "rl")
    assert figures[1]["kl"] == pytest.approx(0, abs=1e-9)
    assert figures[2]["kl"] > 1e-6


def test_preferences_are_measured_against_the_start(trained: Any) -> None:
    told = metrics(trained("dpo")[1].parent, "dpo")
    assert told[1]["margin"] == 0
    assert told[4]["margin"] > told[2]["margin"] > 0


def test_the_next_stage_starts_from_the_sum(trained: Any, tmp_path: Path) -> None:
    """Its first loss is that of the adapted model, far from the base's."""
    _, directory, _ = trained("sft")
    last = metrics(directory.parent, "sft")[4]["loss"]
    still = {"lr": 1e-9, "warmup": 0}
    recipe = stage(tmp_path, directory, "sft", lora=None, steps=1, optim=still)
    finish(recipe, tmp_path / "run")
    assert metrics(tmp_path / "run", "sft")[1]["loss"] < last + 0.05
    first = metrics(directory.parent, "sft")[1]["loss"]
    assert first - last > 0.2


def test_another_base_below_a_checkpoint_is_refused(start: Path, tmp_path: Path) -> None:
    model, _ = load(start)
    save_model(model, Tokenizer.load(start), tmp_path / "base")
    recipe = stage(tmp_path, tmp_path / "base", "sft")
    killed(recipe, tmp_path / "run", "checkpoint.renamed:1")
    with torch.no_grad():
        model.embed[0] += 1
    save_model(model, Tokenizer.load(start), tmp_path / "base")
    error = run(recipe, tmp_path / "run").error
    assert "data of stage sft changed since it began (rows " in error
    assert ", base " in error


def test_targets_of_another_model_are_refused(start: Path, tmp_path: Path) -> None:
    recipe = stage(tmp_path, start, "sft", lora={"targets": ["q_proj", "kproj"]})
    assert "targets names 'kproj'; did you mean 'k_proj'?" in run(recipe, tmp_path / "run").error
    recipe = stage(tmp_path, start, "sft", lora={"ranks": 3})
    assert "sft.lora: unknown key 'ranks'; did you mean 'rank'?" in (
        run(recipe, tmp_path / "run").error
    )
