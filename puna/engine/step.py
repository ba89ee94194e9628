"""One token a row on a processor: the decoder's forward pass with its small operations folded.

`logits_BV = Step(model)(ids_B, positions_B, cache)` equals `model.logits(model(...))` to rounding.
Tiny models are bound by the number of calls. Norm weights are multiplied into the matrices behind
them, rotations become two products with a matrix that holds the swapped halves as rows of its own,
residuals are added by the products. That saves a fifth to a third of a step at 164k parameters, a
twentieth at 5M, for up to twice the weights' memory.
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


def suits(model: Decoder) -> bool:
    """Whether a step gains from folding: small models in fp32 on a processor."""
    small = sum(p.numel() for p in model.parameters()) <= LARGEST
    fp32 = model.dtype == model.embed.dtype == torch.float32
    return small and fp32 and model.device.type == "cpu"


@dataclass(frozen=True)
class _Layer:
    """A layer's folded matrices; `qkv` has rows for q, k, then both swapped (if rotary), then v.

    `gains` [2, H + K, W] are the weights of head norms, for a head and for its swapped self.
    """

    block: Block
    qkv: Tensor
    bias: Tensor | None
    gains: Tensor | None
    out: Tensor
    gate_up: Tensor | None
    down: Tensor | None


class Step:
    """The weights as they are now, folded: make a new one after every change of them."""

    def __init__(self, model: Decoder) -> None:
        self.model, self.eps = model, model.config.norm_eps
        head = model.embed if model.head is None else model.head.weight
        self.head = head * model.norm.weight
        width = model.config.head_dim
        # The place each number of a head is paired with (see puna.models.rope).
        places = torch.arange(width, device=model.device)
        self.interleaved = model.rope.interleaved
        self.swap = places ^ 1 if self.interleaved else places.roll(width // 2)
        self.layers = [self._fold(cast(Block, block)) for block in model.layers]

    def __call__(
        self, ids_B: Tensor, positions_B: Tensor, cache: KVCache, routes: Routes | None = None
    ) -> Tensor:
        """Logits [B, V] after one more token of every row, which goes into the cache."""
        model, positions_B1 = self.model, positions_B[:, None]
        cache.begin(positions_B1)
        plan = model.plan(ids_B[:, None], positions_B1, None, cache, routes, None)
        cos_B1W, sin_B1W = self._rotations(plan.factors)
        x_BD = F.embedding(ids_B, model.embed)
        for layer in self.layers:
            mixed = self._attend(layer, self._norm(x_BD), plan, cache, cos_B1W, sin_B1W)
            x_BD = torch.addmm(x_BD, mixed, layer.out)
            normed = self._norm(x_BD)
            if layer.gate_up is None or layer.down is None:
                block = layer.block
                normed = (normed * block.feed_forward_norm.weight)[:, None]
                x_BD = x_BD + block.feed_forward(normed, routes)[:, 0]
            else:
                gate, up = F.linear(normed, layer.gate_up).chunk(2, -1)
                x_BD = torch.addmm(x_BD, F.silu(gate).mul_(up), layer.down)
        return F.linear(self._norm(x_BD), self.head)

    def _fold(self, block: Block) -> _Layer:
        attention, feed_forward = block.attention, block.feed_forward
        weight, bias = attention.qkv.effective(), attention.qkv.bias
        qkv = self._rows(attention, weight * block.attention_norm.weight)
        gains = None
        if attention.q_norm is not None and attention.k_norm is not None:
            counts = torch.tensor([attention.heads, attention.keys])
            both = torch.stack((attention.q_norm.weight, attention.k_norm.weight))
            gains = both.repeat_interleave(counts, 0)
            gains = torch.stack((gains, gains[:, self.swap]))
        gate_up = down = None
        if not isinstance(feed_forward, MoE):
            gate_up = feed_forward.gate_up.effective() * block.feed_forward_norm.weight
            down = feed_forward.down.effective().t()
        biases = None if bias is None else self._rows(attention, bias)
        out = attention.out.effective().t()
        return _Layer(block, qkv, biases, gains, out, gate_up, down)

    def _rows(self, attention: Attention, qkv: Tensor) -> Tensor:
        """Rows for q and k, for both swapped where they are rotated, and for v."""
        split = (attention.heads + attention.keys) * attention.head_dim
        qk, v = qkv[:split], qkv[split:]
        if attention.nope:
            return torch.cat((qk, v))
        swapped = qk.view(-1, attention.head_dim, *qk.shape[1:])[:, self.swap]
        return torch.cat((qk, swapped.reshape(qk.shape), v))

    def _norm(self, x: Tensor) -> Tensor:
        """x / rms(x), over the last dimension."""
        return x * (x * x).mean(-1, keepdim=True).add_(self.eps).rsqrt_()

    def _rotations(self, factors: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """What to multiply a head by, and its swapped self: cosines and signed sines [B, 1, W]."""
        if not self.interleaved:
            cos, signed_sin = factors
            return cos[:, 0], signed_sin[:, 0]
        pairs = factors[0][:, 0]  # complex [B, 1, W / 2]
        cos, sin = pairs.real.repeat_interleave(2, -1), pairs.imag
        return cos, torch.stack((-sin, sin), -1).flatten(-2)

    def _attend(
        self,
        layer: _Layer,
        normed_BD: Tensor,
        plan: Pass,
        cache: KVCache,
        cos: Tensor,
        sin: Tensor,
    ) -> Tensor:
        """What the heads bring together, [B, H * W]."""
        attention = layer.block.attention
        rows = normed_BD.shape[0]
        heads, keys, width = attention.heads, attention.keys, attention.head_dim
        both = heads + keys
        y = F.linear(normed_BD, layer.qkv, layer.bias).view(rows, -1, width)
        qk, v = y[:, :both], y[:, -keys:]
        if not attention.nope:
            swapped = y[:, both : 2 * both]
            if layer.gains is not None:
                qk, swapped = self._norm(qk) * layer.gains[0], self._norm(swapped) * layer.gains[1]
            qk = (qk * cos).addcmul_(swapped, sin)
            if attention.qk_norm:
                qk = self._norm(qk)
        q = qk[:, :heads]
        if attention.nope and plan.temperature is not None:
            q = q * plan.temperature[:, 0]
        # The heads that share a key head are the queries of one product.
        q, k, v = q.reshape(rows, keys, -1, width), qk[:, heads:, None], v[:, :, None]
        return cache.step(attention.layer, q, k, v, attention.scale).reshape(rows, -1)
