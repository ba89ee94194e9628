"""`puna export`: a run's model, a checkpoint or a model's directory in a layout to pass on.

`export("runs/mine", "OUT", dtype="bfloat16").text()`; OUT appears whole or not at all.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from puna.core.errors import UserError, nearest
from puna.core.files import LICENCES, NewDirectory, in_use, remove_asides
from puna.core.runs import find_model, is_meta
from puna.export.adapted import adapted, is_adapted
from puna.models import hf, meta, meta_save
from puna.models.vocab import check_vocab
from puna.text.tiktoken import NAME as RANKS
from puna.text.tokenizer import Tokenizer
from puna.train.checkpoint import disk_errors

DTYPES = ("float32", "bfloat16", "float16")
LAYOUTS = ("hf", "meta")
# Beside weights and tokenizer; what the licence of a model asks to pass on goes with it.
_KEPT = (*LICENCES, "generation_config.json")


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
    missing: list[str] = []
    if in_use(place):
        raise UserError(f"{place} is there already", "choose another --out, or remove it")
    kept = getattr(torch, dtype) if dtype else None
    if is_adapted(target):
        if stage:
            what = f"{target} is not a run, so it has no stage '{stage}'"
            raise UserError(what, "leave it out")
        open_model, tokenizer, origin = adapted(target)
        source, decoder = target, open_model(kept)
    else:
        source = origin = find_model(target, stage)[0]
        tokenizer = Tokenizer.load(source)
        if is_meta(source):
            decoder, missing = meta.read(source, kept)
        else:
            decoder, missing = hf.load(source, kept)[0], hf.left_out(source)
    check_vocab(tokenizer, decoder.config, source)
    if any(bool(b.any()) for name, b in decoder.named_buffers() if name.endswith("expert_bias")):
        missing.append("for other readers the bias that balances experts, which only Puna reads")
    config, stored = decoder.config, decoder.dtype
    count = config.num_parameters()
    count -= config.vision_parameters if layout == "meta" else 0
    remove_asides(place)
    with NewDirectory(place, "export") as aside, disk_errors():
        if layout == "hf":
            hf.save(decoder, aside)
            tokenizer.save(aside)
        else:
            missing += meta_save.save_meta(decoder, aside)
            missing += _save_ranks(source, tokenizer, aside)
        for pattern in _KEPT:
            for file in origin.glob(pattern):
                if file.is_file() and (layout == "hf" or file.suffix != ".json"):
                    shutil.copyfile(file, aside / file.name)
    name, size = str(stored).removeprefix("torch."), count * stored.itemsize
    return Exported(place, source, config.family, count, size, name, tuple(missing))


def _save_ranks(source: Path, tokenizer: Tokenizer, directory: Path) -> list[str]:
    """The tokenizer's file in Meta's layout where the source has one, else ours, and says so."""
    if (source / RANKS).exists() and is_meta(source):
        shutil.copyfile(source / RANKS, directory / RANKS)
        return []
    tokenizer.save(directory)
    return [f"{RANKS} (only a source in Meta's layout has it; tokenizer.json is there instead)"]
