"""The paper uniprompt as a library: prompts, the moving graph, pretraining."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch_geometric", reason="torch-geometric is not installed")

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GAT, GCNConv
from torch_geometric.nn import GCN as PygGCN

from puna.core.errors import UserError
from puna.core.rng import stream
from puna.papers.uniprompt.graphs import Recipe, few_shot, synthetic
from puna.papers.uniprompt.method import (
    Adapted,
    FeaturePrompt,
    FineTuned,
    Fusion,
    LinearProbe,
    RepresentationPrompt,
    Training,
    UniPrompt,
    Weighted,
    adjacency,
    digest,
    fit,
    freeze,
    gate,
    knn_edges,
    mixed,
    tau_for,
)
from puna.papers.uniprompt.pretrain import (
    GCN,
    OBJECTIVES,
    GraphConv,
    Pretraining,
    nt_xent,
    pretrain,
)
from puna.papers.uniprompt.rows import macro_f1, optimum

HOW = Training(steps=30)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def made():
    """A small graph: features, edges, its normalised adjacency, a split."""
    graph = synthetic(Recipe(homophily=0.8, nodes=120, classes=3, words=60), "small", 0)
    x = F.normalize(torch.from_numpy(graph.features_NF), dim=1)
    edges = torch.from_numpy(graph.edges_2E)
    split = few_shot(graph.labels_N, 3, 2, stream(0))
    return x, edges, adjacency(edges, len(x)), split


@pytest.fixture(scope="module")
def encoder(made):
    x, edges, _, _ = made
    return pretrain("dgi", x, edges, Pretraining(hidden=16, epochs=20), seed=0)


def learn(model, split, labels=None, how=HOW):
    known = torch.from_numpy(split.labels_N if labels is None else labels)
    return fit(model, known, torch.from_numpy(split.train), torch.from_numpy(split.held), how)


def test_neighbours_are_the_highest_cosines_and_a_row_of_zeros_has_none():
    x = torch.tensor([[1.0, 0.0], [5.0, 0.5], [0.0, 1.0], [0.0, 0.0], [0.4, 4.0]])
    sources, targets = knn_edges(x, 1)
    # 0 and 1 lie along the first axis, 2 and 4 along the second; length does not count.
    assert dict(zip(targets.tolist(), sources.tolist(), strict=True)) == {0: 1, 1: 0, 2: 4, 4: 2}
    assert knn_edges(x, 3).shape == (2, 12)
    many = torch.randn(70, 8)
    assert torch.equal(knn_edges(many, 5), knn_edges(many, 5, block=16))
    assert not (knn_edges(many, 69)[0] == knn_edges(many, 69)[1]).any()


@pytest.mark.parametrize("k", [0, 4, 99])
def test_more_neighbours_than_nodes_are_refused(k):
    x = torch.eye(5)
    x[4] = 0
    with pytest.raises(UserError, match=f"{k} neighbours a node, of 4 nodes with features"):
        knn_edges(x, k)


def test_a_gate_begins_at_one_and_is_never_negative():
    offset = torch.tensor([-5.0, -1.0, 0.0, 0.5], requires_grad=True)
    values = gate(offset)
    assert values.tolist() == pytest.approx([math.exp(-30), math.exp(-6), 1.0, 4.0], abs=1e-6)
    values.sum().backward()
    assert offset.grad[2:].tolist() == pytest.approx([6.0, 6.0])


def test_the_fused_graph_is_the_sum_that_it_unrolls_to():
    graph = Weighted(torch.tensor([[0, 1], [1, 0]]), torch.tensor([0.5, 0.25]))
    fusion, tau, steps = Fusion(graph, torch.tensor([[2, 0, 1], [0, 2, 2]]), 0.7), 0.7, 6
    offsets = torch.randn(steps, 3) / 4
    for offset in offsets:
        fusion.offset_M.data = offset
        edges, weights = fusion()
    powers = torch.tensor([tau ** (steps - s) for s in range(1, steps + 1)])
    prompt = (1 - tau) * (powers[:, None] * gate(offsets)).sum(0)
    expected = torch.cat([tau**steps * graph.weights_E, prompt])
    assert torch.allclose(weights, expected, atol=1e-6)
    assert edges.tolist() == [[0, 1, 2, 0, 1], [1, 0, 0, 2, 2]]
    last_alone = torch.cat([tau**steps * graph.weights_E, gate(offsets[-1])])
    assert (weights - last_alone).abs().max() > 1e-4
    # The old term is detached: the gradient is that of the newest one, (1 - tau) a'.
    weights.sum().backward()
    slope = 6 * torch.exp(6 * offsets[-1].clamp(max=0))
    assert torch.allclose(fusion.offset_M.grad, (1 - tau) * slope, atol=1e-6)


def test_with_open_gates_the_fused_graph_arrives_where_the_mixture_is(made):
    x, _, graph, _ = made
    prompt, steps = knn_edges(x, 4), 25
    fusion = Fusion(graph, prompt, tau_for(0.82, steps))
    for _ in range(steps):
        moved = fusion()
    still = mixed(graph, prompt, 0.82)
    assert torch.equal(moved.edges_2E, still.edges_2E)
    assert torch.allclose(moved.weights_E, still.weights_E, atol=1e-5)
    assert (moved.weights_E - mixed(graph, prompt, 0.9).weights_E).abs().max() > 1e-3
    # The paper's numbers: tau 0.9999 keeps 0.951 after 500 steps, 0.819 after 2,000.
    assert pytest.approx(0.951, abs=1e-3) == 0.9999**500
    assert tau_for(0.819, 2000) == pytest.approx(0.9999, abs=1e-6)


def test_a_linear_prompt_on_the_output_is_a_linear_probe():
    prompt, h = RepresentationPrompt(12, 4).double(), torch.randn(50, 12, dtype=torch.float64)
    assert (prompt(h) - prompt.collapsed()(h)).abs().max() < 1e-12
    # A prompt that is not linear has no such probe, so the equality says something.
    bent = prompt.head(torch.relu(prompt.prompt(h)))
    nearest = torch.linalg.lstsq(F.pad(h, (0, 1), value=1.0), bent).solution
    assert (F.pad(h, (0, 1), value=1.0) @ nearest - bent).abs().max() > 1e-2


def test_such_a_prompt_and_a_probe_have_one_optimum():
    h = torch.randn(200, 4, dtype=torch.float64)
    labels = (h @ torch.randn(4, 3, dtype=torch.float64) + torch.randn(200, 3)).argmax(1)
    probe, prompt = (m.double() for m in (nn.Linear(4, 3), RepresentationPrompt(4, 3)))
    best = optimum(probe, h, labels)
    assert optimum(prompt, h, labels) == pytest.approx(best, abs=1e-6)
    bent = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    assert abs(optimum(bent, h, labels) - best) > 1e-3


def test_our_convolution_is_torch_geometrics_with_its_gradients():
    torch.manual_seed(1)
    edges, weights = torch.randint(30, (2, 200)), torch.rand(200)
    ours, theirs = GraphConv(7, 5), GCNConv(7, 5, normalize=False)
    theirs.lin.weight.data = ours.weight.data.T.clone()
    theirs.bias.data = ours.bias.data.normal_().clone()
    found = []
    for conv in (ours, theirs):
        x, w = torch.ones(30, 7).cumsum(1).requires_grad_(), weights.clone().requires_grad_()
        out = conv(x * torch.arange(30)[:, None] / 100, edges, w)
        out.square().sum().backward()
        found.append((out.detach(), x.grad, w.grad, conv.bias.grad))
    for mine, other in zip(*found, strict=True):
        assert torch.allclose(mine, other, rtol=1e-4, atol=1e-4)
        assert other.abs().max() > 0.01


def test_gradients_reach_the_gates_and_only_of_what_learns(made, encoder):
    x, _, graph, split = made
    prompt, before = knn_edges(x, 4), digest(encoder)
    learned, fixed = (
        UniPrompt(encoder, x, graph, prompt, 3, tau_for(0.82, HOW.steps), learn=flag)
        for flag in (True, False)
    )
    one, two = learn(learned, split), learn(fixed, split)
    assert learned.fusion.offset_M.abs().max() > 0.01
    assert fixed.fusion.offset_M.abs().max() == 0
    assert (one - two).abs().max() > 1e-4
    assert digest(encoder) == before
    learn(FeaturePrompt(encoder, x, graph, 3), split)
    assert digest(encoder) == before
    tuned = FineTuned(encoder, x, graph, 3)
    learn(tuned, split)
    assert digest(encoder) == before
    assert digest(tuned.encoder) != before
    assert not any(p.requires_grad for p in encoder.parameters())


def test_the_first_step_of_every_prompt_is_the_unprompted_encoder(made, encoder):
    x, _, graph, _ = made
    probe = LinearProbe(encoder(x, *graph), 3)
    head = torch.randn_like(probe.head.weight)
    probe.head.weight.data = head
    uniprompt = UniPrompt(encoder, x, graph, knn_edges(x, 4), 3, tau=1.0)
    for model in (uniprompt, FeaturePrompt(encoder, x, graph, 3), FineTuned(encoder, x, graph, 3)):
        model.head.weight.data = head
        assert torch.allclose(model(), probe(), atol=1e-4)
    moved = UniPrompt(encoder, x, graph, knn_edges(x, 4), 3, tau=0.9)
    moved.head.weight.data = head
    assert (moved() - probe()).abs().max() > 1e-2


def test_labels_of_the_test_change_nothing(made, encoder):
    x, _, graph, split = made

    def logits(labels):
        return learn(UniPrompt(encoder, x, graph, knn_edges(x, 4), 3, 0.99), split, labels)

    known = split.labels_N
    hidden, other = known.copy(), known.copy()
    hidden[split.test] = (hidden[split.test] + 1) % 3
    other[split.train] = (other[split.train] + 1) % 3
    assert torch.equal(logits(known), logits(hidden))
    assert (logits(known) - logits(other)).abs().max() > 0.1


def test_the_step_is_the_last_of_those_that_the_held_out_labels_prefer():
    class Scripted(Adapted):
        """Tells 0, 2, 1, 2 and 1 of nodes 1 and 2 right; the score of node 0 names the step."""

        def forward(self):
            right = [0, 2, 1, 2, 1][len(seen)]
            logits = torch.tensor([[len(seen), 0.0], [right > 0, 0.5], [right > 1, 0.5]])
            seen.append(logits)
            return logits + 0 * self.head.weight.sum()

    seen = []
    chosen = fit(
        Scripted(1, 2),
        torch.tensor([0, 0, 0]),
        torch.tensor([0]),
        torch.tensor([1, 2]),
        Training(steps=5),
    )
    assert torch.equal(chosen, seen[3])
    assert chosen[0, 0] == 3


def test_an_encoder_that_ignores_weights_is_refused(made):
    x, _, graph, _ = made
    blind = freeze(GAT(x.shape[1], 8, num_layers=2))
    with pytest.raises(UserError, match="GAT ignores the weights of edges"):
        UniPrompt(blind, x, graph, knn_edges(x, 4), 3)


def test_an_encoder_of_torch_geometric_gives_what_ours_with_its_weights_gives(made):
    x, _, graph, split = made
    theirs = freeze(PygGCN(x.shape[1], 8, num_layers=2, act="relu", normalize=False))
    ours = GCN(x.shape[1], 8)
    ours.act.weight.data.zero_()  # PReLU without a slope is ReLU
    for mine, other in zip((ours.first, ours.second), theirs.convs, strict=True):
        mine.weight.data = other.lin.weight.data.T.clone()
        mine.bias.data = other.bias.data.clone()
    prompt = knn_edges(x, 4)
    found = [learn(UniPrompt(e, x, graph, prompt, 3, 0.99), split) for e in (theirs, freeze(ours))]
    assert torch.allclose(*found, atol=1e-2)
    assert found[0].abs().max() > 0.5


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_pretrained_encoder_tells_classes_apart_better_than_an_untrained_one(made, objective):
    x, edges, graph, split = made
    state = torch.get_rng_state()
    untrained, trained, again, other = (
        pretrain(objective, x, edges, Pretraining(32, epochs), seed)
        for epochs, seed in ((0, 0), (60, 0), (60, 0), (60, 1))
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert digest(trained) == digest(again) != digest(other)
    labels = torch.from_numpy(split.labels_N)

    def contrast(encoder):
        """Mean cosine of pairs of one class, less that of other pairs."""
        h = encoder(x, *graph)
        cosine = F.normalize(h - h.mean(0), dim=1) @ F.normalize(h - h.mean(0), dim=1).T
        same = labels[:, None] == labels
        return float(cosine[same].mean() - cosine[~same].mean())

    assert contrast(trained) > contrast(untrained) + 0.03


def test_contrast_of_views_by_hand():
    one, two = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # Row 0: twin 2, the other of two 2, the other of one 0. Row 1: twin 0, 0, and 0.
    first = math.log(2 * math.e**2 + 1) - 2
    assert float(nt_xent(one, two)) == pytest.approx((first + math.log(3)) / 2, abs=1e-6)


def test_pretraining_names_what_it_cannot_do(made):
    x, edges, _, _ = made
    with pytest.raises(UserError, match="no pretraining 'dig'; did you mean 'dgi'"):
        pretrain("dig", x, edges, Pretraining(), 0)
    with pytest.raises(UserError, match="a graph without edges"):
        pretrain("dgi", x, edges[:, :0], Pretraining(), 0)


def test_macro_f1_by_hand():
    told, truth = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 1, 2])
    # Class 0: 2/(2+1); class 1: 4/(3+3); class 2 is never told.
    assert macro_f1(told, truth, 3) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
