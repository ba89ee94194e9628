"""Append-only JSON lines that survive `kill -9`: a torn last line is dropped when reading.

`Journal(path).append({"step": 1})`; `read(path)` gives every whole record.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from puna.core.files import crash_point, explain, json_bytes

SCHEMA = 1


class Journal:
    """Appends records to one file; each append is one write of one line."""

    def __init__(self, path: Path, point: str = "journal") -> None:
        self.path, self.point = path, point
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._mend()
        except OSError as error:
            raise explain(error, path) from error

    def _mend(self) -> None:
        """Cut a torn last line so that the next record starts on a line of its own."""
        if not self.path.exists():
            return
        with open(self.path, "rb+") as f:
            end = f.seek(0, os.SEEK_END)
            keep = end
            while keep > 0:
                start = max(0, keep - 65536)
                f.seek(start)
                cut = f.read(keep - start).rfind(b"\n")
                if cut >= 0:
                    keep = start + cut + 1
                    break
                keep = start
            if keep != end:
                f.truncate(keep)

    def append(self, record: dict[str, Any], sync: bool = False) -> None:
        """Write one record; `sync` waits for the disk. Raises UserError on a full disk."""
        line = json_bytes({"schema": SCHEMA, **record}) + b"\n"
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                view = memoryview(line)
                while view:
                    view = view[os.write(fd, view) :]
                if sync:
                    os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            self._mend()
            raise explain(error, self.path) from error
        crash_point(f"{self.point}.appended")


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole record of a journal; broken lines (a torn tail) are passed over."""
    if not path.exists():
        return
    with open(path, "rb") as f:
        for line in f:
            if not line.endswith(b"\n"):
                return  # torn, or about to be cut as torn by the next writer
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                yield record


def last_by(path: Path, key: str) -> dict[Any, dict[str, Any]]:
    """The last record for each value of `key`, ordered by it: what a resumed run re-wrote wins."""
    found = {r[key]: r for r in read(path) if key in r}
    return dict(sorted(found.items()))
