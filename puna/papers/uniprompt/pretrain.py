"""Pretraining without labels: one two-layer GCN, four objectives, each a loss over the whole graph.

`encoder = pretrain("dgi", x_NF, edges_2E, Pretraining(), seed=0)` gives it frozen.
Suffixes as in method.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GAE, DeepGraphInfomax
from torch_geometric.utils import dropout_edge, mask_feature

from puna.core.errors import UserError, nearest
from puna.core.rng import derive

from .method import adjacency, freeze


def _matrix(places_2E: Tensor, weights_E: Tensor, nodes: int) -> Tensor:
    shape = (nodes, nodes)
    return torch.sparse_coo_tensor(places_2E, weights_E, shape, check_invariants=False)


class _Spread(torch.autograd.Function):
    """out[target] = sum over edges of weight times h[source], with gradients for weights and h.

    As torch-geometric's message passing, without a row of h for every edge on the way forward.
    """

    @staticmethod
    def forward(ctx: Any, h_ND: Tensor, edges_2E: Tensor, weights_E: Tensor) -> Tensor:
        ctx.save_for_backward(h_ND, edges_2E, weights_E)
        return _matrix(edges_2E.flip(0), weights_E, len(h_ND)) @ h_ND

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        h_ND, edges_2E, weights_E = ctx.saved_tensors
        (grad_ND,) = grads
        back_ND = back_E = None
        if ctx.needs_input_grad[0]:
            back_ND = _matrix(edges_2E, weights_E, len(h_ND)) @ grad_ND
        if ctx.needs_input_grad[2]:
            back_E = (h_ND[edges_2E[0]] * grad_ND[edges_2E[1]]).sum(1)
        return back_ND, None, back_E


class GraphConv(nn.Module):
    """A W x + b: torch-geometric's `GCNConv(normalize=False)`, in half of its time on a CPU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x_NF: Tensor, edges_2E: Tensor, weights_E: Tensor) -> Tensor:
        """[N, outputs]."""
        return self.spread(x_NF @ self.weight, edges_2E, weights_E)

    def spread(self, xw_ND: Tensor, edges_2E: Tensor, weights_E: Tensor) -> Tensor:
        """A (x W) + b from x W."""
        out: Tensor = _Spread.apply(xw_ND, edges_2E, weights_E)  # type: ignore[no-untyped-call]
        return out + self.bias


class GCN(nn.Module):
    """Two convolutions with a PReLU between them."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.first, self.second = GraphConv(inputs, hidden), GraphConv(hidden, hidden)
        self.act = nn.PReLU()

    def forward(self, x_NF: Tensor, edges_2E: Tensor, weights_E: Tensor) -> Tensor:
        """The representation [N, hidden]."""
        return self.after(x_NF @ self.first.weight, edges_2E, weights_E)

    def after(self, xw_ND: Tensor, edges_2E: Tensor, weights_E: Tensor) -> Tensor:
        """The same from x W of the first layer: what changes as a prompt moves the graph alone."""
        h_ND = self.act(self.first.spread(xw_ND, edges_2E, weights_E))
        return self.second.spread(h_ND @ self.second.weight, edges_2E, weights_E)


class Pretraining(NamedTuple):
    """Width of the encoder, passes over the graph, Adam's learning rate."""

    hidden: int = 128
    epochs: int = 100
    lr: float = 0.003


Loss = Callable[[], Tensor]


