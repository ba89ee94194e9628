"""Muon beside PyTorch's own, and what makes it Muon."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from puna.models.presets import build, preset
from puna.train.muon import RMS, Muon, orthogonal
from puna.train.optim import (
    OptimConfig,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    update,
)


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (3, 16, 40)])
def test_singular_values_come_near_one(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert torch.linalg.svdvals(matrix).max() > 2


def test_experts_are_matrices_of_their_own() -> None:
    batch = torch.randn(4, 12, 30, generator=torch.Generator().manual_seed(1))
    alone = torch.stack([orthogonal(m) for m in batch])
    torch.testing.assert_close(orthogonal(batch), alone, rtol=1e-5, atol=1e-6)
    assert (orthogonal(batch) - orthogonal(batch.flip(0))).abs().max() > 0.1


def test_steps_are_those_of_pytorch() -> None:
    """Momentum, Nesterov and decay as there; PyTorch's works in bf16, hence the tolerance."""
    random = torch.Generator().manual_seed(2)
    ours, theirs = (nn.Parameter(torch.ones(24, 40)) for _ in range(2))
    mine = Muon([{"params": [ours], "muon": True}], lr=0.02, weight_decay=0.1)
    peer = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        grad = torch.randn(24, 40, generator=random)
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        mine.step()
        peer.step()
    moved = (theirs - 1).norm()
    assert (ours - theirs).norm() < 0.02 * moved
    assert moved > 0.1


def test_an_update_is_about_as_large_as_adamws() -> None:
    weight = nn.Parameter(torch.zeros(64, 192))
    weight.grad = torch.randn(64, 192, generator=torch.Generator().manual_seed(3))
    Muon([{"params": [weight], "muon": True}], lr=1.0).step()
    assert 0.7 * RMS < weight.detach().pow(2).mean().sqrt() < 1.3 * RMS


def test_embedding_head_router_and_vectors_stay_adamws() -> None:
    model = build(preset("nano", tie_embeddings=False), 0)
    optimizer = make_optimizer(model, OptimConfig(kind="muon"))
    names = {p: n for n, p in model.named_parameters()}
    marked = {names[p] for g in optimizer.param_groups if g["muon"] for p in g["params"]}
    others = {names[p] for g in optimizer.param_groups if not g["muon"] for p in g["params"]}
    assert marked | others == set(names.values())
    assert all("router" not in n and n.startswith("layers.") for n in marked)
    assert {"embed", "head.weight", "norm.weight"} <= others
    assert any("experts.down" in n for n in marked)


def test_a_checkpoint_goes_on_to_the_same_weights() -> None:
    config = OptimConfig(kind="muon", lr=1e-3)

    def learn(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            ids = torch.randint(0, 512, (2, 16), generator=torch.Generator().manual_seed(step))
            model.logits(model(ids)).square().mean().backward()
            update(model, optimizer, config, 1e-3)

    whole = build(preset("nano"), 0)
    learn(whole, make_optimizer(whole, config), range(4))
    first = build(preset("nano"), 0)
    half = make_optimizer(first, config)
    learn(first, half, range(2))
    second = build(preset("nano"), 1)
    second.load_state_dict(first.state_dict())
    other = make_optimizer(second, config)
    load_optimizer_tensors(second, other, optimizer_tensors(first, half))
    learn(second, other, range(2, 4))
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
