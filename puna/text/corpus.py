"""Pretraining text: a folder, a file, or this Python's standard library, split by documents.

`read_corpus(None).held_out[0].text` is a module of the standard library nobody trains on.
"""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.core.errors import UserError

MIN_BYTES = 10_000
_LINE_BYTES = 50
# Shorter lines ("return self", "else:") are shared by files that have nothing else in common.
_TELLING_BYTES = 20
# Tests come with some Pythons and not with others; without them the corpus is the same.
_STDLIB_SKIPS = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}


@dataclass(frozen=True)
class TextFile:
    """One document; `path` is relative to the corpus, with `#3` behind it for a row or a piece."""

    path: str
    text: str

    @property
    def bytes(self) -> int:
        """Length in UTF-8."""
        return len(self.text.encode("utf-8"))


@dataclass(frozen=True)
class Corpus:
    """Documents to train on and documents held out, disjoint; both sorted by path.

    `digest` is over every path, text and side; `skipped` counts the files left out by reason.
    """

    train: list[TextFile]
    held_out: list[TextFile]
    digest: str
    skipped: dict[str, int]


def find_stdlib() -> Path:
    """Where this Python keeps its standard library."""
    return Path(sysconfig.get_path("stdlib"))


def read_corpus(
    path: Path | None = None,
    *,
    held_out_percent: float = 2,
    max_bytes: int | None = None,
    min_bytes: int = MIN_BYTES,
) -> Corpus:
    """The UTF-8 documents under `path`, a file or folder; None reads the standard library.

    A .jsonl line is a document (field `text`), so is a .parquet row (column `text`), so is any
    other file that is text. Hidden files and exact copies are dropped. A document's side follows
    from the hash of its path, hence does not change when others come; a held-out one that shares
    more than half of its telling lines with training text goes to training. Where there are too
    few documents to hold some out they are cut into pieces at line ends. `max_bytes` takes a
    sample of about that size, the same each time.
    Raises UserError where nothing is there, nothing is text, or there is less than `min_bytes`.
    """
    root = find_stdlib() if path is None else Path(path)
    skipped: Counter[str] = Counter()
    files = _files(root, only_python=path is None)
    documents = _distinct(files, max_bytes, skipped)
    size = sum(d.bytes for d in documents)
    _check_size(root, len(files), size, min_bytes, skipped)
    if len(documents) * held_out_percent < 100:
        documents = _pieces(documents, int(size * held_out_percent / 400))
    train, held_out = _split(sorted(documents, key=lambda d: d.path), held_out_percent)
    return Corpus(train, held_out, _digest(train, held_out), dict(sorted(skipped.items())))


def _files(root: Path, only_python: bool) -> list[tuple[str, Path]]:
    """Relative name and path, in the order of the names' hashes: a prefix is a fair sample."""
    if root.is_file():
        return [(root.name, root)]
    if not root.is_dir():
        raise UserError(f"no file or folder {root}", fix="name a folder of text files")
    found: list[tuple[str, Path]] = []
    for folder, inner, names in os.walk(root):
        inner[:] = [d for d in inner if not d.startswith(".")]
        if only_python:
            inner[:] = [d for d in inner if d not in _STDLIB_SKIPS]
        for name in names:
            if not name.startswith(".") and (not only_python or name.endswith(".py")):
                file = Path(folder, name)
                found.append((file.relative_to(root).as_posix(), file))
    if not found:
        raise UserError(f"{root} holds no files", fix="name a folder of text files")
    return sorted(found, key=lambda f: (_hash("sample", f[0]), f[0]))


def _distinct(
    files: list[tuple[str, Path]], max_bytes: int | None, skipped: Counter[str]
) -> list[TextFile]:
    out: list[TextFile] = []
    seen: set[bytes] = set()
    room = max_bytes
    for name, file in files:
        for document in _documents(name, file, skipped):
            encoded = document.text.encode("utf-8")
            if (key := hashlib.sha256(encoded).digest()) in seen:
                skipped["copy of another"] += 1
                continue
            seen.add(key)
            if room is not None and len(encoded) >= room:
                head = encoded[:room].decode("utf-8", "ignore")
                return [*out, TextFile(document.path, head)] if head else out
            out.append(document)
            room = None if room is None else room - len(encoded)
    return out


def _documents(name: str, file: Path, skipped: Counter[str]) -> Iterator[TextFile]:
    if file.suffix == ".parquet":
        yield from _parquet_rows(name, file)
        return
    try:
        data = file.read_bytes()
    except OSError:
        skipped["unreadable"] += 1
        return
    if not data.strip():
        skipped["empty"] += 1
    elif b"\0" in data:
        skipped["binary"] += 1
    elif (text := _utf8(data)) is None:
        skipped["not UTF-8"] += 1
    elif file.suffix == ".jsonl":
        yield from _jsonl_rows(name, file, text)
    else:
        yield TextFile(name, text)


