"""A model with adapters on disk: what a stage left in `adapter/`, or a checkpoint of adapters.

`open_model, tokenizer, base = adapted(Path("runs/mine/sft/adapter"))`, and the sum is
`open_model(torch.bfloat16)`, merged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from puna.core.errors import UserError
from puna.core.runs import read_machine
from puna.models import lora, lora_files
from puna.models.decoder import Decoder
from puna.models.directory import load
from puna.text.tokenizer import Tokenizer
from puna.train.checkpoint import ADAPTERS, model_directory

Open = Callable[[torch.dtype | None], Decoder]


def is_adapted(directory: Path) -> bool:
    """Whether `directory` holds adapters without the model below them."""
    return any((directory / name).exists() for name in (lora.CONFIG, ADAPTERS))


def adapted(directory: Path) -> tuple[Open, Tokenizer, Path]:
    """How to open the model that `directory` adapts, as a dtype or the base's; its tokenizer; and
    the base's directory.

    A checkpoint is merged in the precision of its run, an adapter in that of the result. Raises
    UserError where the base is not where it was, or the adapters are not for it.
    """
    computed: torch.dtype | None = None
    if is_adapter := (directory / lora.CONFIG).exists():
        config, base = lora_files.read_config(directory)
    else:
        config, base, computed = _of_checkpoint(directory)
    if not base.exists():
        raise UserError(f"{directory} adapts {base}, which is not there", "put it back there")
    base = model_directory(base)

    def open_model(dtype: torch.dtype | None) -> Decoder:
        model, _ = load(base, computed or dtype)
        lora.attach(model, config, 0)
        if is_adapter:
            lora_files.load_adapter(model, directory)
        else:
            file = directory / ADAPTERS
            try:
                lora.load_learned(model, lora_files.read_tensors(file))
            except RuntimeError as error:
                what = f"{file} is not for {base}"
                raise UserError(what, "restore the model that the stage began with") from error
        lora.merge(model)
        return model if dtype is None else model.to(dtype)

    return open_model, Tokenizer.load(base if is_adapter else directory), base


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
