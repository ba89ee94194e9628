"""The loss of an output head without the logits of all tokens at once.

`loss = head_cross_entropy(hidden_MD, weight_VD, targets_M)`, summed in nats; `head_plain` is its
twin.
Logits and their gradient live for a block of tokens only, so memory does not grow with M * V.
Shapes: M tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from puna.kernels import onednn
from puna.text.packing import IGNORE

BLOCK = 8192  # tokens whose logits exist at once


def head_plain(hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor) -> Tensor:
    """Sum of the negative log-likelihoods; targets of -100 count 0."""
    weight_VD = weight_VD.to(hidden_MD.dtype)
    if onednn.fits(hidden_MD, weight_VD):
        return onednn.head_loss(hidden_MD, weight_VD, targets_M)
    logits = F.linear(hidden_MD, weight_VD).float()
    return F.cross_entropy(logits, targets_M, ignore_index=IGNORE, reduction="sum")


def head_cross_entropy(hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor) -> Tensor:
    """The same, block by block; gradients are computed on the way forward."""
    out: Tensor = _Head.apply(hidden_MD, weight_VD, targets_M)  # type: ignore[no-untyped-call]
    return out


def _loss_and_gradient(logits_MV: Tensor, targets_M: Tensor) -> tuple[Tensor, Tensor]:
    """The summed loss of a block and its gradient by the logits, in their dtype."""
    wide = logits_MV.float()
    level = wide.logsumexp(-1)
    counted = targets_M != IGNORE
    at = targets_M.clamp_min(0)[:, None]
    loss = torch.where(counted, level - wide.gather(1, at)[:, 0], 0.0).sum()
    share = (wide - level[:, None]).exp()
    columns = torch.arange(wide.shape[1], device=wide.device)
    share = share - (columns == at).float()
    return loss, torch.where(counted[:, None], share, 0.0).to(logits_MV.dtype)


@lru_cache
def _compiled() -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return torch.compile(_loss_and_gradient)


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        rows, dtype = hidden.shape[0], hidden.dtype
        cast = weight.detach().to(dtype)
        by_hidden = torch.empty_like(hidden)
        learns = ctx.needs_input_grad[1]  # beside adapters the head does not
        by_weight = torch.zeros_like(weight, dtype=torch.float32) if learns else None
        total = torch.zeros((), device=hidden.device)
        one = _compiled() if hidden.is_cuda else _loss_and_gradient
        for start in range(0, rows, BLOCK):
            part = slice(start, min(start + BLOCK, rows))
            x = hidden.detach()[part]
            loss, gradient = one(x @ cast.t(), targets[part])
            total += loss
            torch.mm(gradient, cast, out=by_hidden[part])
            if by_weight is not None:
                by_weight += gradient.t() @ x
        ctx.save_for_backward(by_hidden, by_weight)
        ctx.dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        by_hidden, by_weight = ctx.saved_tensors
        learned = None if by_weight is None else (by_weight * grad).to(ctx.dtype)
        return by_hidden * grad, learned, None
