"""The root-mean-square norm, by a third of the passes over memory where a processor learns.

`rms_norm(x, weight_D, eps)` is `F.rms_norm` over the last dimension, its twin, to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_norm(x: Tensor, weight_D: Tensor | None, eps: float) -> Tensor:
    """`x` [..., D] / sqrt(mean(x^2) + eps) * weight (arXiv 1910.07467, eq. 4), of one dtype."""
    if x.device.type != "cpu" or not torch.is_grad_enabled():
        return F.rms_norm(x, x.shape[-1:], weight_D, eps)
    out: Tensor = _RMSNorm.apply(x, weight_D, eps)  # type: ignore[no-untyped-call]
    return out


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor | None, eps: float) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = (size * size / x.shape[-1] + eps).rsqrt()
        normed = x * inverse
        ctx.save_for_backward(normed, inverse, weight_D)
        out: Tensor = normed if weight_D is None else normed * weight_D
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        normed, inverse, weight_D = ctx.saved_tensors
        by_weight = (grad * normed).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        if weight_D is not None:
            grad = grad * weight_D
        along = torch.linalg.vecdot(grad, normed).unsqueeze(-1) / normed.shape[-1]
        return torch.addcmul(grad, normed, along, value=-1).mul_(inverse), by_weight, None
