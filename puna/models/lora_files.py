"""Adapters in peft's files, read again: the inverse of `lora.save_adapter`.

`config, base = read_config(DIR); attach(model, config, 0); load_adapter(model, DIR)`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from puna.core.errors import UserError
from puna.models.decoder import Decoder
from puna.models.lora import CONFIG, WEIGHTS, LoraConfig, pairs

# What changes the sum and is not computed here, with the value that leaves it as it is.
_PLAIN: dict[str, Any] = {
    "peft_type": "LORA", "use_rslora": False, "use_dora": False, "bias": "none",
    "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "layers_to_transform": None,
    "fan_in_fan_out": False,
}  # fmt: skip


def read_config(directory: Path) -> tuple[LoraConfig, Path]:
    """The adapters' sizes, and the model they are for.

    Raises UserError for a broken file, and by field for what is not computed here.
    """
    path = directory / CONFIG
    try:
        data = dict(json.loads(path.read_bytes()))
        for name, plain in _PLAIN.items():
            if data.get(name, plain) not in (plain, None):
                what = f"{path}: {name} = {data[name]!r:.40} is not supported"
                raise UserError(what, f"needs {plain!r}")
        targets = data["target_modules"]
        if not isinstance(targets, list):
            raise UserError(f"{path}: target_modules is {targets!r:.40}", "needs a list of names")
        names = (*targets, *(data.get("target_parameters") or ()))
        config = LoraConfig(int(data["r"]), float(data["lora_alpha"]), names)
        return config, Path(data["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is broken: {error!r:.120}", "copy it again") from error


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises UserError where it is missing or cut off."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} is not whole: {error}", "copy it again") from error


@torch.no_grad()
def load_adapter(model: Decoder, directory: Path) -> None:
    """Fill the adapters of `model` (see `attach`) with those in `directory`.

    Raises UserError naming the tensor that is missing, too much or of another shape.
    """
    file = directory / WEIGHTS
    found = read_tensors(file)
    fix = "take the adapters of this model"
    for name, target in pairs(model):
        tensor: Tensor | None = found.pop(name, None)
        if tensor is None or tensor.numel() != target.numel():
            size = "missing" if tensor is None else f"{list(tensor.shape)}"
            raise UserError(f"{file}: {name} is {size}", fix)
        if target.dim() == 3:  # experts, in peft's form
            experts, _, columns = target.shape
            if name.endswith("lora_A.weight"):
                tensor = tensor.reshape(experts, -1, columns)
            else:
                tensor = tensor.reshape(-1, columns, experts).permute(2, 0, 1)
        if tensor.shape != target.shape:
            raise UserError(f"{file}: {name} is {list(tensor.shape)}", fix)
        target.copy_(tensor)
    if found:
        raise UserError(f"{file} has a tensor {min(found)}, for which there is no place", fix)
