"""LoRA on a decoder (arXiv 2106.09685): the projections of attention and MLPs, and fused experts.

`attach(model, LoraConfig(rank=16), seed=0)` freezes all else; `merge(model)` makes it plain again,
`save_adapter(model, "OUT")` writes the increments as `peft` reads them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from puna.core.errors import UserError, nearest
from puna.models.adapters import Adapter, ExpertAdapter, initialise
from puna.models.decoder import Block, Decoder
from puna.models.moe import Experts, Linear, MoE

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # as peft names them
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EXPERTS = {"experts.gate_up_proj": "gate_up", "experts.down_proj": "down"}


@dataclass(frozen=True)
class LoraConfig:
    """Rank and alpha of the increments alpha / rank * B A; `targets` empty means all there are.

    `gate_proj`, `up_proj` and `down_proj` are those of dense layers and of shared experts;
    `experts.gate_up_proj` and `experts.down_proj` those of routed experts, each with its own pair.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be adapted."""
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}, must be at least 1")
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"alpha is {self.alpha}, must be above 0")
        known = (*MODULES, *EXPERTS)
        for name in self.targets:
            if name not in known:
                raise ValueError(f"targets names '{name}'; {nearest(name, known)}")


@dataclass(frozen=True, eq=False)
class _Place:
    """Where an adapter goes: an attribute of a module, and what Hugging Face calls the module.

    `rows` are the projections of a fused matrix and their heights; of experts the one parameter.
    """

    owner: Linear | Experts
    attribute: str
    stem: str
    rows: Mapping[str, int]

    @property
    def adapter(self) -> Adapter | ExpertAdapter | None:
        found: Adapter | ExpertAdapter | None = getattr(self.owner, self.attribute)
        return found


def _places(model: Decoder) -> Iterator[_Place]:
    config = model.config
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    for i, block in enumerate(model.layers):
        assert isinstance(block, Block)
        stem = f"model.layers.{i}."
        qkv = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        yield _Place(block.attention.qkv, "adapter", stem + "self_attn.", qkv)
        out = {"o_proj": config.hidden_size}
        yield _Place(block.attention.out, "adapter", stem + "self_attn.", out)
        mlp, width = block.feed_forward, config.intermediate_size
        stem += "feed_forward." if config.family == "llama4" else "mlp."
        if isinstance(mlp, MoE):
            for target, name in EXPERTS.items():
                yield _Place(mlp.experts, f"{name}_adapter", stem + "experts.", {target: 0})
            mlp, width, stem = mlp.shared, config.expert_size, stem + "shared_expert."
        yield _Place(mlp.gate_up, "adapter", stem, {"gate_proj": width, "up_proj": width})
        yield _Place(mlp.down, "adapter", stem, {"down_proj": config.hidden_size})


def adapters(model: Decoder) -> list[Adapter | ExpertAdapter]:
    """The adapters of a model, none if it is plain."""
    return [place.adapter for place in _places(model) if place.adapter is not None]


def attach(model: Decoder, config: LoraConfig, seed: int) -> None:
    """Give `model` fp32 adapters that change nothing yet, drawn from `seed`; freeze all else.

    Raises UserError where it has none of a target.
    """
    assert not adapters(model), "the model has adapters already"
    places = list(_places(model))
    known = {name for place in places for name in place.rows}
    for name in config.targets:
        if name not in known:
            fix = "this model has " + ", ".join(n for n in (*MODULES, *EXPERTS) if n in known)
            raise UserError(f"lora.targets names '{name}'", fix)
    wanted = set(config.targets) or known
    generator, scale = torch.Generator().manual_seed(seed), config.alpha / config.rank
    model.requires_grad_(False)
    for place in places:
        adapter: Adapter | ExpertAdapter
        owner = place.owner
        if not wanted & place.rows.keys():
            continue
        if isinstance(owner, Linear):
            inputs = owner.weight.shape[1]
            adapter = Adapter(place.rows, wanted, inputs, config.rank, scale)
        else:
            weight = getattr(owner, EXPERTS[next(iter(place.rows))])
            adapter = ExpertAdapter(weight.shape, config.rank, scale)
        initialise(adapter, generator)
        setattr(owner, place.attribute, adapter.to(model.device))


@contextlib.contextmanager
def without(model: Decoder) -> Iterator[None]:
    """`model` as it was before `attach`, inside of a `with`; a plain one stays as it is."""
    held = [(place, place.adapter) for place in _places(model)]
    held = [(place, adapter) for place, adapter in held if adapter is not None]
    for place, _ in held:
        setattr(place.owner, place.attribute, None)
    try:
        yield
    finally:
        for place, adapter in held:
            setattr(place.owner, place.attribute, adapter)


@torch.no_grad()
def merge(model: Decoder) -> None:
    """Add every increment to its weight and drop the adapters; all parameters learn again."""
    for place in _places(model):
        owner = place.owner
        if place.adapter is None:
            continue
        if isinstance(owner, Linear):
            owner.weight.copy_(owner.effective())
            setattr(owner, place.attribute, None)
    for module in model.modules():
        if isinstance(module, Experts):
            gate_up, down = module.effective()
            module.gate_up.copy_(gate_up)
            module.down.copy_(down)
            module.gate_up_adapter = module.down_adapter = None
    model.requires_grad_(True)


def learned(model: Decoder) -> dict[str, Tensor]:
    """What training changes, by name: the adapters' tensors, or of a plain model all."""
    state = model.state_dict()
    if not adapters(model):
        return state
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name: tensor for name, tensor in state.items() if name in names}


