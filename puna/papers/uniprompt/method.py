"""UniPrompt as a library: a frozen encoder, a prompt fused into its graph, and a linear head.

`model = UniPrompt(encoder, x_NF, adjacency(edges_2E, n), knn_edges(x_NF, 10), classes)`, then
`fit(model, split)` gives the logits of every node. An encoder is called as
`encoder(x_NF, edges_2E, weights_E) -> h_ND`, as any of torch-geometric's that take weights is.
Suffixes: N nodes, F features, D dimensions, C classes, E edges (source row 0, target row 1), M
edges of the prompt.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from puna.core.errors import UserError

ALPHA = 6.0  # the gate's slope
Encoder = Callable[[Tensor, Tensor, Tensor], Tensor]


class Weighted(NamedTuple):
    """Edges [2, E] with their weights [E]."""

    edges_2E: Tensor
    weights_E: Tensor


def adjacency(edges_2E: Tensor, nodes: int) -> Weighted:
    """D^-1/2 (A + I) D^-1/2 of an unweighted graph (Kipf & Welling 2017)."""
    return Weighted(*gcn_norm(edges_2E, num_nodes=nodes, dtype=torch.float32))


def knn_edges(x_NF: Tensor, k: int, block: int = 1024) -> Tensor:
    """Edges [2, N k] to each node from the `k` others of highest cosine, by exact search.

    A node whose features are all 0 has no direction: it neither gets nor gives an edge. Raises
    UserError where fewer than k others are left.
    """
    live_L = x_NF.norm(dim=1).nonzero()[:, 0]
    if not 1 <= k < len(live_L):
        what = f"{k} neighbours a node, of {len(live_L)} nodes with features"
        raise UserError(what, f"give k from 1 to {max(1, len(live_L) - 1)}")
    unit_LF = F.normalize(x_NF[live_L], dim=1)
    sources = []
    for start in range(0, len(live_L), block):
        cosine_BL = unit_LF[start : start + block] @ unit_LF.T
        rows_B = torch.arange(len(cosine_BL))
        cosine_BL[rows_B, rows_B + start] = -2.0  # never its own neighbour
        sources.append(live_L[cosine_BL.topk(k, dim=1).indices].flatten())
    return torch.stack([torch.cat(sources), live_L.repeat_interleave(k)])


def gate(offset_M: Tensor) -> Tensor:
    """a = ELU(alpha w - alpha) + 1 at w = 1 + offset: 1 at offset 0, never negative."""
    return F.elu(ALPHA * offset_M) + 1


class Fusion(nn.Module):
    """The graph that training moves from the original towards the prompt.

    A(t) = tau A(t-1) + (1 - tau) P(t), A(0) the original, the old term detached; unrolled
    tau^T A(0) + (1 - tau) sum_s tau^(T-s) P(s). Edges of both stand side by side and add up.
    What is learned is each gate's distance from 1, so that decay pulls towards an open gate.
    """

    prompt_M: Tensor

    def __init__(self, graph: Weighted, prompt_2M: Tensor, tau: float) -> None:
        super().__init__()
        if not 0 <= tau <= 1:
            raise ValueError(f"tau is {tau}; it must lie within 0..1")
        self.graph, self.tau, self.kept = graph, tau, 1.0
        self.edges_2E = torch.cat([graph.edges_2E, prompt_2M], dim=1)
        self.offset_M = nn.Parameter(torch.zeros(prompt_2M.shape[1]))
        self.register_buffer("prompt_M", torch.zeros(prompt_2M.shape[1]))

    def forward(self) -> Weighted:
        """One step on: A(t), through whose newest term gradients reach the gates."""
        self.kept *= self.tau
        now_M = self.tau * self.prompt_M + (1 - self.tau) * gate(self.offset_M)
        self.prompt_M = now_M.detach()
        return Weighted(self.edges_2E, torch.cat([self.kept * self.graph.weights_E, now_M]))


def mixed(graph: Weighted, prompt_2M: Tensor, kept: float) -> Weighted:
    """kept A + (1 - kept) P with open gates: where `Fusion` arrives when tau^T = kept."""
    edges_2E = torch.cat([graph.edges_2E, prompt_2M], dim=1)
    prompt_M = torch.full((prompt_2M.shape[1],), 1 - kept)
    return Weighted(edges_2E, torch.cat([kept * graph.weights_E, prompt_M]))


def tau_for(kept: float, steps: int) -> float:
    """The tau that leaves the share `kept` of the original graph after `steps` steps."""
    return float(kept ** (1 / steps))


def scaled(h_ND: Tensor) -> Tensor:
    """Centred, and of mean square 1 over the whole matrix: one learning rate for every encoder.

    One shift and one factor: a linear head on it is a linear head on h.
    """
    centred_ND = h_ND - h_ND.mean(0)
    return centred_ND / (centred_ND.square().mean().sqrt() + 1e-12)


class Head(nn.Linear):
    """A linear classifier that starts at 0, so that it needs no random numbers."""

    def reset_parameters(self) -> None:
        """All zeros."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class Adapted(nn.Module):
    """What `fit` trains: `forward()` gives the logits [N, C]; two groups of parameters."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.head = Head(width, classes)

    def told(self, rows_ND: Tensor) -> Tensor:
        """The head's logits [N, C] of an encoder's output."""
        logits_NC: Tensor = self.head(scaled(rows_ND))
        return logits_NC

    def prompt(self) -> Iterable[nn.Parameter]:
        """What is learned besides the head."""
        return ()


class LinearProbe(Adapted):
    """A linear head on fixed rows [N, D]: a frozen encoder's output, or the raw features."""

    def __init__(self, rows_ND: Tensor, classes: int) -> None:
        super().__init__(rows_ND.shape[1], classes)
        self.rows_ND = scaled(rows_ND)

    def forward(self) -> Tensor:
        """The logits [N, C]."""
        logits_NC: Tensor = self.head(self.rows_ND)
        return logits_NC