def _utf8(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _jsonl_rows(name: str, file: Path, text: str) -> Iterator[TextFile]:
    # Only "\n" ends a line: str.splitlines would also cut at U+2028 inside a JSON string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise UserError(
                f"{file}, line {number}: not a JSON object with a string `text`",
                fix='write lines like {"text": "..."}',
            )
        if row["text"].strip():
            # JSON may escape half of a surrogate pair, which UTF-8 cannot hold.
            clean = row["text"].encode("utf-8", "replace").decode("utf-8")
            yield TextFile(f"{name}#{number}", clean)


def _parquet_rows(name: str, file: Path) -> Iterator[TextFile]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError(f"{file} needs pyarrow", fix="pip install pyarrow") from None
    try:
        table = pq.ParquetFile(file)
        has_text = "text" in table.schema_arrow.names
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is not a parquet file: {error}", fix="copy it again") from None
    if not has_text:
        names = ", ".join(table.schema_arrow.names)
        raise UserError(f"{file} has no column `text`, only {names}", fix="rename the column")
    number = 0
    for batch in table.iter_batches(columns=["text"]):
        for text in batch.column(0).to_pylist():
            number += 1
            if isinstance(text, str) and text.strip():
                yield TextFile(f"{name}#{number}", text)


def _check_size(root: Path, files: int, size: int, min_bytes: int, skipped: Counter[str]) -> None:
    reasons = ", ".join(f"{count} {why}" for why, count in sorted(skipped.items()))
    if size == 0:
        raise UserError(
            f"no text in {root}: of {files} files {reasons or 'none had a word'}",
            fix="name a folder of UTF-8 text files",
        )
    if size < min_bytes:
        left_out = f" (left out: {reasons})" if reasons else ""
        raise UserError(
            f"{root} holds {size:,} bytes of text, {min_bytes:,} are needed{left_out}",
            fix="add text, or leave the corpus out to train on Python's standard library",
        )


def _pieces(documents: list[TextFile], size: int) -> list[TextFile]:
    out: list[TextFile] = []
    for document in documents:
        cuts = _cuts(document.text, max(size, 1))
        if len(cuts) == 1:
            out.append(document)
        else:
            out += [TextFile(f"{document.path}#{i}", text) for i, text in enumerate(cuts, 1)]
    return out


def _cuts(text: str, size: int) -> list[str]:
    """Pieces of at least `size` characters, each to a line's end; a longer line is cut within."""
    out, at = [], 0
    while at < len(text):
        end = text.find("\n", at + size - 1, at + 2 * size) + 1 or at + 2 * size
        out.append(text[at:end])
        at = end
    return out


def _split(documents: list[TextFile], percent: float) -> tuple[list[TextFile], list[TextFile]]:
    ranks = {d.path: _hash("split", d.path) for d in documents}
    bound = percent / 100 * 2**64
    held = [d for d in documents if ranks[d.path] < bound]
    if not held or len(held) == len(documents):
        held = [min(documents, key=lambda d: ranks[d.path])]
    held = _unlike_training(documents, held)
    paths = {d.path for d in held}
    return [d for d in documents if d.path not in paths], held


def _unlike_training(documents: list[TextFile], held: list[TextFile]) -> list[TextFile]:
    """Those of `held` that share at most half of their lines with the rest of `documents`.

    Moving one to training can make another one's copy, so it repeats until nothing moves. The
    last one stays: there must be something to measure on.
    """
    lines = {d.path: set(_telling_lines(d.text)) for d in held}
    wanted = set().union(*lines.values())
    known: set[bytes] = set()
    for document in documents:
        if document.path not in lines:
            known.update(wanted.intersection(_telling_lines(document.text)))
    while len(held) > 1:
        near = [d for d in held if 2 * len(lines[d.path] & known) > len(lines[d.path])]
        if not near:
            break
        near = near[: len(held) - 1]
        known.update(*(lines[d.path] for d in near))
        moved = {d.path for d in near}
        held = [d for d in held if d.path not in moved]
    return held


def _telling_lines(text: str) -> Iterable[bytes]:
    for line in text.encode("utf-8").splitlines():
        if len(line := line.strip()) >= _TELLING_BYTES:
            yield line[:_LINE_BYTES]


def _hash(purpose: str, name: str) -> int:
    data = f"{purpose}:{name}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def _digest(train: list[TextFile], held_out: list[TextFile]) -> str:
    out = hashlib.sha256()
    for side, documents in (("train", train), ("held_out", held_out)):
        for document in documents:
            record = json.dumps([side, document.path, document.text])
            out.update(record.encode("ascii") + b"\n")
    return out.hexdigest()
