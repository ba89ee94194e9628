"""Losses as pure functions. Legend: B rows, T positions, M chosen tokens, P pairs, V vocabulary.

`token_logprobs(logits_MV, ids_M)`; `policy_loss(logp, sampled_logp, advantages, PolicyLoss())`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from puna.kernels.cross_entropy import head_cross_entropy, head_plain
from puna.models.decoder import Decoder
from puna.train.optim import require


def next_token_loss(model: Decoder, hidden_MD: Tensor, targets_M: Tensor) -> Tensor:
    """Sum of the negative log-likelihoods, in nats; targets of -100 count 0.

    On a GPU the logits are never there all at once.
    """
    loss = head_cross_entropy if hidden_MD.is_cuda else head_plain
    return loss(hidden_MD, model.head_weight, targets_M)


def token_logprobs(
    logits_UV: Tensor, ids_M: Tensor, temperature: float = 1.0, rows_M: Tensor | None = None
) -> Tensor:
    """Log-probability of each id [M] under its logits, at the temperature it was sampled with.

    Id m is under logits `rows_M[m]`, or under logits m where `rows_M` is None.
    """
    logits = logits_UV if temperature == 1.0 else logits_UV / temperature
    logp_UV = torch.log_softmax(logits, -1)
    if rows_M is None:
        return logp_UV.gather(-1, ids_M[:, None])[:, 0]
    return logp_UV[rows_M, ids_M]


@dataclass(frozen=True)
class PolicyLoss:
    """Settings of the clipped policy gradient.

    `clip_low` and `clip_high` bound the ratio from below and above (DAPO's asymmetric clipping);
    `importance_cap` bounds the weight that corrects for the sampler's other weights or kernels
    (truncated importance sampling; 0 turns it off); `kl` weighs the distance to the reference.
    """

    clip_low: float = 0.2
    clip_high: float = 0.28
    importance_cap: float = 2.0
    kl: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for a bound that bounds nothing."""
        require(0 < self.clip_low <= 1, self, "clip_low", "above 0, at most 1")
        require(self.clip_high > 0, self, "clip_high", "above 0")
        require(self.importance_cap >= 0, self, "importance_cap", "0 or more")
        require(0 <= self.kl < math.inf, self, "kl", "0 or more")


@dataclass(frozen=True)
class PolicyTerms:
    """The summed loss and what to watch: the shares and means are over the M tokens."""

    loss: Tensor
    clipped: float
    sampler_gap: float
    sampler_kl: float
    reference_kl: float


def policy_loss(
    logp_M: Tensor,
    sampled_logp_M: Tensor,
    advantages_M: Tensor,
    settings: PolicyLoss,
    *,
    proximal_logp_M: Tensor | None = None,
    reference_logp_M: Tensor | None = None,
) -> PolicyTerms:
    """Sum over tokens of -w min(r A, clip(r) A) + kl * k3; divide by the batch's tokens yourself.

    r = exp(logp - proximal), where `proximal` are the trainer's own log-probabilities before this
    batch's first update (None: this is the first, r = 1 with a gradient). w = min(exp(proximal -
    sampled), cap) is a constant: truncated importance sampling between sampler and trainer (Yao et
    al. 2025). k3 = q - log q - 1 with q = reference / policy (Schulman 2020); `sampler_kl` is its
    mean with q = proximal / sampled, which estimates KL(sampler || trainer).
    """
    proximal = logp_M.detach() if proximal_logp_M is None else proximal_logp_M
    ratio = (logp_M - proximal).exp()
    low, high = 1 - settings.clip_low, 1 + settings.clip_high
    unclipped, clipped = ratio * advantages_M, ratio.clamp(low, high) * advantages_M
    objective = torch.minimum(unclipped, clipped)
    gap = (proximal - sampled_logp_M).detach()
    if settings.importance_cap > 0:
        objective = objective * gap.exp().clamp_max(settings.importance_cap)
    loss = -objective.sum()
    reference_kl = 0.0
    if settings.kl > 0 and reference_logp_M is not None:
        log_q = reference_logp_M - logp_M
        k3 = log_q.exp() - log_q - 1
        loss = loss + settings.kl * k3.sum()
        reference_kl = float(k3.detach().mean())
    return PolicyTerms(
        loss,
        clipped=float((clipped < unclipped).float().mean()),
        sampler_gap=float(gap.abs().max()) if len(gap) else 0.0,
        sampler_kl=float((gap.exp() - gap - 1).mean()) if len(gap) else 0.0,
        reference_kl=reference_kl,
    )


def preference_loss(
    logp_P2: Tensor,
    reference_P2: Tensor,
    chosen_nll_P: Tensor,
    *,
    beta: float,
    nll: float,
) -> tuple[Tensor, Tensor]:
    """Sum over pairs of -log sigmoid(margin) + nll * chosen_nll, and the margins [P] detached.

    `logp_P2` and `reference_P2` are the summed log-probabilities of the chosen side and of the
    rejected; margin = beta ((chosen - its reference) - (rejected - its reference)) (Rafailov et al.
    2023, arXiv 2305.18290, equation 7). `chosen_nll_P` is the mean negative log-likelihood of the
    chosen side's tokens (arXiv 2407.21783, 4.1.4). Divide by the batch's pairs yourself.
    """
    chosen_P, rejected_P = (logp_P2 - reference_P2).unbind(1)
    margins_P = beta * (chosen_P - rejected_P)
    loss = (nll * chosen_nll_P - F.logsigmoid(margins_P)).sum()
    return loss, margins_P.detach()