class FeaturePrompt(Adapted):
    """GPF (Fang et al. 2023): one learned vector added to the features of every node."""

    def __init__(self, encoder: nn.Module, x_NF: Tensor, graph: Weighted, classes: int) -> None:
        super().__init__(width(encoder, x_NF, graph), classes)
        self.frozen, self.x_NF, self.graph = freeze(encoder), x_NF, graph
        self.added_F = nn.Parameter(torch.zeros(x_NF.shape[1]))

    def prompt(self) -> Iterable[nn.Parameter]:
        """The vector."""
        return (self.added_F,)

    def forward(self) -> Tensor:
        """The logits [N, C]."""
        return self.told(self.frozen(self.x_NF + self.added_F, *self.graph))


class UniPrompt(Adapted):
    """The method; each call moves its graph one step on. Without `learn` every gate stays open.

    Raises UserError for an encoder that ignores the weights of edges.
    """

    def __init__(
        self,
        encoder: nn.Module,
        x_NF: Tensor,
        graph: Weighted,
        prompt_2M: Tensor,
        classes: int,
        tau: float = 0.9999,
        learn: bool = True,
    ) -> None:
        super().__init__(width(encoder, x_NF, graph), classes)
        require_weights(encoder, x_NF, graph)
        self.frozen, self.x_NF = freeze(encoder), x_NF
        self.fusion, self.learn = Fusion(graph, prompt_2M, tau), learn

    def prompt(self) -> Iterable[nn.Parameter]:
        """The gates."""
        return self.fusion.parameters() if self.learn else ()

    def forward(self) -> Tensor:
        """The logits [N, C] on the graph of this step."""
        with torch.set_grad_enabled(self.learn and torch.is_grad_enabled()):
            rows_ND = self.frozen(self.x_NF, *self.fusion())
        return self.told(rows_ND)


class FineTuned(Adapted):
    """The whole encoder learns too (a copy of it)."""

    def __init__(self, encoder: nn.Module, x_NF: Tensor, graph: Weighted, classes: int) -> None:
        super().__init__(width(encoder, x_NF, graph), classes)
        self.encoder = copy.deepcopy(encoder).requires_grad_(True)
        self.x_NF, self.graph = x_NF, graph

    def prompt(self) -> Iterable[nn.Parameter]:
        """The encoder's weights."""
        return self.encoder.parameters()

    def forward(self) -> Tensor:
        """The logits [N, C]."""
        return self.told(self.encoder(self.x_NF, *self.graph))