def load_learned(model: Decoder, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `learned`. Raises RuntimeError where names or shapes are others."""
    if tensors.keys() != learned(model).keys():
        raise RuntimeError("these weights are another model's")
    model.load_state_dict(dict(tensors), strict=False)


@torch.no_grad()
def reset(model: Decoder) -> None:
    """Adapters that change nothing again: the model is the one it was before `attach`."""
    for adapter in adapters(model):
        for b in adapter.b.values() if isinstance(adapter, Adapter) else [adapter.b]:
            b.zero_()


def pairs(model: Decoder) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the adapters by peft's name; of experts [E, ...], not yet in its form."""
    found = {place: place.adapter for place in _places(model) if place.adapter is not None}
    experts = [place for place in found if isinstance(place.owner, Experts)]
    for place, adapter in found.items():
        stem = f"base_model.model.{place.stem}"
        if isinstance(adapter, Adapter):
            for name in adapter.a:
                yield f"{stem}{name}.lora_A.weight", adapter.a[name]
                yield f"{stem}{name}.lora_B.weight", adapter.b[name]
        else:
            # peft wraps the module once for each of its parameters, the first one innermost.
            outer = any(p.stem == place.stem for p in experts[experts.index(place) + 1 :])
            stem += "base_layer." if outer else ""
            # It takes [E, D, O] for out x in, so that its A is our B.
            yield f"{stem}lora_A.weight", adapter.b
            yield f"{stem}lora_B.weight", adapter.a


def save_adapter(model: Decoder, directory: Path, base: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors for `peft`, to put on `base`.

    Routed experts take peft's `target_parameters` form, as peft 0.21 reads it. `base` is
    the directory or name of the model that the adapters were attached to, in its text form.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files: dict[str, Tensor] = {}
    for name, tensor in pairs(model):
        if tensor.dim() == 3:  # its A has experts first, its B has them last
            first = name.endswith("lora_A.weight")
            tensor = tensor.flatten(0, 1) if first else tensor.permute(1, 2, 0).flatten(1)
        files[name] = tensor.detach().cpu().contiguous()
    save_file(files, directory / WEIGHTS, metadata={"format": "pt"})
    names: set[str] = set()
    for place in _places(model):
        adapter = place.adapter
        names.update(adapter.a if isinstance(adapter, Adapter) else place.rows if adapter else ())
    first_one = adapters(model)[0]
    rank, scale = _rank(first_one), first_one.scale
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank * scale,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": [name for name in MODULES if name in names],
        "target_parameters": [name for name in EXPERTS if name in names] or None,
    }
    (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _rank(adapter: Adapter | ExpertAdapter) -> int:
    a = next(iter(adapter.a.values())) if isinstance(adapter, Adapter) else adapter.a[0].t()
    return int(a.shape[0])
