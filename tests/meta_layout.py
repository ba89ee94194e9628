"""Small checkpoints in Meta's layout, cut from transformers' own, with a tokenizer.model.

`write(DIR, released(HF, "llama3", vocab_size=VOCAB["llama3"]), "llama3", 2); write_ranks(DIR)`.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.parity.models import spread

TOKENS = 300
VOCAB = {"llama3": TOKENS + 256, "llama4": TOKENS + 2048}
TEXT = """the cat and the other cat sat there, and then it isn't the hat That THE END 12 123 1234
é汉é汉 the theme of the others: HTTP server, HTTPServer; whether weather or whatever 's That's
numbers and letters stand in the long line of lines, longer than others, line after line"""

SHAPE: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
SCALED = {"rope_theta": 5e5, "original_max_position_embeddings": 8192, "low_freq_factor": 1.0}
LLAMA3 = {
    "intermediate_size": 96,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": SCALED | {"rope_type": "llama3", "factor": 32.0, "high_freq_factor": 4.0},
}
LLAMA4 = {
    "intermediate_size": 48,
    "intermediate_size_mlp": 96,
    "num_local_experts": 4,
    "interleave_moe_layer_step": 2,
    "attention_chunk_size": 8,
    "max_position_embeddings": 262_144,
    "rope_parameters": SCALED | {"rope_type": "llama3", "factor": 16.0, "high_freq_factor": 1.0},
}
PARAMS = {
    "dim": 64, "n_layers": 4, "n_heads": 8, "n_kv_heads": 4, "norm_eps": 1e-5,
    "rope_theta": 500000.0, "use_scaled_rope": True, "vocab_size": -1, "multiple_of": 32,
}  # fmt: skip
LLAMA4_PARAMS = PARAMS | {
    "nope_layer_interval": 4, "attention_chunk_size": 8, "use_qk_norm": True, "ffn_exp": 4.0,
    "moe_args": {"num_experts": 4, "interleave_moe_layer_step": 2, "top_k": 1},
}  # fmt: skip


def released(directory: Path, family: str, **changes: Any) -> dict[str, Tensor]:
    """A directory as transformers writes it; its tensors by their names there."""
    import transformers

    shape = LLAMA3 if family == "llama3" else LLAMA4
    config = transformers.LlamaConfig if family == "llama3" else transformers.Llama4TextConfig
    cls = transformers.LlamaForCausalLM if family == "llama3" else transformers.Llama4ForCausalLM
    model = cls(config(**(SHAPE | shape | changes)))
    spread(model)
    model.save_pretrained(directory)
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def neighbours(weight: Tensor, heads: int) -> Tensor:
    """The rows of a head as Meta has them: 0, half, 1, half + 1, ..."""
    rows = [h * 8 + i + j for h in range(heads) for i in range(4) for j in (0, 4)]
    return weight[rows]


def write(
    directory: Path,
    hf: dict[str, Tensor],
    family: str,
    shards: int,
    more: dict[str, Tensor] | None = None,
) -> None:
    """consolidated.*.pth and params.json, cut as Meta's model-parallel layers are.

    `more` stands in every shard as it is.
    """
    llama4 = family == "llama4"

    def cut(name: str, dim: int) -> list[Tensor]:
        return list(hf[name].chunk(shards, dim))

    out: dict[str, list[Any]] = {
        "tok_embeddings.weight": cut("model.embed_tokens.weight", 0),
        "output.weight": cut("lm_head.weight", 0),
        "norm.weight": [hf["model.norm.weight"]] * shards,
        "rope.freqs": [torch.ones(4)] * shards,
        **{name: [tensor] * shards for name, tensor in (more or {}).items()},
    }
    for i in range(4):
        theirs, meta = f"model.layers.{i}.", f"layers.{i}."
        norm = [hf[theirs + "input_layernorm.weight"]] * shards
        q, k, v = (hf[f"{theirs}self_attn.{part}_proj.weight"] for part in "qkv")
        if llama4:
            parts = [t.chunk(shards, 0) for t in (q, k, v)]
            out[meta + "attention.wqkv.weight"] = [torch.cat(p) for p in zip(*parts, strict=True)]
            out[meta + "attention.wqkv.layer_norm_weight"] = norm
            out[meta + "attention.wqkv._extra_state"] = [io.BytesIO(b"fp8")] * shards
        else:
            few = min(shards, 4)  # more shards than key heads: each head stands several times
            wide = [shards // few] * few
            for part, weight in (("q", neighbours(q, 8)), ("k", neighbours(k, 4)), ("v", v)):
                n = shards if part == "q" else few
                pieces = list(weight.chunk(n, 0))
                if part != "q":
                    pieces = [p for p, w in zip(pieces, wide, strict=True) for _ in range(w)]
                out[f"{meta}attention.w{part}.weight"] = pieces
            out[meta + "attention_norm.weight"] = norm
        out[meta + "attention.wo.weight"] = cut(theirs + "self_attn.o_proj.weight", 1)
        second = [hf[theirs + "post_attention_layernorm.weight"]] * shards
        mlp = theirs + ("feed_forward." if llama4 else "mlp.")
        feed = meta + "feed_forward."
        if not llama4:
            for name, part, dim in (("w1", "gate", 0), ("w3", "up", 0), ("w2", "down", 1)):
                out[f"{feed}{name}.weight"] = cut(f"{mlp}{part}_proj.weight", dim)
            out[meta + "ffn_norm.weight"] = second
        elif i % 2 == 0:
            gate, up = cut(mlp + "gate_proj.weight", 0), cut(mlp + "up_proj.weight", 0)
            out[feed + "mlp.fc1_weight"] = [torch.cat(p) for p in zip(gate, up, strict=True)]
            out[feed + "mlp.fc2_weight"] = cut(mlp + "down_proj.weight", 1)
            out[feed + "mlp.layer_norm_weight"] = second
        else:
            gate, up = hf[mlp + "experts.gate_up_proj"].chunk(2, -1)
            for name, whole, dim in (
                ("moe_w_in_eD_F", gate, 2),
                ("moe_w_swiglu_eD_F", up, 2),
                ("moe_w_out_eF_D", hf[mlp + "experts.down_proj"], 1),
            ):
                slices = whole.chunk(shards, dim)
                out[f"{feed}experts.{name}"] = [s.reshape(-1, s.shape[-1]) for s in slices]
            stem = mlp + "shared_expert."
            out[feed + "w_in_shared_FD.weight"] = cut(stem + "gate_proj.weight", 0)
            out[feed + "w_swiglu_FD.weight"] = cut(stem + "up_proj.weight", 0)
            out[feed + "w_out_shared_DF.weight"] = cut(stem + "down_proj.weight", 1)
            out[feed + "router_DE"] = [hf[mlp + "router.weight"].t()] * shards
            out[feed + "global_gate_stats_3E"] = [torch.zeros(3, 4)] * shards
            out[feed + "norm.weight"] = second
    directory.mkdir()
    for s in range(shards):
        mine = {n: p[s].clone() if isinstance(p[s], Tensor) else p[s] for n, p in out.items()}
        torch.save(mine, directory / f"consolidated.{s:02d}.pth")
    params = LLAMA4_PARAMS if llama4 else PARAMS
    (directory / "params.json").write_text(json.dumps(params))


def ranks() -> list[bytes]:
    """Tokens by rank: the bytes from the last to the first, and the most frequent pairs of TEXT."""
    tokens = [bytes([byte]) for byte in reversed(range(256))]
    words = [
        [bytes([byte]) for byte in b" " + word] for word in (TEXT + 12 * " isn't").encode().split()
    ]
    while len(tokens) < TOKENS:
        counts = Counter(pair for word in words for pair in itertools.pairwise(word))
        (a, b), _ = counts.most_common(1)[0]
        assert a + b not in tokens
        tokens.append(a + b)
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == (a, b):
                    word[i : i + 2] = [a + b]
                i += 1
    return tokens


def write_ranks(directory: Path) -> None:
    """tokenizer.model as Meta has it."""
    lines = [f"{base64.b64encode(token).decode()} {i}" for i, token in enumerate(ranks())]
    (directory / "tokenizer.model").write_text("\n".join(lines) + "\n")


class Evil:
    """Pickled, it asks for a call."""

    def __reduce__(self) -> Any:
        return print, ("unpickled",)


def cut(directory: Path) -> None:
    """The second shard ends early."""
    file = directory / "consolidated.01.pth"
    file.write_bytes(file.read_bytes()[:-5000])
