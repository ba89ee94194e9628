"""`puna export`: a run's model, a checkpoint or a model's directory in a layout to pass on.

`export("runs/mine", "OUT", dtype="bfloat16").text()`; OUT appears whole or not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from puna.core.errors import UserError, nearest
from puna.core.files import NewDirectory, remove_asides
from puna.core.runs import find_model, is_meta
from puna.export.adapted import adapted, is_adapted
from puna.models import hf, meta, meta_save
from puna.models.decoder import Decoder
from puna.models.directory import load, stored_dtype
from puna.models.vocab import check_vocab
from puna.text.tiktoken import NAME as RANKS
from puna.text.tokenizer import Tokenizer
from puna.train.checkpoint import disk_errors

DTYPES = ("float32", "bfloat16", "float16")
LAYOUTS = ("hf", "meta")
# Beside weights and tokenizer; what the licence of a model asks to pass on goes with it.
_KEPT = ("LICENSE*", "NOTICE*", "Notice*", "USE_POLICY*", "generation_config.json")


@dataclass(frozen=True)
class Exported:
    """What `export` wrote: where, how many parameters, how many bytes of weights, as what.

    `left_out` says what of the source is not there, one phrase for each kind of thing.
    """

    directory: Path
    source: Path
    family: str
    parameters: int
    bytes: int
    dtype: str
    left_out: tuple[str, ...]

    def text(self) -> str:
        """One line, or two where something was left out."""
        size = f"{self.parameters:,} parameters as {self.dtype}, {self.bytes / 1e6:,.1f} MB"
        lines = [f"{self.directory}: {self.family}, {size}, from {self.source}"]
        if self.left_out:
            lines.append("left out: " + "; ".join(self.left_out))
        return "\n".join(lines)


def export(
    model: str | Path, out: str | Path, *, dtype: str = "", layout: str = "hf", stage: str = ""
) -> Exported:
    """Write `model` to the new directory `out`, in the layout of Hugging Face ("hf") or of Meta.

    `model` is a run (its last trained stage, or `stage`), a stage, a checkpoint, the adapters that
    a stage left, or a model's directory in either layout; adapters are merged. `dtype` is float32,
    bfloat16 or float16, as the source if not given. Raises UserError where `out` is in use, where
    the source is broken, and for a model that the layout has no words for.

    >>> import puna
    >>> done = puna.export("runs/mine", "mine-bf16", dtype="bfloat16")
    >>> done.bytes == 2 * done.parameters
    True
    >>> puna.load("mine-bf16").chat("1+1=", max_tokens=2).role
    'assistant'
    """
    for name, value, known in (("dtype", dtype or DTYPES[0], DTYPES), ("layout", layout, LAYOUTS)):
        if value not in known:
            raise UserError(f"no {name} '{value}'", nearest(value, known))
    target, place = Path(model), Path(out)
    if is_adapted(target):
        source = target
        open_model, tokenizer = adapted(target)
    else:
        source = find_model(target, stage)[0]
        open_model, tokenizer = _plain(source), Tokenizer.load(source)
    _require_free(place)
    kept = getattr(torch, dtype) if dtype else None
    decoder, missing = open_model(kept)
    check_vocab(tokenizer, decoder.config, source)
    if any(bool(b.any()) for name, b in decoder.named_buffers() if name.endswith("expert_bias")):
        missing.append("for other readers the bias that balances experts, which only Puna reads")
    config, count = decoder.config, sum(p.numel() for p in decoder.parameters())
    stored = decoder.dtype
    remove_asides(place)
    with NewDirectory(place, "export") as aside, disk_errors():
        if layout == "hf":
            hf.save(decoder, aside)
            tokenizer.save(aside)
        else:
            missing += meta_save.save_meta(decoder, aside)
            missing += _save_ranks(source, tokenizer, aside)
        for pattern in _KEPT:
            for file in source.glob(pattern):
                if file.is_file() and (layout == "hf" or file.suffix != ".json"):
                    shutil.copyfile(file, aside / file.name)
    name, size = str(stored).removeprefix("torch."), count * stored.itemsize
    return Exported(place, source, config.family, count, size, name, tuple(missing))


def _plain(source: Path) -> Callable[[torch.dtype | None], tuple[Decoder, list[str]]]:
    """Opens the model in `source`, and says what of its files is no part of it."""

    def open_model(dtype: torch.dtype | None) -> tuple[Decoder, list[str]]:
        missing = meta.left_out(source) if is_meta(source) else hf.left_out(source)
        return load(source, dtype or stored_dtype(source))[0], missing

    return open_model


def _save_ranks(source: Path, tokenizer: Tokenizer, directory: Path) -> list[str]:
    """The tokenizer's file in Meta's layout where the source has one, else ours, and says so."""
    if (source / RANKS).exists() and is_meta(source):
        shutil.copyfile(source / RANKS, directory / RANKS)
        return []
    tokenizer.save(directory)
    return [f"{RANKS} (only a source in Meta's layout has it; tokenizer.json is there instead)"]


def _require_free(out: Path) -> None:
    """Raises UserError where `out` holds something."""
    try:
        taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise UserError(f"cannot read {out}: {error.strerror}", "choose another one") from error
    if taken:
        raise UserError(f"{out} is there already", "choose another --out, or remove it")
