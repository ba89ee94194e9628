"""Images of messages: files and data URLs to parts, parts to pixels, and where they stand in ids.

`part = attach(Path("cat.jpg"))`; `pixels(part).shape` -> (3, height, width), upright, RGB, uint8.
A file is opened only where its content is known by hash, which no message from outside states.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from puna.core.errors import UserError
from puna.core.foreign import Table
from puna.core.messages import Image, Message, ToolResult
from puna.text.tiling import Grid, Tiling

if TYPE_CHECKING:
    from torch import Tensor

    from puna.text.tokenizer import Tokenizer

MAX_BYTES = 64_000_000
MAX_PIXELS = 100_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


@dataclass(frozen=True)
class Picture:
    """An image part and the index of its first token among the ids of a conversation."""

    part: Image
    at: int

    def span(self, tiling: Tiling) -> range:
        """The places of all its tokens."""
        return range(self.at, self.at + len(tiling.names(grid_of(tiling, self.part))))

    def patches(self, tiling: Tiling) -> list[int]:
        """The places of its patches, tile after tile."""
        names = tiling.names(grid_of(tiling, self.part))
        return [self.at + i for i, name in enumerate(names) if name == "patch"]


def attach(path: Path) -> Image:
    """The part for an image file. Raises UserError where it is none, or is broken or too large."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _too_large(f"{path}", f"{path.stat().st_size:,} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the image {path}: {error.strerror}") from error
    mime = _decode(data, str(path))[1]
    return Image(hashlib.sha256(data).hexdigest(), mime, str(path.absolute()))


def inline(data: bytes, mime: str) -> Image:
    """The part for an encoded image in memory, carried as a data URL."""
    text = base64.b64encode(data).decode()
    return Image(hashlib.sha256(data).hexdigest(), mime, f"data:{mime};base64,{text}")


def attached(message: Message, folder: Path) -> Message:
    """`message` with paths (relative to `folder`) of images as parts of known content.

    Raises UserError for an image that cannot be read.
    """

    def known(part: Any) -> Any:
        if isinstance(part, ToolResult):
            return replace(part, parts=tuple(known(p) for p in part.parts))
        if not isinstance(part, Image) or part.sha256 or ":" in part.ref[:8]:
            return part
        return attach(folder / part.ref)

    return replace(message, parts=tuple(known(p) for p in message.parts))


@lru_cache(maxsize=64)
def pixels(part: Image) -> NDArray[np.uint8]:
    """Levels [3, height, width] of an image, upright as its EXIF says.

    Of an animation the first frame; what is transparent stands over white; 16 bits become 8.
    Raises UserError for what is no image, is cut off, is too large or would need the network.
    """
    data, where = _bytes(part)
    return _decode(data, where)[0]


def images_of(messages: Sequence[Message]) -> Iterator[Image]:
    """The image parts of a conversation in order, those of tool results among them."""
    for message in messages:
        for part in message.parts:
            inner = part.parts if isinstance(part, ToolResult) else (part,)
            yield from (p for p in inner if isinstance(p, Image))


def image_ids(tokenizer: Tokenizer, part: Image) -> list[int]:
    """The tokens of an image; the mark of one where the tokenizer belongs to a model of text."""
    if tokenizer.tiling is None:
        return [tokenizer.special("image")]
    return tokenizer.tiling.ids(tokenizer, grid_of(tokenizer.tiling, part))


@lru_cache(maxsize=65_536)
def grid_of(tiling: Tiling, part: Image) -> Grid:
    """The grid of tiles of an image."""
    _, height, width = pixels(part).shape
    return tiling.grid(height, width)


@lru_cache(maxsize=64)
def tiles_of(tiling: Tiling, part: Image) -> Tensor:
    """The tiles [N, 3, side, side] of an image."""
    return tiling.tiles(pixels(part))


