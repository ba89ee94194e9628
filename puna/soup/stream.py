"""Averages of tensors written to a file, a block at a time, in a few threads.

`with Writer(sink, begin, files, total) as writer: writer.write(name, place, sources)`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puna.core.errors import UserError
from puna.soup.tensors import BLOCK, FLOATS, Files, Floats, Place, Source, rounded

# Bytes after which the disk is told to begin: what is written must be on it before the rename.
FLUSH = 32 << 20
THREADS = min(8, 2 * (os.cpu_count() or 1))  # some wait for the disk


class _Room:
    """Memory for `size` elements that a thread works in: sums, a member's values, bytes as read."""

    def __init__(self, size: int) -> None:
        self.sums, self.values = np.empty(size, np.float32), np.empty(size, np.float32)
        self.raw = np.empty(4 * size, np.uint8)


class Writer:
    """Writes tensors to the file `sink`, whose data begins at byte `begin`.

    Every average is sum(weight * values) / `total`, in fp32 and member after member.
    """

    def __init__(self, sink: int, begin: int, files: Files, total: float) -> None:
        self.sink, self.begin, self.files, self.total = sink, begin, files, np.float32(total)
        self.cooks, self.flusher = ThreadPoolExecutor(THREADS), ThreadPoolExecutor(1)
        self.flushed: list[Future[None]] = []
        self.rooms: SimpleQueue[_Room] = SimpleQueue()
        for _ in range(THREADS):
            self.rooms.put(_Room(BLOCK))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *failure: object) -> None:
        self.cooks.shutdown(cancel_futures=True)
        self.flusher.shutdown()
        if kind is None:
            for done in self.flushed:
                done.result()

    def write(self, name: str, place: Place, sources: Sequence[Source]) -> None:
        """One tensor to its `place` behind `begin`: the average, or of what is no float the bytes.

        Raises UserError for an average that is not finite, and for other bytes that differ.
        """
        if place.dtype in FLOATS:
            step, size, width, work = _step(sources), place.size, place.width, self._average
        else:
            step, size, width, work = 4 * BLOCK, place.bytes, 1, self._copy

        def block(start: int) -> None:
            work(name, place, sources, start, min(step, size - start))

        span = max(1, FLUSH // (step * width)) * step
        for first in range(0, size, span):
            for _ in self.cooks.map(block, range(first, min(size, first + span), step)):
                pass
            if first + span < size or place.start // FLUSH < (place.start + place.bytes) // FLUSH:
                self.flushed.append(self.flusher.submit(os.fsync, self.sink))

    def _average(
        self, name: str, place: Place, sources: Sequence[Source], start: int, count: int
    ) -> None:
        room = self.rooms.get()
        try:
            if len(room.sums) < count:
                room = _Room(count)
            with np.errstate(all="ignore"):
                sums = _sums(sources, room, start, count)
                if self.total != 1:
                    np.divide(sums, self.total, out=sums)
                most = FLOATS[place.dtype][1]
                if not -most < float(sums.min()) <= float(sums.max()) < most:
                    raise _not_finite(name, place.dtype, sources, room, start, count)
                made = rounded(sums, place.dtype, room.values)
            self._put(made, place.start + start * place.width)
        finally:
            self.rooms.put(room)

    def _copy(
        self, name: str, place: Place, sources: Sequence[Source], start: int, count: int
    ) -> None:
        mine, other = np.empty(count, np.uint8), np.empty(count, np.uint8)
        first = sources[0].place
        self.files.fill(mine, first, start)
        for source in sources[1:]:
            theirs = source.place
            self.files.fill(other, theirs, start)
            if not np.array_equal(mine, other):
                what = f"{name} is {theirs.dtype} and differs in {theirs.file} and {first.file}"
                raise UserError(what, "such tensors must be equal")
        self._put(mine, place.start + start)

    def _put(self, data: NDArray[Any], at: int) -> None:
        view, at = data.data.cast("B"), self.begin + at
        while view:
            done = os.pwrite(self.sink, view, at)
            view, at = view[done:], at + done


def _step(sources: Sequence[Source]) -> int:
    """Elements of a block: whole rows where a member's adapters make them."""
    columns = max((s.columns for s in sources), default=0)
    return max(1, BLOCK // columns) * columns if columns else BLOCK


def _sums(sources: Sequence[Source], room: _Room, start: int, count: int) -> Floats:
    """Of weight * values, in the room's memory."""
    sums = room.sums[:count]
    for i, source in enumerate(sources):
        values = room.values[:count] if i else sums
        source.read(values, room.raw, start)
        if source.weight != 1.0:
            np.multiply(values, np.float32(source.weight), out=values)
        if i:
            np.add(sums, values, out=sums)
    return sums


def _not_finite(
    name: str, code: str, sources: Sequence[Source], room: _Room, start: int, count: int
) -> UserError:
    values = room.values[:count]
    for source in sources:
        source.read(values, room.raw, start)
        if not np.isfinite(values).all():
            what = f"{source.file}: {name} holds values that are not finite"
            return UserError(what, "leave that model out")
    return UserError(f"the average of {name} is not finite as {code}", "take other weights")
