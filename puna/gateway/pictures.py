"""Images that come with a request: which are looked at, before anything is decoded.

`check_images(tokenizer, "rl", messages, "messages")` raises BadRequest for one that is not.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from puna.core.messages import Message
from puna.gateway.reading import BadRequest
from puna.text.images import FORMATS, images_of

MAX_IMAGES = 16  # in one request
MAX_PIXELS = 16_000_000  # of one image: more are scaled down before a model looks


def check_images(tokenizer: Any, name: str, messages: Sequence[Message], where: str) -> None:
    """Raises BadRequest for images that model `name` does not read or that are too many or large.

    `where` is what the protocol calls the messages.
    """
    found = list(images_of(messages))
    if found and tokenizer.tiling is None:
        raise BadRequest(f"{name} reads no images", where)
    if len(found) > MAX_IMAGES:
        raise BadRequest(f"{len(found)} images, at most {MAX_IMAGES}", where)
    for part in found:
        if part.sha256 or not part.ref.startswith("data:"):
            what = "nothing is fetched for a message; send an image as data:image/png;base64,..."
            raise BadRequest(what, where)
        if _pixels(part.ref) > MAX_PIXELS:
            what = f"an image has more than {MAX_PIXELS // 10**6} million pixels"
            raise BadRequest(what, where)


def _pixels(url: str) -> int:
    """How many pixels an image's own header states; 0 where it is none, which is told later."""
    try:
        import PIL.Image

        data = base64.b64decode(url.partition(",")[2])
        with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return int(image.size[0] * image.size[1])
    except Exception:  # no Pillow, or what it raises on broken files
        return 0
