"""fp32 products of a processor while it learns, with their gradients, by oneDNN.

`linear(x, weight_OI)` is `F.linear(x, weight_OI)`, its twin, to rounding. PyTorch gives fp32 to
MKL, which multiplies half as fast on processors that are not of its maker.
Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

LEAST = 1 << 21  # multiplications: below it oneDNN's call costs more than it saves


def fits(x: Tensor, weight_OI: Tensor) -> bool:
    """Whether this is a product that gains: fp32 on a processor, large, and learned from."""
    return (
        x.dtype == weight_OI.dtype == torch.float32
        and x.numel() * weight_OI.shape[0] >= LEAST
        and torch.is_grad_enabled()
        and not x.is_cuda
        and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    )


def linear(x: Tensor, weight_OI: Tensor) -> Tensor:
    """`x` [..., I] to [..., O]; the weight may be a view of another."""
    out: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight_OI)  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], weight_OI.shape[0])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor) -> Tensor:
        ctx.save_for_backward(x_NI, weight_OI)
        return _product(x_NI, weight_OI)

    @staticmethod
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_NI, weight_OI = ctx.saved_tensors
        by_x = _product(grad_NO, weight_OI.t()) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return by_x, None
        # The longer side in the place of the weight: up to twice as fast.
        if weight_OI.shape[0] > weight_OI.shape[1]:
            return by_x, _product(x_NI.t(), grad_NO.t()).t()
        return by_x, _product(grad_NO.t(), x_NI.t())


def _product(x_NI: Tensor, weight_OI: Tensor) -> Tensor:
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return cast(Tensor, multiply(x_NI, weight_OI, None, "none", (), ""))
