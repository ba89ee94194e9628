"""The decoder of Llama and its like: one module, attention and cache passed in.

`logits = model.logits(model(ids_BT))`; packed rows give `documents_BT`, decoding gives a `cache`.
Shapes: B rows, T tokens, S keys, H query heads, K key heads, V vocabulary, E experts, L MoE layers;
D is the model's width in `hidden_BTD` and a head's width in `q_BHTD`, `k_BKSD`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from puna.core.stage import Weights
from puna.kernels.norm import rms_norm
from puna.models.config import ModelConfig
from puna.models.moe import GatedMLP, Linear, MoE, Routes
from puna.models.prefixes import PrefixTree
from puna.models.rope import Rope
from puna.models.vision import Seen, VisionEncoder, check_count
from puna.text.images import Picture

if TYPE_CHECKING:
    from puna.kernels.attention import Packed

AttentionFn = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]
"""(q_BHTD, k_BKSD, v_BKSD, additive mask or None for causal, scale) -> out_BHTD."""

PlaceFn = Callable[[Tensor, tuple[Tensor, ...], bool, bool, float], Tensor]
"""(heads_BTHD, factors, interleaved, with a norm, its eps) -> heads placed (`puna.kernels.qk`)."""

Runs = tuple[tuple[int, ...], ...]
"""Lengths of the runs that a row falls into, causal inside and closed to each other; of each row,
or once for all rows."""

# On one H200 cuDNN's causal attention took 0.6 of the time of PyTorch's own.
_FASTEST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]

# Queries and keys by `puna.kernels.qk` where a GPU learns: not measured yet, which
# `python -m benchmarks.gpu placing` does.
PLACED_BY_KERNEL = False

# Above this many tokens a row is attended to run by run: a mask would grow with the square.
LONGEST_MASK = 4096


class Cache(Protocol):
    """What a decoder asks of a key-value cache (see `puna.engine.cache.KVCache`)."""

    largest: int

    def begin(self, positions_BT: Tensor, valid_BT: Tensor | None = None) -> None:
        """Plan one forward pass over new tokens at these positions."""

    def attend(
        self,
        layer: int,
        q_BHTD: Tensor,
        k_BKTD: Tensor,
        v_BKTD: Tensor,
        attention: AttentionFn,
        scale: float,
    ) -> Tensor:
        """Keep new keys and values, and attend to all that are visible, [B, H, T, D]."""


def sdpa(
    q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """PyTorch's attention; `mask` None means causal over as many keys as queries."""
    if mask is None and q_BHTD.is_cuda and q_BHTD.dtype != torch.float32:
        with sdpa_kernel(_FASTEST, set_priority=True):
            return _attention(q_BHTD, k_BKSD, v_BKSD, mask, scale)
    return _attention(q_BHTD, k_BKSD, v_BKSD, mask, scale)


