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
from puna.models.decoder import Attention, AttentionFn, Block, Pass, RMSNorm, query_temperature
from puna.models.moe import MoE
from puna.models.rope import Rope


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


def _other_rounding(model: Decoder) -> Decoder:
    """The rotation in bf16 where it belongs in fp32, and the other way round."""
    other = copy.deepcopy(model)
    other.rope.__class__ = _OtherRounding
    return other


def _unrounded_scores(model: Decoder) -> Decoder:
    """Scores in fp32 up to the softmax. (The softmax's own dtype shows nowhere: PyTorch computes a
    bf16 one in fp32 and rounds once.)
    """
    other = copy.deepcopy(model)
    for layer in other.layers:
        attention = cast(Block, layer).attention
        attention.attention = _unrounded(attention.attention)
    return other


def _unrounded(rounded: AttentionFn) -> AttentionFn:
    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        wide = None if mask is None else mask.float()
        return rounded(q.float(), k.float(), v.float(), wide, scale).type_as(q)

    return attention


def _tied(model: Decoder) -> Decoder:
    """The embedding in place of the head."""
    other = copy.deepcopy(model)
    other.head = None
    return other


def _no_bias(model: Decoder) -> Decoder:
    """Without the biases of q, k and v."""
    other = copy.deepcopy(model)
    for name, parameter in other.named_parameters():
        if name.endswith("qkv.bias"):
            parameter.data.zero_()
    return other


def _no_head_norms(model: Decoder) -> Decoder:
    """Queries and keys as they are projected."""
    other = copy.deepcopy(model)
    for layer in other.layers:
        attention = cast(Block, layer).attention
        attention.q_norm = attention.k_norm = None
    return configured(other, replace(model.config, family="llama3"))


def _plain_head_norms(model: Decoder) -> Decoder:
    """The norms of queries and keys without their weights."""
    other = copy.deepcopy(model)
    for name, parameter in other.named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            parameter.data.fill_(1.0)
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


class _NormEverywhere(Attention):
    """The norm of q and k in layers without rotary positions too."""

    def _place(self, qk: Tensor, plan: Pass) -> tuple[Tensor, Tensor]:
        if self.nope and self.qk_norm:
            qk = F.rms_norm(qk.float(), (self.head_dim,), None, self.eps).type_as(qk)
        return super()._place(qk, plan)


class _OtherRounding(Rope):
    """Rotations multiplied in the other family's dtype."""

    def apply(self, x_BTHD: Tensor, factors: tuple[Tensor, ...]) -> Tensor:
        if not self.interleaved:
            return super().apply(x_BTHD.float(), factors).type_as(x_BTHD)
        cos, sin = (part.type_as(x_BTHD) for part in (factors[0].real, factors[0].imag))
        a, b = x_BTHD.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


class _FixedEpsilon(Attention):
    """1e-6 in the norm of q and k, whatever the configuration says."""

    def _place(self, qk: Tensor, plan: Pass) -> tuple[Tensor, Tensor]:
        self.eps = 1e-6
        return super()._place(qk, plan)


class _Mixed(MoE):
    """The layer with another sum of its experts."""

    def forward(
        self, x_BTD: Tensor, forced_BT: Tensor | None = None, even: bool = False
    ) -> tuple[Tensor, Tensor]:
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        logits_NE = self.router(x_ND)
        choice_N = (logits_NE + self.expert_bias).argmax(-1)
        mixed = self.mix(x_ND, logits_NE, choice_N).view(x_BTD.shape)
        return mixed, choice_N.view(x_BTD.shape[:-1])

    def mix(self, x_ND: Tensor, logits_NE: Tensor, choice_N: Tensor) -> Tensor:
        raise NotImplementedError

    def score(self, logits_NE: Tensor, choice_N: Tensor) -> Tensor:
        """The sigmoid of each token's logit, [N, 1]."""
        return logits_NE.float().sigmoid().gather(1, choice_N[:, None]).type_as(logits_NE)


class _ScoreOnOutput(_Mixed):
    """The router's score multiplies what the expert gives, not what it is given."""

    def mix(self, x_ND: Tensor, logits_NE: Tensor, choice_N: Tensor) -> Tensor:
        routed = self.experts(x_ND, choice_N) * self.score(logits_NE, choice_N)
        out: Tensor = self.shared(x_ND) + routed
        return out


