"""The recipe for a model one has, on small checkpoints that transformers made, family by family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import REPOSITORY, Done, puna

from puna.models.hf import load
from puna.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

SHAPE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
}
EXPERTS = {"intermediate_size_mlp": 64, "num_local_experts": 2, "interleave_moe_layer_step": 2}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {"tie_word_embeddings": True}),
    "llama4": ("Llama4TextConfig", "Llama4ForCausalLM", EXPERTS),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {"head_dim": None}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {"sliding_window": None}),
}
SMALL = {
    "machine.threads": 1, "machine.dtype": "float32",
    "sft.steps": 3, "sft.batch_tokens": 128, "sft.row_length": 32,
    "rl.steps": 1, "rl.prompts": 2, "rl.samples": 2, "rl.refills": 0, "rl.max_tokens": 3,
    "eval.n": 4, "eval.max_tokens": 3,
}  # fmt: skip
CHATS = [{"prompt": f"{n}+1=", "completion": str(n + 1)} for n in range(8)]


def checkpoint(directory: Path, family: str) -> Path:
    """A random model that transformers saved in shards, and a tokenizer beside it."""
    config, cls, changes = FAMILIES[family]
    values = {k: v for k, v in (SHAPE | changes).items() if v is not None or k != "head_dim"}
    tokenizer = Tokenizer.train(["one and one is two"], 290)
    values["bos_token_id"] = tokenizer.special("begin_of_text")
    values["eos_token_id"] = tokenizer.special("end_of_text")
    torch.manual_seed(0)
    model = getattr(transformers, cls)(getattr(transformers, config)(**values))
    model.save_pretrained(directory, max_shard_size="40KB")
    tokenizer.save(directory)
    return directory


def post_train(where: Path, **changes: Any) -> Done:
    """The shipped recipe, in `where`, with small sizes."""
    (where / "chats.jsonl").write_text("\n".join(map(json.dumps, CHATS)))
    flags = []
    for key, value in (SMALL | changes).items():
        flags += ["--set", f"{key}={value}"]
    recipe = REPOSITORY / "recipes" / "post_train.toml"
    return puna("run", recipe, "--dir", where / "run", *flags, cwd=str(where))


SLOW = [pytest.param(f, marks=pytest.mark.slow) for f in ("llama", "qwen2", "mistral")]


@pytest.mark.parametrize("family", ["llama4", "qwen3", *SLOW])
def test_every_family_goes_through_the_recipe(tmp_path: Path, family: str) -> None:
    source = checkpoint(tmp_path / "model", family)
    assert len(list(source.glob("*.safetensors"))) > 1
    done = post_train(tmp_path)
    assert done.code == 0, done.err
    assert "could not be written" not in done.err + done.out  # the report names "init" too
    record = json.loads((tmp_path / "run" / "eval" / "stage.json").read_text())
    assert [s["stage"] for s in record["result"]["scores"]] == ["init", "sft", "rl"]
    before, after = load(source)[0], load(tmp_path / "run" / "rl" / "model")[0]
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "run" / "rl" / "model", dtype=torch.float32, output_loading_info=True
    )
    assert type(theirs).__name__ == FAMILIES[family][1]
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        old, new = (m.logits(m(ids)) for m in (before, after))
        torch.testing.assert_close(new, theirs(ids).logits, rtol=0, atol=2e-6)
    assert (new - old).abs().max() > 1e-3, "nothing was learned"
    same = {n: torch.equal(p, after.state_dict()[n]) for n, p in before.state_dict().items()}
    moved = {n for n, equal in same.items() if not equal}
    assert {n.split(".")[-1] for n in moved} <= {"weight", "gate_up", "down"}
    assert all("norm" not in n and "router" not in n and n != "embed" for n in moved)
    tokenizers = [d / "tokenizer.json" for d in (source, tmp_path / "run" / "rl" / "model")]
    assert tokenizers[0].read_bytes() == tokenizers[1].read_bytes()


def test_in_bf16_the_frozen_weights_are_bf16(tmp_path: Path) -> None:
    checkpoint(tmp_path / "model", "qwen3")
    done = post_train(tmp_path, **{"machine.dtype": "bfloat16"})
    assert done.code == 0, done.err
    for stage in ("sft", "rl"):
        directory = tmp_path / "run" / stage
        weights = load_file(directory / "model" / "model.safetensors")
        assert {t.dtype for t in weights.values()} == {torch.bfloat16}
        adapter = load_file(directory / "adapter" / "adapter_model.safetensors")
        assert {t.dtype for t in adapter.values()} == {torch.float32}


OTHERS: dict[str, dict[str, Any]] = {
    "midtrain": {"row_length": 64, "batch_tokens": 128, "data": "text"},
    "dpo": {"data": "pairs.jsonl", "batch_pairs": 4},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_the_other_stages_start_from_a_directory_too(tmp_path: Path, kind: str) -> None:
    source = checkpoint(tmp_path / "model", "qwen2" if kind == "dpo" else "mistral")
    pairs = [{"prompt": c["prompt"], "chosen": c["completion"], "rejected": "x"} for c in CHATS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    (tmp_path / "text").mkdir()
    for n in range(60):
        (tmp_path / "text" / f"{n}.txt").write_text(f"{n} and {n * n} are numbers. " * 15)
    table = {"id": kind, "kind": kind, "init": "model", "steps": 2} | OTHERS[kind]
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    head = '[machine]\nthreads = 1\ndtype = "float32"\n[[stage]]\n'
    (tmp_path / "one.toml").write_text(head + "\n".join(lines))
    done = puna("run", tmp_path / "one.toml", "--dir", tmp_path / "run", cwd=str(tmp_path))
    assert done.code == 0, done.err
    model, config = load(tmp_path / "run" / kind / "model")
    assert config.family == load(source)[1].family
    assert not torch.equal(model.layers[0].attention.qkv.weight,
                           load(source)[0].layers[0].attention.qkv.weight)  # fmt: skip


def test_a_directory_that_cannot_serve_is_one_line(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "model", "qwen3")
    (source / "tokenizer.json").rename(tmp_path / "kept.json")
    assert "no tokenizer.json in model; name" in post_train(tmp_path).error
    larger = Tokenizer.train(["one and one is two, and so on"], 400)
    larger.save(source)
    told = f"the tokenizer in model has {larger.vocab_size} ids and the model 300 embeddings"
    assert larger.vocab_size > 300
    assert told in post_train(tmp_path).error
    (source / "config.json").unlink()
    assert "no model in model; name a finished stage" in post_train(tmp_path).error