def _attention(
    q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    return F.scaled_dot_product_attention(
        q_BHTD,
        k_BKSD,
        v_BKSD,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=q_BHTD.shape[1] != k_BKSD.shape[1],
    )


def attend(
    attention: AttentionFn,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | Runs | Packed | None,
    scale: float,
) -> Tensor:
    """`attention` under a mask, or over one run after the other, which needs none."""
    if not (mask is None or isinstance(mask, Tensor | tuple)):
        return mask.attend(q, k, v, scale)
    if not isinstance(mask, tuple):
        return attention(q, k, v, mask, scale)
    if len(mask) > 1:
        alone = [slice(i, i + 1) for i in range(len(mask))]
        return torch.cat([attend(attention, q[i], k[i], v[i], mask[i], scale) for i in alone])
    if len(set(mask[0])) == 1:  # runs of one length are rows
        rows, heads, tokens, width = q.shape
        number, length = len(mask[0]), mask[0][0]
        q, k, v = (
            x.reshape(rows, -1, number, length, width).transpose(1, 2).flatten(0, 1)
            for x in (q, k, v)
        )
        out = attention(q, k, v, None, scale).view(rows, number, heads, length, width)
        return out.transpose(1, 2).reshape(rows, heads, tokens, width)
    runs = zip(*(torch.split(x, list(mask[0]), 2) for x in (q, k, v)), strict=True)
    return torch.cat([attention(q, k, v, None, scale) for q, k, v in runs], 2)


class RMSNorm(nn.Module):
    """x / rms(x) * weight, in fp32 and cast back before the weight, as both families have it."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., D] to the same shape and dtype."""
        weight = self.weight
        if x.dtype == torch.float32 and weight.dtype == torch.float32:
            return rms_norm(x, weight, self.eps)
        return rms_norm(x.float(), None, self.eps).to(x.dtype) * weight.to(x.dtype)


@dataclass(frozen=True)
class Pass:
    """What every layer of one forward pass shares, computed once."""

    factors: tuple[Tensor, ...]
    temperature: Tensor | None
    local_mask: Tensor | Runs | Packed | None
    global_mask: Tensor | Runs | Packed | None
    cache: Cache | None
    even: bool
    tree: PrefixTree | None
    place: PlaceFn | None


class Attention(nn.Module):
    """Grouped-query attention; q, k and v are one matrix, in that order.

    Rotary layers rotate and then, if the config says so, normalise q and k per head without a
    weight; NoPE layers scale q by the temperature of its position instead. Qwen 3 normalises them
    before the rotation, with weights.
    """

    def __init__(self, config: ModelConfig, layer: int, rope: Rope, attention: AttentionFn) -> None:
        super().__init__()
        self.layer, self.rope, self.attention = layer, rope, attention
        self.heads, self.keys, self.head_dim = (
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
        )
        self.scale = config.head_dim**-0.5
        self.nope, self.local = config.is_nope(layer), config.is_local(layer)
        self.qk_norm, self.eps = config.qk_norm, config.norm_eps
        rows = (self.heads + 2 * self.keys) * self.head_dim
        self.qkv = Linear(config.hidden_size, rows, config.qkv_bias)
        self.out = Linear(self.heads * self.head_dim, config.hidden_size)
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps) if config.head_norms else None
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps) if config.head_norms else None

    def forward(self, x_BTD: Tensor, plan: Pass) -> Tensor:
        """`x_BTD` (normalised) to the residual's increment."""
        rows, tokens, _ = x_BTD.shape
        heads, keys, width = self.heads, self.keys, self.head_dim
        qk, v = torch.split(self.qkv(x_BTD), [(heads + keys) * width, keys * width], -1)
        q, k = self._place(qk.view(rows, tokens, heads + keys, width), plan)
        v = v.view(rows, tokens, keys, width)
        if plan.tree is not None:
            q, k, v = map(plan.tree.spread, (q, k, v))
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if plan.cache is not None:
            mixed = plan.cache.attend(self.layer, q, k, v, self.attention, self.scale)
        else:
            mask = plan.local_mask if self.local else plan.global_mask
            mixed = attend(self.attention, q, k, v, mask, self.scale)
        mixed = mixed.transpose(1, 2)
        if plan.tree is not None:
            mixed = plan.tree.gather(mixed)
        out: Tensor = self.out(mixed.reshape(rows, tokens, heads * width))
        return out

    def _place(self, qk: Tensor, plan: Pass) -> tuple[Tensor, Tensor]:
        if self.q_norm is not None and self.k_norm is not None:
            q, k = torch.split(qk, [self.heads, self.keys], 2)
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), 2)
        # Queries and keys are rotated together: half the operations, which is what decoding costs.
        if not self.nope and plan.place is not None:
            qk = plan.place(qk, plan.factors, self.rope.interleaved, self.qk_norm, self.eps)
        elif not self.nope:
            qk = self.rope.apply(qk, plan.factors)
            if self.qk_norm:
                qk = rms_norm(qk.float(), None, self.eps).type_as(qk)
        q, k = torch.split(qk, [self.heads, self.keys], 2)
        if self.nope and plan.temperature is not None:
            q = (q * plan.temperature).type_as(q)
        return q, k


