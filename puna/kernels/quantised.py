"""Matrices in 8 or 4 bits for decoding: their numbers, and a scale for each row or group of them.

`held = Quantised((8, 128), "int4", device); held.fill(weight_OI); held.plain()`.
"fp8": e4m3, one scale a row. "int4": two to a byte, symmetric, one scale for GROUP numbers of a
row. A scale is the largest magnitude under it divided by the format's largest number.
Shapes: E matrices of O outputs and I inputs, G scales a row.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["fp8", "int4"]
GROUP, SMALL = 128, 32  # numbers under one scale in int4; SMALL where GROUP does not divide a row
LARGEST = {"fp8": 448.0, "int4": 7.0}
_LEAST = torch.finfo(torch.float32).tiny  # a scale below has too few bits, and 0 divides nothing


class Quantised:
    """Matrices of one shape [..., O, I], held quantised at fixed addresses.

    `numbers` are float8 [..., O, I], or int8 [..., O, I / 2] of two numbers each: of a group the
    first half lies in the low bits, the second in the high ones. `scales` are fp32 [..., G, O].
    Raises ValueError where a row of int4 is no whole number of groups.
    """

    def __init__(self, shape: tuple[int, ...], kind: Kind, device: torch.device) -> None:
        *many, rows, columns = shape
        self.kind, self.shape = kind, shape
        self.group = columns
        if kind == "int4":
            self.group = GROUP if columns % GROUP == 0 else SMALL
        if columns % self.group:
            raise ValueError(f"rows of {columns} are no multiple of {SMALL}")
        packed, dtype = (columns // 2, torch.int8) if kind == "int4" else (columns, _FP8)
        self.numbers = torch.zeros(*many, rows, packed, dtype=dtype, device=device)
        self.scales = torch.zeros(*many, columns // self.group, rows, device=device)

    def fill(self, weight: Tensor) -> None:
        """Quantise `weight` [..., O, I], one matrix after the other, into what is held."""
        if weight.ndim > 2:
            for i in range(len(weight)):
                _put(weight[i], self.kind, self.group, self.numbers[i], self.scales[i])
        else:
            _put(weight, self.kind, self.group, self.numbers, self.scales)

    def plain(self) -> Tensor:
        """What the kernels multiply by, fp32 [..., O, I]."""
        numbers, group = self.numbers, self.group
        if self.kind == "int4":
            half = _grouped(numbers, group // 2)
            numbers = torch.stack(((half << 4) >> 4, half >> 4), -2).flatten(-3)
        return (_grouped(numbers.float(), group) * self.scales.mT[..., None]).flatten(-2)


_FP8 = torch.float8_e4m3fn


def _grouped(numbers: Tensor, size: int) -> Tensor:
    return numbers.reshape(*numbers.shape[:-1], numbers.shape[-1] // size, size)


def _put(weight_OI: Tensor, kind: Kind, group: int, numbers: Tensor, scales_GO: Tensor) -> None:
    wide = _grouped(weight_OI.float(), group)
    largest = LARGEST[kind]
    scale = (wide.abs().amax(-1) / largest).clamp_min(_LEAST)
    steps = (wide / scale[..., None]).clamp(-largest, largest)
    if kind == "int4":
        low, high = steps.round().to(torch.int8).chunk(2, -1)
        numbers.copy_(((high << 4) | (low & 15)).flatten(1))
    else:
        numbers.copy_(steps.flatten(1).to(_FP8))
    scales_GO.copy_(scale.t())
