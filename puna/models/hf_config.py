"""`config.json` of Hugging Face's Llama classes, and of those like it, to and from `ModelConfig`.

`config_from_hf(json.loads(text), path)`; what the decoder does not compute is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from puna.core.errors import UserError
from puna.models.config import Family, ModelConfig, RopeScaling

# Fields that must have this value if they are there at all: nothing else is implemented.
_FIXED: dict[str, Any] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "num_experts_per_tok": 1,
    "router_jitter_noise": 0.0,
    "pretraining_tp": 1,
    "is_causal": True,
    "partial_rotary_factor": 1.0,
    "quantization_config": None,
}
# What kind of value a field holds, where one is given. Above the limit nothing can be built.
_WHOLE = {
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "intermediate_size_mlp", "num_key_value_heads", "head_dim", "max_position_embeddings",
    "num_local_experts", "interleave_moe_layer_step", "no_rope_layer_interval", "floor_scale",
    "attention_chunk_size", "bos_token_id", "pad_token_id", "original_max_position_embeddings",
}  # fmt: skip
_LIMITS = {"num_hidden_layers": 4096}
_LIMIT = 1 << 31
_NUMBERS = {
    "rms_norm_eps", "attn_scale", "initializer_range", "rope_theta", "factor", "low_freq_factor",
    "high_freq_factor",
}  # fmt: skip
_KINDS = {"use_qk_norm": bool, "attn_temperature_tuning": int, "tie_word_embeddings": bool}
_LISTS = {"moe_layers": int, "no_rope_layers": int, "layer_types": str}
# Our family of each `model_type`, and the class that transformers has for it.
_FAMILIES: dict[str, tuple[Family, str]] = {
    "llama": ("llama3", "LlamaForCausalLM"),
    "llama4_text": ("llama4", "Llama4ForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "mistral": ("mistral", "MistralForCausalLM"),
}
_SAME = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "rms_norm_eps": "norm_eps",
    "max_position_embeddings": "max_positions",
}
_LLAMA4 = {
    "intermediate_size": "expert_size",
    "intermediate_size_mlp": "intermediate_size",
    "num_local_experts": "num_experts",
    "attention_chunk_size": "attention_chunk",
    "use_qk_norm": "qk_norm",
    "floor_scale": "floor_scale",
    "attn_scale": "attn_scale",
}
# Fields whose default in transformers is not what the others imply.
_NEEDED: dict[Family, tuple[str, ...]] = {
    "qwen2": ("num_key_value_heads",),
    "qwen3": ("num_key_value_heads", "head_dim"),
    "mistral": ("num_key_value_heads",),
}
_SCALING = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "original_max_position",
}


def config_from_hf(data: Mapping[str, Any], path: Path) -> ModelConfig:
    """The shape that a config.json describes. Raises UserError naming path, field and value."""
    kind = data.get("model_type")
    if kind == "llama4":
        data = _field(data, "text_config", path)
        kind = data.get("model_type", "llama4_text")
    if not isinstance(kind, str) or kind not in _FAMILIES:
        raise refusal(path, "model_type", kind, "one of llama4, " + ", ".join(_FAMILIES))
    family, _ = _FAMILIES[kind]
    _check_kinds(data, path)
    for name, only in _FIXED.items():
        if data.get(name, only) not in (only, None):
            raise refusal(path, name, data[name], repr(only))
    values = {ours: _field(data, theirs, path) for theirs, ours in _SAME.items()}
    for name in _NEEDED.get(family, ()):
        _field(data, name, path)
    _refuse_windows(data, family, path)
    heads, width = values["num_heads"], values["hidden_size"]
    theta, scaling = _rope(data, 500_000.0 if family == "llama4" else 10_000.0, path)
    eos, spread = data.get("eos_token_id"), data.get("initializer_range")
    values |= {
        "num_kv_heads": data.get("num_key_value_heads") or heads,
        "head_dim": data.get("head_dim") or width // heads,
        "rope_theta": theta,
        "rope_scaling": scaling,
        "tie_embeddings": bool(data.get("tie_word_embeddings", False)),
        "initializer_range": 0.02 if spread is None else spread,
        "bos_id": data.get("bos_token_id"),
        "eos_ids": () if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        "pad_id": data.get("pad_token_id"),
    }
    if family != "llama4":
        values["intermediate_size"] = _field(data, "intermediate_size", path)
        return ModelConfig(family=family, **values)
    values |= {ours: _field(data, theirs, path) for theirs, ours in _LLAMA4.items()}
    values["temperature_tuning"] = bool(_field(data, "attn_temperature_tuning", path))
    values |= _layer_kinds(data, values["num_layers"], path)
    if not values.get("moe_every"):
        values |= {"num_experts": 0, "moe_every": 1, "expert_size": 0}
    return ModelConfig(family="llama4", **values)


def config_to_hf(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The config.json of this shape, for weights stored as `dtype`."""
    kind = next(k for k, (family, _) in _FAMILIES.items() if family == config.family)
    data: dict[str, Any] = {"architectures": [_FAMILIES[kind][1]], "model_type": kind}
    data |= {theirs: getattr(config, ours) for theirs, ours in _SAME.items()}
    eos = list(config.eos_ids)
    data |= {
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rope_scaling": _scaling_to_hf(config.rope_scaling),
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.initializer_range,
        "bos_token_id": config.bos_id,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "pad_token_id": config.pad_id,
        "dtype": str(dtype).removeprefix("torch."),
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    if config.family != "llama4":
        data["intermediate_size"] = config.intermediate_size
        # Left out, Mistral's would be 4096.
        return data | ({"mlp_bias": False} if kind == "llama" else {"sliding_window": None})
    layers = range(config.num_layers)
    data |= {theirs: getattr(config, ours) for theirs, ours in _LLAMA4.items()}
    nope = [config.is_nope(i) for i in layers]
    return data | {
        "num_local_experts": max(1, config.num_experts),
        "num_experts_per_tok": 1,
        "intermediate_size": config.expert_size or config.intermediate_size,
        "attn_temperature_tuning": config.temperature_tuning,
        "interleave_moe_layer_step": config.moe_every,
        "moe_layers": [i for i in layers if config.is_moe(i)],
        "no_rope_layer_interval": config.nope_every or config.num_layers + 1,
        "no_rope_layers": [int(not n) for n in nope],
        "layer_types": [
            "chunked_attention" if config.is_local(i) else "full_attention" for i in layers
        ],
    }


def _layer_kinds(data: Mapping[str, Any], layers: int, path: Path) -> dict[str, int]:
    """`moe_every` (0: none) and `nope_every` from steps or from explicit lists of layers."""
    moe_every = data.get("interleave_moe_layer_step", 1)
    moe = data.get("moe_layers")
    if moe is not None:
        moe_every = moe[0] + 1 if moe else 0
        regular = list(range(moe_every - 1, layers, moe_every)) if moe else []
        if list(moe) != regular:
            raise refusal(path, "moe_layers", moe, "every n-th layer")
    nope_every = data.get("no_rope_layer_interval", 4)
    rope = data.get("no_rope_layers")
    if rope:
        # 1 marks a layer with rotary positions, whatever the field's name suggests
        nope_every = rope.index(0) + 1 if 0 in rope else 0
    rotary = [int(not (nope_every and (i + 1) % nope_every == 0)) for i in range(layers)]
    if rope and rope[:layers] != rotary:
        raise refusal(path, "no_rope_layers", rope, "a NoPE layer every n-th layer")
    kinds = data.get("layer_types")
    if kinds is not None and data.get("attention_chunk_size") is not None:
        expected = ["chunked_attention" if r else "full_attention" for r in rotary]
        if list(kinds) != expected:
            raise refusal(path, "layer_types", kinds, "chunked exactly where rotary")
    return {"moe_every": moe_every, "nope_every": nope_every}


def _refuse_windows(data: Mapping[str, Any], family: Family, path: Path) -> None:
    """Raises UserError where some layer would see less than everything before a token."""
    layers, longest = data["num_hidden_layers"], data["max_position_embeddings"]
    kinds = data.get("layer_types") if family != "llama4" else None
    if kinds is not None and any(kind != "full_attention" for kind in kinds):
        raise refusal(path, "layer_types", kinds, "full_attention in every layer")
    used = data.get("use_sliding_window") and data.get("max_window_layers", 0) < layers
    if family in ("qwen2", "qwen3") and used and kinds is None:
        raise refusal(path, "use_sliding_window", True, "false")
    window = data.get("sliding_window", 4096)  # transformers' own default
    if family == "mistral" and window is not None and window < longest:
        raise refusal(path, "sliding_window", window, f"null, or {longest} and more")


def _rope(data: Mapping[str, Any], default: float, path: Path) -> tuple[float, RopeScaling | None]:
    """Theta and scaling, from `rope_parameters` (since 5.0) or from the two older fields.

    Where both generations are there, transformers lets the older `rope_scaling` decide.
    """
    table = data.get("rope_scaling") or data.get("rope_parameters") or {}
    if not isinstance(table, Mapping):
        raise refusal(path, "rope_parameters", table, "a table")
    _check_kinds(table, path)
    if table.get("partial_rotary_factor", 1.0) != 1.0:
        raise refusal(path, "partial_rotary_factor", table["partial_rotary_factor"], "1.0")
    theta = table.get("rope_theta", data.get("rope_theta"))
    if theta is None:
        theta = default
    rope_type = table.get("rope_type", table.get("type", "default"))
    if rope_type == "default":
        return theta, None
    if rope_type != "llama3":
        raise refusal(path, "rope_type", rope_type, "default or llama3")
    # Beside the table it outweighs what is in the table.
    known = {name: data[name] for name in _SCALING if name in data}
    return theta, RopeScaling(
        **{ours: _field({**table, **known}, theirs, path) for theirs, ours in _SCALING.items()}
    )


def _check_kinds(data: Mapping[str, Any], path: Path) -> None:
    """Refuse a field that holds another kind of value than it must."""
    for name, value in data.items():
        if value is None:
            continue
        limit = _LIMITS.get(name, _LIMIT)
        if name in _WHOLE and not (type(value) is int and abs(value) < limit):
            raise refusal(path, name, value, f"a whole number below {limit}")
        if name in _NUMBERS and not (type(value) in (int, float) and abs(value) < 1e18):
            raise refusal(path, name, value, "a number")
        if name in _KINDS and not isinstance(value, _KINDS[name]):
            raise refusal(path, name, value, "true or false")
        if name in _LISTS:
            kind = _LISTS[name]
            if not (isinstance(value, list) and all(isinstance(x, kind) for x in value)):
                raise refusal(path, name, value, f"a list of {kind.__name__}")
        if name == "eos_token_id":
            ids = value if isinstance(value, list) else [value]
            if not all(type(x) is int for x in ids):
                raise refusal(path, name, value, "a token id, or a list of them")


def _scaling_to_hf(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    return {"rope_type": "llama3"} | {t: getattr(scaling, ours) for t, ours in _SCALING.items()}


def _field(data: Mapping[str, Any], name: str, path: Path) -> Any:
    if data.get(name) is None and not (name in data and name == "attention_chunk_size"):
        raise UserError(f"{path} has no field {name}", "copy config.json from the model's source")
    return data[name]


def refusal(path: Path, name: str, value: object, wanted: str) -> UserError:
    """The complaint about a field of the file `path` that the model does not compute."""
    return UserError(f"{path}: {name} = {value!r} is not supported", f"needs {wanted}")
