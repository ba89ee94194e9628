"""Images of messages: every kind of file gives pixels or one line; places in ids are exact."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.core.errors import UserError
from puna.core.messages import Image, Message, Text, ToolResult
from puna.text.images import (
    Picture,
    attach,
    attached,
    images_of,
    inline,
    pictures_in,
    pixels,
    read_tiling,
)
from puna.text.template import render
from puna.text.tiling import Tiling
from puna.text.tokenizer import Tokenizer

PIL = pytest.importorskip("PIL")
from PIL import Image as Pillow  # noqa: E402

TILING = Tiling(8, 4, 4)
TOKENIZER = Tokenizer.train(["what is there"], 300, tiling=TILING)
RAMP = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def encoded(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def part(image: Any, kind: str = "PNG", **options: Any) -> Image:
    return inline(encoded(image, kind, **options), f"image/{kind.lower()}")


def colour_at(found: Any, y: int, x: int) -> tuple[int, ...]:
    return tuple(found[:, y, x].tolist())


def test_pixels_of_a_plain_picture_by_url_and_by_path(tmp_path: Path) -> None:
    image = Pillow.fromarray(RAMP)
    assert np.array_equal(pixels(part(image)), RAMP.transpose(2, 0, 1))
    (tmp_path / "ramp.png").write_bytes(encoded(image))
    known = attach(tmp_path / "ramp.png")
    assert known.mime == "image/png"
    assert known.sha256 == part(image).sha256
    assert np.array_equal(pixels(known), RAMP.transpose(2, 0, 1))


def test_upright_as_exif_says() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    found = pixels(part(Pillow.fromarray(RAMP), exif=exif))
    assert np.array_equal(found, np.rot90(RAMP, -1).transpose(2, 0, 1))


def test_transparency_stands_over_white() -> None:
    clear = Pillow.new("RGBA", (2, 1), (200, 0, 0, 0))
    clear.putpixel((1, 0), (200, 0, 0, 128))
    found = pixels(part(clear))
    assert colour_at(found, 0, 0) == (255, 255, 255)
    assert colour_at(found, 0, 1) == (227, 127, 127)
    palette = Pillow.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 0])
    palette.putpixel((1, 0), 1)
    found = pixels(part(palette, transparency=0))
    assert colour_at(found, 0, 0) == (255, 255, 255)
    assert colour_at(found, 0, 1) == (200, 100, 0)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame(kind: str) -> None:
    frames = [Pillow.new("RGB", (4, 3), c) for c in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    moving = part(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert colour_at(pixels(moving), 1, 1) == (255, 0, 0)


def test_other_depths_and_inks() -> None:
    deep = np.array([[0, 256, 65_535, 32_768]], dtype=np.uint16)
    assert pixels(part(Pillow.fromarray(deep)))[0].tolist() == [[0, 1, 255, 128]]
    ink = pixels(part(Pillow.new("CMYK", (9, 9), (0, 255, 255, 0)), "JPEG", quality=95))
    red, green, blue = colour_at(ink, 4, 4)
    assert red > 250
    assert max(green, blue) < 5
    assert colour_at(pixels(part(Pillow.new("1", (2, 2), 1))), 0, 0) == (255, 255, 255)
    assert colour_at(pixels(part(Pillow.new("LA", (2, 2), (40, 255)))), 0, 0) == (40, 40, 40)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (1, 20_000), (20_000, 40)])
def test_extreme_shapes_become_tiles(size: tuple[int, int]) -> None:
    seen = part(Pillow.new("RGB", size, "white"))
    tiles = Tiling().tiles(pixels(seen))
    assert float(tiles[-1].min()) == 1
    assert len(tiles) == Tiling().count(Tiling().grid(size[1], size[0]))


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


WHOLE = encoded(Pillow.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3), np.uint8)))
JPEG = encoded(Pillow.open(io.BytesIO(WHOLE)), "JPEG")
BROKEN = {
    "empty": b"",
    "text": b"no image at all",
    "cut off": WHOLE[: len(WHOLE) // 2],
    "half a photo": JPEG[: len(JPEG) // 2],
    "head only": WHOLE[:30],
    "changed": WHOLE[:200] + b"\xff" * 50 + WHOLE[250:],
    "a bomb": png(50_000, 50_000, bytes(1000)),
    "a larger bomb": png(2**31 - 1, 2**31 - 1, b""),
    "no pixels": png(0, 5, b""),
    "a program": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_get_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(BROKEN[name])
    for attempt in (lambda: attach(path), lambda: pixels(inline(BROKEN[name], "image/png"))):
        with pytest.raises(UserError) as caught:
            attempt()
        assert "\n" not in str(caught.value)
        assert "too large" in str(caught.value) or "image" in str(caught.value)


@given(st.data())
def test_any_bytes_get_an_answer(data: st.DataObject) -> None:
    given_bytes = bytearray(data.draw(st.sampled_from([WHOLE, JPEG])))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(given_bytes) - 1))
        given_bytes[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UserError):
        assert pixels(inline(bytes(given_bytes), "image/png")).dtype == np.uint8


@pytest.mark.parametrize(
    "ref",
    ["", "/etc/passwd", "cat.png", "https://example.org/cat.png", "data:image/png,abc",
     "data:image/png;base64,***", "file:///etc/passwd", "data:"],
)  # fmt: skip
def test_a_message_from_outside_opens_no_file_and_no_address(ref: str) -> None:
    content = [{"type": "image_url", "image_url": {"url": ref}}]
    message = Message.from_openai({"role": "user", "content": content})
    with pytest.raises(UserError):
        render(TOKENIZER, [message])


def test_files_beside_a_row_are_known_by_content(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(WHOLE)
    content = [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "?"}]
    message = attached(Message.from_openai({"role": "user", "content": content}), tmp_path)
    (seen,) = images_of([message])
    assert pixels(seen).shape == (3, 64, 64)
    (tmp_path / "a.png").write_bytes(JPEG)
    pixels.cache_clear()
    with pytest.raises(UserError, match=r"a\.png has changed"):
        pixels(seen)
    with pytest.raises(UserError, match="cannot read the image"):
        attached(Message("user", (Image("", "", "absent.png"),)), tmp_path)


def test_places_of_pictures_among_the_ids() -> None:
    wide, small = (part(Pillow.new("RGB", size, "red")) for size in ((16, 8), (8, 8)))
    chat = [
        Message("user", (Text("<|patch|> is text "), wide, Text("and"), small)),
        Message("assistant", (Text("<|image_start|>"),)),
        Message("tool", (ToolResult("call_0", (Text("shot"), small)),)),
    ]
    rendered = render(TOKENIZER, chat)
    found = pictures_in(TOKENIZER, chat, rendered.ids)
    assert [p.part for p in found] == [wide, small, small]
    patch = TOKENIZER.special("patch")
    places = [p.patches(TILING) for p in found]
    assert [len(p) for p in places] == [12, 4, 4]
    assert [i for p in places for i in p] == [i for i, x in enumerate(rendered.ids) if x == patch]
    moved = pictures_in(TOKENIZER, chat, rendered.ids, 10)
    assert moved == [Picture(p.part, p.at + 10) for p in found]
    assert not any(
        learn for i, learn in zip(rendered.ids, rendered.mask, strict=True) if i == patch
    )


def test_many_pictures_in_one_message() -> None:
    many = tuple(part(Pillow.new("RGB", (8, 8), (i, 0, 0))) for i in range(48))
    message = Message("user", many)
    ids = render(TOKENIZER, [message]).ids
    assert len(pictures_in(TOKENIZER, [message], ids)) == 48
    assert ids.count(TOKENIZER.special("patch")) == 48 * 4


def test_a_model_of_text_has_one_mark_for_a_picture() -> None:
    plain = Tokenizer.train(["what"], 300)
    message = Message("user", (Image("", "", "whatever"),))
    ids = render(plain, [message], first=False).ids
    assert ids.count(plain.special("image")) == 1
    assert pictures_in(plain, [message], ids) == []


def test_tiling_of_a_directory(tmp_path: Path) -> None:
    assert read_tiling(tmp_path) is None
    config = {"vision_config": {"image_size": 336, "patch_size": 14, "pixel_shuffle_ratio": 0.5}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_tiling(tmp_path) == Tiling(336, 144, 16)
    (tmp_path / "preprocessor_config.json").write_text('{"max_patches": 4}')
    assert read_tiling(tmp_path) == Tiling(336, 144, 4)
    (tmp_path / "config.json").write_text('{"vision_config": {"image_size": "x"}}')
    with pytest.raises(UserError, match="vision_config"):
        read_tiling(tmp_path)


def test_data_urls_are_plain_base64() -> None:
    seen = inline(WHOLE, "image/png")
    head, text = seen.ref.split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(text) == WHOLE
