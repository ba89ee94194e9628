"""`config.json` of Hugging Face's Llama classes, and of those like it, to and from `ModelConfig`.

`config_from_hf(json.loads(text), path)`; what the decoder does not compute is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from puna.core.errors import FieldError
from puna.core.foreign import LIMIT, Table
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
    "sliding_window", "max_window_layers",
}  # fmt: skip
_LIMITS = {"num_hidden_layers": 4096}
_NUMBERS = {
    "rms_norm_eps", "attn_scale", "initializer_range", "rope_theta", "factor", "low_freq_factor",
    "high_freq_factor",
}  # fmt: skip
_KINDS = {
    "use_qk_norm": bool,
    "attn_temperature_tuning": int,
    "tie_word_embeddings": bool,
    "use_sliding_window": bool,
}
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
_DENSE = {"intermediate_size": "intermediate_size"}
_LLAMA4 = {
    "intermediate_size": "expert_size",
    "intermediate_size_mlp": "intermediate_size",
    "num_local_experts": "num_experts",
    "attention_chunk_size": "attention_chunk",
    "use_qk_norm": "qk_norm",
    "floor_scale": "floor_scale",
    "attn_scale": "attn_scale",
}
# Where our field comes from, if it is not one of those above.
_OTHER = {
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "initializer_range": "initializer_range",
    "bos_token_id": "bos_id",
    "eos_token_id": "eos_ids",
    "pad_token_id": "pad_id",
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
    table = Table(data, path)
    if data.get("model_type") == "llama4":
        table.need("text_config")
        table = table.inner("text_config")
        data = {"model_type": "llama4_text"} | dict(table.data)
        table = replace(table, data=data)
    kind = data.get("model_type")
    if not isinstance(kind, str) or kind not in _FAMILIES:
        raise table.refusal("model_type", "one of llama4, " + ", ".join(_FAMILIES))
    family, _ = _FAMILIES[kind]
    _check_kinds(table)
    for name, only in _FIXED.items():
        if data.get(name, only) not in (only, None):
            raise table.refusal(name, repr(only))
    sizes = _SAME | (_LLAMA4 if family == "llama4" else _DENSE)
    values = {ours: _value(table, theirs) for theirs, ours in sizes.items()}
    for name in _NEEDED.get(family, ()):
        table.need(name)
    _refuse_windows(table, family)
    heads, keys, width = values["num_heads"], data.get("num_key_value_heads"), data.get("head_dim")
    theta, scaling = _rope(table, 500_000.0 if family == "llama4" else 10_000.0)
    eos, spread = data.get("eos_token_id"), data.get("initializer_range")
    values |= {
        "num_kv_heads": heads if keys is None else keys,
        "head_dim": values["hidden_size"] // max(1, heads) if width is None else width,
        "rope_theta": theta,
        "rope_scaling": scaling,
        "tie_embeddings": bool(data.get("tie_word_embeddings", False)),
        "initializer_range": 0.02 if spread is None else spread,
        "bos_id": data.get("bos_token_id"),
        "eos_ids": () if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        "pad_id": data.get("pad_token_id"),
    }
    if family == "llama4":
        values["temperature_tuning"] = bool(table.need("attn_temperature_tuning"))
        values |= _layer_kinds(table)
        if not values.get("moe_every"):
            values |= {"num_experts": 0, "moe_every": 1, "expert_size": 0}
    try:
        return ModelConfig(family=family, **values)
    except FieldError as error:
        names = {ours: theirs for theirs, ours in (sizes | _OTHER).items()}
        if error.field == "head_dim" and width is None:
            wanted = f"an even multiple of num_attention_heads = {heads}, or a head_dim"
            raise table.refusal("hidden_size", wanted) from None
        raise table.refusal(names[error.field], error.wanted) from None


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


def _layer_kinds(table: Table) -> dict[str, int]:
    """`moe_every` (0: none) and `nope_every` from steps or from explicit lists of layers."""
    data, layers = table.data, table.whole("num_hidden_layers", 1)
    moe, rope, kinds = (data.get(n) for n in ("moe_layers", "no_rope_layers", "layer_types"))
    if moe is not None:
        moe_every = moe[0] + 1 if moe else 0
        regular = list(range(moe_every - 1, layers, moe_every)) if moe_every > 0 else []
        if list(moe) != regular:
            raise table.refusal("moe_layers", "every n-th layer")
    else:
        moe_every = table.whole("interleave_moe_layer_step", 1, 1)
    if 0 < moe_every <= layers:
        table.whole("num_local_experts", 1)
    if rope:
        # 1 marks a layer with rotary positions, whatever the field's name suggests
        nope_every = rope.index(0) + 1 if 0 in rope else 0
    else:
        nope_every = table.whole("no_rope_layer_interval", 0, 4)
    rotary = [int(not (nope_every and (i + 1) % nope_every == 0)) for i in range(layers)]
    if rope and rope[:layers] != rotary:
        raise table.refusal("no_rope_layers", "a NoPE layer every n-th layer")
    if kinds is not None and data.get("attention_chunk_size") is not None:
        expected = ["chunked_attention" if r else "full_attention" for r in rotary]
        if list(kinds) != expected:
            raise table.refusal("layer_types", "chunked exactly where rotary")
    return {"moe_every": moe_every, "nope_every": nope_every}


def _refuse_windows(table: Table, family: Family) -> None:
    """Raises UserError where some layer would see less than everything before a token."""
    data = table.data
    layers, longest = data["num_hidden_layers"], data["max_position_embeddings"]
    kinds = data.get("layer_types") if family != "llama4" else None
    if kinds is not None and any(kind != "full_attention" for kind in kinds):
        raise table.refusal("layer_types", "full_attention in every layer")
    used = data.get("use_sliding_window") and (data.get("max_window_layers") or 0) < layers
    if family in ("qwen2", "qwen3") and used and kinds is None:
        raise table.refusal("use_sliding_window", "false")
    window = data.get("sliding_window", 4096)  # transformers' own default
    if family == "mistral" and window is not None and window < longest:
        held = replace(table, data={"sliding_window": window})
        raise held.refusal("sliding_window", f"null, or {longest} and more")


def _rope(table: Table, default: float) -> tuple[float, RopeScaling | None]:
    """Theta and scaling, from `rope_parameters` (since 5.0) or from the two older fields.

    Where both generations are there, transformers lets the older `rope_scaling` decide.
    """
    name = "rope_scaling" if table.data.get("rope_scaling") else "rope_parameters"
    inner = table.inner(name)
    data = inner.data
    _check_kinds(inner)
    if data.get("partial_rotary_factor", 1.0) != 1.0:
        raise inner.refusal("partial_rotary_factor", "1.0")
    holder = inner if "rope_theta" in data else table
    theta = holder.data.get("rope_theta")
    if theta is None:
        theta = default
    if theta <= 0:
        raise holder.refusal("rope_theta", "a number above 0")
    kind = "rope_type" if "rope_type" in data else "type"
    if data.get(kind, "default") == "default":
        return theta, None
    if data[kind] != "llama3":
        raise inner.refusal(kind, "default or llama3")
    # Beside the table it outweighs what is in the table.
    holders = {name: table if name in table.data else inner for name in _SCALING}
    values = {ours: holders[theirs].need(theirs) for theirs, ours in _SCALING.items()}
    try:
        return theta, RopeScaling(**values)
    except FieldError as error:
        theirs = next(name for name, ours in _SCALING.items() if ours == error.field)
        raise holders[theirs].refusal(theirs, error.wanted) from None


def _check_kinds(table: Table) -> None:
    """Refuse a field that holds another kind of value than it must."""
    for name, value in table.data.items():
        if value is None:
            continue
        limit = _LIMITS.get(name, LIMIT)
        if name in _WHOLE and not (type(value) is int and abs(value) < limit):
            raise table.refusal(name, f"a whole number below {limit}")
        if name in _NUMBERS and not (type(value) in (int, float) and abs(value) < 1e18):
            raise table.refusal(name, "a number")
        if name in _KINDS and not isinstance(value, _KINDS[name]):
            raise table.refusal(name, "true or false")
        if name in _LISTS:
            kind = _LISTS[name]
            if not (isinstance(value, list) and all(isinstance(x, kind) for x in value)):
                raise table.refusal(name, f"a list of {kind.__name__}")
        if name == "eos_token_id":
            ids = value if isinstance(value, list) else [value]
            if not all(type(x) is int for x in ids):
                raise table.refusal(name, "a token id, or a list of them")


def _scaling_to_hf(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    return {"rope_type": "llama3"} | {t: getattr(scaling, ours) for t, ours in _SCALING.items()}


def _value(table: Table, name: str) -> Any:
    """A field that must be there; only a chunk may be null, which is none."""
    free = name == "attention_chunk_size" and name in table.data
    return table.data[name] if free else table.need(name)
