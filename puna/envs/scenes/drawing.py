"""Scenes as pictures: coloured shapes on a grid, drawn with numpy, as PNG files.

`png(draw([Thing("red", "disc", 0)], jitter=7))` -> the bytes of a 32 x 32 picture.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from puna.core.rng import stream

SIDE = 32
_CELL, _SIZE = 10, 8  # pixels of a place, and of a shape in it
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 215, 50),
    "purple": (150, 50, 180),
    "white": (250, 250, 250),
}
PLACES = tuple(
    f"{row} {column}"
    for row in ("top", "middle", "bottom")
    for column in ("left", "centre", "right")
)


def _shapes() -> dict[str, NDArray[np.bool_]]:
    y, x = np.mgrid[:_SIZE, :_SIZE]
    across, down = np.abs(x - 3.5), np.abs(y - 3.5)
    disc = across**2 + down**2 <= 15
    return {
        "square": np.ones((_SIZE, _SIZE), dtype=bool),
        "disc": disc,
        "ring": disc & (across**2 + down**2 >= 5),
        "cross": (across < 1.5) | (down < 1.5),
        "triangle": across <= y / 2 + 0.5,
    }


SHAPES = _shapes()


@dataclass(frozen=True)
class Thing:
    """A shape of a colour at one of the nine places, counted row by row from 0."""

    colour: str
    shape: str
    place: int

    def __str__(self) -> str:
        return f"{self.colour} {self.shape} {PLACES[self.place]}"

    @property
    def name(self) -> str:
        """What it is, wherever it is."""
        return f"{self.colour} {self.shape}"


def draw(things: Sequence[Thing], jitter: int) -> NDArray[np.uint8]:
    """The picture [SIDE, SIDE, 3]; `jitter` decides the shade of grey and who stands how askew."""
    rng = stream(jitter, "scenes", "drawing")
    picture = np.full((SIDE, SIDE, 3), 60 + int(rng.random() * 60), dtype=np.uint8)
    for thing in things:
        row, column = divmod(thing.place, 3)
        y, x = (1 + _CELL * n + int(rng.random() * 3) for n in (row, column))
        picture[y : y + _SIZE, x : x + _SIZE][SHAPES[thing.shape]] = COLOURS[thing.colour]
    return picture


def png(picture: NDArray[np.uint8]) -> bytes:
    """A picture [height, width, 3] as a PNG file (without Pillow, which only reading needs)."""
    height, width, _ = picture.shape

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    lines = np.concatenate((np.zeros((height, 1), np.uint8), picture.reshape(height, -1)), 1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")
