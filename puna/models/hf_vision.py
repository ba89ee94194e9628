"""Llama 4's vision encoder in Hugging Face files: its fields of config.json and its tensors' names.

`vision_from_hf(json.loads(text), directory)`; transformers reads what `vision_to_hf` gives.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from puna.core.errors import FieldError
from puna.core.foreign import Table
from puna.models.vision import VisionEncoder
from puna.models.vision_config import VisionConfig
from puna.text.images import read_tiling

LANGUAGE = "language_model."
_EYES = ("vision_model.", "multi_modal_projector.", "puna.")

# Field: what transformers' class takes where it is absent.
_SIZES: dict[str, tuple[str, int]] = {
    "hidden_size": ("hidden_size", 768),
    "num_hidden_layers": ("num_layers", 34),
    "num_attention_heads": ("num_heads", 16),
    "num_channels": ("channels", 3),
    "image_size": ("tile_size", 448),
    "patch_size": ("patch_size", 14),
    "projector_output_dim": ("adapter_size", 4096),
}
_PARTS = {
    "patch.weight": "patch_embedding.linear.weight",
    "cls": "class_embedding",
    "places": "positional_embedding_vlm",
    "norm_before": "layernorm_pre",
    "norm_after": "layernorm_post",
    "adapter_in": "vision_adapter.mlp.fc1",
    "adapter_out": "vision_adapter.mlp.fc2",
}
_LAYER = {
    "attention_norm": "input_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}


def vision_from_hf(data: Mapping[str, Any], directory: Path, vocab: int) -> VisionConfig | None:
    """The encoder that `directory`'s config.json describes; None where it describes none.

    `vocab` is the decoder's vocabulary. Raises UserError naming path, field and value for what the
    encoder does not compute.
    """
    table = Table(data, directory / "config.json")
    given = table.inner("vision_config")
    if data.get("model_type") != "llama4" or not given.data:
        return None
    values = {ours: given.whole(theirs, 1, plain) for theirs, (ours, plain) in _SIZES.items()}
    ratio = given.data.get("pixel_shuffle_ratio", 0.5)
    known = type(ratio) in (int, float) and 1e-3 < ratio <= 1 and (1 / ratio).is_integer()
    if not known:
        raise given.refusal("pixel_shuffle_ratio", "1 / a whole number")
    tiling = read_tiling(directory)
    values |= {"shuffle": int(1 / ratio), "max_tiles": 16 if tiling is None else tiling.most}
    patch = table.whole("image_token_index", 0, 200092)
    if patch >= vocab:
        raise table.refusal("image_token_index", f"an id inside the vocabulary of {vocab}")
    try:
        config = VisionConfig(**values, patch_id=patch)
    except FieldError as error:
        theirs = next(name for name, (ours, _) in _SIZES.items() if ours == error.field)
        raise given.refusal(theirs, error.wanted) from None
    rope = given.inner("rope_parameters")
    holder = rope if "rope_theta" in rope.data else given
    if holder.data.get("rope_theta", 10_000) != 10_000:
        raise holder.refusal("rope_theta", "10000")
    # One width each in transformers too, under several names.
    wide, adapter = config.intermediate_size, config.adapter_size
    for name, plain, only in (
        ("intermediate_size", 5632, wide),
        ("projector_input_dim", 4096, adapter),
        ("vision_output_dim", 7680, adapter),
    ):
        if given.data.get(name, plain) != only:
            raise given.refusal(name, str(only))
    return config


def vision_to_hf(config: VisionConfig, text: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The config.json of a decoder (its own is `text`) with this encoder.

    What the image processor has to know goes beside it, into preprocessor_config.json.
    """
    size = {"height": config.tile_size, "width": config.tile_size}
    processor: dict[str, Any] = {"image_processor_type": "Llama4ImageProcessor", "size": size}
    processor["max_patches"] = config.max_tiles
    (directory / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    vision = {theirs: getattr(config, ours) for theirs, (ours, _) in _SIZES.items()}
    vision |= {
        "model_type": "llama4_vision_model",
        "intermediate_size": config.intermediate_size,
        "pixel_shuffle_ratio": 1 / config.shuffle,
        "projector_input_dim": config.adapter_size,
        "vision_output_dim": config.adapter_size,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    }
    return {
        "architectures": ["Llama4ForConditionalGeneration"],
        "model_type": "llama4",
        "image_token_index": config.patch_id,
        "tie_word_embeddings": text["tie_word_embeddings"],
        "dtype": text["dtype"],
        "torch_dtype": text["torch_dtype"],
        "text_config": text,
        "vision_config": vision,
    }


def name_in_multimodal(name: str) -> str:
    """A tensor's name in a file that holds text model and encoder."""
    return name if name.startswith(_EYES) else LANGUAGE + name


def vision_names(encoder: VisionEncoder) -> Iterator[tuple[str, Tensor, None]]:
    """Every tensor of the encoder and its name in a file, as `puna.models.hf` wants them."""
    for name, tensor in encoder.named_parameters():
        yield _theirs(name), tensor, None


def _theirs(name: str) -> str:
    if name == "project.weight":
        return "multi_modal_projector.linear_1.weight"
    if name in _PARTS:
        return f"vision_model.{_PARTS[name]}"
    stem, _, kind = name.rpartition(".")
    if stem in _PARTS:
        return f"vision_model.{_PARTS[stem]}.{kind}"
    _, layer, part = stem.split(".")
    return f"vision_model.model.layers.{layer}.{_LAYER[part]}.{kind}"
