"""The average of Hugging Face checkpoint directories, streamed a block of a tensor at a time.

`merge([Path("runs/x/a/model"), Path("runs/x/b/model")], [1, 2], Path("soup"))`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from puna.core.errors import UserError
from puna.core.files import (
    LICENCES,
    NewDirectory,
    crash_point,
    in_use,
    remove_asides,
    sha256_file,
    write_json,
)
from puna.core.runs import is_meta

SCHEMA = 1
RECORD = "soup.json"
WEIGHTS = "model.safetensors"
# Elements at a time: the sums stay in the processor's cache, and memory is the same for any model.
BLOCK = 1 << 18
# Bytes after which the disk is told to begin: what is written must be on it before the rename.
FLUSH = 32 << 20
_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _FLOATS.items()}
_COPIED = (
    "config.json", "*_config.json", "*token*", "vocab*", "merges.txt", "chat_template*",
    *LICENCES,
)  # fmt: skip
# Two models may differ in these and still have tensors of equal shapes: heads, cut otherwise.
_HEADS = ("model_type", "num_attention_heads", "num_key_value_heads", "head_dim")
# A reader's own state: absent where it is zero (see puna/models/hf.py), and never cast.
_OWN = "puna."


@dataclass(frozen=True)
class Merged:
    """What `merge` wrote: members with their shares (which sum to 1), sizes, what to know."""

    out: Path
    members: tuple[Path, ...]
    weights: tuple[float, ...]
    tensors: int
    bytes: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies: its file, the first byte of it, its dtype and shape."""

    file: Path
    start: int
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def width(self) -> int:
        """Bytes of an element (1 for those of less)."""
        return max(1, self.bytes // max(1, math.prod(self.shape)))


_Places = Mapping[str, _Place]


def merge(
    models: Sequence[Path],
    weights: Sequence[float] | None,
    out: Path,
    dtype: torch.dtype | None = None,
) -> Merged:
    """Write sum(w_i * tensor_i) / sum(w_i) of every tensor to `out` (Wortsman et al. 2022).

    `models` are directories with config.json and model.safetensors or its shards; `weights` None
    means 1 each. The sums are taken in fp32, member after member, then cast to `dtype` or else to
    the first member's; tensors of whole numbers must be equal in all. config.json and the
    tokenizer's files are the first's; `out` gets one model.safetensors, and soup.json with the
    members. Memory does not grow with the models, and `out` appears whole or not at all.
    Raises UserError naming file, tensor and both shapes where the members do not fit each other,
    for weights that are no shares, for values that are not finite, and where `out` is in use.
    """
    models = [Path(m) for m in models]
    if meta := next(filter(is_meta, models), None):
        raise UserError(f"{meta} is in Meta's layout", f"puna export {meta} --out DIR comes first")
    shares = _shares(models, weights)
    require_free(out, models)
    if dtype is not None and dtype not in _NAMES:
        raise UserError(f"cannot write a soup as {dtype}", "give float32, bfloat16 or float16")
    members = [_places(m) for m in models]
    for model, places in zip(models[1:], members[1:], strict=True):
        _require_alike(models[0], members[0], model, places)
    notes = [*_repeated(models), *_other_settings(models)]
    layout = _layout(members, dtype)
    remove_asides(out)
    with NewDirectory(out, "soup") as aside:
        _copy_files(models[0], aside, dtype)
        record = {"schema": SCHEMA, "members": [str(m) for m in models], "weights": shares}
        write_json(aside / RECORD, record, "soup.record")
        _write(aside / WEIGHTS, layout, members, weights or [1.0] * len(models))
    size = sum(place.bytes for place in layout.values())
    return Merged(out, tuple(models), tuple(shares), len(layout), size, tuple(notes))


def is_soup(directory: Path) -> bool:
    """Whether `directory` is what `merge` wrote."""
    return (directory / RECORD).exists()


def _shares(models: Sequence[Path], weights: Sequence[float] | None) -> list[float]:
    if not models:
        raise UserError("a soup of no models", "name at least two")
    given = list(weights) if weights is not None else [1.0] * len(models)
    if len(given) != len(models):
        what = f"{len(given)} weights for {len(models)} models"
        raise UserError(what, "give one for each, or none for equal shares")
    if not all(math.isfinite(w) for w in given):
        raise UserError(f"weights are {given}", "give finite numbers")
    total = sum(given)
    if abs(total) <= 1e-9 * sum(map(abs, given)):
        raise UserError(f"weights {given} sum to {total:g}", "an average needs another sum")
    return [w / total for w in given]


def require_free(out: Path, models: Sequence[Path]) -> None:
    """Raises UserError where writing `out` would remove a member or what is no soup."""
    for model in models:
        if out.resolve() in (model.resolve(), *model.resolve().parents):
            raise UserError(f"{out} is, or holds, the member {model}", "choose another directory")
    if in_use(out) and not is_soup(out):
        raise UserError(f"{out} is there already and is no soup", "choose another directory")


def _places(directory: Path) -> dict[str, _Place]:
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


def _header(file: Path) -> dict[str, _Place]:
    if not file.exists():
        raise UserError(f"no file {file}", "name a directory with config.json and safetensors")
    try:
        with safe_open(file, framework="pt"):
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
            out[name] = _Place(file, 8 + length + start, entry["dtype"], shape, end - start)
    return out


def _require_alike(first: Path, ours: _Places, other: Path, theirs: _Places) -> None:
    """Raises UserError for tensors, heads or vocabularies that cannot be averaged."""
    for name in sorted(ours.keys() ^ theirs.keys()):
        if name.startswith(_OWN):
            continue
        has, lacks = (ours, other) if name in ours else (theirs, first)
        what = f"{lacks} has no tensor {name}, which {has[name].file} has {_shape(has[name])}"
        raise UserError(what, "merge models of one shape")
    for name in sorted(ours.keys() & theirs.keys()):
        a, b = ours[name], theirs[name]
        if a.shape != b.shape:
            what = f"{name} is {_shape(a)} in {a.file} and {_shape(b)} in {b.file}"
            raise UserError(what, "merge models of one shape")
        if a.dtype != b.dtype and not {a.dtype, b.dtype} <= _FLOATS.keys():
            what = f"{name} is {a.dtype} in {a.file} and {b.dtype} in {b.file}"
            raise UserError(what, "merge models of one kind")
    _require_same_meaning(first, other)


def _require_same_meaning(first: Path, other: Path) -> None:
    vocabularies = [d / "tokenizer.json" for d in (first, other)]
    if all(v.exists() for v in vocabularies):
        hashes = [sha256_file(v)[:12] for v in vocabularies]
        if hashes[0] != hashes[1]:
            what = f"{vocabularies[0]} ({hashes[0]}) and {vocabularies[1]} ({hashes[1]})"
            raise UserError(f"{what} are different vocabularies", "merge models of one vocabulary")
    mine, theirs = _settings(first), _settings(other)
    for key in _HEADS:
        if mine.get(key) != theirs.get(key) and mine.get(key) and theirs.get(key):
            what = f"{key} is {mine[key]} in {first / 'config.json'}"
            raise UserError(
                f"{what} and {theirs[key]} in {other / 'config.json'}", "merge models of one shape"
            )


def _settings(model: Path) -> dict[str, Any]:
    path = model / "config.json"
    try:
        data = dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise UserError(f"no file {path}", "name a Hugging Face model directory") from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not readable JSON: {error}", "copy it again") from error
    return dict(data.get("text_config") or data)


def _shape(place: _Place) -> str:
    return f"[{', '.join(map(str, place.shape))}]"


def _repeated(models: Sequence[Path]) -> list[str]:
    places = [m.resolve() for m in models]
    twice = {str(m): places.count(p) for m, p in zip(models, places, strict=True)}
    note = "{} is given {} times: its share counts each time"
    return [note.format(m, n) for m, n in twice.items() if n > 1]


def _other_settings(models: Sequence[Path]) -> list[str]:
    """What members' config.json say otherwise than the first's, which is the one that is kept."""
    out, plain = [], ("dtype", "torch_dtype", "transformers_version", "_name_or_path")
    first = _settings(models[0])
    for model in models[1:]:
        other = _settings(model)
        keys = [k for k in first.keys() & other.keys() if first[k] != other[k] and k not in plain]
        if keys:
            out.append(f"{model} differs in {', '.join(sorted(keys))}: {models[0]}'s are kept")
    return out


def _layout(members: Sequence[_Places], dtype: torch.dtype | None) -> dict[str, _Place]:
    """The tensors to write with their bytes from the file's data on, in safetensors' own order."""
    known = {name: place for places in reversed(members) for name, place in places.items()}
    sizes = {}
    for name, place in known.items():
        code, width = place.dtype, place.width
        if dtype is not None and code in _FLOATS and not name.startswith(_OWN):
            code, width = _NAMES[dtype], dtype.itemsize
        sizes[name] = (code, width, math.prod(place.shape) * width)
    out, at = {}, 0
    for name in sorted(known, key=lambda n: (-sizes[n][1], n)):  # wide first: all are aligned
        code, _, size = sizes[name]
        size = known[name].bytes if code == known[name].dtype else size
        out[name] = _Place(Path(), at, code, known[name].shape, size)
        at += size
    return out


def _write(
    file: Path, layout: _Places, members: Sequence[_Places], weights: Sequence[float]
) -> None:
    """The file of all averages. Raises UserError for a value that is not finite."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, place in layout.items():
        span = [place.start, place.start + place.bytes]
        header[name] = {"dtype": place.dtype, "shape": list(place.shape), "data_offsets": span}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with ExitStack() as stack:
        files = {p.file for places in members for p in places.values()}
        readers = {f: stack.enter_context(open(f, "rb", buffering=0)) for f in files}
        sink = stack.enter_context(open(file, "wb", buffering=0))
        flusher = stack.enter_context(ThreadPoolExecutor(1))
        flushed: list[Future[None]] = []
        _put(sink, len(text).to_bytes(8, "little") + text)
        for name, place in layout.items():
            found = [(places.get(name), w) for places, w in zip(members, weights, strict=True)]
            if place.dtype in _FLOATS:
                blocks = _averages(name, place, found, readers)
            else:
                blocks = _equal_bytes(name, place, found, readers)
            for block in blocks:
                _put(sink, block)
                if sink.tell() >= FLUSH * (len(flushed) + 1):
                    flushed.append(flusher.submit(os.fsync, sink.fileno()))
            crash_point("soup.tensor")
        for done in flushed:
            done.result()


_Found = Sequence[tuple[_Place | None, float]]
_Readers = Mapping[Path, BinaryIO]


def _put(sink: BinaryIO, data: memoryview | bytes) -> None:
    """Write all of `data`: the system may take a part at a time."""
    view = memoryview(data)
    while view:
        view = view[sink.write(view) :]


def _averages(name: str, place: _Place, found: _Found, readers: _Readers) -> Iterator[memoryview]:
    """The weighted mean of a tensor, block by block, as bytes of the dtype to write."""
    count, total = math.prod(place.shape), sum(w for _, w in found)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        mean: Tensor | None = None
        for theirs, weight in found:
            if theirs is None:
                continue
            # Not add_(alpha=weight), which would round once where a product and a sum round twice.
            values = _read(theirs, start, size, readers).to(torch.float32)
            values = values.mul_(weight) if weight != 1.0 else values
            mean = values if mean is None else mean.add_(values)
        assert mean is not None, name
        written = (mean.div_(total) if total != 1.0 else mean).to(_FLOATS[place.dtype])
        # One sum tells: it is finite only if every value is (and else each is looked at).
        if not math.isfinite(float(written.sum(dtype=torch.float32))):
            _require_finite(name, written, found, start, readers)
        raw: Any = written.view(torch.uint8).numpy()
        yield memoryview(raw)


def _read(place: _Place, start: int, size: int, readers: _Readers) -> Tensor:
    """Elements `start` to `start + size` of a tensor, freshly read."""
    dtype = _FLOATS[place.dtype]
    data = bytearray(size * dtype.itemsize)
    _fill(data, place, start * dtype.itemsize, readers)
    return torch.frombuffer(data, dtype=dtype)


def _fill(data: bytearray, place: _Place, at: int, readers: _Readers) -> None:
    view, source = memoryview(data), readers[place.file].fileno()
    while view:
        got = os.preadv(source, [view], place.start + at)
        if not got:
            raise UserError(f"{place.file} ended while it was read", "leave it alone meanwhile")
        view, at = view[got:], at + got


def _require_finite(
    name: str, written: Tensor, found: _Found, start: int, readers: _Readers
) -> None:
    if bool(written.isfinite().all()):
        return
    for theirs, _ in found:
        if theirs is None:
            continue
        if not bool(_read(theirs, start, len(written), readers).isfinite().all()):
            what = f"{theirs.file}: {name} holds values that are not finite"
            raise UserError(what, "leave that model out")
    raise UserError(f"the average of {name} is not finite as {written.dtype}", "take other weights")


def _equal_bytes(
    name: str, place: _Place, found: _Found, readers: _Readers
) -> Iterator[memoryview]:
    """The bytes of a tensor that no average is taken of. Raises UserError where members differ."""
    places = [p for p, _ in found if p is not None]
    for start in range(0, place.bytes, 4 * BLOCK):
        pieces: list[bytearray] = []
        for theirs in places:
            data = bytearray(min(4 * BLOCK, place.bytes - start))
            _fill(data, theirs, start, readers)
            if pieces and data != pieces[0]:
                what = f"{name} is {theirs.dtype} and differs in {theirs.file} and {places[0].file}"
                raise UserError(what, "such tensors must be equal")
            pieces[:1] = [data]
        yield memoryview(pieces[0])


def _copy_files(model: Path, aside: Path, dtype: torch.dtype | None) -> None:
    """What describes the model: its configuration, vocabulary, licence."""
    for path in sorted(model.iterdir()):
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in _COPIED):
            shutil.copyfile(path, aside / path.name)
    if dtype is not None:
        config = json.loads((model / "config.json").read_bytes())
        written = str(dtype).removeprefix("torch.")
        config |= {key: written for key in ("dtype", "torch_dtype") if key in config}
        write_json(aside / "config.json", config, "soup.config")
