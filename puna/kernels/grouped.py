"""Experts' products for tokens sorted by expert: grouped matrix products without padding on a GPU.

`y_ND = gated_experts(x_ND, choice_N, gate_up_EDF, down_EFD)`; `gated_experts_plain` is its twin.
Shapes: N tokens, D width, E experts, F inner width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def fits(x_ND: Tensor, gate_up_ED2F: Tensor) -> bool:
    """Whether the grouped product takes these: bf16 on a GPU from compute capability 8.0 on."""
    sizes = (*x_ND.shape[1:], gate_up_ED2F.shape[2] // 2)
    return x_ND.is_cuda and x_ND.dtype == torch.bfloat16 and all(n % 8 == 0 for n in sizes)


def gated_experts(x_ND: Tensor, choice_N: Tensor, gate_up_ED2F: Tensor, down_EFD: Tensor) -> Tensor:
    """down(silu(gate(x)) * up(x)) by each token's own expert, [N, D].

    Tokens are sorted once; weights are cast to the tokens' dtype. Nothing waits for the GPU.
    """
    experts = gate_up_ED2F.shape[0]
    order = choice_N.argsort(stable=True)
    places = torch.empty_like(order).scatter_(
        0, order, torch.arange(len(order), device=order.device)
    )
    counts = F.one_hot(choice_N, experts).sum(0)
    ends = counts.cumsum(0).to(torch.int32)
    x = permute(x_ND, order, places)
    gate, up = F.grouped_mm(x, gate_up_ED2F.to(x.dtype), offs=ends).chunk(2, -1)
    y = F.grouped_mm(up * F.silu(gate), down_EFD.to(x.dtype), offs=ends)
    return permute(y, places, order)


def gated_experts_plain(
    x_ND: Tensor, choice_N: Tensor, gate_up_ED2F: Tensor, down_EFD: Tensor
) -> Tensor:
    """The same, token by token."""
    out = []
    for x, expert in zip(x_ND, choice_N.tolist(), strict=True):
        gate, up = (x @ gate_up_ED2F[expert].to(x.dtype)).chunk(2, -1)
        out.append((up * F.silu(gate)) @ down_EFD[expert].to(x.dtype))
    return torch.stack(out)


class _Permute(torch.autograd.Function):
    """Rows in another order; going back is a permutation too, not a sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x[order]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return grad[back], None, None


def permute(x_ND: Tensor, order_N: Tensor, back_N: Tensor) -> Tensor:
    """x[order], where `back` is the inverse of `order`."""
    out: Tensor = _Permute.apply(x_ND, order_N, back_N)  # type: ignore[no-untyped-call]
    return out
