"""Losses by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from puna.train.loss import PolicyLoss, policy_loss, token_logprobs

OPEN = PolicyLoss(importance_cap=0.0)


def vector(*values: float, grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def logs(*ratios: float, grad: bool = False) -> Tensor:
    return vector(*map(math.log, ratios), grad=grad)


def test_token_logprobs_at_a_temperature():
    logits, ids = vector(0, math.log(3))[None], torch.tensor([1])
    assert token_logprobs(logits, ids).exp().item() == pytest.approx(3 / 4)
    assert token_logprobs(logits, ids, 0.5).exp().item() == pytest.approx(9 / 10)


def test_on_policy_the_gradient_is_minus_the_advantage():
    logp = logs(0.5, 0.1, 0.9, grad=True)
    advantages = vector(2.0, -1.0, 0.5)
    terms = policy_loss(logp, logp.detach(), advantages, PolicyLoss())
    (terms.loss / 3).backward()
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, -advantages / 3)
    assert terms.loss.item() == pytest.approx(-1.5)
    assert (terms.clipped, terms.sampler_gap, terms.sampler_kl) == (0, 0, 0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.20, 1.0, -1.20, -1.20),
        (1.50, 1.0, -1.28, 0.0),  # cut above at 1 + clip_high
        (0.50, 1.0, -0.50, -0.50),  # a likely answer made unlikely is pulled back
        (0.90, -1.0, 0.90, 0.90),
        (0.50, -1.0, 0.80, 0.0),  # cut below at 1 - clip_low
        (1.50, -1.0, 1.50, 1.50),
        (1.25, 1.0, -1.25, -1.25),  # inside 0.28, outside 0.2: the two sides differ
    ],
)
def test_the_ratio_is_clipped_on_the_side_that_would_gain(ratio, advantage, loss, slope):
    logp = logs(ratio, grad=True)
    old = vector(0.0)
    terms = policy_loss(logp, old, vector(advantage), OPEN, proximal_logp_M=old)
    terms.loss.backward()
    assert terms.loss.item() == pytest.approx(loss)
    assert logp.grad is not None
    assert logp.grad.item() == pytest.approx(slope)
    assert terms.clipped == (slope == 0)


def test_the_symmetric_clip_would_differ():
    settings = PolicyLoss(clip_high=0.2, importance_cap=0)
    found = policy_loss(logs(1.5), vector(0.0), vector(1.0), settings, proximal_logp_M=vector(0.0))
    assert float(found.loss) == pytest.approx(-1.20)


def test_importance_weights_are_truncated():
    """The trainer found the tokens 1.5, 4 and 0.5 times as likely as the sampler did."""
    logp, sampled = logs(0.3, 0.4, 0.1, grad=True), logs(0.2, 0.1, 0.2)
    ones = vector(1.0, 1.0, 1.0)
    capped = policy_loss(logp, sampled, ones, PolicyLoss(importance_cap=2.0))
    assert capped.loss.item() == pytest.approx(-(1.5 + 2.0 + 0.5))
    capped.loss.backward()
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, -vector(1.5, 2.0, 0.5))
    assert policy_loss(logp, sampled, ones, OPEN).loss.item() == pytest.approx(-3)
    assert capped.sampler_gap == pytest.approx(math.log(4))
    k3 = [q - math.log(q) - 1 for q in (1.5, 4, 0.5)]
    assert capped.sampler_kl == pytest.approx(sum(k3) / 3)


def test_sampler_kl_is_from_the_sampler_to_the_trainer():
    """Of two tokens the sampler drew each half the time; the trainer gives them 1/4 and 3/4."""
    terms = policy_loss(logs(0.25, 0.75), logs(0.5, 0.5), vector(0.0, 0.0), OPEN)
    exact = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert terms.sampler_kl == pytest.approx(exact)
    assert terms.sampler_kl == pytest.approx(0.1438, abs=1e-4)


@pytest.mark.parametrize(
    "bad",
    [{"clip_low": 0.0}, {"clip_low": 1.1}, {"clip_high": 0.0}, {"importance_cap": -1.0},
     {"kl": -0.1}, {"kl": math.inf}, {"clip_low": math.nan}],
)  # fmt: skip
def test_settings_that_bound_nothing(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is"):
        PolicyLoss(**bad)


def test_weights_are_taken_before_the_first_update_and_ratios_from_there():
    """At a second update: sampled 0.2, then the trainer's 0.3 (w = 1.5), now 0.33 (r = 1.1)."""
    logp = logs(0.33, grad=True)
    terms = policy_loss(logp, logs(0.2), vector(1.0), PolicyLoss(), proximal_logp_M=logs(0.3))
    terms.loss.backward()
    assert terms.loss.item() == pytest.approx(-1.5 * 1.1)
    assert logp.grad is not None
    assert logp.grad.item() == pytest.approx(-1.5 * 1.1)


def test_the_distance_to_the_reference_is_k3():
    """q = reference / policy = 2: q - log q - 1, and its slope in log p is 1 - q."""
    logp = logs(0.2, grad=True)
    settings = PolicyLoss(kl=0.5)
    terms = policy_loss(logp, logs(0.2), vector(0.0), settings, reference_logp_M=logs(0.4))
    terms.loss.backward()
    assert terms.loss.item() == pytest.approx(0.5 * (1 - math.log(2)))
    assert terms.reference_kl == pytest.approx(1 - math.log(2))
    assert logp.grad is not None
    assert logp.grad.item() == pytest.approx(0.5 * (1 - 2))
    off = policy_loss(logp, logs(0.2), vector(0.0), PolicyLoss(), reference_logp_M=logs(0.4))
    assert off.loss.item() == 0
