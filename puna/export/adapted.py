"""A model with adapters on disk: what a stage left in `adapter/`, or a checkpoint of adapters.

`model, notes = adapted(Path("runs/mine/sft/adapter"))(torch.bfloat16)` is the sum, merged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from puna.core.errors import UserError
from puna.core.runs import read_machine
from puna.models import lora, lora_files
from puna.models.decoder import Decoder
from puna.models.directory import load, stored_dtype
from puna.text.tokenizer import Tokenizer
from puna.train.checkpoint import ADAPTERS, model_directory

Open = Callable[[torch.dtype | None], tuple[Decoder, list[str]]]


def is_adapted(directory: Path) -> bool:
    """Whether `directory` holds adapters without the model below them."""
    return any((directory / name).exists() for name in (lora_files.CONFIG, ADAPTERS))


def adapted(directory: Path) -> tuple[Open, Tokenizer]:
    """How to open the model that `directory` adapts, as a dtype or the base's, and its tokenizer.

    Raises UserError where the base is not where it was, or the adapters are not for it.
    """
    if (directory / lora_files.CONFIG).exists():
        config, base = lora_files.read_config(directory)
        base = model_directory(_existing(base, directory))
        return _Adapted(directory, base, config, None), Tokenizer.load(base)
    config, base, computed = _of_checkpoint(directory)
    base = model_directory(_existing(base, directory))
    return _Adapted(directory, base, config, computed), Tokenizer.load(directory)


class _Adapted:
    """Opens base and adapters; merges in the dtype in which the run would have."""

    def __init__(
        self, directory: Path, base: Path, config: lora.LoraConfig, dtype: torch.dtype | None
    ) -> None:
        self.directory, self.base, self.config, self.dtype = directory, base, config, dtype

    def __call__(self, dtype: torch.dtype | None) -> tuple[Decoder, list[str]]:
        merged_in = self.dtype or dtype or stored_dtype(self.base)
        model, _ = load(self.base, merged_in)
        lora.attach(model, self.config, 0)
        if self.dtype is None:
            lora_files.load_adapter(model, self.directory)
        else:
            file = self.directory / ADAPTERS
            try:
                lora.load_learned(model, _tensors(file))
            except RuntimeError as error:
                what = f"{file} is not for {self.base}"
                raise UserError(what, "restore the model that the stage began with") from error
        lora.merge(model)
        return model if dtype is None else model.to(dtype), []


def _of_checkpoint(step: Path) -> tuple[lora.LoraConfig, Path, torch.dtype]:
    """Adapters' sizes, base and precision of RUN/STAGE/checkpoints/step-N, by the run's record."""
    place = step.resolve()
    run, stage = place.parents[2], place.parents[1].name
    path = run / "run.json"
    try:
        record = json.loads(path.read_bytes())
        entry: Mapping[str, Any] = next(s for s in record["stages"] if s["id"] == stage)
        given = dict(entry["lora"])
        config = lora.LoraConfig(**given | {"targets": tuple(given.get("targets") or ())})
        base = Path(entry["init"]) if entry.get("init") else run / entry["from"][0]
        dtype: torch.dtype = getattr(torch, read_machine(record["machine"]).dtype)
    except (OSError, ValueError, KeyError, TypeError, IndexError, StopIteration) as error:
        what = f"{path} does not say what {step} adapts ({error!r:.80})"
        raise UserError(what, "name a checkpoint inside of its run") from error
    return config, base, dtype


def _existing(base: Path, directory: Path) -> Path:
    if not base.exists():
        raise UserError(f"{directory} adapts {base}, which is not there", "put it back there")
    return base


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} is not whole: {error}", "copy it again") from error
