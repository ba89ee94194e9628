"""Puna's models with one feature left out or done as others have done it: what a case must notice.

`logits(without(ours, "chunks"), ids)` has to be far from the peer's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from puna.models import Decoder, ModelConfig, RopeScaling
from puna.models.decoder import Attention, Block, Pass, RMSNorm, query_temperature
from puna.models.moe import MoE, Routes


def without(model: Decoder, feature: str) -> Decoder:
    """The same weights with `feature` missing."""
    return BROKEN[feature](model)


def configured(model: Decoder, config: ModelConfig) -> Decoder:
    """The same weights under another configuration."""
    first = cast(Block, model.layers[0])
    other = Decoder(config, first.attention.attention).to(model.dtype).eval()
    other.load_state_dict(model.state_dict())
    return other


def _set(**changes: Any) -> Callable[[Decoder], Decoder]:
    return lambda model: configured(model, replace(model.config, **changes))


def _scaled(**changes: Any) -> Callable[[Decoder], Decoder]:
    """Another stretching of the rotations."""

    def change(model: Decoder) -> Decoder:
        scaling = model.config.rope_scaling
        assert isinstance(scaling, RopeScaling)
        return _set(rope_scaling=replace(scaling, **changes))(model)

    return change


def _modules(old: type, new: type) -> Callable[[Decoder], Decoder]:
    """Every module of one class made one of another."""

    def change(model: Decoder) -> Decoder:
        other = copy.deepcopy(model)
        for module in other.modules():
            if type(module) is old:
                module.__class__ = new
        return other

    return change


def _other_pairs(model: Decoder) -> Decoder:
    """The rotation over the other family's pairs."""
    other = copy.deepcopy(model)
    other.rope.interleaved = not model.rope.interleaved
    other.rope._table = torch.empty(0)
    return other


def _tied(model: Decoder) -> Decoder:
    """The embedding in place of the head."""
    other = copy.deepcopy(model)
    other.head = None
    return other


class _WrongPhase(ModelConfig):
    """NoPE in layers 0, 4, ... in place of 3, 7, ..."""

    def is_nope(self, layer: int) -> bool:
        return layer % self.nope_every == 0


class _JointNorm(Attention):
    """One norm over all heads together."""

    def _place(self, qk: Tensor, plan: Pass) -> tuple[Tensor, Tensor]:
        if self.nope or not self.qk_norm:
            return super()._place(qk, plan)
        rotated = self.rope.apply(qk, plan.factors)
        q, k = (
            F.rms_norm(x.flatten(2).float(), (x.shape[2] * x.shape[3],), None, self.eps)
            .view(x.shape)
            .type_as(x)
            for x in torch.split(rotated, [self.heads, self.keys], 2)
        )
        return q, k


class _NormFirst(Attention):
    """The norm of q and k before the rotation."""

    def _place(self, qk: Tensor, plan: Pass) -> tuple[Tensor, Tensor]:
        if self.nope or not self.qk_norm:
            return super()._place(qk, plan)
        normed = F.rms_norm(qk.float(), (self.head_dim,), None, self.eps).type_as(qk)
        q, k = torch.split(self.rope.apply(normed, plan.factors), [self.heads, self.keys], 2)
        return q, k


class _FixedEpsilon(Attention):
    """1e-6 in the norm of q and k, whatever the configuration says."""

    def _place(self, qk: Tensor, plan: Pass) -> tuple[Tensor, Tensor]:
        self.eps = 1e-6
        return super()._place(qk, plan)


class _ScoreOnOutput(MoE):
    """The router's score multiplies what the expert gives, not what it is given."""

    def forward(self, x_BTD: Tensor, routes: Routes | None = None) -> Tensor:
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        logits_NE = self.router(x_ND)
        score, choice = logits_NE.float().sigmoid().max(-1, keepdim=True)
        routed = self.experts(x_ND, choice[:, 0]) * score.type_as(x_ND)
        out: Tensor = self.shared(x_ND) + routed
        return out.view(x_BTD.shape)


class _Capped(MoE):
    """Experts that take their even share of the tokens of a call and drop the rest."""

    def forward(self, x_BTD: Tensor, routes: Routes | None = None) -> Tensor:
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        score, choice = self.router(x_ND).sigmoid().max(-1, keepdim=True)
        taken = F.one_hot(choice[:, 0], self.router.weight.shape[0]).cumsum(0)
        kept = taken.gather(1, choice) <= -(-len(x_ND) // taken.shape[1])
        out: Tensor = self.shared(x_ND) + self.experts(x_ND * score, choice[:, 0]) * kept
        return out.view(x_BTD.shape)


class _WeightBeforeCast(RMSNorm):
    """The norm's weight multiplied in fp32, the cast after it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.shape, self.weight.float(), self.eps).to(x.dtype)


class _IndexTemperature(Decoder):
    """The temperature by a token's place in the row, whatever its position."""

    def plan(self, ids_BT: Tensor, *rest: Any) -> Pass:
        found = super().plan(ids_BT, *rest)
        places = torch.arange(ids_BT.shape[1])[None]
        heat = query_temperature(places, self.config.floor_scale, self.config.attn_scale)
        return replace(found, temperature=heat[..., None, None])


BROKEN: dict[str, Callable[[Decoder], Decoder]] = {
    "chunks": _set(attention_chunk=None),
    "no chunk": _set(attention_chunk=8),
    "NoPE phase": lambda model: configured(model, _WrongPhase(**vars(model.config))),
    "rotary everywhere": _set(nope_every=4),
    "QK norm": _set(qk_norm=False),
    "no QK norm": _set(qk_norm=True),
    "QK norm per head": _modules(Attention, _JointNorm),
    "QK norm's epsilon": _modules(Attention, _FixedEpsilon),
    "QK norm after rotation": _modules(Attention, _NormFirst),
    "temperature": _set(temperature_tuning=False),
    "temperature by position": _modules(Decoder, _IndexTemperature),
    "rotated pairs": _other_pairs,
    "own head": _tied,
    "rope scaling": _set(rope_scaling=None),
    "factor 16": _scaled(factor=8.0),
    "factor 8": _scaled(factor=16.0),
    "factor 32": _scaled(factor=8.0),
    "blend": _scaled(high_freq_factor=1.0),
    "score on the input": _modules(MoE, _ScoreOnOutput),
    "no dropped tokens": _modules(MoE, _Capped),
    "cast before the weight": _modules(RMSNorm, _WeightBeforeCast),
}