class RepresentationPrompt(nn.Module):
    """A linear prompt on an encoder's output and a linear head on that: C(T(h)).

    The paper's equation: C(T(h)) = (W_C W_T) h + W_C b_T + b_C, another linear probe (`collapsed`).
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.prompt, self.head = nn.Linear(dim, dim), nn.Linear(dim, classes)

    def forward(self, h_ND: Tensor) -> Tensor:
        """The logits [N, C]."""
        logits_NC: Tensor = self.head(self.prompt(h_ND))
        return logits_NC

    def collapsed(self) -> nn.Linear:
        """The linear probe that gives the same logits."""
        probe = nn.Linear(self.prompt.in_features, self.head.out_features)
        with torch.no_grad():
            probe.to(self.head.weight.dtype)
            probe.weight.copy_(self.head.weight @ self.prompt.weight)
            probe.bias.copy_(self.head.weight @ self.prompt.bias + self.head.bias)
        return probe


class Training(NamedTuple):
    """How `fit` learns: AdamW, its decay pulling the head to 0 and the prompt to where it began."""

    steps: int = 150
    lr: float = 0.05
    decay: float = 0.01
    prompt_lr: float = 0.003
    prompt_decay: float = 0.1


def fit(model: Adapted, labels_N: Tensor, train: Tensor, held: Tensor, how: Training) -> Tensor:
    """The logits [N, C] of the last step at which most of the held-out nodes are told right.

    Only labels of `train` are learned from and only those of `held` choose the step. Their loss
    would choose the first step, with its even odds, wherever a head is sure of itself before the
    graph has moved. The logits are that step's own, so nothing later can change them.
    """
    groups: list[dict[str, Any]] = [
        {"params": model.head.parameters(), "lr": how.lr, "weight_decay": how.decay}
    ]
    if prompt := list(model.prompt()):
        groups.append({"params": prompt, "lr": how.prompt_lr, "weight_decay": how.prompt_decay})
    optimizer = torch.optim.AdamW(groups)
    best, most = torch.empty(0), 0
    for _ in range(how.steps):
        logits_NC = model()
        told_NC = logits_NC.detach()
        right = int((told_NC[held].argmax(1) == labels_N[held]).sum())
        if right >= most:
            best, most = told_NC.clone(), right
        optimizer.zero_grad()
        loss = F.cross_entropy(logits_NC[train], labels_N[train])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return best


def freeze(encoder: nn.Module) -> nn.Module:
    """The encoder itself, in evaluation, none of its weights asking for a gradient."""
    return encoder.eval().requires_grad_(False)


def digest(encoder: nn.Module) -> str:
    """Hex SHA-256 of an encoder's weights, to tell whether anything has touched them."""
    out = hashlib.sha256()
    for name, tensor in encoder.state_dict().items():
        out.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return out.hexdigest()


@torch.no_grad()
def width(encoder: Encoder | nn.Module, x_NF: Tensor, graph: Weighted) -> int:
    """D, the columns of what the encoder gives."""
    return int(encoder(x_NF, *graph).shape[1])


@torch.no_grad()
def require_weights(encoder: Encoder | nn.Module, x_NF: Tensor, graph: Weighted) -> None:
    """Raise UserError where other weights on the edges leave the encoder's output as it was."""
    # Uneven, as a common factor is lost on an encoder that normalises the weights itself.
    other_E = graph.weights_E * (1 + torch.arange(len(graph.weights_E)) % 3)
    one, two = encoder(x_NF, *graph), encoder(x_NF, graph.edges_2E, other_E)
    if torch.allclose(one, two, rtol=1e-6, atol=1e-9):
        what = f"{type(encoder).__name__} ignores the weights of edges"
        raise UserError(what, "a topological prompt needs an encoder that uses them, as GCN does")
