"""The schedule by hand; the optimiser's state bit for bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from puna.train.optim import (
    OptimConfig,
    learning_rate,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    update,
)


@pytest.mark.parametrize(
    ("schedule", "step", "rate"),
    [
        ("cosine", 0, 0.25),
        ("cosine", 3, 1.0),
        ("cosine", 4, 1.0),
        ("cosine", 14, 0.55),
        ("cosine", 9, 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))),
        ("cosine", 24, 0.1),
        ("cosine", 99, 0.1),
        ("linear", 9, 0.1 + 0.9 * 0.75),
        ("linear", 14, 0.55),
        ("constant", 1, 0.5),
        ("constant", 23, 1.0),
    ],
)
def test_learning_rate(schedule, step, rate):
    config = OptimConfig(lr=1.0, warmup=4, schedule=schedule, final=0.1)
    assert learning_rate(config, step, 24) == pytest.approx(rate)


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        model(x).square().sum().backward()
        update(model, optimizer, OptimConfig(lr=0.1), 0.1)


def test_a_restored_optimiser_goes_on_bit_for_bit():
    a, b, c = small(), small(1), small(1)
    of_a, of_b, of_c = (make_optimizer(m, OptimConfig(lr=0.1)) for m in (a, b, c))
    learn(a, of_a, range(3))
    kept = {k: v.clone() for k, v in optimizer_tensors(a, of_a).items()}
    for model in (b, c):
        model.load_state_dict(a.state_dict())
    load_optimizer_tensors(b, of_b, kept)
    again = optimizer_tensors(b, of_b)
    assert again.keys() == kept.keys()
    assert len(kept) == 3 * len(list(a.parameters()))
    assert all(torch.equal(again[k], kept[k]) for k in kept)
    for model, optimizer in ((a, of_a), (b, of_b), (c, of_c)):
        learn(model, optimizer, range(3, 6))
    for x, y, z in zip(a.parameters(), b.parameters(), c.parameters(), strict=True):
        assert torch.equal(x, y)
        assert (x - z).abs().max() > 1e-3  # without the state it ends elsewhere


def test_update_clips_and_says_the_norm_before():
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    seen = {}
    optimizer = make_optimizer(model, OptimConfig())
    optimizer.register_step_pre_hook(lambda o, a, k: seen.update(g=model.weight.grad.clone()))
    assert update(model, optimizer, OptimConfig(clip=1.0), 0.1) == pytest.approx(5)
    torch.testing.assert_close(seen["g"], torch.tensor([[0.6, 0.8]]))
    assert model.weight.grad is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_no_weight(bad):
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([[1.0, bad]])
    optimizer = make_optimizer(model, OptimConfig())
    assert not math.isfinite(update(model, optimizer, OptimConfig(), 1.0))
    assert torch.equal(model.weight, before)


def test_only_matrices_decay():
    model = small()
    groups = make_optimizer(model, OptimConfig(weight_decay=0.3)).param_groups
    found = {(p.ndim, g["weight_decay"]) for g in groups for p in g["params"]}
    assert found == {(2, 0.3), (1, 0.0)}


@pytest.mark.parametrize("lr", [0.0, -1.0, 10.0])
def test_a_rate_that_cannot_train(lr):
    with pytest.raises(ValueError, match="lr is"):
        OptimConfig(lr=lr)


@pytest.mark.parametrize(
    "bad",
    [{"warmup": -1}, {"weight_decay": -0.1}, {"clip": -1.0}, {"clip": math.nan}, {"beta1": 1.0},
     {"beta2": -0.1}, {"eps": 0.0}, {"final": 1.1}, {"final": -0.1}],
)  # fmt: skip
def test_settings_out_of_range(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is"):
        OptimConfig(**bad)


def test_settings_at_the_edge():
    OptimConfig(warmup=0, weight_decay=0.0, clip=0.0, beta1=0.0, final=0.0)
    OptimConfig(final=1.0)