def pictures_in(
    tokenizer: Tokenizer, messages: Sequence[Message], ids: Sequence[int], offset: int = 0
) -> list[Picture]:
    """The images of `messages` with their places in `ids`, which `render` made of these messages.

    `offset` is added to the places: that of `ids` in a longer conversation.
    """
    parts = list(images_of(messages))
    if not parts or tokenizer.tiling is None:
        return []
    # No other text becomes this token, so that the images begin exactly where it stands.
    start = tokenizer.special("image_start")
    places = [i + offset for i, token in enumerate(ids) if token == start]
    return [Picture(part, at) for part, at in zip(parts, places, strict=True)]


def read_tiling(directory: Path) -> Tiling | None:
    """How the model in `directory` has pictures cut; None for a model of text.

    Raises UserError for fields that are not numbers of their kind; whether they divide, whoever
    loads the model checks.
    """
    path, beside = directory / "config.json", directory / "preprocessor_config.json"
    vision = Table(_read(path), path).inner("vision_config")
    if not vision.data:
        return None
    most = Table(_read(beside), beside).whole("max_patches", 1, 16)
    side, patch = vision.whole("image_size", 1, 448), vision.whole("patch_size", 1, 14)
    ratio = vision.data.get("pixel_shuffle_ratio", 0.5)
    if type(ratio) not in (int, float) or not 0 < ratio <= 1:
        raise vision.refusal("pixel_shuffle_ratio", "1 / a whole number")
    across = int(side // patch * ratio)
    return Tiling(side, across * across, most)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}  # whoever loads the model complains of it
    return data if isinstance(data, dict) else {}


def _bytes(part: Image) -> tuple[bytes, str]:
    """An image's encoded bytes, and how to name it in a complaint."""
    if part.ref.startswith("data:"):
        head, _, text = part.ref.partition(",")
        if not head.endswith(";base64"):
            raise UserError(f"an image is {head[:60]!r}", "give data:image/png;base64,...")
        if len(text) > MAX_BYTES * 4 // 3 + 4:
            raise _too_large("an image", f"{len(text):,} letters of base64")
        try:
            return base64.b64decode(text, validate=True), "an image"
        except (binascii.Error, ValueError) as error:
            raise UserError(f"an image's data URL is not base64: {error}") from None
    if not part.sha256:
        what = f"an image is named {part.ref[:60]!r}, and nothing is fetched for a message"
        raise UserError(what, "send it as data:image/png;base64,...")
    try:
        data = Path(part.ref).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the image {part.ref}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise UserError(f"the image {part.ref} has changed", "put the old one back, or begin anew")
    return data, part.ref


def _decode(data: bytes, where: str) -> tuple[NDArray[np.uint8], str]:
    """Pixels and media type. Pillow raises whatever it likes on broken files."""
    try:
        import PIL.Image
    except ImportError:
        raise UserError("reading images needs Pillow", "pip install 'puna[images]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked here
            with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as image:
                wide, tall = image.size
                if wide * tall > MAX_PIXELS:
                    raise _too_large(where, f"{wide} x {tall} pixels")
                return _upright(image), str(image.get_format_mimetype())
    except (UserError, MemoryError):
        raise
    except PIL.UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise UserError(f"{where} is no image that can be read", f"give one of {kinds}") from None
    except PIL.Image.DecompressionBombError:
        raise _too_large(where, "too many pixels") from None
    except Exception as error:
        what = f"{where} is not a whole image: {str(error)[:100]}"
        raise UserError(what, "copy it again") from None


def _upright(image: Any) -> NDArray[np.uint8]:
    import PIL.Image
    import PIL.ImageOps

    image.load()
    image = PIL.ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, which converting would cut off at 255
        levels = np.asarray(image).astype(np.int64).clip(0, 65_535) >> 8
        image = PIL.Image.fromarray(levels.astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(paper, image)
    return np.array(np.asarray(image.convert("RGB")).transpose(2, 0, 1), order="C")


def _too_large(where: str, what: str) -> UserError:
    limits = f"{MAX_BYTES // 1_000_000} MB and {MAX_PIXELS // 1_000_000} million pixels"
    return UserError(f"{where} is too large: {what}", f"give at most {limits}")
