"""Muon: momentum whose matrices are made nearly orthogonal (Jordan et al. 2024), beside AdamW.

`Muon([{"params": matrices, "muon": True}, {"params": others}], lr=1e-3)`. Fused experts are batches
of matrices, which PyTorch's own Muon does not take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Of five steps of x -> a x + b x^3 + c x^5, which brings singular values near 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
RMS = 0.2  # of an update's numbers, about AdamW's: both take one rate (arXiv 2502.16982)


class Muon(torch.optim.Optimizer):
    """Groups marked `muon` take orthogonal updates of momentum `momentum`, the others AdamW's.

    Weight decay is decoupled in both. Parameters of a marked group have two dimensions or three.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "muon": False}
        super().__init__(groups, defaults | {"weight_decay": weight_decay})
        others = [g for g in self.param_groups if not g["muon"]]
        self.adamw = None
        if others:
            self.adamw = torch.optim.AdamW(others, lr=lr, fused=True)
            # One set of groups and of states: rates and checkpoints see both as one optimiser.
            for own, theirs in zip(others, self.adamw.param_groups, strict=True):
                own.update({k: v for k, v in theirs.items() if k not in own})
            self.adamw.param_groups = others
            self.adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None, "the loss is computed before"
        if self.adamw is not None:
            self.adamw.step()
        for group in (g for g in self.param_groups if g["muon"]):
            for parameter in (p for p in group["params"] if p.grad is not None):
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(state["momentum"], group["momentum"])  # Nesterov
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                scale = RMS * math.sqrt(max(parameter.shape[-2:]))
                parameter.add_(orthogonal(ahead), alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """[..., M, N] with singular values near 1, by Newton and Schulz; bf16 on a GPU.

    The result is U V^T of the singular value decomposition up to factors of 0.7 to 1.2.
    """
    a, b, c = COEFFICIENTS
    x = matrix.to(torch.bfloat16) if matrix.is_cuda else matrix
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    found: Tensor = (x.mT if tall else x).to(matrix.dtype)
    return found
