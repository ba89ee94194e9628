"""Micro-batches of rows: the same gradient however they are cut, and the sampler's own experts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from puna.core.outcome import Scored
from puna.gym.trajectory import Branch
from puna.models.moe import Routes
from puna.train.loss import PolicyLoss, policy_loss, token_logprobs
from puna.train.rl.batch import micro_batches
from puna.train.rl.rows import Row

CPU = torch.device("cpu")


def rows(count=9, seed=0):
    rng = np.random.default_rng(seed)
    out = []
    for number in range(count):
        asked, answered = int(rng.integers(2, 9)), int(rng.integers(1, 9))
        n = asked + answered
        branch = Branch(
            rng.integers(0, 250, n).tolist(),
            [False] * asked + [True] * answered,
            [0.0] * asked + (-rng.random(answered) * 3).tolist(),
            [-1] * asked + [0] * answered,
            rng.integers(0, 4, (n - 1, 1)).astype(np.int16),
        )
        outcome = Scored(0.0, False)
        row = Row("agent", "g", "", outcome, 0, branch, number, float(rng.normal()), 0.5)
        out.append(row)
    return out


def gradient(model, batches):
    model.zero_grad()
    total = sum(len(b.targets_M) for b in batches)
    for batch in batches:
        logp = token_logprobs(model.logits(batch.hidden(model)), batch.targets_M)
        advantages = batch.advantages_M * batch.weights_M
        settings = PolicyLoss(importance_cap=1e9)
        terms = policy_loss(logp, batch.sampled_logp_M, advantages, settings)
        (terms.loss / total).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("replay", [False, True])
def test_the_gradient_does_not_depend_on_the_budget(new_model, replay):
    model = new_model()
    whole = list(micro_batches(rows(), 10_000, replay, CPU))
    assert len(whole) == 1
    grad = gradient(model, whole)
    assert grad.abs().max() > 1e-3
    for budget in (1, 20, 40):
        parts = list(micro_batches(rows(), budget, replay, CPU))
        assert len(parts) > 1
        torch.testing.assert_close(gradient(model, parts), grad, atol=1e-6, rtol=1e-5)


def test_budgets_are_kept_and_nothing_is_lost():
    for budget in (1, 16, 31, 64):
        batches = list(micro_batches(rows(), budget, False, CPU))
        for batch in batches:
            assert batch.ids_BT.numel() <= budget or len(batch.ids_BT) == 1
        sampled = sorted(t for b in batches for t in b.targets_M.tolist())
        wanted = sorted(
            i for r in rows() for i, m in zip(r.branch.ids, r.branch.mask, strict=True) if m
        )
        assert sampled == wanted


def test_each_vector_follows_the_sampled_tokens():
    (batch,) = micro_batches(rows(), 10_000, False, CPU)
    longest_first = sorted(rows(), key=lambda r: -len(r.branch.ids))
    at = 0
    for i, row in enumerate(longest_first):
        n = sum(row.branch.mask)
        mine = slice(at, at + n)
        assert batch.targets_M[mine].tolist() == row.branch.ids[-n:]
        assert batch.sampled_logp_M[mine].tolist() == pytest.approx(row.branch.logprobs[-n:])
        assert set(batch.weights_M[mine].tolist()) == {0.5}
        assert batch.advantages_M[mine].tolist() == pytest.approx([row.advantage] * n)
        first = len(row.branch.ids) - n - 1  # the position that predicts the first sampled token
        wanted = list(range(first, first + n))
        assert batch.chosen_BT[i].nonzero()[:, 0].tolist() == wanted
        at += n


def test_the_samplers_experts_are_taken_again(new_model):
    """Random routes, which this router would not choose: replayed they decide the hidden states."""
    model = new_model().eval()
    given = rows()
    (batch,) = micro_batches(given, 10_000, True, CPU)
    (free,) = micro_batches(given, 10_000, False, CPU)
    with torch.no_grad():
        replayed, own = batch.hidden(model), free.hidden(model)
        by_hand = []
        for row in sorted(given, key=lambda r: -len(r.branch.ids)):
            ids = torch.tensor([row.branch.ids[:-1]])
            routes = Routes(replay=torch.from_numpy(row.branch.routes)[None].long())
            hidden = model(ids, routes=routes)[0]
            by_hand.append(hidden[torch.tensor(row.branch.mask[1:])])
    torch.testing.assert_close(replayed, torch.cat(by_hand), atol=1e-5, rtol=1e-4)
    assert (replayed - own).abs().max() > 1e-3
