"""Weights in 8 and 4 bits: how far they are from what they were, and what kernels make of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from puna.kernels.quantised import Kind, Quantised

CPU = torch.device("cpu")
TOLERANCE = 2e-5
KINDS = ("fp8", "int4")


def quantised(weight: Tensor, kind: Kind) -> Quantised:
    held = Quantised(tuple(weight.shape), kind, CPU)
    held.fill(weight)
    return held


def bound(weight: Tensor, kind: Kind) -> Tensor:
    """Half a step of the format at every number, by hand: fp64, of `weight`'s shape."""
    wide = weight.double()
    if kind == "int4":
        size = 128 if weight.shape[-1] % 128 == 0 else 32
        most = torch.stack([x.abs().amax(-1) for x in torch.split(wide, size, -1)], -1) / 7
        return most.repeat_interleave(size, -1) / 2
    # Three bits behind the leading one; below 2^-6 of a scale steps are 2^-9.
    scale = wide.abs().amax(-1, keepdim=True) / 448
    leading = torch.floor(torch.log2((wide / scale).abs())).clamp_min(-6)
    return torch.exp2(leading - 4) * scale


@given(
    st.sampled_from(KINDS), st.integers(1, 5), st.sampled_from([32, 64, 96, 128, 384]),
    st.integers(-30, 30), st.integers(0, 2**31), st.booleans(),
)  # fmt: skip
@settings(max_examples=60)
def test_no_number_is_further_than_half_a_step(
    kind: Kind, rows: int, columns: int, power: int, seed: int, outlier: bool
) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(2, rows, columns, generator=random) * 2.0**power
    if outlier:
        weight[0, 0, columns // 2] *= 1000
    found = quantised(weight, kind).plain().double()
    most = bound(weight, kind)
    error = (found - weight.double()).abs()
    assert (error <= most * (1 + 1e-5)).all()
    # The bound is none that anything would keep: some number comes near it.
    assert (error / most).max() > 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-41, 1e-38, 3e38])
