"""Llama 4's vision encoder: tiles of pixels to features that stand where tokens' embeddings would.

`model(ids_BT, images=model.see(ids_BT == patch_id, tiles_NCHW))` reads a picture.
Shapes: N tiles, P patches of a tile (and one CLS), C channels, D the encoder's width, H heads,
W a head's width, M features of all tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puna.core.errors import UserError
from puna.core.messages import Image
from puna.models.moe import Linear
from puna.models.vision_config import VisionConfig
from puna.text.images import tiles_of

_ROPE_THETA = 10_000.0  # fixed: no published checkpoint has another
TILES_AT_ONCE = 64  # of Scout's size they take 4 GB on their way through a layer


@dataclass(frozen=True)
class Seen:
    """Features [M, D of the decoder] of pictures, and the M places in the ids that they take."""

    where_BT: Tensor
    features_MD: Tensor

    def over(self, x_BTD: Tensor) -> Tensor:
        """`x_BTD` with the features in place of the placeholders' embeddings."""
        return x_BTD.masked_scatter(self.where_BT[..., None], self.features_MD.to(x_BTD.dtype))

    def within(self, block: slice) -> Seen:
        """What falls into these columns of the ids."""
        here_BT = torch.zeros_like(self.where_BT)
        here_BT[:, block] = True
        return Seen(self.where_BT[:, block], self.features_MD[here_BT[self.where_BT]])


class Biased(nn.Module):
    """Projection [out, in] with a bias, both cast to the activation's dtype."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., in] to [..., out]."""
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class LayerNorm(nn.Module):
    """Layer normalisation with eps 1e-5, gain and bias cast to the activation's dtype."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., D], normalised over its last dimension."""
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), self.bias.to(x.dtype))


