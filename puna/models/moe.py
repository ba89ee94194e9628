"""Feed-forward layers: the gated one, and Llama 4's routed experts beside a shared one.

`y, choice = MoE(config, 0)(x_BTD)`; `routes = Routes()` records which expert each token took in a
decoder's pass and `Routes(replay=recorded)` makes a later one take the same.
Shapes: B rows, T tokens, N = B * T, D model width, F expert width, E experts, L MoE layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puna.kernels import grouped, onednn
from puna.models.adapters import Adapter, ExpertAdapter
from puna.models.config import ModelConfig

# CPU products of fewer rows take another path, whose last bit differs: with small groups padded,
# a token's result does not depend on how many others chose its expert.
_FEW = 4


class Linear(nn.Module):
    """Projection [out, in], mostly without bias; weights are cast to the activation's dtype."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.adapter: Adapter | None = None

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., in] to [..., out]."""
        weight: Tensor = self.weight
        # Comparing first: a cast that does nothing still costs a seventh of a small product.
        weight = weight if weight.dtype == x.dtype else weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if onednn.fits(x, weight):
            y = onednn.linear(x, weight)
            y = y if bias is None else y + bias
        else:
            y = F.linear(x, weight, bias)
        if self.adapter is not None:
            y = y + self.adapter(x)
        return y

    def effective(self) -> Tensor:
        """The weight with its adapter's increment, if it has one, in the weight's dtype."""
        return _with(self.weight, self.adapter)


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)); gate and up are one matrix, gate first."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_up = Linear(width, 2 * inner)
        self.down = Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., D] to [..., D]."""
        gate, up = self.gate_up(x).chunk(2, -1)
        down: Tensor = self.down(F.silu(gate) * up)
        return down


class Routes:
    """Which expert every token took in every MoE layer: recorded, or replayed.

    `replay` is [B, T, L] of any integer dtype; the recorded form is the same in int16. `even` has
    every expert multiply as many rows as there are tokens, so that to the last bit nothing depends
    on what other tokens choose, on any processor.
    """

    def __init__(self, replay: Tensor | None = None, even: bool = False) -> None:
        self.replay, self.even = replay, even
        self._taken: dict[int, Tensor] = {}

    @property
    def recorded(self) -> Tensor:
        """The experts taken in the last forward pass, int16 [B, T, L]."""
        assert self._taken, "no MoE layer has run with these routes"
        layers = [self._taken[i] for i in sorted(self._taken)]
        return torch.stack(layers, -1).to(torch.int16)

    def forced(self, layer: int) -> Tensor | None:
        """The replayed choice [B, T] of MoE layer `layer` (0-based among MoE layers), or None."""
        return None if self.replay is None else self.replay[..., layer].long()

    def record(self, layer: int, choice_BT: Tensor) -> None:
        """Keep the choice of one MoE layer."""
        self._taken[layer] = choice_BT

    def load(self, num_experts: int, mask_BT: Tensor | None = None) -> Tensor:
        """The share of tokens each expert took, fp32 [L, E]; only tokens under `mask_BT` count."""
        taken = self.recorded.long()
        kept = taken.flatten(0, 1) if mask_BT is None else taken[mask_BT]
        counts = F.one_hot(kept, num_experts).sum(0).float()
        return counts / max(1, kept.shape[0])