class Block(nn.Module):
    """Pre-norm residual layer: attention, then a dense or routed feed-forward."""

    def __init__(self, config: ModelConfig, layer: int, rope: Rope, attention: AttentionFn) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attention = Attention(config, layer, rope, attention)
        self.feed_forward_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.feed_forward: GatedMLP | MoE
        if config.is_moe(layer):
            index = sum(config.is_moe(i) for i in range(layer))
            self.feed_forward = MoE(config, index)
        else:
            self.feed_forward = GatedMLP(config.hidden_size, config.intermediate_size)

    def forward(
        self, x_BTD: Tensor, plan: Pass, forced_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """One layer of the residual stream, and the expert each token took, if there are any."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), plan)
        normed = self.feed_forward_norm(x_BTD)
        if isinstance(self.feed_forward, MoE):
            out, choice_BT = self.feed_forward(normed, forced_BT, plan.even)
            return x_BTD + out, choice_BT
        return x_BTD + self.feed_forward(normed), None


def _run_block(
    layer: Block, x_BTD: Tensor, plan: Pass, forced_BT: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    out: tuple[Tensor, Tensor | None] = layer(x_BTD, plan, forced_BT)
    return out


class Decoder(nn.Module):
    """Token ids to hidden states to logits, for training and for cached decoding alike.

    Parameters stay in the dtype they are in; activations run in `compute_dtype` if it is set,
    else in the embedding's; an engine may hold them otherwise (`decode_weights`). With `recompute`
    only what goes from layer to layer is kept for the way back, the rest is computed again: less
    memory, a third more work. A fresh module's parameters are uninitialised: see `presets.build`.
    """

    def __init__(
        self,
        config: ModelConfig,
        attention: AttentionFn = sdpa,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.compute_dtype = config, compute_dtype
        self.decode_weights: Weights = "auto"
        self.recompute = False
        self._compiled: Callable[..., tuple[Tensor, Tensor | None]] | None = None
        self.rope = Rope(config)
        self.embed = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.layers = nn.ModuleList(
            Block(config, i, self.rope, attention) for i in range(config.num_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.head = None if config.tie_embeddings else Linear(config.hidden_size, config.vocab_size)
        eyes = config.vision
        self.vision = None if eyes is None else VisionEncoder(eyes, config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.embed.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the activations, and so of a cache."""
        return self.compute_dtype or self.embed.dtype

    def forward(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: Cache | None = None,
        routes: Routes | None = None,
        begun: bool = False,
        tree: PrefixTree | None = None,
        images: Seen | None = None,
    ) -> Tensor:
        """Hidden states [B, T, D] after the final norm.

        `positions_BT` counts from 0 within a document and defaults to 0..T-1 (or, with
        `documents_BT`, to a restart at each document). `documents_BT` numbers the documents of
        packed rows, -1 being padding: tokens see their own document only. Rows of one document
        with padding on the right need neither. With a `cache` positions go on from what it holds;
        `begun` says that `cache.begin(positions, valid)` has been called already. With a `tree`
        the tokens and positions are its nodes, as one row. `images` (see `see`) stand in place of
        their tokens' embeddings and are tokens like all others from then on.
        """
        if positions_BT is None and documents_BT is not None:
            positions_BT = restart(documents_BT)
        if cache is not None:
            assert documents_BT is None, "packed rows have no cache"
            if positions_BT is None:
                steps = torch.arange(ids_BT.shape[1], device=ids_BT.device)
                positions_BT = steps.expand(ids_BT.shape)
            if not begun:
                cache.begin(positions_BT)
        even = routes is not None and routes.even
        plan = self.plan(ids_BT, positions_BT, documents_BT, cache, even, tree)
        x_BTD = F.embedding(ids_BT, self.embed).to(self.dtype)
        if images is not None:
            x_BTD = images.over(x_BTD)
        learning = torch.is_grad_enabled() and cache is None and tree is None
        run = self._compiled if learning and self._compiled else _run_block
        for module in self.layers:
            layer = cast(Block, module)
            index = layer.feed_forward.index if isinstance(layer.feed_forward, MoE) else None
            forced_BT = None if routes is None or index is None else routes.forced(index)
            if learning and self.recompute:
                x_BTD, choice_BT = checkpoint(
                    run, layer, x_BTD, plan, forced_BT, use_reentrant=False
                )
            else:
                x_BTD, choice_BT = run(layer, x_BTD, plan, forced_BT)
            if routes is not None and index is not None and choice_BT is not None:
                routes.record(index, choice_BT)
        hidden: Tensor = self.norm(x_BTD)
        return hidden

    def compile_blocks(self) -> None:
        """Compile the layers for passes that learn; layers of one kind share what is compiled."""
        self._compiled = torch.compile(_run_block)

    def see(self, where_BT: Tensor, tiles_NCHW: Tensor) -> Seen:
        """Features of tiles [N, C, S, S] for the places marked in `where_BT`, row after row.

        Raises UserError where the places are not as many as the tiles' features.
        """
        assert self.vision is not None, "a model of text sees nothing"
        check_count(int(where_BT.sum()), len(tiles_NCHW), self.vision.config)
        tiles = tiles_NCHW.to(self.device, self.dtype)
        return Seen(where_BT.to(self.device), self.vision(tiles))

    def look(self, shape: Sequence[int], pictures: Sequence[tuple[int, Picture]]) -> Seen | None:
        """The pictures of ids of `shape` [B, T], each with its row; None where there is none."""
        if not pictures:
            return None
        assert self.vision is not None, "a model of text sees nothing"
        rows, tokens = shape
        tiling = self.vision.config.tiling
        spots = [(p.part, [row * tokens + i for i in p.patches(tiling)]) for row, p in pictures]
        return self.vision.look((rows, tokens), spots, self.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """`hidden` [..., D] to fp32 logits [..., V]."""
        return F.linear(hidden, self.head_weight.to(hidden.dtype)).float()

    @property
    def head_weight(self) -> Tensor:
        """The output matrix [V, D]; the embedding where it is tied."""
        return self.embed if self.head is None else self.head.weight

    def balance_experts(self, load_LE: Tensor, rate: float) -> None:
        """Move every router's selection bias by `rate` towards an even load (arXiv 2408.15664)."""
        for layer in self.layers:
            moe = layer.feed_forward
            if isinstance(moe, MoE):
                moe.balance(load_LE[moe.index], rate)

    def plan(
        self,
        ids_BT: Tensor,
        positions: Tensor | None,
        documents: Tensor | None,
        cache: Cache | None,
        even: bool,
        tree: PrefixTree | None,
    ) -> Pass:
        """What the layers share, for the arguments of `forward`; a cache must have begun."""
        config, device, tokens = self.config, ids_BT.device, ids_BT.shape[1]
        if tree is not None:
            largest = tree.nodes_BT.shape[1] - 1
        elif cache is not None:
            largest = cache.largest
        else:
            largest = tokens - 1 if positions is None else int(positions.max())
        factors = self.rope.factors(positions, largest, device, self.dtype)
        temperature = None
        # Below floor_scale the temperature is exactly 1 and is not worth a multiplication.
        if config.temperature_tuning and config.nope_every and largest + 1 >= config.floor_scale:
            places = torch.arange(tokens, device=device)[None] if positions is None else positions
            temperature = query_temperature(places, config.floor_scale, config.attn_scale)
            temperature = temperature[..., None, None]
        local: Tensor | Runs | Packed | None = None
        everywhere: Tensor | Runs | Packed | None = None
        place: PlaceFn | None = None
        if tree is not None:  # attention sees rows, whose positions are 0, 1, 2 ...
            tokens, positions = largest + 1, None
        if cache is None:
            chunk = config.attention_chunk
            # Whole rows have the same runs: what a mask would hide, a processor does not compute
            # while it learns.
            alike = documents is None and positions is None and device.type == "cpu"
            alike = alike and torch.is_grad_enabled()
            if device.type == "cuda" and self.dtype == torch.bfloat16:
                from puna.kernels.attention import packed

                if PLACED_BY_KERNEL and config.head_dim & (config.head_dim - 1) == 0:
                    from puna.kernels import qk

                    place = qk.place
                shape = ids_BT.shape if tree is None else tree.nodes_BT.shape
                local, everywhere = packed(shape, positions, documents, chunk, largest, device)
                if documents is None and tree is None:  # rows whole: plain causal attention
                    local, everywhere = (
                        None if x is everywhere else x for x in (local, everywhere)
                    )
            elif tokens <= LONGEST_MASK and not alike:
                local, everywhere = masks(
                    tokens, positions, documents, chunk, largest, device, self.dtype
                )
            else:
                local, everywhere = runs(tokens, positions, documents, chunk, largest, device)
        return Pass(factors, temperature, local, everywhere, cache, even, tree, place)


def allocated(config: ModelConfig, dtype: torch.dtype) -> Decoder:
    """A decoder on the processor whose parameters, as `dtype`, are still to be filled."""
    with torch.device("meta"):
        model = Decoder(config)
    model = model.to(dtype).to_empty(device="cpu")
    for buffer in model.buffers():
        buffer.zero_()
    return model


def query_temperature(positions: Tensor, floor_scale: int, attn_scale: float) -> Tensor:
    """1 + attn_scale * ln(1 + floor((p + 1) / floor_scale)) in fp32 (arXiv 2501.19399's aim)."""
    return torch.log1p(torch.floor((positions.float() + 1.0) / floor_scale)) * attn_scale + 1.0


def restart(documents_BT: Tensor) -> Tensor:
    """Positions that count from 0 at each change of document, [B, T]."""
    index = torch.arange(documents_BT.shape[1], device=documents_BT.device).expand_as(documents_BT)
    fresh = torch.ones_like(documents_BT, dtype=torch.bool)
    fresh[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    return index - torch.where(fresh, index, 0).cummax(1).values


def masks(
    tokens: int,
    positions: Tensor | None,
    documents: Tensor | None,
    chunk: int | None,
    largest: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor | None, Tensor | None]:
    """Additive masks [B or 1, 1, T, T] of local and global layers; None where causal is enough.

    Causality follows the order in the row, the chunk grid follows the positions.
    """
    everywhere = None
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()
    if documents is not None:
        everywhere = (documents[:, :, None] == documents[:, None, :]) & causal
    local = everywhere
    if chunk is not None and largest >= chunk:
        places = torch.arange(tokens, device=device)[None] if positions is None else positions
        grid = places // chunk
        local = (grid[:, :, None] == grid[:, None, :]) & (
            causal if everywhere is None else everywhere
        )
    global_mask = None if everywhere is None else additive(everywhere[:, None], dtype)
    if local is everywhere:
        return global_mask, global_mask
    assert local is not None
    return additive(local[:, None], dtype), global_mask


def runs(
    tokens: int,
    positions: Tensor | None,
    documents: Tensor | None,
    chunk: int | None,
    largest: int,
    device: torch.device,
) -> tuple[Runs | None, Runs | None]:
    """What `masks` says, as the runs of local and of global layers; None where a row is one run."""
    labels = [] if documents is None else [documents]
    everywhere = _lengths(labels)
    if chunk is None or largest < chunk:
        return everywhere, everywhere
    places = torch.arange(tokens, device=device)[None] if positions is None else positions
    return _lengths([*labels, places // chunk]), everywhere


def _lengths(labels_BT: list[Tensor]) -> Runs | None:
    """The lengths of the runs of equal labels in each row."""
    if not labels_BT:
        return None
    changes_BT = sum((x.diff(dim=1) != 0 for x in labels_BT), torch.tensor(False))
    out = []
    for changes in changes_BT.cpu():
        edges = [0, *(changes.nonzero()[:, 0] + 1).tolist(), changes.numel() + 1]
        out.append(tuple(b - a for a, b in pairwise(edges)))
    return tuple(out)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as one to add to scores: attention would convert it again in every layer."""
    zeros = torch.zeros((), dtype=dtype, device=visible.device)
    return torch.where(visible, zeros, float("-inf"))