def dgi(encoder: GCN, x_NF: Tensor, edges_2E: Tensor, hidden: int) -> tuple[nn.Module, Loss]:
    """Deep Graph Infomax (Velickovic et al. 2019): nodes against nodes with shuffled features."""
    graph = adjacency(edges_2E, len(x_NF))

    def shuffled(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        return (x[torch.randperm(len(x))], *rest)

    def summary(h_ND: Tensor, *rest: Tensor) -> Tensor:
        return torch.sigmoid(h_ND.mean(0))  # over the nodes

    model = DeepGraphInfomax(hidden, encoder, summary, shuffled)
    return model, lambda: model.loss(*model(x_NF, *graph))


def grace(encoder: GCN, x_NF: Tensor, edges_2E: Tensor, hidden: int) -> tuple[nn.Module, Loss]:
    """GRACE (Zhu et al. 2020): two views, each without a fifth of edges and features."""
    project = nn.Sequential(nn.Linear(hidden, hidden), nn.ELU(), nn.Linear(hidden, hidden))

    def view() -> Tensor:
        seen_NF, _ = mask_feature(x_NF, p=0.2, mode="col")
        edges, _ = dropout_edge(edges_2E, p=0.2, force_undirected=True)
        return F.normalize(project(encoder(seen_NF, *adjacency(edges, len(x_NF)))), dim=1)

    def loss() -> Tensor:
        one_ND, two_ND = view(), view()
        return (nt_xent(one_ND, two_ND) + nt_xent(two_ND, one_ND)) / 2

    return nn.ModuleList([encoder, project]), loss


def nt_xent(one_ND: Tensor, two_ND: Tensor, temperature: float = 0.5) -> Tensor:
    """GRACE eq. 1: each unit row of `one` finds its twin among all of `two` and others of `one`."""
    within_NN = (one_ND @ one_ND.T / temperature).fill_diagonal_(float("-inf"))
    across_NN = one_ND @ two_ND.T / temperature
    every_N = torch.logsumexp(torch.cat([across_NN, within_NN], dim=1), dim=1)
    return (every_N - across_NN.diagonal()).mean()


def graphmae(encoder: GCN, x_NF: Tensor, edges_2E: Tensor, hidden: int) -> tuple[nn.Module, Loss]:
    """GraphMAE (Hou et al. 2022): hide the features of 3 nodes in 10 and restore them.

    The hidden nodes' codes are hidden from the decoder again; the error is (1 - cosine)^2.
    """
    graph, nodes = adjacency(edges_2E, len(x_NF)), len(x_NF)
    bridge, decoder = nn.Linear(hidden, hidden, bias=False), GraphConv(hidden, x_NF.shape[1])
    token = nn.Parameter(torch.zeros(x_NF.shape[1]))
    model = nn.ModuleList([encoder, bridge, decoder, nn.ParameterList([token])])
    live_L = x_NF.norm(dim=1).nonzero()[:, 0]  # nothing to restore in the others

    def loss() -> Tensor:
        asked = live_L[torch.randperm(len(live_L))[: 1 + (3 * len(live_L)) // 10]]
        hidden_N1 = torch.zeros(nodes, 1, dtype=torch.bool).index_fill_(0, asked, True)
        codes_ND = bridge(encoder(torch.where(hidden_N1, token, x_NF), *graph))
        restored_NF = decoder(codes_ND.masked_fill(hidden_N1, 0.0), *graph)
        cosine = F.cosine_similarity(restored_NF[asked], x_NF[asked])
        return (1 - cosine).square().mean()

    return model, loss


def edges(encoder: GCN, x_NF: Tensor, edges_2E: Tensor, hidden: int) -> tuple[nn.Module, Loss]:
    """Edge prediction: half of the edges are hidden, and told apart from random pairs.

    The graph auto-encoder of Kipf & Welling 2016; were the edges to be told in its input, it would
    learn them by heart.
    """
    model, pairs_2P = GAE(encoder), edges_2E[:, edges_2E[0] < edges_2E[1]]

    def loss() -> Tensor:
        order_P = torch.randperm(pairs_2P.shape[1])
        hidden, seen = order_P[: 1 + len(order_P) // 2], order_P[1 + len(order_P) // 2 :]
        seen_2E = torch.cat([pairs_2P[:, seen], pairs_2P[:, seen].flip(0)], dim=1)
        hidden_2E = pairs_2P[:, hidden]
        apart_2E = torch.randint(len(x_NF), hidden_2E.shape)
        h_ND = model.encode(x_NF, *adjacency(seen_2E, len(x_NF)))
        out: Tensor = model.recon_loss(h_ND, hidden_2E, apart_2E)
        return out

    return model, loss


OBJECTIVES = {"dgi": dgi, "grace": grace, "graphmae": graphmae, "edges": edges}


def pretrain(objective: str, x_NF: Tensor, edges_2E: Tensor, how: Pretraining, seed: int) -> GCN:
    """A frozen encoder, trained on features [N, F] and edges [2, E] alone.

    Raises UserError for an unknown objective or a graph without edges.
    """
    if objective not in OBJECTIVES:
        raise UserError(f"no pretraining '{objective}'", nearest(objective, OBJECTIVES))
    if not edges_2E.numel():
        raise UserError("a graph without edges", "a graph encoder has nothing to learn from it")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "uniprompt", objective))
        encoder = GCN(x_NF.shape[1], how.hidden)
        model, loss = OBJECTIVES[objective](encoder, x_NF, edges_2E, how.hidden)
        optimizer = torch.optim.Adam(model.parameters(), lr=how.lr)
        for _ in range(how.epochs):
            optimizer.zero_grad()
            loss().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    freeze(encoder)
    return encoder
