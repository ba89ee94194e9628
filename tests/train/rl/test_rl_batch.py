"""Micro-batches of rows: the same gradient however they are cut, and the sampler's own experts."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

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


def gradient(model, batches, temperature=1.0):
    model.zero_grad()
    total = sum(len(b.targets_M) for b in batches)
    for batch in batches:
        logp = batch.logprobs(model, temperature)
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


def family(prompts=3, samples=4, seed=1):
    """Rows as groups have them: the samples of a prompt begin with it, and agree for a while."""
    rng = np.random.default_rng(seed)
    out = []
    for number in range(prompts):
        asked = rng.integers(0, 250, 6).tolist()
        agreed = rng.integers(0, 250, 5).tolist()
        for sample in range(samples):
            answer = agreed[: sample + 1] + rng.integers(0, 250, 3 + sample).tolist()
            n = len(answer)
            branch = Branch(
                asked + answer,
                [False] * 6 + [True] * n,
                [0.0] * 6 + (-rng.random(n)).tolist(),
                [-1] * 6 + [0] * n,
                rng.integers(0, 4, (5 + n, 1)).astype(np.int16),
            )
            outcome = Scored(0.0, False)
            at = prompts * number + sample
            out.append(Row("agent", str(number), "", outcome, 0, branch, at, float(rng.normal())))
    return out


def one_by_one(model, rows, temperature=1.0, replay=False):
    """The policy gradient of rows that share nothing, computed apart."""
    model.zero_grad()
    total = sum(sum(r.branch.mask) for r in rows)
    for row in rows:
        routes = None
        if replay:
            routes = Routes(replay=torch.from_numpy(row.branch.routes)[None].long())
        hidden = model(torch.tensor([row.branch.ids[:-1]]), routes=routes)[0]
        sampled = torch.tensor(row.branch.mask[1:])
        targets = torch.tensor(row.branch.ids[1:])[sampled]
        logp = token_logprobs(model.logits(hidden[sampled]), targets, temperature)
        old = torch.tensor(row.branch.logprobs[1:])[sampled]
        advantages = torch.full((len(targets),), row.advantage * row.weight)
        terms = policy_loss(logp, old, advantages, PolicyLoss(importance_cap=1e9))
        (terms.loss / total).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("budget", [10, 40, 10_000])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_shared_beginnings_leave_the_gradient_as_it_is(new_model, replay, budget, temperature):
    model, given = new_model(), family()
    batches = list(micro_batches(given, budget, replay, CPU))
    grad = gradient(model, batches, temperature)
    assert grad.abs().max() > 3e-4
    apart = one_by_one(model, given, temperature, replay)
    torch.testing.assert_close(grad, apart, atol=1e-6, rtol=1e-4)


def test_a_prompt_that_no_longer_fitted_is_not_computed(new_model):
    """A branch may end in one: tokens after the last sampled, for which there are no routes."""
    given = family()
    whole = one_by_one(model := new_model(), given, replay=True)
    for row in given:
        row.branch.ids += [7, 8, 9]
        row.branch.mask += [False] * 3
        row.branch.logprobs += [0.0] * 3
    (batch,) = micro_batches(given, 10_000, True, CPU)
    torch.testing.assert_close(gradient(model, [batch]), whole, atol=1e-6, rtol=1e-4)


def test_rows_that_share_little_stand_by_length():
    rng = np.random.default_rng(0)
    lengths = rng.permutation([10] * 10 + [100] * 10)
    given = []
    for number, n in enumerate(lengths.tolist()):
        ids = rng.integers(0, 250, n).tolist()
        branch = Branch(ids, [False] + [True] * (n - 1), [0.0] * n, [0] * n, None)
        given.append(Row("agent", str(number), "", Scored(0.0, False), 0, branch, number))
    places = [b.tree.nodes_BT.numel() for b in micro_batches(given, 1000, False, CPU)]
    assert sum(places) <= 1.1 * (10 * 9 + 10 * 99)


def test_what_rows_share_is_computed_once():
    given = family()
    (batch,) = micro_batches(given, 10_000, False, CPU)
    distinct = {tuple(r.branch.ids[: n + 1]) for r in given for n in range(len(r.branch.ids) - 1)}
    assert batch.tree.ids_1N.shape[1] == len(distinct)
    assert len(distinct) < 0.7 * sum(len(r.branch.ids) - 1 for r in given)
    branches = [r.branch for r in given]
    predicting = {tuple(b.ids[:n]) for b in branches for n in range(1, len(b.ids)) if b.mask[n]}
    assert len(batch.heads_U) == len(predicting) < len(batch.targets_M)


def test_tokens_with_other_experts_are_not_shared():
    given = family()
    (with_routes,) = micro_batches(given, 10_000, True, CPU)
    (without,) = micro_batches(given, 10_000, False, CPU)
    assert with_routes.tree.ids_1N.shape[1] > without.tree.ids_1N.shape[1]
    for row in given:
        row.branch.routes[:] = 1
    (alike,) = micro_batches(given, 10_000, True, CPU)
    assert alike.tree.ids_1N.shape[1] == without.tree.ids_1N.shape[1]


def lanes_of(count):
    """The least number of parts, so many or more, that gives each of `count` lanes as many."""
    return lambda parts: -(-parts // count) * count


@pytest.mark.parametrize("lanes", [2, 3])
def test_every_lane_has_as_much_to_do(lanes):
    sizes = [
        [b.tree.ids_1N.numel() for b in micro_batches(family(60, 2), 10_000, False, CPU, even)]
        for even in (int, lanes_of(lanes))
    ]
    assert len(sizes[0]) == 1
    assert len(sizes[1]) == lanes
    assert max(sizes[1]) < 1.3 * sum(sizes[1]) / lanes


def test_budgets_are_kept_and_nothing_is_lost():
    alike = [replace(family(1, 1)[0], episode=n) for n in range(60)]
    for given in (rows(), family(), alike):
        for budget, lanes in product((1, 16, 31, 64), (1, 2, 3)):
            batches = list(micro_batches(given, budget, False, CPU, lanes_of(lanes)))
            for batch in batches:
                nodes, places = batch.tree.ids_1N.numel(), batch.tree.nodes_BT
                assert nodes <= budget or len(places) == 1
                assert places.numel() <= 4 * budget or len(places) == 1
            sampled = sorted(t for b in batches for t in b.targets_M.tolist())
            wanted = sorted(
                i for r in given for i, m in zip(r.branch.ids, r.branch.mask, strict=True) if m
            )
            assert sampled == wanted


def test_each_vector_follows_the_sampled_tokens():
    (batch,) = micro_batches(rows(), 10_000, False, CPU)
    tree = batch.tree
    at = 0
    by_ids = sorted(rows(), key=lambda r: r.branch.ids)
    for i, row in enumerate(sorted(by_ids, key=lambda r: -len(r.branch.ids))):
        n = sum(row.branch.mask)
        mine = slice(at, at + n)
        assert batch.targets_M[mine].tolist() == row.branch.ids[-n:]
        assert batch.sampled_logp_M[mine].tolist() == pytest.approx(row.branch.logprobs[-n:])
        assert set(batch.weights_M[mine].tolist()) == {0.5}
        assert batch.advantages_M[mine].tolist() == pytest.approx([row.advantage] * n)
        first = len(row.branch.ids) - n - 1  # the position that predicts the first sampled token
        heads = batch.heads_U[batch.heads_of_M[mine]]
        assert heads.tolist() == tree.nodes_BT[i, first : first + n].tolist()
        assert tree.ids_1N[0, heads].tolist() == row.branch.ids[first:-1]
        assert tree.positions_1N[0, heads].tolist() == list(range(first, first + n))
        at += n


def test_the_samplers_experts_are_taken_again(new_model):
    """Random routes, which this router would not choose: replayed they decide the hidden states."""
    model = new_model().eval()
    given = rows()
    (batch,) = micro_batches(given, 10_000, True, CPU)
    (free,) = micro_batches(given, 10_000, False, CPU)
    with torch.no_grad():
        replayed, own = (b.hidden(model)[b.heads_of_M] for b in (batch, free))
        by_hand = []
        by_ids = sorted(given, key=lambda r: r.branch.ids)
        for row in sorted(by_ids, key=lambda r: -len(r.branch.ids)):
            ids = torch.tensor([row.branch.ids[:-1]])
            routes = Routes(replay=torch.from_numpy(row.branch.routes)[None].long())
            hidden = model(ids, routes=routes)[0]
            by_hand.append(hidden[torch.tensor(row.branch.mask[1:])])
    torch.testing.assert_close(replayed, torch.cat(by_hand), atol=1e-5, rtol=1e-4)
    assert (replayed - own).abs().max() > 1e-3
