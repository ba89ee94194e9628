"""One token a row on a processor: the decoder's forward pass with its small operations folded.

`logits_BV = Step(model)(ids_B, positions_B, cache)` equals `model.logits(model(...))` to rounding.
Small models are bound by the number of calls. Norm weights are multiplied into the matrices behind
them, what is left of a norm are four calls, products add to the residual, and large weights are
laid out for their products once. For as much memory again as the weights take.
Shapes: B rows, S keys, H query heads, K key heads, G = H / K, D model width, W width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from puna.engine.cache import KVCache
from puna.models.decoder import Attention, Block, Decoder, Pass
from puna.models.moe import MoE, Routes

LARGEST = 20_000_000  # parameters: above it products cost more than calls
PACKED = 1 << 16  # numbers of an fp32 matrix: below it oneDNN's call costs more than it saves


def suits(model: Decoder) -> bool:
    """Whether a step gains from folding: small models on a processor, in a dtype it multiplies."""
    small = sum(p.numel() for p in model.parameters()) <= LARGEST
    fits = model.dtype == torch.float32 or (model.dtype == torch.bfloat16 and _multiplies_bf16())
    return small and fits and model.device.type == "cpu"


def _multiplies_bf16() -> bool:
    return packs(0, torch.bfloat16) and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def packs(numbers: int, dtype: torch.dtype) -> bool:
    """Whether a matrix of so many numbers is laid out for oneDNN."""
    able: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return able and (dtype == torch.bfloat16 or numbers >= PACKED)


class _Product:
    """x [B, in] -> x W^T + b for few rows; `weight` [out, in] is cast to `dtype` once.

    Large ones are laid out for oneDNN, once. `F.linear` does so for bf16 at every product; fp32
    goes to MKL there, which multiplies half as fast on processors that are not of its maker.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype, bias: Tensor | None = None) -> None:
        self.weight = weight.to(dtype)
        self.bias = None if bias is None else bias.to(dtype)
        self.packed = packs(weight.numel(), dtype)
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight)

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed:
            linear = torch.ops.mkldnn._linear_pointwise.default
            return cast(Tensor, linear(x, self.weight, self.bias, "none", (), ""))
        return F.linear(x, self.weight, self.bias)

    def onto(self, residual: Tensor, x: Tensor) -> Tensor:
        """The fp32 `residual` [B, out] + x W^T."""
        if self.packed:
            return residual + self(x)
        return torch.addmm(residual, x, self.weight.t())


@dataclass(frozen=True)
class _Layer:
    """A layer's folded matrices; `gains` [H + K, W] are the weights of head norms."""

    block: Block
    qkv: _Product
    gains: Tensor | None
    out: _Product
    gate_up: _Product | None
    down: _Product | None


class Step:
    """The weights as they are now, folded: make a new one after every change of them."""

    def __init__(self, model: Decoder) -> None:
        self.model, self.dtype = model, model.dtype
        self.eps = torch.tensor(model.config.norm_eps)
        head = model.embed if model.head is None else model.head.weight
        self.head = _Product(head * model.norm.weight, self.dtype)
        self.layers = [self._fold(cast(Block, block)) for block in model.layers]

    def __call__(
        self, ids_B: Tensor, positions_B: Tensor, cache: KVCache, routes: Routes | None = None
    ) -> Tensor:
        """Logits [B, V] after one more token of every row, which goes into the cache."""
        model, positions_B1 = self.model, positions_B[:, None]
        cache.begin(positions_B1)
        even = routes is not None and routes.even
        plan = model.plan(ids_B[:, None], positions_B1, None, cache, even, None)
        x_BD = F.embedding(ids_B, model.embed).float()
        for layer in self.layers:
            x_BD = layer.out.onto(x_BD, self._attend(layer, self._norm(x_BD), plan, cache))
            normed = self._norm(x_BD)
            if layer.gate_up is None or layer.down is None:
                block, moe = layer.block, cast(MoE, layer.block.feed_forward)
                normed = (normed * block.feed_forward_norm.weight.to(self.dtype))[:, None]
                forced_B1 = None if routes is None else routes.forced(moe.index)
                out, choice_B1 = moe(normed, forced_B1, even)
                x_BD = x_BD + out[:, 0]
                if routes is not None:
                    routes.record(moe.index, choice_B1)
            else:
                gate, up = layer.gate_up(normed).chunk(2, -1)
                x_BD = layer.down.onto(x_BD, F.silu(gate).mul_(up))
        return self.head(self._norm(x_BD)).float()

    def _fold(self, block: Block) -> _Layer:
        attention, feed_forward, dtype = block.attention, block.feed_forward, self.dtype
        qkv = attention.qkv.effective() * block.attention_norm.weight
        gains = None
        if attention.q_norm is not None and attention.k_norm is not None:
            counts = torch.tensor([attention.heads, attention.keys])
            both = torch.stack((attention.q_norm.weight, attention.k_norm.weight))
            gains = both.repeat_interleave(counts, 0).to(dtype)
        gate_up = down = None
        if not isinstance(feed_forward, MoE):
            wide = feed_forward.gate_up.effective() * block.feed_forward_norm.weight
            gate_up = _Product(wide, dtype)
            down = _Product(feed_forward.down.effective(), dtype)
        out = _Product(attention.out.effective(), dtype)
        return _Layer(block, _Product(qkv, dtype, attention.qkv.bias), gains, out, gate_up, down)

    def _norm(self, x: Tensor) -> Tensor:
        """x / rms(x) over the last dimension, in fp32 and then in the activations' dtype."""
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        square = torch.addcmul(self.eps, length, length, value=1 / x.shape[-1])
        return (wide * square.rsqrt_()).to(self.dtype)

    def _attend(self, layer: _Layer, normed_BD: Tensor, plan: Pass, cache: KVCache) -> Tensor:
        """What the heads bring together, [B, H * W]."""
        attention: Attention = layer.block.attention
        rows = normed_BD.shape[0]
        heads, keys, width = attention.heads, attention.keys, attention.head_dim
        y = layer.qkv(normed_BD).view(rows, 1, -1, width)
        qk, v = y[:, :, :-keys], y[:, 0, -keys:, None]
        if layer.gains is not None:
            qk = self._norm(qk) * layer.gains
        if not attention.nope:
            qk = attention.rope.apply(qk, plan.factors)
            if attention.qk_norm:
                qk = self._norm(qk)
        q, k = qk[:, 0, :heads], qk[:, 0, heads:, None]
        if attention.nope and plan.temperature is not None:
            q = (q * plan.temperature[:, 0]).to(self.dtype)
        # The heads that share a key head are the queries of one product.
        q = q.reshape(rows, keys, -1, width)
        return cache.step(attention.layer, q, k, v, attention.scale).reshape(rows, -1)
