"""Rotary positions: a table of rotations that grows with the longest position seen.

`rope = Rope(config); q = rope.apply(q_BTHD, rope.factors(positions_BT, largest, device, dtype))`.
Llama 4 pairs neighbours (0,1),(2,3).. and multiplies complex numbers; Llama 3, as Hugging Face
stores it, pairs the halves of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from puna.models.config import ModelConfig


def frequencies(config: ModelConfig) -> Tensor:
    """Radians per token of each pair, fp32 [head_dim / 2], stretched where the config says so.

    The blend between kept and stretched frequencies is Llama 3.1's; where both bounds are equal
    (Llama 4 Scout) it is a step.
    """
    steps = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    freq = 1.0 / (config.rope_theta**steps)
    scaling = config.rope_scaling
    if scaling is None:
        return freq
    old, low, high = (
        scaling.original_max_position,
        scaling.low_freq_factor,
        scaling.high_freq_factor,
    )
    wavelength = 2 * math.pi / freq
    slow = freq / scaling.factor
    scaled = torch.where(wavelength > old / low, slow, freq)
    if high > low:
        smooth = (old / wavelength - low) / (high - low)
        blend = (1 - smooth) * freq / scaling.factor + smooth * freq
        between = (wavelength >= old / high) & (wavelength <= old / low)
        scaled = torch.where(between, blend, scaled)
    return scaled


class Rope:
    """Rotations by position; the table covers positions in use, never all that are allowed."""

    def __init__(self, config: ModelConfig) -> None:
        self.interleaved = config.family == "llama4"
        self.config = config
        self._table = torch.empty(0)

    def factors(
        self, positions_BT: Tensor | None, largest: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """Rotations [B or 1, T, 1, *] of `positions_BT`, or of 0..largest where it is None."""
        table = self._table
        if table.shape[0] <= largest or table.device != device:
            table = self._table = self._build(largest, device)
        rows = table[: largest + 1][None] if positions_BT is None else table[positions_BT]
        rows = rows.unsqueeze(2)
        return (rows,) if self.interleaved else rows.to(dtype).chunk(2, -1)

    def apply(self, x_BTHD: Tensor, factors: tuple[Tensor, ...]) -> Tensor:
        """`x_BTHD` rotated, in its own dtype."""
        if self.interleaved and x_BTHD.is_cuda:
            # The same product in real numbers, which a compiler can fuse.
            cos, sin = factors[0].real, factors[0].imag
            a, b = x_BTHD.float().view(*x_BTHD.shape[:-1], -1, 2).unbind(-1)
            turned = torch.stack((a * cos - b * sin, a * sin + b * cos), -1)
            return turned.flatten(-2).type_as(x_BTHD)
        if self.interleaved:
            pairs = torch.view_as_complex(x_BTHD.float().view(*x_BTHD.shape[:-1], -1, 2))
            return torch.view_as_real(pairs * factors[0]).flatten(-2).type_as(x_BTHD)
        cos, signed_sin = factors
        return x_BTHD * cos + x_BTHD.roll(x_BTHD.shape[-1] // 2, -1) * signed_sin

    def _build(self, largest: int, device: torch.device) -> Tensor:
        # Outside inference mode, because the same table serves training afterwards.
        with torch.inference_mode(False), torch.no_grad():
            length = 1 << max(8, largest.bit_length())
            places = torch.arange(length, dtype=torch.float32, device=device)
            angles = places[:, None] * frequencies(self.config).to(device)
            if self.interleaved:
                return torch.polar(torch.ones_like(angles), angles)
            cos, sin = angles.cos(), angles.sin()
            # roll() brings the other half without its sign, so the sign lives in the table
            return torch.cat((cos, cos, -sin, sin), -1)