class Experts(nn.Module):
    """Routed experts, stored in x out as Hugging Face has them: [E, D, 2F] and [E, F, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        count, width, inner = config.num_experts, config.hidden_size, config.expert_size
        self.gate_up = nn.Parameter(torch.empty(count, width, 2 * inner))
        self.down = nn.Parameter(torch.empty(count, inner, width))
        self.gate_up_adapter: ExpertAdapter | None = None
        self.down_adapter: ExpertAdapter | None = None

    def forward(self, x_ND: Tensor, choice_N: Tensor, even: bool = False) -> Tensor:
        """Each token through its own expert only, [N, D].

        Tokens are sorted by expert, so an expert is read once and only if somebody chose it.
        """
        adapted = self.gate_up_adapter is not None or self.down_adapter is not None
        if grouped.fits(x_ND, self.gate_up) and not adapted:
            return grouped.gated_experts(x_ND, choice_N, self.gate_up, self.down)
        order = choice_N.argsort(stable=True)
        counts = torch.bincount(choice_N, minlength=self.gate_up.shape[0]).tolist()
        groups = torch.split(x_ND[order], counts)
        gate_ups = _each(self.gate_up, self.gate_up_adapter)
        weights = zip(gate_ups, _each(self.down, self.down_adapter), strict=True)
        least = x_ND.shape[0] if even else min(_FEW, x_ND.shape[0])
        outputs = []
        for x, (gate_up, down) in zip(groups, weights, strict=True):
            count = x.shape[0]
            if count:
                x = F.pad(x, (0, 0, 0, least - count)) if count < least else x
                gate, up = _product(x, gate_up).chunk(2, -1)
                outputs.append(_product(up * F.silu(gate), down)[:count])
        sorted_ND = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
        return sorted_ND[order.argsort()]

    def effective(self) -> tuple[Tensor, Tensor]:
        """Both weights with their adapters' increments, in their dtype."""
        gate_up, down = (self.gate_up, self.gate_up_adapter), (self.down, self.down_adapter)
        return _with(*gate_up), _with(*down)


def _with(weight: Tensor, adapter: Adapter | ExpertAdapter | None) -> Tensor:
    return weight if adapter is None else (weight.float() + adapter.delta()).to(weight.dtype)


_Expert = tuple[Tensor, tuple[Tensor, Tensor, float] | None]


def _each(weight_EDO: Tensor, adapter: ExpertAdapter | None) -> list[_Expert]:
    """Of every expert its matrix, and if there is an adapter its pair and scale."""
    # unbind, not indexing: its backward writes one gradient instead of one a expert
    weights = weight_EDO.unbind()
    if adapter is None:
        return [(weight, None) for weight in weights]
    pairs = zip(adapter.a.unbind(), adapter.b.unbind(), strict=True)
    return [(w, (a, b, adapter.scale)) for w, (a, b) in zip(weights, pairs, strict=True)]


def _product(x: Tensor, expert: _Expert) -> Tensor:
    weight, pair = expert
    weight = weight.to(x.dtype)
    y = onednn.linear(x, weight.t()) if onednn.fits(x, weight.t()) else x @ weight
    if pair is None:
        return y
    a, b, scale = pair
    return y + (x @ a.to(x.dtype)) @ b.to(x.dtype) * scale


class MoE(nn.Module):
    """shared(x) + expert(sigmoid(logit) * x) for the one expert with the highest router logit.

    The score scales the expert's input, not its output. Of equal logits the first is taken, in any
    batch; a token that is not a number comes out as NaN and leaves the others as they are.
    `expert_bias` is added to the logits for
    the choice alone (balancing without an auxiliary loss, arXiv 2408.15664, there on the scores);
    it is zero unless `balance` moves it.
    """

    expert_bias: Tensor

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.router = Linear(config.hidden_size, config.num_experts)
        self.experts = Experts(config)
        self.shared = GatedMLP(config.hidden_size, config.expert_size)
        self.register_buffer("expert_bias", torch.zeros(config.num_experts))

    def forward(
        self, x_BTD: Tensor, forced_BT: Tensor | None = None, even: bool = False
    ) -> tuple[Tensor, Tensor]:
        """`x_BTD` to the same shape, and the expert of every token [B, T].

        `forced_BT` takes the place of the choice; for `even` see `Routes`.
        """
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        logits_NE = self.router(x_ND)
        if forced_BT is None:
            choice_N = (logits_NE.detach() + self.expert_bias).argmax(-1)
        else:
            choice_N = forced_BT.reshape(-1)
        # All scores, then one: a vector's tail is computed by other instructions, and so the tail
        # must fall on the same tokens as in the reference for equality to the last bit.
        scores_NE = torch.sigmoid(logits_NE.float()).type_as(x_ND)
        score_N1 = scores_NE.gather(1, choice_N[:, None])
        out: Tensor = self.shared(x_ND) + self.experts(x_ND * score_N1, choice_N, even)
        return out.view(x_BTD.shape), choice_N.view(x_BTD.shape[:-1])

    def balance(self, load_E: Tensor, rate: float) -> None:
        """Move the bias by `rate` towards experts that took less than their share (eq. 3 there)."""
        self.expert_bias += rate * torch.sign(load_E.mean() - load_E)
