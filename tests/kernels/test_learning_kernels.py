"""The training kernels beside their twins: grouped experts, and the loss of a head in blocks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from puna.kernels import cross_entropy, grouped
from puna.text.packing import IGNORE

CHOICES = st.lists(st.integers(0, 3), min_size=1, max_size=40)


def gradients(run: Callable[[], Tensor], *leaves: Tensor) -> list[Tensor]:
    """The value of a scalar and its gradients, detached."""
    value = run()
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def close(found: Tensor, want: Tensor, tolerance: float) -> None:
    assert (found - want).norm() <= tolerance * (want.norm() + 1e-12)


@given(CHOICES)
@settings(max_examples=30)
def test_grouped_experts_are_each_token_by_itself(taken: list[int]) -> None:
    """All tokens to one expert and experts without a token are among what is drawn."""
    random = torch.Generator().manual_seed(len(taken))
    choice, dtype = torch.tensor(taken), torch.bfloat16
    x = torch.randn(len(taken), 16, generator=random).to(dtype).requires_grad_()
    gate_up = (torch.randn(4, 16, 48, generator=random) / 4).requires_grad_()
    down = (torch.randn(4, 24, 16, generator=random) / 5).requires_grad_()
    weight = torch.randn(len(taken), 16, generator=random)
    results = []
    for way in (grouped.gated_experts, grouped.gated_experts_plain):

        def run(way: Callable[..., Tensor] = way) -> Tensor:
            return (way(x, choice, gate_up, down).float() * weight).sum()

        results.append(gradients(run, x, gate_up, down))
    for found, want in zip(*results, strict=True):
        close(found.float(), want.float(), 2e-2)
    exact = grouped.gated_experts_plain(
        x.double(), choice, gate_up.to(dtype).double(), down.to(dtype).double()
    )
    close(grouped.gated_experts(x, choice, gate_up, down).double(), exact, 1e-2)
    other = grouped.gated_experts(x, (choice + 1) % 4, gate_up, down).double()
    assert (other - exact).norm() > 0.3 * exact.norm()


def test_a_permutation_goes_back_the_way_it_came() -> None:
    order = torch.tensor([2, 0, 3, 1])
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def permuted(x: Tensor) -> Tensor:
        return grouped.permute(x, order, order.argsort())

    assert torch.equal(permuted(x), x[order])
    assert torch.autograd.gradcheck(permuted, (x,))


@pytest.mark.parametrize("rows", [1, 7, 20, 33])
@pytest.mark.parametrize("left_out", [0, 5])
def test_the_loss_in_blocks_is_the_loss(
    monkeypatch: pytest.MonkeyPatch, rows: int, left_out: int
) -> None:
    monkeypatch.setattr(cross_entropy, "BLOCK", 8)
    random = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, 12, generator=random, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(30, 12, generator=random, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 30, (rows,), generator=random)
    targets[:left_out] = IGNORE
    found = gradients(
        lambda: 3 * cross_entropy.head_cross_entropy(hidden, weight, targets), hidden, weight
    )
    want = gradients(lambda: 3 * cross_entropy.head_plain(hidden, weight, targets), hidden, weight)
    for a, b in zip(found, want, strict=True):
        close(a.double(), b, 1e-5)
    if left_out < rows:
        off = targets.clone()
        off[-1] = (off[-1] + 1) % 30
        shifted = cross_entropy.head_cross_entropy(hidden, weight, off)
        assert (3 * shifted - want[0]).abs() > 1e-3 * want[0]


def test_far_logits_stay_finite() -> None:
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    targets = torch.tensor([0, 0])
    for way in (cross_entropy.head_cross_entropy, cross_entropy.head_plain):
        value, *both = gradients(lambda way=way: way(hidden, weight, targets), hidden, weight)
        assert value == 2e4
        assert all(x.isfinite().all() for x in both)


@pytest.mark.parametrize("rows", [0, 5])
def test_a_frozen_head_has_no_gradient_and_no_tokens_no_loss(rows: int) -> None:
    hidden = torch.randn(rows, 12, requires_grad=True)
    weight, targets = torch.randn(30, 12), torch.arange(rows)
    found = gradients(lambda: cross_entropy.head_cross_entropy(hidden, weight, targets), hidden)
    want = gradients(lambda: cross_entropy.head_plain(hidden, weight, targets), hidden)
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
