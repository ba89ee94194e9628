"""The shape of a vision encoder: `VisionConfig().num_parameters(5120)` -> Scout's 871,932,416."""

from __future__ import annotations

from dataclasses import dataclass

from puna.core.errors import FieldError
from puna.text.tiling import Tiling


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the encoder; the defaults are Scout's and Maverick's.

    `tile_size` and `patch_size` are in pixels, `shuffle` is the side of the square of patches that
    becomes one token, `adapter_size` the width of the features before they are projected to the
    decoder's. `patch_id` is the token whose places pictures take, `max_tiles` how many tiles an
    image may be cut into. Raises UserError naming the field.
    """

    hidden_size: int = 1408
    num_layers: int = 34
    num_heads: int = 16
    tile_size: int = 336
    patch_size: int = 14
    shuffle: int = 2
    adapter_size: int = 4096
    channels: int = 3
    patch_id: int = 200092
    max_tiles: int = 16

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            self._require(name, getattr(self, name) > 0, "above 0")
        self._require("channels", self.channels == 3, "3 (red, green, blue)")
        self._require("patch_id", self.patch_id >= 0, "0 or more")
        step = self.patch_size * self.shuffle
        self._require("tile_size", self.tile_size % step == 0, f"a multiple of {step}")
        fits = self.hidden_size % (4 * self.num_heads) == 0
        self._require("hidden_size", fits, f"a multiple of 4 * {self.num_heads} heads")

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise FieldError("vision", name, getattr(self, name), wanted)

    @property
    def intermediate_size(self) -> int:
        """Width of the feed-forward layers, which is also that of shuffled patches."""
        return self.hidden_size * self.shuffle**2

    @property
    def side(self) -> int:
        """Patches along a side of a tile."""
        return self.tile_size // self.patch_size

    @property
    def tiling(self) -> Tiling:
        """How pictures become tiles and tokens for this encoder."""
        return Tiling(self.tile_size, (self.side // self.shuffle) ** 2, self.max_tiles)

    def num_parameters(self, width: int) -> int:
        """All parameters, the projection to a decoder of `width` included."""
        hidden, wide = self.hidden_size, self.intermediate_size
        patches = self.channels * self.patch_size**2 * hidden + (self.side**2 + 2) * hidden
        layer = 4 * (hidden * hidden + hidden) + 2 * hidden * wide + hidden + wide + 4 * hidden
        adapter = wide * self.adapter_size + self.adapter_size**2 + self.adapter_size * width
        return patches + self.num_layers * layer + 4 * hidden + adapter


_POSITIVE = (
    "hidden_size", "num_layers", "num_heads", "tile_size", "patch_size", "shuffle", "adapter_size",
    "max_tiles",
)  # fmt: skip
