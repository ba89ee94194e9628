"""Hugging Face checkpoint directories: `LlamaForCausalLM`, and Llama 4 with and without eyes.

`model, config = load("DIR"); save(model, "OUT")`: config.json and model.safetensors, both ways.
Inside, q, k, v are one matrix and so are gate and up; in the files they are apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from puna.core.errors import UserError
from puna.models.config import ModelConfig
from puna.models.decoder import Decoder
from puna.models.hf_config import config_from_hf, config_to_hf
from puna.models.hf_vision import (
    LANGUAGE,
    name_in_multimodal,
    vision_from_hf,
    vision_names,
    vision_to_hf,
)

_BIAS = "puna.layers.{}.expert_bias"


def load(
    directory: str | Path, dtype: torch.dtype = torch.float32, text_only: bool = False
) -> tuple[Decoder, ModelConfig]:
    """The model in `directory`, its parameters as `dtype`, and its shape.

    With `text_only` a vision encoder is left out.

    Raises UserError naming the file for what is missing, cut off, of another shape or not a
    number, and naming field and value for what this decoder does not compute.
    """
    directory = Path(directory)
    data = _read_json(directory / "config.json")
    config = config_from_hf(data, directory / "config.json")
    if not text_only:
        config = replace(config, vision=vision_from_hf(data, directory))
    with torch.device("meta"):
        model = Decoder(config)
    model = model.to(dtype).to_empty(device="cpu")
    for buffer in model.buffers():
        buffer.zero_()
    source = _Source(directory)
    with torch.no_grad():
        for name, target, part in _names(model):
            source.copy(name, target, part)
    return model.eval(), config


def save(model: Decoder, directory: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write config.json and model.safetensors into `directory`, as `dtype` or as they are.

    A moved balancing bias is kept as `puna.layers.N.expert_bias`, which other readers ignore.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, target, part in _names(model):
        bias = name.startswith("puna.")
        if bias and not bool(target.any()):
            continue
        piece = target.detach() if part is None else target.detach()[part]
        kept = piece.dtype if bias else dtype or piece.dtype
        tensors[name] = piece.to("cpu", kept).contiguous()
    data = config_to_hf(model.config, dtype or model.embed.dtype)
    if model.config.vision is not None:
        tensors = {name_in_multimodal(name): tensor for name, tensor in tensors.items()}
        data = vision_to_hf(model.config.vision, data, directory)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(data, indent=2) + "\n")


def _names(model: Decoder) -> Iterator[tuple[str, Tensor, slice | None]]:
    """Every tensor of a file: its name there, our tensor, and its rows of it (None: all)."""
    config = model.config
    feed_forward = "mlp" if config.family == "llama3" else "feed_forward"
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    yield "model.embed_tokens.weight", own["embed"], None
    for i in range(config.num_layers):
        ours, theirs = f"layers.{i}.", f"model.layers.{i}."
        yield theirs + "input_layernorm.weight", own[ours + "attention_norm.weight"], None
        yield (
            theirs + "post_attention_layernorm.weight",
            own[ours + "feed_forward_norm.weight"],
            None,
        )
        qkv = own[ours + "attention.qkv.weight"]
        yield theirs + "self_attn.q_proj.weight", qkv, slice(0, queries)
        yield theirs + "self_attn.k_proj.weight", qkv, slice(queries, queries + keys)
        yield theirs + "self_attn.v_proj.weight", qkv, slice(queries + keys, None)
        yield theirs + "self_attn.o_proj.weight", own[ours + "attention.out.weight"], None
        ours, theirs = ours + "feed_forward.", f"{theirs}{feed_forward}."
        if config.is_moe(i):
            yield theirs + "router.weight", own[ours + "router.weight"], None
            yield theirs + "experts.gate_up_proj", own[ours + "experts.gate_up"], None
            yield theirs + "experts.down_proj", own[ours + "experts.down"], None
            yield _BIAS.format(i), own[ours + "expert_bias"], None
            ours, theirs = ours + "shared.", theirs + "shared_expert."
        width = config.expert_size if config.is_moe(i) else config.intermediate_size
        gate_up = own[ours + "gate_up.weight"]
        yield theirs + "gate_proj.weight", gate_up, slice(0, width)
        yield theirs + "up_proj.weight", gate_up, slice(width, None)
        yield theirs + "down_proj.weight", own[ours + "down.weight"], None
    yield "model.norm.weight", own["norm.weight"], None
    if model.head is not None:
        yield "lm_head.weight", own["head.weight"], None
    if model.vision is not None:
        yield from vision_names(model.vision)


class _Source:
    """Tensors of a directory by name, read one at a time from the file that has them."""

    def __init__(self, directory: Path) -> None:
        index, single = directory / "model.safetensors.index.json", directory / "model.safetensors"
        if index.exists():
            mapping = _read_json(index).get("weight_map")
            if not isinstance(mapping, Mapping):
                raise UserError(f"{index} has no weight_map", "copy the directory again")
            names = {str(name): directory / str(file) for name, file in mapping.items()}
        else:
            names = dict.fromkeys(_open(single).keys(), single)
        self.where = index if index.exists() else single
        self.files = {name.removeprefix(LANGUAGE): (name, file) for name, file in names.items()}
        self.open: dict[Path, Any] = {}

    def copy(self, name: str, target: Tensor, part: slice | None) -> None:
        """Fill `target` (or its rows `part`) with the tensor `name`."""
        if name not in self.files:
            if name.startswith("puna."):
                return
            raise UserError(f"{self.where} has no tensor {name}", "the checkpoint is incomplete")
        full, path = self.files[name]
        if path not in self.open:
            self.open[path] = _open(path)
        try:
            found = self.open[path].get_tensor(full)
        except SafetensorError as error:
            raise UserError(f"{path}: {error}", "copy the file again") from error
        wanted = target if part is None else target[part]
        if found.shape != wanted.shape:
            shapes = f"{list(found.shape)}, the configuration says {list(wanted.shape)}"
            raise UserError(f"{path}: {full} is {shapes}", "check config.json beside it")
        wanted.copy_(found)


def _open(path: Path) -> Any:
    if not path.exists():
        raise UserError(f"no file {path}", "name a directory with config.json and safetensors")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not whole: {error}", "copy it again") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"no file {path}", "name a Hugging Face model directory") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON: {error}", "copy it again") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is not a JSON object", "copy it again")
    return data
