"""Specifications out of files: `read(Path("mine"))["test"]`.

Each `.py`, `.dfy` or `.rs` file holds one; a body in it is the reference, and is taken off. Files
under `train/` are for training, all others for test. A `.jsonl` file is what `puna propose proofs`
wrote: what was admitted there is for training.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from puna.core.errors import UserError
from puna.core.journal import last_by
from puna.envs.proofs.acceptance import DIALECTS
from puna.envs.proofs.dialect import Spec, SpecError
from puna.gym.task import SPLITS

LARGEST = 1 << 20  # bytes of a file
_SUFFIXES = {d.suffix: d for d in DIALECTS.values()}
_WORD = re.compile(r"[A-Za-z_]\w*|\d+|[^\w\s]")
_KEPT = {
    *("def", "int", "bool", "list", "len", "result", "old", "at", "forall", "exists", "if", "then"),
    *("else", "and", "or", "not", "True", "False", "requires", "ensures", "variant", "function"),
    *("predicate", "method", "lemma", "returns", "fn"),
}


Splits = dict[str, tuple[Spec, ...]]


def read(place: Path) -> Splits:
    """The specifications of a folder, of one file, or of what was proposed, by split.

    Raises UserError where there is none.
    """
    if place.is_dir():
        return read_folder(place)
    if place.suffix == ".jsonl" and place.is_file():
        return {"train": read_proposed(place), "test": ()}
    if place.suffix in _SUFFIXES and place.is_file():
        return {"train": (), "test": (read_file(place),)}
    what = f"no folder, .py, .dfy, .rs or .jsonl file {place}"
    raise UserError(what, "give --set env.specs=PLACE")


def read_proposed(path: Path) -> tuple[Spec, ...]:
    """What was admitted of a file of proposals. Raises UserError where nothing was."""
    try:
        rows = [r for r in last_by(path, "number").values() if r["admission"]["admitted"]]
        found = tuple(replace(of_record(r["draft"]), admission=r["admission"]) for r in rows)
    except (KeyError, TypeError, AttributeError, SpecError) as error:
        raise UserError(f"{path}: a draft is broken: {error!r}", "propose it anew") from None
    if not found:
        raise UserError(f"{path} holds no admitted task", "puna propose proofs --out FILE")
    return found


def to_record(spec: Spec) -> dict[str, str]:
    """What a file of proposals keeps of a specification and of its reference."""
    text = spec.reference or spec.with_body("")
    return {"name": spec.name, "dialect": spec.dialect, "text": text}


def of_record(data: Mapping[str, Any]) -> Spec:
    """The inverse of `to_record`. Raises KeyError, TypeError, AttributeError or SpecError."""
    return DIALECTS[data["dialect"]].spec(str(data["name"]), data["text"])


def read_folder(folder: Path) -> Splits:
    """The specifications of both splits, by name of file.

    Raises UserError where the folder has none, a file has none, or a split shares one with the
    other.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix in _SUFFIXES and p.is_file())
    if not paths:
        raise UserError(f"{folder} has no .py, .dfy or .rs file", "put a specification there")
    found: dict[str, list[Spec]] = {split: [] for split in SPLITS}
    seen: dict[str, tuple[str, Path]] = {}
    for path in paths:
        split = "train" if path.relative_to(folder).parts[0] == "train" else "test"
        spec = read_file(path)
        other, where = seen.setdefault(canonical(spec.header), (split, path))
        if other != split:
            raise UserError(f"{path} and {where} are the same specification", "keep one of them")
        if where == path:
            found[split].append(spec)
    return {split: tuple(specs) for split, specs in found.items()}


def read_file(path: Path) -> Spec:
    """The specification in a file. Raises UserError, naming it, where there is none."""
    try:
        data = path.read_bytes()
        if len(data) > LARGEST:
            raise SpecError(f"it is larger than {LARGEST:,} bytes")
        return _SUFFIXES[path.suffix].spec(path.stem, normal(data.decode()))
    except (OSError, UnicodeDecodeError, SpecError) as error:
        raise UserError(f"{path}: {error}", "mend the file, or take it away") from None


def normal(text: str) -> str:
    """The text with plain line ends, none before it and one behind it."""
    return text.replace("\r\n", "\n").strip("\n") + "\n"


def canonical(header: str) -> str:
    """A specification without comments, spacing and the names that its author chose."""
    numbers: dict[str, str] = {}
    out = []
    for line in header.split("\n"):
        said = line.replace("#@", "@@").partition("#")[0].partition("//" + " ")[0]
        for word in _WORD.findall(said):
            plain = not (word[0].isalpha() or word[0] == "_") or word in _KEPT
            out.append(word if plain else numbers.setdefault(word, f"n{len(numbers)}"))
    return " ".join(out)


def contents(place: Path) -> str:
    """A hash of all specifications in a folder, and of where they stand, or of a file."""
    state = hashlib.sha256()
    paths = [place] if place.is_file() else sorted(p for p in place.rglob("*") if _counts(p))
    for path in paths:
        name = str(path.relative_to(place)).encode(errors="surrogateescape")
        data = path.read_bytes()
        state.update(b"%d %s %d " % (len(name), name, len(data)) + data)
    return state.hexdigest()[:16]


def _counts(path: Path) -> bool:
    return path.suffix in _SUFFIXES and path.is_file()
