"""An index of an episode journal: where each episode stands, how it ended; large files by and by.

`index = Index(path); index.refresh(0.5); index.find(Wanted(outcome="failure"), 0, 50, 0.5)`.
Nothing is kept but a few numbers an episode; texts are read from the file when they are asked for.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from puna.serve.records import BROKEN, judged, light, shots, texts, verdict

_BUFFER = 1 << 20


@dataclass(frozen=True)
class Wanted:
    """Which episodes: of an outcome ("" any), a value from `least` to `most`, that hold `text`.

    Upper and lower case of A to Z are the same.
    """

    outcome: str = ""
    least: float = -math.inf
    most: float = math.inf
    text: str = ""


class Index:
    """The episodes of `path` by number, in the order in which they were first written.

    An episode that a resumed run wrote once more takes the place of the first. `broken` counts
    lines that are none, `read` is how much of the file has been looked at, 0 to 1.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.lock, self.head = path, threading.Lock(), b""
        self._clear()

    def _clear(self) -> None:
        self.end, self.broken, self.read = 0, 0, 0.0
        self.offsets, self.sizes = array("q"), array("q")  # of the line in bytes
        self.places = array("l")  # among the episodes of the line
        self.values, self.kinds = array("d"), array("B")
        self.names: list[str] = []  # of kinds
        self.known: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.offsets)

    def refresh(self, seconds: float) -> None:
        """Take in whole lines that are new until all are or the time is up.

        A file that is shorter or another than before is read from its start.
        """
        until = time.monotonic() + seconds
        with open(self.path, "rb", buffering=_BUFFER) as file:
            head = file.read(256)
            size = file.seek(0, os.SEEK_END)
            if size < self.end or not head.startswith(self.head):
                self._clear()
            self.head = head
            file.seek(self.end)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # being written at this moment
                self._add(self.end, line)
                self.end += len(line)
                if time.monotonic() > until:
                    self.read = self.end / max(size, self.end)
                    return
        self.read = 1.0

    def _add(self, offset: int, line: bytes) -> None:
        try:
            record = light(line)
            verdicts = [verdict(outcomes) for outcomes in judged(record)]
        except BROKEN:
            self.broken += 1
            return
        whose = [record.get(key) for key in ("step", "key", "task")]
        for place, (kind, value) in enumerate(verdicts):
            n = self.known.setdefault(hash(repr([*whose, place])), len(self))
            if n == len(self):
                for column in (self.offsets, self.sizes, self.places, self.kinds):
                    column.append(0)
                self.values.append(0.0)
            self.offsets[n], self.sizes[n], self.places[n] = offset, len(line), place
            self.values[n] = math.nan if value is None else value
            self.kinds[n] = self._kind(kind)

    def _kind(self, name: str) -> int:
        name = name if name in self.names or len(self.names) < 255 else self.names[-1]
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)

    def counts(self) -> dict[str, int]:
        """How many episodes have each outcome, of those read so far."""
        found = Counter(self.kinds)
        return {name: found[i] for i, name in enumerate(self.names)}

    def find(
        self, wanted: Wanted, start: int, limit: int, seconds: float
    ) -> tuple[list[int], int, int]:
        """At most `limit` episodes from number `start` on, where to go on, and how many there are.

        A text is looked for until the time is up; how many hold it is not known then: -1.
        """
        until = time.monotonic() + seconds
        fits = self._fitting(wanted)
        rest = fits[np.searchsorted(fits, start) :]
        if not wanted.text:
            shown = [int(n) for n in rest[:limit]]
            return shown, int(rest[limit]) if len(rest) > limit else len(self), len(fits)
        found: list[int] = []
        for n, whole in self._holding(rest, wanted.text):
            if whole:
                found.append(n)
            if len(found) == limit or time.monotonic() > until:
                return found, n + 1, -1
        return found, len(self), -1

    def _fitting(self, wanted: Wanted) -> np.ndarray[Any, Any]:
        """Numbers of the episodes of that outcome and value."""
        fits = np.ones(len(self), dtype=bool)
        if wanted.outcome:
            code = self.names.index(wanted.outcome) if wanted.outcome in self.names else -1
            fits &= np.frombuffer(self.kinds, dtype=np.uint8) == code
        if wanted.least > -math.inf or wanted.most < math.inf:
            values = np.frombuffer(self.values, dtype=np.float64)
            fits &= (values >= wanted.least) & (values <= wanted.most)
        found: np.ndarray[Any, Any] = np.flatnonzero(fits)
        return found

    def _holding(self, numbers: np.ndarray[Any, Any], text: str) -> Iterator[tuple[int, bool]]:
        """Each number, and whether its episode holds `text`: bytes first, then what they say."""
        needle = json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "replace").lower()
        with open(self.path, "rb", buffering=0) as file:
            for n in map(int, numbers):
                file.seek(self.offsets[n])
                line = file.read(self.sizes[n])
                end = line.find(b', "branches": ')
                yield n, needle in line[:end].lower() and self._says(n, line, text)

    def _says(self, n: int, line: bytes, text: str) -> bool:
        try:
            shot = shots(json.loads(line))[self.places[n]]
        except BROKEN:
            return False
        told = (*texts(shot["messages"]), *texts(shot["outcomes"]), shot["task"])
        wanted = text.encode("utf-8", "replace").lower()
        return any(wanted in one.encode("utf-8", "replace").lower() for one in told)

    def line(self, n: int) -> bytes:
        """The line that episode `n` stands in. Raises IndexError where there is none."""
        if n < 0:
            raise IndexError(n)
        with open(self.path, "rb") as file:
            file.seek(self.offsets[n])
            return file.read(self.sizes[n])

    def row(self, n: int) -> dict[str, Any]:
        """What a list tells of episode `n`."""
        record = light(self.line(n))
        kind, value = verdict(judged(record)[self.places[n]])
        step = record.get("step")
        return {"n": n, "task": str(record.get("task", "")), "step": step, "outcome": kind,
                "value": value}  # fmt: skip

    def episode(self, n: int) -> dict[str, Any]:
        """Episode `n` in full. Raises IndexError where there is none."""
        line = self.line(n)
        return shots(json.loads(line))[self.places[n]]
