"""A model's tensors where they lie on disk, and any stretch of one as fp32.

`member = open_member(Path("runs/x/a/model")); member.places["model.norm.weight"].shape`.
A member may also be adapters in peft's files: then it is the model below them plus their products.
Shapes: D inputs of a matrix, O its outputs, R rank, E experts.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from puna.core.errors import UserError

WEIGHTS = "model.safetensors"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Elements at a time: a stretch stays in a core's cache, and memory is the same for any model.
BLOCK = 1 << 18
# Floating types by safetensors' code: bytes of an element, the least size that rounds to infinity.
FLOATS = {"F32": (4, math.inf), "F16": (2, 65520.0), "BF16": (2, float.fromhex("0x1.ffp127"))}

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: its file, the first byte of it, its dtype's code and shape."""

    file: Path
    start: int
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def width(self) -> int:
        """Bytes of an element (1 for those of less)."""
        return max(1, self.bytes // max(1, self.size))

    @property
    def size(self) -> int:
        """How many elements."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Increment:
    """`scale` * B A, what adapters add to a matrix [O, D]; A is [R, D], B is [O, R].

    Of experts [E, O, D] A is [E R, D], expert after expert, and B [O, R E], rank after rank.
    """

    a: Place
    b: Place
    scale: float


@dataclass(frozen=True)
class Member:
    """A model on disk: the directory given, the one of config.json, tensors, increments by name."""

    given: Path
    directory: Path
    places: Mapping[str, Place]
    increments: Mapping[str, Increment] = field(default_factory=dict)

    @property
    def files(self) -> set[Path]:
        """All files that its values are in."""
        added = (p for i in self.increments.values() for p in (i.a, i.b))
        return {p.file for p in (*self.places.values(), *added)}


def is_adapter(directory: Path) -> bool:
    """Whether `directory` holds adapters in peft's files, without the model below them."""
    return (directory / ADAPTER_CONFIG).exists()


def open_member(directory: Path) -> Member:
    """The model in `directory`, or the one that its adapters adapt, with them.

    Raises UserError naming the file that is missing or broken, or the adapter without a place.
    """
    if not is_adapter(directory):
        return Member(directory, directory, _places(directory))
    # They need torch; a member that is a whole model does not.
    from puna.models.lora_files import read_config
    from puna.train.checkpoint import model_directory

    config, base = read_config(directory)
    if not base.exists():
        raise UserError(f"{directory} adapts {base}, which is not there", "put it back there")
    base = model_directory(base)
    places = _places(base)
    added = _increments(directory, base, places, config.rank, config.alpha, config.targets)
    return Member(directory, base, places, added)


def _increments(
    directory: Path,
    base: Path,
    places: Mapping[str, Place],
    rank: int,
    alpha: float,
    targets: Sequence[str],
) -> dict[str, Increment]:
    """What the adapters in `directory` add, by the tensors of their base.

    Raises UserError for one without a place.
    """
    file, out = directory / ADAPTER_WEIGHTS, {}
    found, fix = _header(file), f"puna export {directory} --out DIR merges it"
    for name in sorted(n for n in found if n.endswith(".lora_A.weight")):
        stem = name.removesuffix(".lora_A.weight")
        target = _target(stem.removeprefix("base_model.model."), targets)
        a, b, under = found.pop(name), found.pop(f"{stem}.lora_B.weight", None), places.get(target)
        if b is None or under is None or not _fits(a, b, under, rank):
            raise UserError(f"{file}: {name} has no matrix in {base}", fix)
        out[target] = Increment(a, b, alpha / rank)
    if found:
        raise UserError(f"{file}: {min(found)} is no adapter of a matrix", fix)
    return out


def _fits(a: Place, b: Place, under: Place, rank: int) -> bool:
    experts, height, width = (1, 1, *under.shape)[-3:]
    shapes = ((experts * rank, width), (height, experts * rank))
    return (a.shape, b.shape) == shapes and {a.dtype, b.dtype, under.dtype} <= FLOATS.keys()


def _target(stem: str, targets: Sequence[str]) -> str:
    """The tensor that an adapter of this name adds to.

    peft wraps a module of experts once for each of its parameters, the first one innermost.
    """
    module, inner, _ = stem.partition(".base_layer")
    if not module.endswith(".experts"):
        return f"{stem}.weight"
    mine = [t for t in ("experts.gate_up_proj", "experts.down_proj") if t in targets]
    name = mine[0 if inner else -1] if mine else ""
    return f"{module.removesuffix('experts')}{name}"


def _places(directory: Path) -> dict[str, Place]:
    """Every tensor of a checkpoint. Raises UserError naming the file that is missing or broken."""
    index, single = directory / f"{WEIGHTS}.index.json", directory / WEIGHTS
    if not index.exists():
        return _header(single)
    try:
        mapping = dict(json.loads(index.read_bytes())["weight_map"])
        files = [directory / str(file) for file in dict.fromkeys(mapping.values())]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index} is broken: {error!r}", "copy it again") from error
    headers = {file.name: _header(file) for file in files}
    out = {}
    for name, file in mapping.items():
        held = headers[Path(str(file)).name]
        if name not in held:
            raise UserError(f"{directory / str(file)} has no tensor {name}", f"{index} names it")
        out[name] = held[name]
    return out


