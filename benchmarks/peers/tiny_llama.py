"""Tiny random Llama checkpoints from a shape and a seed, so that two libraries start alike.

`python benchmarks/peers/tiny_llama.py 164k 0 /tmp/tiny` writes config.json, model.safetensors,
tokenizer.json and prompts.json. Needs torch, safetensors and tokenizers, not transformers.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)

SHAPES: dict[str, dict[str, int]] = {
    "164k": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    },
    "5m": {
        "vocab_size": 512,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 32,
    },
}
PARAMETERS = {"164k": 164_160, "5m": 4_984_064}

SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|header_start|>",
    "<|header_end|>",
    "<|eot|>",
    "<|eom|>",
    "<|pad|>",
    "<|python_start|>",
    "<|python_end|>",
    *(f"<|reserved_{i}|>" for i in range(7)),
)
# Keeps the two line breaks after a header together, whatever the message begins with.
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHAT_TEMPLATE = (
    "<|begin_of_text|>{% for message in messages %}<|header_start|>{{ message['role'] }}"
    "<|header_end|>\n\n{{ message['content'] }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|header_start|>assistant<|header_end|>\n\n{% endif %}"
)


def prompt_texts(count: int) -> list[str]:
    """`count` (at most 100) user messages, equally long in tokens so that nothing is padded."""
    assert 0 < count <= 100
    return [f"even {i:02d}" for i in range(count)]


def parameter_shapes(config: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Hugging Face's names of a Llama's parameters, with an untied output head."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    table = (config["vocab_size"], width)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": table}
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        shapes |= {
            f"{name}.self_attn.q_proj.weight": (queries, width),
            f"{name}.self_attn.k_proj.weight": (keys, width),
            f"{name}.self_attn.v_proj.weight": (keys, width),
            f"{name}.self_attn.o_proj.weight": (width, queries),
            f"{name}.mlp.gate_proj.weight": (inner, width),
            f"{name}.mlp.up_proj.weight": (inner, width),
            f"{name}.mlp.down_proj.weight": (width, inner),
            f"{name}.input_layernorm.weight": (width,),
            f"{name}.post_attention_layernorm.weight": (width,),
        }
    return shapes | {"model.norm.weight": (width,), "lm_head.weight": table}


def make_checkpoint(directory: Path, shape: str, seed: int, prompts: int) -> None:
    """Writes the checkpoint of `shape` that `seed` gives: N(0, 0.02) matrices, norms of one, fp32.

    config.json names no end-of-sequence id: every completion then runs to its full length.
    prompts.json has the `prompts` user messages and the ids that the chat template makes of them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.ones(size) if len(size) == 1 else torch.randn(size, generator=generator) * 0.02
        for name, size in parameter_shapes(SHAPES[shape]).items()
    }
    count = sum(tensor.numel() for tensor in weights.values())
    assert count == PARAMETERS[shape], count
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    tokenizer = _train_tokenizer(SHAPES[shape]["vocab_size"])
    tokenizer.save(str(directory / "tokenizer.json"))
    ids = {name: tokenizer.token_to_id(f"<|{name}|>") for name in ("begin_of_text", "pad")}
    _write(directory / "config.json", _config(shape, ids))
    # Without this file Hugging Face would stop at an id of its own choice.
    _write(
        directory / "generation_config.json",
        {"bos_token_id": ids["begin_of_text"], "eos_token_id": None, "pad_token_id": ids["pad"]},
    )
    _write(directory / "tokenizer_config.json", _tokenizer_config())
    texts = prompt_texts(prompts)
    rendered = [_render(text) for text in texts]
    encoded = [tokenizer.encode(text, add_special_tokens=False).ids for text in rendered]
    assert len({len(row) for row in encoded}) == 1
    _write(directory / "prompts.json", {"texts": texts, "ids": encoded})


def _train_tokenizer(vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Invented words: enough pairs to fill the vocabulary. No digits, so each digit stays a token.
    syllables = [a + b for a, b in product("bdfgklmnprst", "aeiou")]
    words = [a + b for a, b in product(syllables, repeat=2)]
    turns = ["user\n\n", "assistant\n\n", "even "] * 1000
    tokenizer.train_from_iterator([" ".join(words), *turns], trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    bos = SPECIAL_TOKENS[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    assert tokenizer.get_vocab_size() == vocab_size
    return tokenizer


def _config(shape: str, ids: dict[str, int | None]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **SHAPES[shape],
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": ids["begin_of_text"],
        "eos_token_id": None,
        "pad_token_id": ids["pad"],
        "dtype": "float32",
    }


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot|>",
        "pad_token": "<|pad|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "chat_template": _CHAT_TEMPLATE,
    }


def _render(text: str) -> str:
    return (
        f"<|begin_of_text|><|header_start|>user<|header_end|>\n\n{text}<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\n"
    )


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in SHAPES:
        sys.exit(f"usage: tiny_llama.py {'|'.join(SHAPES)} SEED DIRECTORY")
    make_checkpoint(Path(sys.argv[3]), sys.argv[1], int(sys.argv[2]), prompts=32)
