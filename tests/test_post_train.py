"""The recipe for a model one has, on small checkpoints that transformers made, family by family."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file
from tiny_run import REPOSITORY, Done, puna

from puna.agents.conversation import Conversation
from puna.core.errors import UserError
from puna.core.messages import Message
from puna.engine.policy import SamplingParams
from puna.evals.api import eval as evaluate
from puna.models.hf import load
from puna.serve.main import serve
from puna.text.template import render
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


# The tokenizers that families have of their own: (added tokens, how a chat begins in a template).
OWN = {
    "qwen3": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>",
              "<think>", "</think>"],
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"],
    "mistral": ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]",
                "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"],
}  # fmt: skip
# Each in the few words that its published template has for a question.
_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{{ '<|im_start|>assistant\n' }}"
)
TEMPLATES = {
    "qwen3": _CHATML + "{{ '<think>\n\n</think>\n\n' if enable_thinking is false }}",
    "qwen2": _CHATML,
    "mistral": "{{ bos_token }}{% for m in messages %}{{ '[INST]' + m.content + '[/INST]' }}"
    "{% endfor %}",
}


def own_tokenizer(directory: Path, family: str) -> None:
    """What transformers saves of a byte-level tokenizer with the family's tokens and template."""
    hf = tokenizers.Tokenizer(tokenizers.models.BPE())
    hf.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=alphabet, show_progress=False
    )
    hf.train_from_iterator(["one and one is two\n\n"], trainer)
    loose = [t for t in OWN[family] if t.startswith(("<t", "</t"))]
    hf.add_special_tokens([t for t in OWN[family] if t not in loose])
    hf.add_tokens([tokenizers.AddedToken(t, special=False) for t in loose])
    ends = {"bos_token": "<s>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=hf,
        chat_template=TEMPLATES[family],
        **(ends if family == "mistral" else {"eos_token": "<|im_end|>"}),
    ).save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    mistral = family == "mistral"
    config["bos_token_id"] = hf.token_to_id("<s>" if mistral else "<|endoftext|>")
    config["eos_token_id"] = hf.token_to_id("</s>" if mistral else "<|im_end|>")
    (directory / "config.json").write_text(json.dumps(config))


SLOW = [pytest.param(f, marks=pytest.mark.slow) for f in ("llama", "qwen2", "mistral")]


@pytest.mark.parametrize(
    ("family", "name"),
    [("qwen2", "chatml"), ("mistral", "mistral-nemo"),
     pytest.param("qwen3", "qwen3", marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_checkpoint_with_its_own_tokenizer_keeps_its_chat_format(
    tmp_path: Path, family: str, name: str
) -> None:
    """Trained and scored in its own format, and saved so that transformers writes the same."""
    source = checkpoint(tmp_path / "model", family)
    own_tokenizer(source, family)
    given = Tokenizer.load(source)
    assert given.format.name == name
    done = post_train(tmp_path)
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "run" / "eval" / "stage.json").read_text())
    assert [s["stage"] for s in record["result"]["scores"]] == ["init", "sft", "rl"]
    trained = tmp_path / "run" / "rl" / "model"
    peer = transformers.AutoTokenizer.from_pretrained(trained)
    assert peer.chat_template == TEMPLATES[family]
    text = "2+2= <tool_call>[INST]</s>"
    asked = [{"role": "user", "content": "2+2="}]
    ours = render(Tokenizer.load(trained), [Message.user("2+2=")], open_turn=True).ids
    assert ours == peer.apply_chat_template(
        asked, add_generation_prompt=True, enable_thinking=False, return_dict=False
    )
    guarded = render(Tokenizer.load(trained), [Message.user(text)], open_turn=True).ids
    added = {given._ids[t] for t in OWN[family]}
    assert [i for i in guarded if i in added] == [i for i in ours if i in added]
    # Every prompt that was answered in RL had this format.
    opening = ours[: ours.index(given.encode("2")[0])]
    lines = [
        x for p in (tmp_path / "run" / "rl").glob("*.jsonl") for x in p.read_text().split("\n")
    ]
    played = [b["ids"] for x in lines if '"branches"' in x
              for side in json.loads(x)["branches"].values() for b in side]  # fmt: skip
    assert played
    assert all(ids[: len(opening)] == opening for ids in played)


def without_format(directory: Path) -> Path:
    """A checkpoint whose vocabulary has the turns of no chat format."""
    source = checkpoint(directory, "mistral")
    own_tokenizer(source, "mistral")
    text = (source / "tokenizer.json").read_text()
    (source / "tokenizer.json").write_text(text.replace("[INST]", "[ISNT]"))
    return source


def test_a_checkpoint_whose_vocabulary_has_no_chat_format_is_one_line(tmp_path: Path) -> None:
    source = without_format(tmp_path / "model")
    told = "the tokenizer in model has no turn tokens of a known chat format; take one of"
    assert told in post_train(tmp_path).error
    told = f"the tokenizer in {source} has no turn tokens"
    for use in (
        lambda: evaluate(source, "arithmetic", n=1),
        lambda: Conversation(source, "", SamplingParams(8)),
        lambda: serve(source, port=0),
    ):
        with pytest.raises(UserError, match=re.escape(told)):
            use()


def test_that_checkpoint_is_trained_on_text(tmp_path: Path) -> None:
    source = without_format(tmp_path / "model")
    (tmp_path / "words").mkdir()
    for i in range(40):
        (tmp_path / "words" / f"{i}.txt").write_text(f"{i} and one is {i + 1}. " * 40)
    recipe = tmp_path / "text.toml"
    recipe.write_text(f"""
name = "text"
[[stage]]
id = "mid"
kind = "midtrain"
init = "{source}"
data = "{tmp_path / "words"}"
held_out = 20.0
steps = 1
batch_tokens = 256
row_length = 128
""")
    done = puna("run", recipe, "--dir", tmp_path / "run", cwd=str(tmp_path))
    assert done.code == 0, done.err
    trained = load(tmp_path / "run" / "mid" / "model")[0]
    assert not torch.equal(trained.embed, load(source)[0].embed)


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
