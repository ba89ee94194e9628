"""Queries and keys placed by one kernel beside the model's own operations, both ways."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton", reason="the package triton is not installed")

from puna.kernels import qk
from puna.models import decoder
from puna.models.config import ModelConfig
from puna.models.decoder import Decoder, Pass
from puna.models.presets import build
from puna.models.rope import Rope

LLAMA4 = ModelConfig(
    "llama4", 200, 64, 4, 6, 2, 16, 128, expert_size=64, num_experts=2, nope_every=2, qk_norm=True,
    temperature_tuning=True, floor_scale=4, max_positions=256,
)  # fmt: skip
LLAMA3 = ModelConfig("llama3", 200, 64, 2, 3, 1, 32, 128, max_positions=256)
EPS = 1e-5


def exact(x: Tensor, places: Tensor, config: ModelConfig, norm: bool) -> Tensor:
    """[B, T, H, D] in fp64, from the definition: pairs turned by their angle, then normed."""
    half = config.head_dim // 2
    angle = places.double()[..., None] / config.rope_theta ** (torch.arange(half).double() / half)
    cos, sin = angle.cos()[..., None, :], angle.sin()[..., None, :]
    wide = x.double()
    if config.family == "llama4":
        a, b = wide[..., ::2], wide[..., 1::2]
        y = torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
    else:
        a, b = wide[..., :half], wide[..., half:]
        y = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    return y * (y.pow(2).mean(-1, keepdim=True) + EPS).rsqrt() if norm else y


def drawn(config: ModelConfig, rows: int, tokens: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Heads as the product of q, k and v leaves them: [B, T, H, D] with v between tokens."""
    random = torch.Generator().manual_seed(seed)
    heads = config.num_heads + config.num_kv_heads
    whole = torch.randn(
        rows, tokens, (heads + config.num_kv_heads) * config.head_dim, generator=random
    )
    part = whole.to(dtype)[..., : heads * config.head_dim]
    return part.view(rows, tokens, heads, config.head_dim)


CASES = st.tuples(
    st.sampled_from([LLAMA4, LLAMA3]), st.integers(1, 3), st.integers(1, 9), st.booleans(),
    st.booleans(), st.integers(0, 99),
)  # fmt: skip


@given(CASES)
@settings(max_examples=20)
def test_both_ways_equal_fp64(case: tuple[ModelConfig, int, int, bool, bool, int]) -> None:
    config, rows, tokens, norm, packed, seed = case
    x = drawn(config, rows, tokens, torch.float32, seed).requires_grad_()
    places = torch.arange(tokens).expand(rows, tokens)
    if packed:
        places = (places + 3 * torch.arange(rows)[:, None]) % 7
    rope = Rope(config)
    given_places = places if packed else None
    factors = rope.factors(
        given_places, max(6, tokens - 1) if packed else tokens - 1, x.device, x.dtype
    )
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 1))
    found = qk.place(x, factors, rope.interleaved, norm, EPS)
    want = exact(x, places, config, norm)
    assert (found - want).abs().max() < 1e-5
    (gradient,) = torch.autograd.grad((found * weight).sum(), x)
    (wanted,) = torch.autograd.grad((want * weight.double()).sum(), x)
    assert (gradient - wanted).abs().max() < 2e-5 * (1 + wanted.abs().max())


@pytest.mark.parametrize("config", [LLAMA4, LLAMA3], ids=["llama4", "llama3"])
@pytest.mark.parametrize("off", ["norm", "layout", "position"])
def test_every_part_matters(config: ModelConfig, off: str) -> None:
    x = drawn(config, 2, 8, torch.float32, 0).requires_grad_()
    rope, places = Rope(config), torch.arange(8).expand(2, 8)
    factors = rope.factors(None, 7, x.device, x.dtype)
    if off == "position":
        factors = rope.factors((places + 1) % 8, 7, x.device, x.dtype)
    interleaved = rope.interleaved
    if off == "layout":
        other = replace(LLAMA3 if interleaved else LLAMA4, head_dim=config.head_dim)
        interleaved, factors = not interleaved, Rope(other).factors(None, 7, x.device, x.dtype)
    found = qk.place(x, factors, interleaved, off != "norm", EPS)
    want = exact(x, places, config, True)
    assert (found - want).abs().max() > 100 * 1e-5
    weight = torch.randn_like(x)
    (gradient,) = torch.autograd.grad((found * weight).sum(), x)
    (wanted,) = torch.autograd.grad((want * weight.double()).sum(), x)
    assert (gradient - wanted).abs().max() > 100 * 2e-5 * (1 + wanted.abs().max())


@pytest.mark.parametrize("config", [LLAMA4, LLAMA3], ids=["llama4", "llama3"])
def test_bf16_is_rounded_as_often_as_the_twin(config: ModelConfig) -> None:
    """Of what is turned and of the result; the interpreter cuts off: a whole step."""
    x = drawn(config, 2, 8, torch.bfloat16, 0).requires_grad_()
    rope, norm = Rope(config), config.qk_norm
    factors = rope.factors(None, 7, x.device, x.dtype)
    found = qk.place(x, factors, rope.interleaved, norm, EPS)
    want = exact(x, torch.arange(8).expand(2, 8), config, norm)
    assert found.dtype == torch.bfloat16
    size = want.abs().amax(-1, keepdim=True)
    assert ((found.double() - want).abs() <= 3 * 2**-8 * size).all()
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    (gradient,) = torch.autograd.grad(found, x, weight)
    (wanted,) = torch.autograd.grad(want, x, weight.double())
    size = wanted.abs().amax(-1, keepdim=True)
    assert ((gradient.double() - wanted).abs() <= 4 * 2**-8 * size).all()


def place_by_kernel(model: Decoder, calls: list[int]) -> None:
    """Have the model place its heads by the kernel, as on a GPU, and note each time it does."""
    plan_of = model.plan

    def counted(*inputs: Any) -> Tensor:
        calls.append(1)
        return qk.place(*inputs)

    def plan(*given: Any) -> Pass:
        return replace(plan_of(*given), place=counted)

    model.plan = plan  # type: ignore[method-assign,assignment]


def learned(model: Decoder) -> list[Tensor]:
    """Hidden states of packed rows, and all gradients of a loss."""
    ids = torch.randint(0, 200, (2, 20), generator=torch.Generator().manual_seed(0))
    hidden = model(ids, None, (torch.arange(20) // 9).expand(2, 20))
    model.logits(hidden).logsumexp(-1).sum().backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) == len(list(model.parameters()))
    return [hidden.detach(), *gradients]


@pytest.mark.parametrize(
    ("config", "compiled"), [(LLAMA4, False), (LLAMA3, False), (LLAMA3, True)],
    ids=["llama4", "llama3", "llama3 compiled"],
)  # fmt: skip
def test_a_model_that_places_by_it_learns_the_same(config: ModelConfig, compiled: bool) -> None:
    """Layers without positions scale queries by their temperature as before."""
    want = learned(build(config, 0))
    model = build(config, 0)
    calls: list[int] = []
    place_by_kernel(model, calls)
    if compiled:
        model._compiled = torch.compile(decoder._run_block, backend="aot_eager")
    found = learned(model)
    assert calls if compiled else len(calls) == 2
    for a, b in zip(found, want, strict=True):
        assert (a - b).norm() <= 1e-5 * (1e-6 + b.norm())
