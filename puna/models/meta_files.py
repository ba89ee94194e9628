"""The files of a directory in Meta's layout: params.json, and the shards consolidated.*.pth.

`Shards(directory).each("norm.weight")` is that tensor of every shard, mapped from the disk.
"""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puna.core.errors import UserError
from puna.core.runs import weight_files

# What no text model reads, and what to call it; tables and marks of precision can be forgotten.
_IMAGES = re.compile(r"vision_")
_STATISTICS = re.compile(r".*(gate_stats_3E|expert_activation_DE)$")
_TABLES = re.compile(r"rope\.freqs|freqs_cis|.*_extra_state$")
# Mapped pages count as memory until their file is closed; so many bytes may be open.
_PAGES = 1 << 27


class Shards:
    """The tensors of all shards, mapped from the disk; who asks for one has used it.

    Raises UserError where a file is missing, cut off, or holds more than tensors.
    """

    def __init__(self, directory: Path) -> None:
        self.files = weight_files(directory)
        numbers = [f"{i:02d}" for i in range(len(self.files))]
        for number, file in zip(numbers, self.files, strict=True):
            if file.name.count(".") > 1 and file.name.split(".")[1] != number:
                missing = directory / f"consolidated.{number}.pth"
                raise UserError(f"no file {missing}, but {self.files[-1].name}", "copy it too")
        self.shards = [_mapped(file) for file in self.files]
        for file, shard in zip(self.files, self.shards, strict=True):
            if shard.keys() != self.shards[0].keys():
                name = min(shard.keys() ^ self.shards[0].keys())
                what = f"{name} is not in both {self.files[0]} and {file.name}"
                raise UserError(what, "copy the directory again")
        self.used: set[str] = set()
        self.read = 0

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return name in self.shards[0]

    def each(self, name: str) -> list[Tensor]:
        """The slice of every shard. Raises UserError where there is none."""
        found = self.look(name)
        self.used.add(name)
        self.read += sum(t.nbytes for t in found)
        return found

    def look(self, name: str) -> list[Tensor]:
        """`each`, but nothing counts as used by it."""
        if not self.has(name):
            raise UserError(f"{self.files[0]} has no tensor {name}", "the checkpoint is incomplete")
        return [shard[name] for shard in self.shards]

    def one(self, *names: str) -> Tensor:
        """What all shards hold alike, under the first of `names` that is there."""
        return self.each(next((n for n in names if self.has(n)), names[0]))[0]

    def release(self) -> None:
        """Give back the memory of what was read. Tensors handed out must have been let go."""
        if self.read > _PAGES:
            self.shards = []
            self.shards = [_mapped(file) for file in self.files]
            self.read = 0

    def require_all_used(self, tied: bool) -> None:
        """Raises UserError for a tensor that nothing reads."""
        known = self.used | ({"output.weight"} if tied else set())
        for name in self.shards[0]:
            if name not in known and not _unread(name):
                what = f"{self.files[0]} has a tensor {name}, which is not of Llama 3 or 4"
                raise UserError(what, "convert another checkpoint")

    def left_out(self) -> list[str]:
        """What a text model does without, one phrase for each kind; tables are not mentioned."""
        out = []
        kinds = {"image weights": _IMAGES, "statistics of experts": _STATISTICS}
        for kind, pattern in kinds.items():
            names = [name for name in self.shards[0] if pattern.match(name)]
            size = sum(shard[name].nbytes for name in names for shard in self.shards)
            if names:
                out.append(f"{kind} ({len(names)} tensors, {size / 1e6:,.1f} MB)")
        return out


def _unread(name: str) -> bool:
    return any(pattern.match(name) for pattern in (_IMAGES, _STATISTICS, _TABLES))


def _mapped(file: Path) -> dict[str, Tensor]:
    """A shard's tensors; nothing is unpickled but tensors and the byte buffers beside them."""
    try:
        with torch.serialization.safe_globals([io.BytesIO]):
            found = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no file {file}", "name a directory with params.json beside it") from None
    except pickle.UnpicklingError as error:
        what = f"{file} holds more than tensors"
        raise UserError(what, "take a checkpoint from its source") from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{file} is not whole: {said}", "copy it again") from error
    if not isinstance(found, Mapping):
        raise UserError(f"{file} holds no tensors by name", "take a checkpoint from its source")
    tensors = {str(k): v for k, v in found.items() if isinstance(v, Tensor)}
    for name, tensor in tensors.items():
        if not _unread(name) and not tensor.is_floating_point():
            raise UserError(
                f"{file}: {name} is {tensor.dtype}", "quantised files are not supported"
            )
    return tensors


def read_params(path: Path) -> dict[str, Any]:
    """The fields of a params.json that say something. Raises UserError where it is broken."""
    try:
        data = json.loads(path.read_bytes())
        data = data.get("model", data)
        return {"n_kv_heads": data["n_heads"]} | {k: v for k, v in data.items() if v is not None}
    except FileNotFoundError:
        raise UserError(f"no file {path}", "name a directory in Meta's layout") from None
    except KeyError as error:
        raise UserError(f"{path} has no field {error}", "copy it again") from error
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is broken: {error!r}", "copy it again") from error