class _SoftmaxScore(_Mixed):
    """The score by a softmax over all experts, not by the sigmoid of the one."""

    def mix(self, x_ND: Tensor, logits_NE: Tensor, choice_N: Tensor) -> Tensor:
        score = logits_NE.float().softmax(-1).gather(1, choice_N[:, None]).type_as(x_ND)
        out: Tensor = self.shared(x_ND) + self.experts(x_ND * score, choice_N)
        return out


class _ScaledShared(_Mixed):
    """The score on the shared expert's input too."""

    def mix(self, x_ND: Tensor, logits_NE: Tensor, choice_N: Tensor) -> Tensor:
        scaled = x_ND * self.score(logits_NE, choice_N)
        out: Tensor = self.shared(scaled) + self.experts(scaled, choice_N)
        return out


class _AllOfEquals(_Mixed):
    """Every expert whose logit is the highest, not one of them."""

    def mix(self, x_ND: Tensor, logits_NE: Tensor, choice_N: Tensor) -> Tensor:
        best = logits_NE.amax(-1, keepdim=True)
        out: Tensor = self.shared(x_ND)
        for expert in range(logits_NE.shape[1]):
            score = best.sigmoid() * (logits_NE[:, expert : expert + 1] == best)
            out = out + self.experts(x_ND * score, torch.full_like(choice_N, expert))
        return out


class _Capped(_Mixed):
    """Experts that take their even share of the tokens of a call and drop the rest."""

    def mix(self, x_ND: Tensor, logits_NE: Tensor, choice_N: Tensor) -> Tensor:
        taken = F.one_hot(choice_N, logits_NE.shape[1]).cumsum(0)
        kept = taken.gather(1, choice_N[:, None]) <= -(-len(x_ND) // taken.shape[1])
        scaled = x_ND * self.score(logits_NE, choice_N)
        out: Tensor = self.shared(x_ND) + self.experts(scaled, choice_N) * kept
        return out


class _WeightBeforeCast(RMSNorm):
    """The norm's weight multiplied in fp32, the cast after it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), self.eps).to(x.dtype)


class _IndexTemperature(Decoder):
    """The temperature by a token's place in the row, whatever its position."""

    def plan(self, ids_BT: Tensor, *rest: Any) -> Pass:
        found = super().plan(ids_BT, *rest)
        places = torch.arange(ids_BT.shape[1])[None]
        heat = query_temperature(places, self.config.floor_scale, self.config.attn_scale)
        return replace(found, temperature=heat[..., None, None])


class _CastTemperature(Decoder):
    """The temperature rounded to the activations' dtype before it multiplies."""

    def plan(self, ids_BT: Tensor, *rest: Any) -> Pass:
        found = super().plan(ids_BT, *rest)
        assert found.temperature is not None
        return replace(found, temperature=found.temperature.to(self.dtype))


BROKEN: dict[str, Callable[[Decoder], Decoder]] = {
    "chunks": _set(attention_chunk=None),
    "no chunk": _set(attention_chunk=8),
    "NoPE phase": lambda model: configured(model, _WrongPhase(**vars(model.config))),
    "rotary everywhere": _set(nope_every=4),
    "QK norm": _set(qk_norm=False),
    "no QK norm": _set(qk_norm=True),
    "QK norm per head": _modules(Attention, _JointNorm),
    "QK norm's epsilon": _modules(Attention, _FixedEpsilon),
    "no QK norm in NoPE layers": _modules(Attention, _NormEverywhere),
    "QK norm after rotation": _modules(Attention, _NormFirst),
    "temperature": _set(temperature_tuning=False),
    "temperature by position": _modules(Decoder, _IndexTemperature),
    "fp32 temperature": _modules(Decoder, _CastTemperature),
    "rotated pairs": _other_pairs,
    "rotation's dtype": _other_rounding,
    "rounded scores": _unrounded_scores,
    "own head": _tied,
    "bias": _no_bias,
    "head norms": _no_head_norms,
    "head norms' weights": _plain_head_norms,
    "rope scaling": _set(rope_scaling=None),
    "factor 16": _scaled(factor=8.0),
    "factor 8": _scaled(factor=16.0),
    "factor 32": _scaled(factor=8.0),
    "blend": _scaled(high_freq_factor=1.0),
    "score on the input": _modules(MoE, _ScoreOnOutput),
    "sigmoid": _modules(MoE, _SoftmaxScore),
    "shared expert unscaled": _modules(MoE, _ScaledShared),
    "one of equals": _modules(MoE, _AllOfEquals),
    "no dropped tokens": _modules(MoE, _Capped),
    "cast before the weight": _modules(RMSNorm, _WeightBeforeCast),
}
