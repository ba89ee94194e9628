"""Tiles and tokens of a picture as the published processor makes them."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from puna.core.errors import UserError
from puna.text.tiling import Grid, Tiling
from puna.text.tokenizer import Tokenizer

PUBLISHED = Tiling()
TOKENIZER = Tokenizer.train(["a picture"], 300, tiling=PUBLISHED)

# SHA-256 of the bfloat16 tiles that Llama4ImageProcessor (transformers 5.23, torchvision 0.28) made
# of `noise(height, width)`.
THEIRS = {
    (336, 336): ((1, 1), 1, "c86f94219cb947eb"),
    (337, 336): ((2, 1), 3, "131de4790f476362"),
    (672, 672): ((2, 2), 5, "515bcd66d05f1b6c"),
    (1024, 768): ((4, 3), 13, "3ca0012985e14059"),
    (40, 30): ((1, 1), 1, "d0cdbd03c74422e6"),
    (333, 1): ((1, 1), 1, "59ac1ef0feb85fd9"),
    (1, 1): ((1, 1), 1, "dc48a5842d99e129"),
    (9, 2000): ((1, 6), 7, "2923f4b339b3e6b6"),
    (700, 500): ((3, 2), 7, "62d40cd1bf2e173c"),
}


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.RandomState(height).randint(0, 256, (3, height, width), dtype=np.uint8)


@pytest.mark.parametrize("size", THEIRS)
def test_tiles_equal_the_published_processors(size: Grid) -> None:
    grid, count, digest = THEIRS[size]
    tiles = PUBLISHED.tiles(noise(*size))
    assert PUBLISHED.grid(*size) == grid
    assert len(tiles) == count == PUBLISHED.count(grid)
    found = hashlib.sha256(tiles.view(torch.int16).numpy().tobytes()).hexdigest()
    assert found[:16] == digest


@pytest.mark.parametrize(
    ("size", "grid", "tiles", "tokens"),
    [
        ((336, 336), (1, 1), 1, 147),
        ((337, 336), (2, 1), 3, 437),
        ((672, 672), (2, 2), 5, 727),
        ((1024, 768), (4, 3), 13, 1887),
        ((3000, 2000), (5, 3), 16, 2322),
        ((20_000, 1), (16, 1), 17, 2467),
    ],
)
def test_published_examples(size: Grid, grid: Grid, tiles: int, tokens: int) -> None:
    assert PUBLISHED.grid(*size) == grid
    assert PUBLISHED.count(grid) == tiles
    assert len(PUBLISHED.ids(TOKENIZER, grid)) == tokens


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (2, 1), (3, 5), (4, 4)])
def test_tokens_equal_the_published_processors(grid: Grid) -> None:
    pytest.importorskip("transformers")
    from transformers.models.llama4.processing_llama4 import Llama4Processor

    text = Llama4Processor._prompt_split_image(SimpleNamespace(), grid, 144)
    spelt = TOKENIZER.decode(PUBLISHED.ids(TOKENIZER, grid), skip_special=False)
    assert spelt == text


def test_every_canvas() -> None:
    grids = PUBLISHED.grids()
    assert len(grids) == len(set(grids)) == 50
    assert all(1 <= rows * columns <= 16 for rows, columns in grids)


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.sampled_from([(336, 16), (32, 4)]))
def test_a_picture_fits_its_canvas_and_keeps_its_shape(
    height: int, width: int, sizes: tuple[int, int]
) -> None:
    tiling = Tiling(sizes[0], 16, sizes[1])
    grid = tiling.grid(height, width)
    tall, wide = tiling.fit(height, width, grid)
    assert 1 <= tall <= grid[0] * tiling.side
    assert 1 <= wide <= grid[1] * tiling.side
    scale = max(tall / height, wide / width)
    assert scale <= max(1.0, tiling.side / max(height, width)) + 1e-6  # never beyond one tile
    if min(tall, wide) > 1:
        assert abs(height * scale - tall) < 1
        assert abs(width * scale - wide) < 1


def test_padding_is_black_and_the_global_tile_is_squashed() -> None:
    tiling = Tiling(8, 4, 4)
    white = np.full((3, 4, 16), 255, dtype=np.uint8)
    left, right, whole = tiling.tiles(white).float()
    for tile in (left, right):
        assert bool((tile[:, :4] == 1).all())
        assert bool((tile[:, 4:] == -1).all())
    assert bool((whole == 1).all())


def test_a_vocabulary_without_their_tokens_says_so() -> None:
    plain = Tokenizer.train(["a picture"], 300)
    with pytest.raises(UserError, match=r"no <\|image_start\|> token"):
        PUBLISHED.ids(plain, (1, 1))
    with pytest.raises(UserError, match="ask for 277 or more"):
        Tokenizer.train(["a"], 272, tiling=PUBLISHED)
