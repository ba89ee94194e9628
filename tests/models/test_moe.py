"""Routed experts: sparse equals dense, replay, balancing, and what the score scales."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from puna.models import ModelConfig, Routes
from puna.models.moe import MoE

from .conftest import spread, tokens, wide


def layer(config: ModelConfig, seed: int = 0) -> MoE:
    moe = MoE(config, 0)
    spread(moe, seed)
    return moe


def dense(moe: MoE, x: Tensor) -> Tensor:
    """Every expert over every token, as the equations say: s_e is 0 for the experts not taken."""
    top, best = moe.router(x).max(-1, keepdim=True)
    masked = torch.full((len(x), moe.router.weight.shape[0]), float("-inf"))
    scores = torch.sigmoid(masked.scatter(1, best, top))
    inputs = x[None] * scores.T[..., None]
    gate, up = torch.bmm(inputs, moe.experts.gate_up).chunk(2, -1)
    return moe.shared(x) + torch.bmm(up * F.silu(gate), moe.experts.down).sum(0)


@pytest.mark.parametrize("count", [1, 2, 5, 17, 64])
@pytest.mark.parametrize("experts", [1, 4, 16])
def test_sparse_equals_dense_bitwise(tiny: ModelConfig, count: int, experts: int) -> None:
    moe = layer(replace(tiny, num_experts=experts))
    x = torch.randn(count, 64, generator=torch.Generator().manual_seed(count))
    with torch.no_grad():
        assert torch.equal(moe(x[None])[0][0], dense(moe, x))


def test_gradients_equal_dense(tiny: ModelConfig) -> None:
    moe = layer(tiny)
    x = torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
    grads = []
    for run in (lambda: moe(x[None])[0][0], lambda: dense(moe, x)):
        moe.zero_grad()
        run().square().sum().backward()
        grads.append({n: p.grad.clone() for n, p in moe.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-4, atol=1e-5)


def test_the_score_scales_the_input_not_the_output(tiny: ModelConfig) -> None:
    moe = layer(tiny)
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = moe.router(x)
        choice = logits.argmax(-1)
        score = torch.sigmoid(logits.gather(1, choice[:, None]))
        by_output = moe.shared(x) + score * moe.experts(x, choice)
        assert (moe(x[None])[0][0] - by_output).abs().max() > 1e-2


def test_routes_record_and_replay(tiny: ModelConfig) -> None:
    model, changed = wide(tiny), wide(tiny, seed=1)
    ids = tokens(2, 10)
    with torch.no_grad():
        taken, other, replayed = Routes(), Routes(), None
        model(ids, routes=taken)
        changed(ids, routes=other)
        assert taken.recorded.shape == (2, 10, 4)
        assert not torch.equal(taken.recorded, other.recorded)
        replayed = Routes(replay=taken.recorded.to(torch.uint8))
        forced = changed(ids, routes=replayed)
        assert torch.equal(replayed.recorded, taken.recorded)
        assert not torch.equal(forced, changed(ids))
        same = model(ids, routes=Routes(replay=taken.recorded))
        assert torch.equal(same, model(ids))


def test_load_counts_only_what_is_under_the_mask() -> None:
    routes = Routes()
    routes.record(0, torch.tensor([[0, 1, 1, 3]]))
    assert routes.load(4).tolist() == [[0.25, 0.5, 0.0, 0.25]]
    masked = routes.load(4, torch.tensor([[True, True, False, False]]))
    assert masked.tolist() == [[0.5, 0.5, 0.0, 0.0]]


def test_balance_moves_choice_but_not_scores(tiny: ModelConfig) -> None:
    model = wide(tiny)
    ids = tokens(4, 16)
    first, last = Routes(), Routes()
    with torch.no_grad():
        model(ids, routes=first)
        before = first.load(4)
        for _ in range(100):
            last = Routes()
            model(ids, routes=last)
            model.balance_experts(last.load(4), 0.01)
    assert last.load(4).amax(-1).mean() < 0.6 * before.amax(-1).mean()
    moe = model.layers[1].feed_forward
    moe.expert_bias.zero_()
    moe.balance(torch.tensor([0.75, 0.25, 0.0, 0.0]), 0.5)
    assert moe.expert_bias.tolist() == [-0.5, 0.0, 0.5, 0.5]


def test_of_equal_logits_the_first_expert_is_taken(tiny: ModelConfig) -> None:
    """In any batch; transformers' top-k promises no order, so there another may be taken."""
    moe = layer(tiny)
    with torch.no_grad():
        moe.router.weight[1:] = moe.router.weight[1]  # experts 1, 2, 3 tie above or below 0
        x = torch.randn(40, 64, generator=torch.Generator().manual_seed(3))
        together, taken = (found[0] for found in moe(x[None]))
        chosen = taken.to(torch.int16)
        first = moe.router(x)[:, 0] > moe.router(x)[:, 1]
        assert torch.equal(chosen, (~first).to(torch.int16))
        assert 0 < int(first.sum()) < 40
        for i in (0, 7, 39):
            alone = moe(x[i : i + 1][None])[0][0, 0]
            torch.testing.assert_close(alone, together[i], rtol=0, atol=2e-6)
        last = torch.where(taken == 1, 3, taken)[None]
        assert float((moe(x[None], last)[0][0] - together).abs().max()) > 1e-2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 1e38])
def test_what_is_not_a_number_stays_with_its_token(tiny: ModelConfig, bad: float) -> None:
    """Such a token's output is NaN, as in transformers; its neighbours keep every bit."""
    moe = layer(tiny)
    x = torch.randn(6, 64, generator=torch.Generator().manual_seed(4))
    broken = x.clone()
    broken[2, 3] = bad
    with torch.no_grad():
        whole = moe(x[None])[0][0]
        out, taken = (found[0] for found in moe(broken[None]))
        assert torch.equal(out.isnan().all(-1), dense(moe, broken).isnan().any(-1))
    assert bool(out[2].isnan().all())
    assert 0 <= int(taken.min()) <= int(taken.max()) < 4
    others = [0, 1, 3, 4, 5]
    assert torch.equal(out[others], whole[others])
