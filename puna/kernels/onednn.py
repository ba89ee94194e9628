"""fp32 products of a processor while it learns, with their gradients, by oneDNN.

`linear(x, weight_OI)` is `F.linear(x, weight_OI)`, its twin, to rounding. PyTorch gives fp32 to
MKL, which multiplies half as fast on processors that are not of its maker.
Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from puna.text.packing import IGNORE

LEAST = 1 << 21  # multiplications: below it oneDNN's call costs more than it saves


def fits(x: Tensor, weight_OI: Tensor) -> bool:
    """Whether this is a product that gains: fp32 on a processor, large, and learned from."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight_OI.dtype == torch.float32
        and x.numel() * weight_OI.shape[0] >= LEAST
        and torch.is_grad_enabled()
        and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    )


def linear(x: Tensor, weight_OI: Tensor) -> Tensor:
    """`x` [..., I] to [..., O]; the weight may be a view of another."""
    out: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight_OI)  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], weight_OI.shape[0])


def head_loss(hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor) -> Tensor:
    """`cross_entropy.head_plain`: the sum of negative log-likelihoods, targets of -100 being 0."""
    out: Tensor = _HeadLoss.apply(hidden_MD, weight_VD, targets_M)  # type: ignore[no-untyped-call]
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor) -> Tensor:
        by_x, by_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(x_NI if by_weight else None, weight_OI if by_x else None)
        return _product(x_NI, weight_OI)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_NI, weight_OI = ctx.saved_tensors
        return _gradients(x_NI, weight_OI, grad_NO)


class _HeadLoss(torch.autograd.Function):
    """As PyTorch's own, without gradients of all logits filled with zeros on the way."""

    @staticmethod
    def forward(ctx: Any, hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor) -> Tensor:
        logp_MV = torch.log_softmax(_product(hidden_MD, weight_VD), -1)
        ctx.save_for_backward(hidden_MD, weight_VD, targets_M, logp_MV)
        return F.nll_loss(logp_MV, targets_M, ignore_index=IGNORE, reduction="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden_MD, weight_VD, targets_M, logp_MV = ctx.saved_tensors
        grad_MV, counted_M1 = logp_MV.exp(), (targets_M != IGNORE)[:, None].float()
        grad_MV.scatter_add_(1, targets_M.clamp_min(0)[:, None], -counted_M1)
        if not bool(counted_M1.all()):
            grad_MV *= counted_M1
        by_hidden, by_weight, _ = ctx.needs_input_grad
        given = hidden_MD if by_weight else None, weight_VD if by_hidden else None
        by = _gradients(*given, grad_MV)
        return *(None if x is None else x * grad for x in by), None  # type: ignore[return-value]


def _gradients(
    x_NI: Tensor | None, weight_OI: Tensor | None, grad_NO: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """By the input where a weight is given, by the weight where an input is."""
    grad_NO = grad_NO.contiguous()
    by_x = None if weight_OI is None else _product(grad_NO, weight_OI.t())
    if x_NI is None:
        return by_x, None
    # The longer side in the place of the weight: up to twice as fast.
    if grad_NO.shape[1] > x_NI.shape[1]:
        return by_x, _product(x_NI.t(), grad_NO.t()).t()
    return by_x, _product(grad_NO.t(), x_NI.t())


def _product(x_NI: Tensor, weight_OI: Tensor) -> Tensor:
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return cast(Tensor, multiply(x_NI, weight_OI, None, "none", (), ""))