class VisionBlock(nn.Module):
    """Pre-norm residual layer: attention of every patch to every patch, then exact GELU."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        hidden, wide = config.hidden_size, config.intermediate_size
        self.heads = config.num_heads
        self.attention_norm, self.feed_forward_norm = LayerNorm(hidden), LayerNorm(hidden)
        self.q, self.k, self.v = (Biased(hidden, hidden) for _ in range(3))
        self.out = Biased(hidden, hidden)
        self.up, self.down = Biased(hidden, wide), Biased(wide, hidden)

    def forward(self, x_NPD: Tensor, turns: Tensor) -> Tensor:
        """One layer; `turns` [P, W / 2] are the rotations of the patches' places."""
        x_NPD = x_NPD + self._attend(self.attention_norm(x_NPD), turns)
        hidden = F.gelu(self.up(self.feed_forward_norm(x_NPD)))
        out: Tensor = x_NPD + self.down(hidden)
        return out

    def _attend(self, x_NPD: Tensor, turns: Tensor) -> Tensor:
        q, k, v = (
            project(x_NPD).unflatten(-1, (self.heads, -1)) for project in (self.q, self.k, self.v)
        )
        q, k, v = (x.transpose(1, 2) for x in (rotate(q, turns), rotate(k, turns), v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class VisionEncoder(nn.Module):
    """Tiles [N, C, S, S] in -1..1 to features [N * tokens of a tile, width of the decoder].

    Patches are flattened as (channel, row, column); the CLS token stands last, takes part in
    attention and is dropped; places are learned and rotated too. The adapter
    takes squares of patches row by row and has a GELU after each of its two layers.
    """

    def __init__(self, config: VisionConfig, width: int) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden_size
        self.patch = Linear(config.channels * config.patch_size**2, hidden)
        self.cls = nn.Parameter(torch.empty(hidden))
        self.places = nn.Parameter(torch.empty(config.side**2 + 1, hidden))
        self.norm_before, self.norm_after = LayerNorm(hidden), LayerNorm(hidden)
        self.layers = nn.ModuleList(VisionBlock(config) for _ in range(config.num_layers))
        self.adapter_in = Linear(config.intermediate_size, config.adapter_size)
        self.adapter_out = Linear(config.adapter_size, config.adapter_size)
        self.project = Linear(config.adapter_size, width)
        self._turns: Tensor | None = None

    def forward(self, tiles_NCHW: Tensor) -> Tensor:
        """Features of all tiles, tile after tile, each row by row."""
        config = self.config
        patches = F.unfold(tiles_NCHW, config.patch_size, stride=config.patch_size)
        x = self.patch(patches.transpose(1, 2))
        x = torch.cat((x, self.cls.to(x.dtype).expand(x.shape[0], 1, -1)), 1)
        x = self.norm_before(x + self.places.to(x.dtype))
        turns = self.turns(x.device)
        for layer in self.layers:
            x = layer(x, turns)
        x = pixel_shuffle(self.norm_after(x)[:, :-1], config.side, config.shuffle)
        x = F.gelu(self.adapter_out(F.gelu(self.adapter_in(x))))
        features: Tensor = self.project(x.flatten(0, 1))
        return features

    def look(
        self,
        shape: tuple[int, int],
        spots: Sequence[tuple[Image, Sequence[int]]],
        dtype: torch.dtype,
    ) -> Seen | None:
        """Images in ids of `shape` [B, T], each with the flat places (row * T + column) of its
        patches; an image that stands in several places is encoded once. None where there is none.
        """
        if not spots:
            return None
        device, tiling = self.cls.device, self.config.tiling
        spots = sorted(spots, key=lambda spot: spot[1][0])
        parts = {part: tiles_of(tiling, part) for part, _ in spots}
        tiles = torch.cat(list(parts.values())).to(device, dtype)
        features = torch.cat([self(some) for some in torch.split(tiles, TILES_AT_ONCE)])
        pieces = torch.split(features, [len(t) * tiling.tokens for t in parts.values()])
        found = dict(zip(parts, pieces, strict=True))
        where = torch.zeros(shape, dtype=torch.bool)
        where.view(-1)[torch.tensor([i for _, places in spots for i in places])] = True
        return Seen(where.to(device), torch.cat([found[part] for part, _ in spots]))

    def turns(self, device: torch.device) -> Tensor:
        """Rotations [P + 1, W / 2] of the places, computed once a device."""
        if self._turns is None or self._turns.device != device:
            with torch.inference_mode(False), torch.no_grad():
                config = self.config
                head_dim = config.hidden_size // config.num_heads
                self._turns = rotations(config.side, head_dim).to(device)
        return self._turns

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Fresh weights: matrices normal with 1 / sqrt(inputs), what writes into the residual
        stream less by 1 / sqrt(2 * layers); gains 1, biases 0.
        """
        residual = (2 * self.config.num_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0)
            else:
                scale = parameter.shape[-1] ** -0.5
                writes = name.endswith(("out.weight", "down.weight")) and "layers" in name
                parameter.normal_(0.0, scale * (residual if writes else 1), generator=generator)


def rotations(side: int, head_dim: int) -> Tensor:
    """2-D rotary positions [side * side + 1, head_dim / 2]: half of the pairs turn with the column,
    half with the row, both counted from 1; the CLS token, last, does not turn.
    """
    half = head_dim // 2
    freq = 1.0 / (_ROPE_THETA ** (torch.arange(0, half, 2).float() / half))
    index = torch.arange(side * side, dtype=torch.int32)[:, None]
    angles = torch.cat(((index % side + 1) * freq, (index // side + 1) * freq), -1)
    angles = torch.cat((angles, angles.new_zeros(1, half)))
    return torch.complex(angles.cos(), angles.sin())


def rotate(x_NPHW: Tensor, turns: Tensor) -> Tensor:
    """`x_NPHW` with neighbouring numbers of a head rotated as pairs, in its own dtype."""
    pairs = torch.view_as_complex(x_NPHW.float().view(*x_NPHW.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns[:, None]).flatten(-2).type_as(x_NPHW)


def pixel_shuffle(x_NPD: Tensor, side: int, block: int) -> Tensor:
    """Squares of `block` x `block` patches as one token each, their channels row by row."""
    x = x_NPD.view(x_NPD.shape[0], side // block, block, side // block, block, -1)
    return x.transpose(2, 3).flatten(3).flatten(1, 2)


def check_count(places: int, tiles: int, config: VisionConfig) -> None:
    """Raises UserError where the placeholders are not as many as the tiles' features."""
    features = tiles * config.tiling.tokens
    if places != features:
        each = f"{tiles} tiles of {config.tiling.tokens} features"
        raise UserError(
            f"{places} <|patch|> tokens stand for {each} = {features}",
            "give the tiles of exactly the images that the tokens were made for",
        )
