"""Checkpoints: written aside, renamed into place, checked by hash; the newest whole one wins.

`Checkpoints(dir, keep=2).save(step, model, tokenizer, optimizer, state)`; `.latest()`. Those of a
model with adapters hold the adapters alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from puna.core.errors import UserError
from puna.core.files import NewDirectory, sha256_file
from puna.core.runs import holds_model
from puna.models import hf, load, lora
from puna.models.decoder import Decoder
from puna.models.vocab import check_vocab
from puna.text.tokenizer import Tokenizer
from puna.train.optim import load_optimizer_tensors, optimizer_tensors

SCHEMA = 1
ADAPTERS = "adapters.safetensors"


def save_model(model: Decoder, tokenizer: Tokenizer, directory: Path) -> None:
    """A Hugging Face directory of model and tokenizer, in place at once or not at all.

    Raises UserError where the disk is full or the directory may not be written.
    """
    with NewDirectory(directory, "model") as aside, disk_errors():
        hf.save(model, aside)
        tokenizer.save(aside)


def load_model(
    directory: Path, dtype: torch.dtype = torch.float32, chat: bool = False
) -> tuple[Decoder, Tokenizer]:
    """Model and tokenizer from a stage's directory, its `model/`, or any model's directory.

    Raises UserError where there is none, a file is broken, the two are not of one model, or the
    vocabulary has no chat format and `chat` asks for one.
    """
    source = model_directory(directory)
    tokenizer = Tokenizer.load(source)
    if chat:
        tokenizer.require_chat(source)
    model, config = load(source, dtype)
    check_vocab(tokenizer, config, source)
    return model, tokenizer


def model_directory(directory: Path) -> Path:
    """Where the files of a stage's model are, or of any. Raises UserError where there are none."""
    inner = directory / "model"
    source = inner if holds_model(inner) else directory
    if not holds_model(source):
        fix = "name a finished stage or a checkpoint directory"
        raise UserError(f"no model in {directory}", fix)
    return source


class Checkpoints:
    """The checkpoints of one stage, newest last, `keep` of them kept."""

    def __init__(self, directory: Path, keep: int = 2, note: Callable[[str], None] = print) -> None:
        self.directory, self.keep, self.note = directory, max(1, keep), note

    def save(
        self,
        step: int,
        model: Decoder,
        tokenizer: Tokenizer,
        optimizer: torch.optim.Optimizer,
        state: dict[str, Any],
        extra: dict[str, torch.Tensor] | None = None,
        spare: int | None = None,
    ) -> None:
        """Write checkpoint `step` (the number of finished steps) and drop the oldest.

        The newest one of at most `spare` steps is not dropped. Raises UserError on a full disk.
        """
        path = self.directory / f"step-{step:08d}"
        with NewDirectory(path, "checkpoint") as aside, disk_errors():
            if lora.adapters(model):
                _save(lora.learned(model), aside / ADAPTERS)
            else:
                hf.save(model, aside)
            tokenizer.save(aside)
            _save(optimizer_tensors(model, optimizer), aside / "optimizer.safetensors")
            if extra:
                _save(extra, aside / "extra.safetensors")
            files = {p.name: sha256_file(p) for p in sorted(aside.iterdir())}
            record = {"schema": SCHEMA, "step": step, "state": state, "files": files}
            (aside / "checkpoint.json").write_text(json.dumps(record, indent=1))
        before = [p for p in self._all() if p.name <= path.name]
        later = [p for p in self._all() if p.name > path.name]  # broken, or training had gone on
        spared = [p for p in before if spare is not None and _step(p) <= spare][-1:]
        for old in later + before[: -self.keep]:
            if old not in spared:
                shutil.rmtree(old)

    def _all(self) -> list[Path]:
        return sorted(self.directory.glob("step-*"))

    def latest(self, most: int | None = None) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint, of at most `most` steps, whose every file has its known hash.

        A broken one is named and passed over. Raises UserError where all are broken.
        """
        found = [p for p in self._all() if most is None or _step(p) <= most]
        for path in reversed(found):
            problem = _problem(path)
            if problem is None:
                return path, json.loads((path / "checkpoint.json").read_text())
            self.note(f"checkpoint {path} is broken ({problem}); trying the one before")
        if found:
            raise UserError(
                f"every checkpoint in {self.directory} is broken",
                f"remove {self.directory.parent} to begin this stage again",
            )
        return None

    @staticmethod
    def load(path: Path, model: Decoder) -> None:
        """Load weights and routers' biases, or the adapters of a model that has some."""
        if lora.adapters(model):
            lora.load_learned(model, safetensors.torch.load_file(path / ADAPTERS))
        else:
            model.load_state_dict(hf.load(path, torch.float32)[0].state_dict())

    def restore(self, path: Path, model: Decoder, optimizer: torch.optim.Optimizer) -> None:
        """Load weights, routers' biases and optimiser state, bit for bit."""
        self.load(path, model)
        tensors = safetensors.torch.load_file(path / "optimizer.safetensors")
        load_optimizer_tensors(model, optimizer, tensors)

    @staticmethod
    def extra(path: Path) -> dict[str, torch.Tensor]:
        """Whatever else the stage stored."""
        file = path / "extra.safetensors"
        return safetensors.torch.load_file(file) if file.exists() else {}


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """safetensors reports a full disk as an error of its own; say it as the system did."""
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number)) from error


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    safetensors.torch.save_file({k: v.detach().contiguous() for k, v in tensors.items()}, path)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _problem(path: Path) -> str | None:
    try:
        record = json.loads((path / "checkpoint.json").read_text())
        for name, digest in record["files"].items():
            if not (path / name).exists():
                return f"{name} is missing"
            if sha256_file(path / name) != digest:
                return f"{name} is truncated or changed"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"checkpoint.json: {error}"
    return None
