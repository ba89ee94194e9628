"""Hugging Face checkpoint directories of the families in `config.py`, Llama 4 with its eyes too.

`model, config = load("DIR"); save(model, "OUT")`: config.json and safetensors, both ways, a shard
at a time. Inside, q, k, v are one matrix and so are gate and up; in the files they are apart.
"""

from __future__ import annotations

import json
import math
import re
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
from puna.models.decoder import Decoder, allocated
from puna.models.hf_config import config_from_hf, config_to_hf
from puna.models.hf_vision import (
    LANGUAGE,
    name_in_multimodal,
    vision_from_hf,
    vision_names,
    vision_to_hf,
)

SHARD_BYTES = 5_000_000_000
_WEIGHTS = "model.safetensors"
_BIAS = "puna.layers.{}.expert_bias"
# What a text model has no use for: the image encoder, and tables that older releases stored.
_OTHERS = re.compile(r"vision_model\.|multi_modal_projector\.|.*\.rotary_emb\.inv_freq$")
_WRITTEN = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_DTYPES = ("F32", "F16", "BF16")


def load(
    directory: str | Path, dtype: torch.dtype | None = torch.float32, text_only: bool = False
) -> tuple[Decoder, ModelConfig]:
    """The model in `directory`, its parameters as `dtype` (None: as config.json says), its shape.

    Memory peaks at the model and one shard's pages. With `text_only` a vision encoder is left out.
    Raises UserError naming file and tensor for what is missing, too much, cut off, of another shape
    or dtype or not a number, and naming field and value for what this decoder does not compute.
    """
    directory = Path(directory)
    config = read_config(directory / "config.json", text_only)
    dtype = dtype or _stored(directory / "config.json")
    model = allocated(config, dtype)
    places = {name: (target, part) for name, target, part in _names(model)}
    head: Tensor | None = None
    for file, names in _files(directory, places, config.tie_embeddings).items():
        # Closed before the next is opened: only then are its pages given back.
        with _open(file) as source:
            for full in names:
                name = full.removeprefix(LANGUAGE)
                if name not in places:  # a head beside an embedding that is the head
                    head = source.get_tensor(full).to(dtype)
                    continue
                target, part = places[name]
                _copy(source, file, full, target if part is None else target[part])
    if head is not None and not torch.equal(head, model.embed):
        what = f"{directory}: lm_head.weight is not the embedding, tie_word_embeddings = True"
        raise UserError(f"{what} in config.json", "set tie_word_embeddings to false")
    return model.eval(), config


