"""Specifications out of a folder: `read_folder(Path("mine"))["test"]`.

Each `.py`, `.dfy` or `.rs` file holds one; a body in it is the reference, and is taken off. Files
under `train/` are for training, all others for test.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from puna.core.errors import UserError
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


def read_folder(folder: Path) -> dict[str, tuple[Spec, ...]]:
    """The specifications of both splits, by name of file.

    Raises UserError where the folder has none, a file has none, or a split shares one with the
    other.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}", "give --set env.specs=DIR")
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


def contents(folder: Path) -> str:
    """A hash of all specifications in a folder, and of where they stand."""
    state = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in _SUFFIXES and p.is_file()):
        name = str(path.relative_to(folder)).encode(errors="surrogateescape")
        data = path.read_bytes()
        state.update(b"%d %s %d " % (len(name), name, len(data)) + data)
    return state.hexdigest()[:16]
