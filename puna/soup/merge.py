"""The average of Hugging Face checkpoint directories, streamed a block of a tensor at a time.

`merge([Path("runs/x/a/model"), Path("runs/x/b/model")], [1, 2], Path("soup"))`.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

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
from puna.soup.stream import Writer
from puna.soup.tensors import BLOCK, FLOATS, WEIGHTS, Files, Member, Place, Source, open_member

SCHEMA = 1
RECORD = "soup.json"
GLANCE = 4096  # bytes of each tensor that tell two models apart, as a rule
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
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


def merge(
    models: Sequence[Path], weights: Sequence[float] | None, out: Path, dtype: str = ""
) -> Merged:
    """Write sum(w_i * tensor_i) / sum(w_i) of every tensor to `out` (Wortsman et al. 2022).

    `models` are directories with config.json and model.safetensors or its shards, or of adapters in
    peft's files, which count as base + alpha / rank * B A; `weights` None means 1 each. The sums
    are taken in fp32, member after member, then cast to `dtype` (float32, bfloat16, float16) or
    else to the first member's; tensors of whole numbers must be equal in all. config.json and the
    tokenizer's files are the first's; `out` gets one model.safetensors, and soup.json with the
    members. Memory does not grow with the models, and `out` appears whole or not at all.
    Raises UserError naming file, tensor and both shapes where the members do not fit each other,
    for weights that are no shares, for values that are not finite, where `out` is in use, and where
    the disk has no room.
    """
    models = [Path(m) for m in models]
    if meta := next(filter(is_meta, models), None):
        raise UserError(f"{meta} is in Meta's layout", f"puna export {meta} --out DIR comes first")
    shares = _shares(models, weights)
    require_free(out, models)
    if dtype and dtype not in DTYPES:
        raise UserError(f"cannot write a soup as {dtype}", f"give {', '.join(DTYPES)}")
    members = [open_member(m) for m in models]
    for other in members[1:]:
        _require_alike(members[0], other)
    layout = _layout(members, DTYPES.get(dtype, ""))
    size = sum(place.bytes for place in layout.values())
    _require_room(out, size)
    notes = [*_repeated(members), *_other_settings(members)]
    remove_asides(out)
    with NewDirectory(out, "soup") as aside:
        _copy_files(members[0].directory, aside, dtype)
        record = {"schema": SCHEMA, "members": [str(m) for m in models], "weights": shares}
        write_json(aside / RECORD, record, "soup.record")
        _write(aside / WEIGHTS, layout, members, weights or [1.0] * len(models))
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


def _require_room(out: Path, size: int) -> None:
    """Raises UserError where the disk has less than `size` bytes left."""
    place = next(p for p in (out.absolute(), *out.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    if free < size:
        what = f"cannot write {out}: it takes {size / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free"
        raise UserError(what, "free some space, or choose another disk")


def _require_alike(ours: Member, theirs: Member) -> None:
    """Raises UserError for tensors, heads or vocabularies that cannot be averaged."""
    for name in sorted(ours.places.keys() ^ theirs.places.keys()):
        if name.startswith(_OWN):
            continue
        has, lacks = (ours, theirs) if name in ours.places else (theirs, ours)
        place = has.places[name]
        what = f"{lacks.directory} has no tensor {name}, which {place.file} has {place}"
        raise UserError(what, "merge models of one shape")
    for name in sorted(ours.places.keys() & theirs.places.keys()):
        a, b = ours.places[name], theirs.places[name]
        if a.shape != b.shape:
            what = f"{name} is {a} in {a.file} and {b} in {b.file}"
            raise UserError(what, "merge models of one shape")
        if a.dtype != b.dtype and not {a.dtype, b.dtype} <= FLOATS.keys():
            what = f"{name} is {a.dtype} in {a.file} and {b.dtype} in {b.file}"
            raise UserError(what, "merge models of one kind")
    _require_same_meaning(ours.directory, theirs.directory)


def _require_same_meaning(first: Path, other: Path) -> None:
    vocabularies = [d / "tokenizer.json" for d in (first, other)]
    if first != other and all(v.exists() for v in vocabularies):
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


def _repeated(members: Sequence[Member]) -> list[str]:
    """What to say of members that are given twice, or whose weights are equal."""
    places = [m.given.resolve() for m in members]
    twice = {str(m.given): places.count(p) for m, p in zip(members, places, strict=True)}
    note = "{} is given {} times: its share counts each time"
    notes = [note.format(m, n) for m, n in twice.items() if n > 1]
    with Files({f for m in members for f in m.files}) as files:
        for a, b in combinations(dict(zip(places, members, strict=True)).values(), 2):
            if _same_weights(a, b, files):
                notes.append(f"{a.given} and {b.given} have the same weights: both shares count")
    return notes


def _same_weights(a: Member, b: Member, files: Files) -> bool:
    """Whether all stored values are equal; the beginnings of tensors are compared first."""
    if a.places.keys() != b.places.keys() or a.increments.keys() != b.increments.keys():
        return False
    pairs = [(a.places[n], b.places[n]) for n in a.places]
    for name, one in a.increments.items():
        two = b.increments[name]
        if one.scale != two.scale:
            return False
        pairs += [(one.a, two.a), (one.b, two.b)]
    pairs = [(x, y) for x, y in pairs if x != y]
    if any(x.dtype != y.dtype or x.bytes != y.bytes for x, y in pairs):
        return False
    return all(_same_bytes(x, y, files, most) for most in (GLANCE, None) for x, y in pairs)


def _same_bytes(x: Place, y: Place, files: Files, most: int | None) -> bool:
    end = min(x.bytes, most or x.bytes)
    for start in range(0, end, 4 * BLOCK):
        size = min(4 * BLOCK, end - start)
        ours, theirs = np.empty(size, np.uint8), np.empty(size, np.uint8)
        files.fill(ours, x, start)
        files.fill(theirs, y, start)
        if not np.array_equal(ours, theirs):
            return False
    return True


def _other_settings(members: Sequence[Member]) -> list[str]:
    """What members' config.json say otherwise than the first's, which is the one that is kept."""
    out, plain = [], ("dtype", "torch_dtype", "transformers_version", "_name_or_path")
    kept = members[0].directory
    first = _settings(kept)
    for model in (m.directory for m in members[1:]):
        other = _settings(model)
        keys = [k for k in first.keys() & other.keys() if first[k] != other[k] and k not in plain]
        if keys:
            out.append(f"{model} differs in {', '.join(sorted(keys))}: {kept}'s are kept")
    return out


def _layout(members: Sequence[Member], wanted: str) -> dict[str, Place]:
    """The tensors to write with their bytes from the file's data on, in safetensors' own order."""
    known = {name: place for m in reversed(members) for name, place in m.places.items()}
    sizes = {}
    for name, place in known.items():
        code, width, size = place.dtype, place.width, place.bytes
        if wanted and code in FLOATS and not name.startswith(_OWN):
            code, width = wanted, FLOATS[wanted][0]
            size = place.size * width
        sizes[name] = (code, width, size)
    out, at = {}, 0
    for name in sorted(known, key=lambda n: (-sizes[n][1], n)):  # wide first: all are aligned
        code, _, size = sizes[name]
        out[name] = Place(Path(), at, code, known[name].shape, size)
        at += size
    return out


def _write(
    file: Path, layout: Mapping[str, Place], members: Sequence[Member], weights: Sequence[float]
) -> None:
    """The file of all averages. Raises UserError for a value that is not finite."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, place in layout.items():
        span = [place.start, place.start + place.bytes]
        header[name] = {"dtype": place.dtype, "shape": list(place.shape), "data_offsets": span}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with Files({f for m in members for f in m.files}) as files, open(file, "wb") as sink:
        sink.write(len(text).to_bytes(8, "little") + text)
        sink.flush()
        with Writer(sink.fileno(), 8 + len(text), files, sum(weights)) as writer:
            for name, place in layout.items():
                shares = zip(members, weights, strict=True)
                sources = [Source(m, name, w, files) for m, w in shares if name in m.places]
                writer.write(name, place, sources)
                crash_point("soup.tensor")


def _copy_files(model: Path, aside: Path, dtype: str) -> None:
    """What describes the model: its configuration, vocabulary, licence."""
    for path in sorted(model.iterdir()):
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in _COPIED):
            shutil.copyfile(path, aside / path.name)
    if dtype:
        config = json.loads((model / "config.json").read_bytes())
        config |= {key: dtype for key in ("dtype", "torch_dtype") if key in config}
        write_json(aside / "config.json", config, "soup.config")