def save(
    model: Decoder,
    directory: str | Path,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write config.json and the weights into `directory`, as `dtype` or as they are.

    More than `max_shard_bytes` go into several files, each but one tensor's within that size, and
    an index. A moved balancing bias is kept as `puna.layers.N.expert_bias`, which other readers
    ignore. Weights of an earlier `save` there are replaced.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    vision = model.config.vision
    shards: list[dict[str, tuple[Tensor, torch.dtype]]] = [{}]
    size = total = 0
    for name, target, part in _names(model):
        bias = name.startswith("puna.")
        if bias and not bool(target.any()):
            continue
        piece = target.detach() if part is None else target.detach()[part]
        kept = piece.dtype if bias else dtype or piece.dtype
        if vision is not None:
            name = name_in_multimodal(name)
        mine = piece.numel() * kept.itemsize
        if shards[-1] and size + mine > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = (piece, kept)
        size, total = size + mine, total + mine
    files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    files = files if len(shards) > 1 else [_WEIGHTS]
    for old in directory.iterdir():
        if _WRITTEN.fullmatch(old.name):
            old.unlink()
    for file, shard in zip(files, shards, strict=True):
        tensors = {n: piece.to("cpu", kept).contiguous() for n, (piece, kept) in shard.items()}
        save_file(tensors, directory / file, metadata={"format": "pt"})
        del tensors
    if len(shards) > 1:
        weight_map = {n: file for file, shard in zip(files, shards, strict=True) for n in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(directory / f"{_WEIGHTS}.index.json", index)
    data = config_to_hf(model.config, dtype or model.embed.dtype)
    if vision is not None:
        data = vision_to_hf(vision, data, directory)
    _write_json(directory / "config.json", data)


def _names(model: Decoder) -> Iterator[tuple[str, Tensor, slice | None]]:
    """Every tensor of a file: its name there, our tensor, and its rows of it (None: all)."""
    config = model.config
    feed_forward = "feed_forward" if config.family == "llama4" else "mlp"
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    rows = (slice(0, queries), slice(queries, queries + keys), slice(queries + keys, None))
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
        for kind in ("weight", "bias") if config.qkv_bias else ("weight",):
            for part, place in zip("qkv", rows, strict=True):
                qkv = own[f"{ours}attention.qkv.{kind}"]
                yield f"{theirs}self_attn.{part}_proj.{kind}", qkv, place
        for part in "qk" if config.head_norms else "":
            norm = own[f"{ours}attention.{part}_norm.weight"]
            yield f"{theirs}self_attn.{part}_norm.weight", norm, None
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


def read_config(path: Path, text_only: bool = False) -> ModelConfig:
    """The shape in a config.json. Raises UserError for whatever else is in the file."""
    data = _read_json(path)
    try:
        config = config_from_hf(data, path)
        eyes = None if text_only else vision_from_hf(data, path.parent, config.vocab_size)
        return replace(config, vision=eyes)
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{path} is broken: {error!r}", "copy it again") from error


def _stored(path: Path) -> torch.dtype:
    """What the weights are stored as; anything but float16 and bfloat16 counts as float32."""
    data = _read_json(path)
    text = data.get("text_config")
    tables = (data, text if isinstance(text, dict) else {})
    named = next((t[k] for t in tables for k in ("dtype", "torch_dtype") if t.get(k)), "float32")
    found = getattr(torch, str(named), None)
    return found if found in (torch.float16, torch.bfloat16) else torch.float32


def left_out(directory: Path) -> list[str]:
    """What `load` passes over in the files of `directory`, in words; tables are not mentioned."""
    if read_config(directory / "config.json").vision is not None:
        return []
    index, single = directory / f"{_WEIGHTS}.index.json", directory / _WEIGHTS
    if index.exists():
        found = list(_read_json(index).get("weight_map") or ())
    else:
        with _open(single) as source:
            found = list(source.keys())
    eyes = [name for name in found if _OTHERS.match(name) and not name.endswith("inv_freq")]
    return [f"image weights ({len(eyes)} tensors)"] if eyes else []


def _files(directory: Path, wanted: Mapping[str, Any], tied: bool) -> dict[Path, list[str]]:
    """The files of a directory and the tensors to take from each, by their names there.

    Raises UserError for a tensor too few or too many, and for an index that leaves the directory.
    """
    index, single = directory / f"{_WEIGHTS}.index.json", directory / _WEIGHTS
    if index.exists():
        mapping = _read_json(index).get("weight_map")
        if not isinstance(mapping, Mapping):
            raise UserError(f"{index} has no weight_map", "copy the directory again")
        for name, file in mapping.items():
            if not isinstance(file, str) or file in ("", ".", "..") or Path(file).name != file:
                what = f"{index}: {name} lies in {file!r}, not in a file beside it"
                raise UserError(what, "copy the directory again")
        where, found = index, {str(name): directory / file for name, file in mapping.items()}
    else:
        with _open(single) as source:
            where, found = single, dict.fromkeys(source.keys(), single)
    out: dict[Path, list[str]] = {}
    missing = {name for name in wanted if not name.startswith("puna.")}
    for full, file in found.items():
        name = full.removeprefix(LANGUAGE)
        if name in wanted:
            missing.discard(name)
            out.setdefault(file, []).append(full)
        elif tied and name == "lm_head.weight":
            out.setdefault(file, []).append(full)
        elif not _OTHERS.match(full):
            what = f"{where} has a tensor {full}, for which config.json leaves no place"
            raise UserError(what, "check config.json beside it")
    if missing:
        what = f"{where} has no tensor {min(missing)}"
        raise UserError(what, "the checkpoint is incomplete, or config.json is another model's")
    return out


@torch.no_grad()
def _copy(source: Any, file: Path, name: str, target: Tensor) -> None:
    """Fill `target` with the tensor `name` of an open file."""
    try:
        entry = source.get_slice(name)
        shape, dtype = list(entry.get_shape()), entry.get_dtype()
        if shape != list(target.shape):
            shapes = f"{shape}, the configuration says {list(target.shape)}"
            raise UserError(f"{file}: {name} is {shapes}", "check config.json beside it")
        if dtype not in _DTYPES:
            fix = "quantised weights are not supported: take the original checkpoint"
            raise UserError(f"{file}: {name} is {dtype}, not one of {', '.join(_DTYPES)}", fix)
        target.copy_(source.get_tensor(name))
    except SafetensorError as error:
        raise UserError(f"{file}: {error}", "copy the file again") from error
    # One sum tells: it is finite only if every value is (and else each is looked at).
    whole = math.isfinite(float(target.sum()))
    if not whole and not bool(target.isfinite().all()):
        raise UserError(f"{file}: {name} holds values that are not finite", "copy the file again")


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


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n")