def test_the_ends_of_the_scale(kind: Kind, size: float) -> None:
    weight = torch.full((2, 64), size)
    weight[1, ::2] = -size / 3
    found = quantised(weight, kind).plain()
    assert found.isfinite().all()
    assert ((found - weight).abs() <= max(size / 14, 1.2e-38)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_stays_none(kind: Kind) -> None:
    for broken in (math.nan, math.inf):
        weight = torch.ones(2, 64)
        weight[1, 5] = broken
        found = quantised(weight, kind).plain()
        assert not found[1, 5].isfinite()
        torch.testing.assert_close(found[0], weight[0])


def test_by_hand() -> None:
    row = torch.zeros(1, 64)
    row[0, :4] = torch.tensor([7.0, -3.4, 0.6, -7.0])
    row[0, 16], row[0, 32] = 2.0, -0.07
    held = quantised(row, "int4")
    assert held.group == 32
    assert held.scales.flatten().tolist() == pytest.approx([1.0, 0.01])
    # 7 below 2: 2 * 16 + 7; -3 below 0; 1 below 0; -7 below 0
    assert (held.numbers[0, :4].int() & 255).tolist() == [39, 13, 1, 9]
    want = [7.0, -3.0, 1.0, -7.0]
    assert held.plain()[0, :4].tolist() == want
    assert held.plain()[0, 16] == 2.0
    small = quantised(torch.tensor([[448.0, 17.0, -17.1, 0.001]]), "fp8")
    assert small.plain().tolist() == [[448.0, 16.0, -18.0, 0.001953125 * round(0.001 / 2**-9)]]


def test_a_row_is_whole_groups() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        Quantised((4, 48), "int4", CPU)


def test_filling_again_keeps_the_address() -> None:
    first, second = torch.randn(2, 3, 128), torch.randn(2, 3, 128)
    held = quantised(first, "int4")
    where = held.numbers.data_ptr(), held.scales.data_ptr()
    held.fill(second)
    assert (held.numbers.data_ptr(), held.scales.data_ptr()) == where
    assert torch.equal(held.plain(), quantised(second, "int4").plain())


@dataclass
class Layer:
    """A feed-forward layer's weights, and rows to put through it."""

    x: Tensor
    gain: Tensor
    router: Tensor
    bias: Tensor
    gate_up: Tensor
    down: Tensor
    shared_gate_up: Tensor
    shared_down: Tensor

    @classmethod
    def drawn(cls, rows: int, width: int, inner: int, experts: int, seed: int) -> Layer:
        random = torch.Generator().manual_seed(seed)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return torch.randn(*shape, generator=random) * scale

        return cls(
            normal(rows, width), 1 + normal(width, scale=0.2), normal(experts, width),
            torch.zeros(experts), normal(experts, width, 2 * inner, scale=width**-0.5),
            normal(experts, inner, width, scale=inner**-0.5),
            normal(2 * inner, width, scale=width**-0.5), normal(width, inner, scale=inner**-0.5),
        )  # fmt: skip

    def choice(self) -> Tensor:
        return (self._normed() @ self.router.double().t() + self.bias).argmax(-1)

    def expected(self) -> Tensor:
        """x and what the layer adds to it, in fp64."""
        y = self._normed()
        out = self.x.double() + _gated(y, self.shared_gate_up.t(), self.shared_down.t())
        for i, expert in enumerate(self.choice().tolist() if len(self.router) else []):
            score = torch.sigmoid(y[i] @ self.router[expert].double())
            out[i] += _gated(y[i] * score, self.gate_up[expert], self.down[expert])
        return out

    def on_the_grid(self, kind: Kind) -> Layer:
        """The same with what quantised weights stand for."""
        turned = {n: quantised(getattr(self, n).mT, kind).plain().mT for n in ("gate_up", "down")}
        lying = ("shared_gate_up", "shared_down")
        straight = {n: quantised(getattr(self, n), kind).plain() for n in lying}
        return replace(self, **turned, **straight)

    def _normed(self) -> Tensor:
        wide = self.x.double()
        return wide * (wide.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * self.gain.double()

    def by_kernels(self, kind: Kind | None) -> tuple[Tensor, Tensor]:
        """x after the layer, and the experts taken; what should be written is NaN before."""
        pytest.importorskip("triton", reason="the package triton is not installed")
        from puna.kernels.launch import Launch, Shape

        rows, width = self.x.shape
        experts, inner = len(self.router), self.shared_down.shape[1]
        shape = Shape(width, 4, 2, 16, 32, experts, 99, 1, True, 1e-5, 0, 1.0, 0.0)
        launch = Launch(shape, rows, 1, overlap=False)
        x = self.x.clone()
        normed, own, common = (torch.full_like(x, math.nan) for _ in range(3))
        act = torch.full((rows, (2 if experts else 1) * inner), math.nan)
        choice, score = torch.full((rows,), 99, dtype=torch.int32), torch.full((rows,), math.nan)

        def held(weight: Tensor) -> Tensor | Quantised:
            return weight if kind is None else quantised(weight, kind)

        def of_experts(weight: Tensor) -> Tensor | Quantised | None:
            return None if not experts else weight if kind is None else held(weight.mT)

        route = (self.router, self.bias, choice, score) if experts else ()
        first, second = of_experts(self.gate_up), of_experts(self.down)
        shared = held(self.shared_gate_up)
        launch.gate_up(x, (), self.gain, normed, route, first, shared, act)
        shared = held(self.shared_down)
        for more in launch.down(act, choice, second, shared, x, own, common):
            x = x + more
        return x, choice


CASES = st.tuples(
    st.sampled_from([1, 3, 4, 5, 16, 17, 40, 70]), st.sampled_from([64, 192, 256]),
    st.sampled_from([64, 128]), st.sampled_from([0, 2, 3]), st.integers(0, 1000),
)  # fmt: skip


@given(CASES, st.sampled_from([None, *KINDS]), st.sampled_from([None, 0, 1]))
@settings(max_examples=25)
def test_a_layer_equals_its_sums_in_fp64(
    case: tuple[int, int, int, int, int], kind: Kind | None, favoured: int | None
) -> None:
    """With all rows at one expert, and experts without rows, among what is drawn."""
    layer = Layer.drawn(*case)
    if favoured is not None and case[3]:
        layer.bias[favoured] = 1e4
    found, choice = layer.by_kernels(kind)
    other = layer if kind is None else layer.on_the_grid(kind)
    assert (found - other.expected()).abs().max() < TOLERANCE
    if case[3]:
        assert torch.equal(choice.long(), layer.choice())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [2, 20])
def test_kernels_read_what_is_quantised(kind: Kind, rows: int) -> None:
    layer = Layer.drawn(rows, 128, 64, 3, 0)
    found, _ = layer.by_kernels(kind)
    assert (found - layer.expected()).abs().max() > 100 * TOLERANCE
    group = replace(layer.on_the_grid(kind), gate_up=layer.gate_up)
    assert (found - group.expected()).abs().max() > 100 * TOLERANCE


def test_a_router_that_not_every_program_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a row is normed, and its expert chosen, by a launch of its own."""
    pytest.importorskip("triton", reason="the package triton is not installed")
    from puna.kernels import launch

    normed: list[int] = []
    plain = launch.Launch.normalise

    def counted(self: launch.Launch, *given: Any) -> None:
        normed.append(1)
        plain(self, *given)

    monkeypatch.setattr(launch.Launch, "normalise", counted)
    layer = Layer.drawn(1, 192, 64, 3, 5)
    layer.by_kernels("int4")
    assert not normed  # a small one is read by every program
    monkeypatch.setattr(launch, "ROUTER", 100)
    found, choice = layer.by_kernels("int4")
    assert len(normed) == 1
    assert (found - layer.on_the_grid("int4").expected()).abs().max() < TOLERANCE
    assert torch.equal(choice.long(), layer.choice())


def _gated(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = (x @ gate_up.double()).chunk(2, -1)
    return (torch.nn.functional.silu(gate) * up) @ down.double()
