"""A picture as tiles and as tokens, as Llama 4 cuts it: a canvas of whole tiles, then a global one.

`Tiling().grid(700, 500)` -> (3, 2): 3 rows of 2 tiles and a global one, 7 x 144 tokens of patches.
Sizes are in pixels, (height, width) throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from puna.text.tokenizer import Tokenizer

Grid = tuple[int, int]
"""Rows and columns of tiles, the global one not counted."""


@dataclass(frozen=True)
class Tiling:
    """`side` of a tile in pixels, `tokens` of its patches, `most` tiles of one canvas."""

    side: int = 336
    tokens: int = 144
    most: int = 16

    def grids(self) -> list[Grid]:
        """Every canvas: all grids of at most `most` tiles."""
        sides = range(1, self.most + 1)
        return [(rows, columns) for rows in sides for columns in range(1, self.most // rows + 1)]

    def grid(self, height: int, width: int) -> Grid:
        """The canvas of a picture: the one that enlarges least; if all shrink it, shrinks least.

        Of those the smallest. Scales are compared in fp32, as the published processor does.
        """
        grids = self.grids()
        sides = np.array(grids, dtype=np.float32) * np.float32(self.side)
        scales = (sides / np.array([height, width], dtype=np.float32)).min(1)
        enlarging = scales[scales >= 1]
        scale = enlarging.min() if len(enlarging) else scales.max()
        fitting = [g for g, s in zip(grids, scales, strict=True) if s == scale]
        return min(fitting, key=lambda g: g[0] * g[1])

    def fit(self, height: int, width: int, grid: Grid) -> tuple[int, int]:
        """The size to which a picture is resized on its canvas; never enlarged beyond one tile."""
        tall = min(max(height, self.side), grid[0] * self.side)
        wide = min(max(width, self.side), grid[1] * self.side)
        by_height, by_width = tall / height, wide / width
        if by_width < by_height:
            return max(1, min(math.floor(height * by_width), tall)), wide
        return tall, max(1, min(math.floor(width * by_height), wide))

    def count(self, grid: Grid) -> int:
        """Tiles of a picture, the global one counted."""
        tiles = grid[0] * grid[1]
        return tiles + (tiles > 1)

    def names(self, grid: Grid) -> list[str]:
        """The tokens of a picture by name.

        Rows of tiles with a separator between tiles and one after each row; then the mark of the
        image and the global (or only) tile.
        """
        patches = ["patch"] * self.tokens
        rows, columns = grid
        row = [*patches, *(["tile_x_separator", *patches] * (columns - 1)), "tile_y_separator"]
        cut = row * rows if rows * columns > 1 else []
        return ["image_start", *cut, "image", *patches, "image_end"]

    def ids(self, tokenizer: Tokenizer, grid: Grid) -> list[int]:
        """The ids of these tokens. Raises UserError where the vocabulary lacks one of them."""
        names = self.names(grid)
        known = {name: tokenizer.special(name) for name in dict.fromkeys(names)}
        return [known[name] for name in names]

    def tiles(self, pixels_CHW: NDArray[np.uint8]) -> Tensor:
        """Tiles [N, C, side, side] of a picture, row by row and the global one last, in bfloat16.

        Resized with antialiasing on bytes; the canvas is filled up with
        0 on the right and below *before* levels become -1..1, in bfloat16 as published.
        """
        import torch
        import torch.nn.functional as F

        pixels = torch.from_numpy(pixels_CHW)
        height, width = pixels.shape[1:]
        grid = self.grid(height, width)
        rows, columns = grid
        small = _resize(pixels, self.fit(height, width, grid))
        right, below = columns * self.side - small.shape[2], rows * self.side - small.shape[1]
        canvas = F.pad(small, (0, right, 0, below))
        split = canvas.view(-1, rows, self.side, columns, self.side)
        tiles = split.permute(1, 3, 0, 2, 4).flatten(0, 1)
        if rows * columns > 1:
            tiles = torch.cat((tiles, _resize(pixels, (self.side, self.side))[None]))
        return tiles.to(torch.bfloat16).mul(1 / 255).sub_(0.5).div_(0.5)


def _resize(pixels_CHW: Tensor, size: tuple[int, int]) -> Tensor:
    # On bytes, in whole numbers as Pillow does it: fp32 would differ by a level here and there.
    import torch.nn.functional as F

    if tuple(pixels_CHW.shape[1:]) == size:
        return pixels_CHW
    return F.interpolate(pixels_CHW[None], size=size, mode="bilinear", antialias=True)[0]
