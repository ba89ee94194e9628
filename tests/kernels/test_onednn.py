"""oneDNN's products beside PyTorch's own: the same numbers, and only where something is learned."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from puna.kernels import onednn
from puna.kernels.cross_entropy import head_plain
from puna.models.config import ModelConfig
from puna.models.presets import build, preset

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN"
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradients(multiply, x, weight) -> tuple[torch.Tensor, ...]:
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = multiply(x, weight)
    y.backward(random(*y.shape, seed=3))
    return y.detach(), x.grad, weight.grad


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [((300,), 64, 128), ((4, 99), 128, 64), ((2, 3, 70), 40, 40)]
)
def test_values_and_gradients_are_those_of_the_twin(rows, inputs, outputs) -> None:
    x, weight = random(*rows, inputs), random(outputs, inputs, seed=1)
    ours, twins = (gradients(f, x, weight) for f in (onednn.linear, F.linear))
    for a, b in zip(ours, twins, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)
        assert b.abs().max() > 1
    again = gradients(onednn.linear, x, weight)
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))


def test_a_weight_that_is_a_view_of_another_learns() -> None:
    stack = random(3, 64, 96, seed=2).requires_grad_()
    x = random(500, 64)
    onednn.linear(x, stack[1].t()).square().sum().backward()
    found, stack.grad = stack.grad.clone(), None
    (x @ stack[1]).square().sum().backward()
    torch.testing.assert_close(found, stack.grad, rtol=1e-4, atol=1e-1)
    assert stack.grad[1].abs().max() > 1000
    assert not found[0].any()


def test_what_does_not_learn_has_no_gradient() -> None:
    x, frozen = random(500, 64).requires_grad_(), random(64, 64, seed=1)
    onednn.linear(x, frozen).sum().backward()
    torch.testing.assert_close(x.grad, frozen.sum(0).expand(500, 64), rtol=1e-5, atol=1e-4)
    assert frozen.grad is None


def test_it_is_for_large_fp32_products_that_learn() -> None:
    x, weight = random(1000, 64), random(64, 64)
    assert onednn.fits(x, weight)
    assert not onednn.fits(x[:100], weight)
    assert not onednn.fits(x.bfloat16(), weight.bfloat16())
    with torch.no_grad():
        assert not onednn.fits(x, weight)


def learned(config: ModelConfig, monkeypatch, plain: bool) -> dict[str, torch.Tensor]:
    """The gradients of a model on whole rows, by oneDNN and runs or by MKL and masks."""
    model = build(config, 0)
    ids = torch.randint(0, 512, (6, 300), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(300).expand(6, 300) if plain else None
    if plain:
        monkeypatch.setattr(onednn, "LEAST", 1 << 60)
    model.logits(model(ids, positions)).logsumexp(-1).square().mean().backward()
    monkeypatch.undo()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_a_model_learns_the_same(monkeypatch) -> None:
    """Rows of 300 in chunks of 128; with chunks of 64 the gradients are others."""
    config = preset("nano", initializer_range=0.2)
    ours, plain = (learned(config, monkeypatch, plain) for plain in (False, True))
    other = learned(preset("nano", initializer_range=0.2, attention_chunk=64), monkeypatch, True)
    assert ours.keys() == plain.keys()
    furthest = 0.0
    for name, grad in ours.items():
        size = float(plain[name].norm())
        assert float((grad - plain[name]).norm()) < 1e-4 * size, name
        furthest = max(furthest, float((grad - other[name]).norm()) / size)
    assert furthest > 1e-2


@pytest.mark.parametrize("ignored", [0, 40, 300])
def test_the_loss_of_a_head_is_its_twin_s(ignored: int) -> None:
    hidden, weight = random(300, 64), random(200, 64, seed=1)
    targets = torch.arange(300) % 200
    targets[:ignored] = -100
    assert onednn.fits(hidden, weight)

    def twin(hidden, weight):
        return F.cross_entropy(hidden @ weight.t(), targets, ignore_index=-100, reduction="sum")

    ours = gradients(lambda h, w: head_plain(h, w, targets), hidden, weight)
    for a, b in zip(ours, gradients(twin, hidden, weight), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)
        assert ignored == 300 or b.abs().max() > 1
