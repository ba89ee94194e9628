"""The norm that learns on a processor beside PyTorch's and beside fp64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from puna.kernels.norm import rms_norm


def learned(norm, x, weight, along):
    x = x.clone().requires_grad_()
    weight = None if weight is None else weight.clone().requires_grad_()
    y = norm(x, weight)
    y.backward(along)
    return [y.detach(), x.grad, *([] if weight is None else [weight.grad])]


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("shape", [(7, 64), (2, 33, 6, 16), (5, 1, 1)])
def test_it_is_the_twin_s(shape, weighted):
    drawn = torch.Generator().manual_seed(0)
    x, along = (torch.randn(shape, generator=drawn) for _ in range(2))
    x[0] = 0  # here the small constant decides
    weight = torch.randn(shape[-1], generator=drawn) if weighted else None
    ours = learned(lambda x, w: rms_norm(x, w, 1e-5), x, weight, along)
    wide = [None if t is None else t.double() for t in (x, weight, along)]
    exact = learned(lambda x, w: F.rms_norm(x, x.shape[-1:], w, 1e-5), *wide)
    twins = learned(lambda x, w: F.rms_norm(x, x.shape[-1:], w, 1e-5), x, weight, along)
    for a, b, c in zip(ours, exact, twins, strict=True):
        limit = 4 * float((c - b).abs().max()) + 1e-6 * float(b.abs().max())
        assert float((a - b).abs().max()) <= limit
        assert b.abs().max() > 0.1


def test_gradients_by_finite_differences():
    x = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-5), (x, weight))


def test_a_frozen_weight_gets_nothing():
    x, weight = torch.randn(3, 8, requires_grad=True), torch.randn(8)
    rms_norm(x, weight, 1e-5).sum().backward()
    assert x.grad is not None
    assert weight.grad is None


def test_without_gradients_it_is_pytorch_s_to_the_bit():
    x, weight = torch.randn(3, 8), torch.randn(8)
    with torch.no_grad():
        assert torch.equal(rms_norm(x, weight, 1e-5), F.rms_norm(x, (8,), weight, 1e-5))
