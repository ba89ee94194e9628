"""The preference loss against numbers worked by hand, and the way it pushes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from puna.train.loss import preference_loss

LOGP = st.floats(-50, 0)


def loss(policy, reference, nll_of, beta=0.1, nll=0.2):
    tensors = (torch.tensor(x, dtype=torch.float64) for x in (policy, reference, nll_of))
    return preference_loss(*tensors, beta=beta, nll=nll)


def test_one_pair_by_hand():
    """Log-ratios +2 and -3: margin 0.1 * 5; -log sigmoid(0.5) = log(1 + e^-0.5) = 0.4741."""
    total, margins = loss([[-8.0, -13.0]], [[-10.0, -10.0]], [4.0])
    assert margins.tolist() == pytest.approx([0.5])
    assert total.item() == pytest.approx(0.474077 + 0.2 * 4.0, abs=1e-6)


def test_at_the_reference_every_pair_costs_log_two():
    total, margins = loss([[-3.0, -9.0], [-1.0, -1.0]], [[-3.0, -9.0], [-1.0, -1.0]], [0.0, 0.0])
    assert margins.tolist() == [0, 0]
    assert total.item() == pytest.approx(2 * math.log(2))


def test_pairs_are_summed():
    one, _ = loss([[-8.0, -13.0]], [[-10.0, -10.0]], [4.0])
    other, _ = loss([[-5.0, -1.0]], [[-2.0, -2.0]], [1.0])
    both, _ = loss([[-8.0, -13.0], [-5.0, -1.0]], [[-10.0, -10.0], [-2.0, -2.0]], [4.0, 1.0])
    assert both.item() == pytest.approx(one.item() + other.item())


@given(LOGP, LOGP, LOGP, LOGP, st.floats(0.01, 1))
def test_the_gradient_raises_the_chosen_and_lowers_the_rejected(c, r, rc, rr, beta):
    """d/d chosen = -beta sigmoid(-margin), d/d rejected its negative (equation 7's gradient)."""
    policy = torch.tensor([[c, r]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[rc, rr]], dtype=torch.float64)
    total, margins = preference_loss(policy, reference, torch.zeros(1), beta=beta, nll=0.2)
    total.backward()
    up, down = policy.grad[0].tolist()
    assert up == pytest.approx(-beta / (1 + math.exp(margins.item())))
    assert down == pytest.approx(-up)
    assert up < 0 < down


@pytest.mark.parametrize("nll", [0.0, 0.2])
def test_the_weight_of_the_chosen_sides_likelihood(nll):
    nll_of = torch.tensor([2.0, 3.0], requires_grad=True)
    total, _ = preference_loss(torch.zeros(2, 2), torch.zeros(2, 2), nll_of, beta=0.1, nll=nll)
    total.backward()
    assert nll_of.grad.tolist() == pytest.approx([nll, nll])
