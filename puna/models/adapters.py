"""Low-rank increments of a projection or of experts: W + alpha / rank * B A (arXiv 2106.09685).

`adapter = Adapter({"q_proj": 64, "k_proj": 32}, ["q_proj"], inputs=64, rank=8, scale=2.0)`;
`y = x @ W.t() + adapter(x)`. `puna.models.lora` puts them into a model.
Shapes: D inputs of a matrix, O its outputs, R rank, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Adapter(nn.Module):
    """The increment of a matrix [O, D] whose rows are several projections, each with its own pair.

    `rows` has the projections' names and heights in order, `adapted` those that learn.
    """

    def __init__(
        self,
        rows: Mapping[str, int],
        adapted: Collection[str],
        inputs: int,
        rank: int,
        scale: float,
    ) -> None:
        super().__init__()
        self.rows, self.inputs, self.scale = dict(rows), inputs, scale
        mine = {name: height for name, height in rows.items() if name in adapted}
        self.a = nn.ParameterDict({n: torch.empty(rank, inputs) for n in mine})
        self.b = nn.ParameterDict({n: torch.empty(height, rank) for n, height in mine.items()})

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., D] to what is added to the projection [..., O], in its dtype."""
        pieces = []
        for name, height in self.rows.items():
            if name in self.a:
                inner = F.linear(x, self.a[name].to(x.dtype))
                pieces.append(F.linear(inner, self.b[name].to(x.dtype)) * self.scale)
            else:
                pieces.append(x.new_zeros(*x.shape[:-1], height))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1)

    def delta(self) -> Tensor:
        """What is added to the matrix, fp32 [O, D]."""
        device = next(self.parameters()).device
        pieces = [
            self.b[name] @ self.a[name] * self.scale
            if name in self.a
            else torch.zeros(height, self.inputs, device=device)
            for name, height in self.rows.items()
        ]
        return torch.cat(pieces)


class ExpertAdapter(nn.Module):
    """The increments of E matrices stored in x out, [E, D, O]: a pair for each expert."""

    def __init__(self, shape: torch.Size, rank: int, scale: float) -> None:
        super().__init__()
        experts, inputs, outputs = shape
        self.scale = scale
        self.a = nn.Parameter(torch.empty(experts, inputs, rank))
        self.b = nn.Parameter(torch.empty(experts, rank, outputs))

    def delta(self) -> Tensor:
        """What is added to the matrices, fp32 [E, D, O]."""
        return self.a @ self.b * self.scale


@torch.no_grad()
def initialise(adapter: Adapter | ExpertAdapter, generator: torch.Generator) -> None:
    """A uniform within 1 / sqrt(D), as linear layers begin; B zero, so that nothing changes yet."""
    if isinstance(adapter, Adapter):
        pairs = [(adapter.a[name], adapter.b[name], adapter.inputs) for name in adapter.a]
    else:
        pairs = [(adapter.a, adapter.b, adapter.a.shape[1])]
    for a, b, inputs in pairs:
        bound = 1 / math.sqrt(inputs)
        a.uniform_(-bound, bound, generator=generator)
        b.zero_()