def _header(file: Path) -> dict[str, Place]:
    if not file.exists():
        raise UserError(f"no file {file}", "name a directory with config.json and safetensors")
    try:
        with safe_open(file, framework="np"):
            pass  # it checks the header, and that the file is as long as that says
        with open(file, "rb") as f:
            length = int.from_bytes(f.read(8), "little")
            found = json.loads(f.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} is not whole: {error}", "copy it again") from error
    out = {}
    for name, entry in found.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            shape = tuple(entry["shape"])
            out[name] = Place(file, 8 + length + start, entry["dtype"], shape, end - start)
    return out


class Files:
    """Files open for reading, from any thread: `with Files(paths) as files`."""

    def __init__(self, paths: Iterable[Path]) -> None:
        with ExitStack() as stack:
            self._opened = {p: stack.enter_context(p.open("rb", buffering=0)) for p in paths}
            self._stack = stack.pop_all()  # kept open where all of them could be opened

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.close()

    def fill(self, out: NDArray[Any], place: Place, at: int) -> None:
        """Fill `out` with the bytes of a tensor from byte `at` on. Raises UserError at its end."""
        view = out.data.cast("B")
        while view:
            got = os.preadv(self._opened[place.file].fileno(), [view], place.start + at)
            if not got:
                raise UserError(f"{place.file} ended while it was read", "leave it alone meanwhile")
            view, at = view[got:], at + got

    def whole(self, place: Place) -> Floats:
        """All of a tensor as fp32, in its shape."""
        out = np.empty(place.size, np.float32)
        self.read(out, np.empty(4 * place.size, np.uint8), place, 0)
        return out.reshape(place.shape)

    def read(self, out: Floats, raw: NDArray[np.uint8], place: Place, start: int) -> None:
        """Fill `out` [n] with elements from `start` on; `raw` [4 n or more] is room to work in."""
        n = len(out)
        if place.dtype == "F32":
            self.fill(out, place, 4 * start)
        elif place.dtype == "F16":
            halves = raw[: 2 * n].view(np.float16)
            self.fill(halves, place, 2 * start)
            out[:] = halves
        else:  # a bfloat16 is the upper half of a float32
            upper = raw[: 2 * n].view(np.uint16)
            self.fill(upper, place, 2 * start)
            bits = out.view(np.uint32)
            bits[:] = upper
            np.left_shift(bits, 16, out=bits)


class Source:
    """One member's values of one tensor, with the member's weight."""

    def __init__(self, member: Member, name: str, weight: float, files: Files) -> None:
        self.member, self.weight, self._files = member, weight, files
        self.place, self._added = member.places[name], member.increments.get(name)
        self._a = files.whole(self._added.a) if self._added else None

    @property
    def columns(self) -> int:
        """D of an adapted matrix, 0 of any other tensor."""
        return self.place.shape[-1] if self._added else 0

    @property
    def file(self) -> Path:
        """The file to name where a value is not finite."""
        return self._added.a.file if self._added else self.place.file

    def read(self, out: Floats, raw: NDArray[np.uint8], start: int) -> None:
        """Fill `out` [n] with elements from `start` on; of an adapted matrix with whole rows."""
        self._files.read(out, raw, self.place, start)
        if self._added is not None and self._a is not None:
            rows = out.reshape(-1, self.columns)
            self._add(rows, start // self.columns, self._a, self._added)

    def _add(self, rows: Floats, first: int, a: Floats, added: Increment) -> None:
        """Add the product's rows from `first` on, counted over all experts."""
        experts, height, _ = (1, *self.place.shape)[-3:]
        ranks = len(a)
        rank, done = ranks // experts, 0
        while done < len(rows):
            expert, top = divmod(first + done, height)
            count = min(len(rows) - done, height - top)
            b = np.empty(count * ranks, np.float32)
            self._files.read(b, np.empty(4 * len(b), np.uint8), added.b, top * ranks)
            factors = b.reshape(count, ranks)[:, expert::experts]
            product = factors @ a[expert * rank : (expert + 1) * rank]
            product *= np.float32(added.scale)
            rows[done : done + count] += product
            done += count


def rounded(values: Floats, code: str, room: Floats) -> NDArray[Any]:
    """`values` [n] in a dtype, the nearest and of two the even; `values` and `room` are used up."""
    if code == "F32":
        return values
    if code == "F16":
        halves = room.view(np.float16)[: len(values)]
        halves[:] = values
        return halves
    bits, odd = values.view(np.uint32), room.view(np.uint32)[: len(values)]
    np.right_shift(bits, 16, out=odd)
    np.bitwise_and(odd, 1, out=odd)
    np.add(odd, 0x7FFF, out=odd)
    np.add(bits, odd, out=bits)
    np.right_shift(bits, 16, out=bits)
    upper = room.view(np.uint16)[: len(values)]
    upper[:] = bits
    return upper
