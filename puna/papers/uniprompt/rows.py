"""Every row of the comparison on one graph: the method, its ablations, the baselines, one split.

`Bench(graph, Settings(), seed=0).numbers()["learned"]` -> mean accuracy on the test nodes.
Suffixes as in method.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GCN as PygGCN
from torch_geometric.nn import LabelPropagation

from puna.core.rng import derive, stream

from .graphs import Graph, Split, agreement, few_shot
from .method import (
    Adapted,
    FeaturePrompt,
    FineTuned,
    Head,
    LinearProbe,
    RepresentationPrompt,
    Training,
    UniPrompt,
    adjacency,
    digest,
    fit,
    knn_edges,
    mixed,
    tau_for,
)
from .pretrain import GCN, Pretraining, pretrain

KEPT = (0.95, 0.82, 0.5)  # of the original graph, at the setting's k; none of it is the row knn
NEIGHBOURS = (5, 10, 50)  # at the setting's share kept
SCRATCH_LR = 0.01


@dataclass(frozen=True)
class Settings:
    """What is compared how: pretrainings, shots, splits a seed, and the method's numbers."""

    encoders: tuple[str, ...]
    shots: tuple[int, ...]
    held: int
    splits: int
    k: int
    kept: float
    pretraining: Pretraining
    training: Training


@dataclass
class Bench:
    """One graph and all that is measured on it for one seed."""

    graph: Graph
    settings: Settings
    seed: int
    scores: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.x_NF = F.normalize(torch.from_numpy(self.graph.features_NF), dim=1)
        self.edges_2E = torch.from_numpy(self.graph.edges_2E)
        self.adjacency = adjacency(self.edges_2E, len(self.x_NF))
        self.prompt_2M = knn_edges(self.x_NF, self.settings.k)

    def numbers(self) -> dict[str, float]:
        """Accuracy by row: the mean, by pretraining, by shots; macro-F1; the graph's own."""
        for shots, split in self._splits():
            self._without_encoder(split, shots)
        for objective in self.settings.encoders:
            self._with_encoder(objective)
        return {
            **{name: fmean(values) for name, values in self.scores.items()},
            "homophily": self.graph.homophily,
            "knn_homophily": agreement(self.prompt_2M.numpy(), self.graph.labels_N),
        }

    def _splits(self) -> Iterator[tuple[int, Split]]:
        """(shots, split); the same ones at every call."""
        for shots in self.settings.shots:
            for index in range(self.settings.splits):
                rng = stream(self.seed, "uniprompt", "split", self.graph.name, shots, index)
                yield shots, few_shot(self.graph.labels_N, shots, self.settings.held, rng)

    def _without_encoder(self, split: Split, shots: int) -> None:
        """The raw features, a GCN from scratch and label propagation (both torch-geometric's)."""
        self._fit("raw", LinearProbe(self.x_NF, split.classes), split, shots)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, "uniprompt", "scratch"))
            width = self.settings.pretraining.hidden
            net = PygGCN(self.x_NF.shape[1], width, 2, width, act="relu", normalize=False)
        scratch = FineTuned(net, self.x_NF, self.adjacency, split.classes)
        how = self.settings.training._replace(prompt_lr=SCRATCH_LR)
        self._fit("gcn", scratch, split, shots, how=how)
        known_NC = F.one_hot(torch.from_numpy(split.labels_N).clamp(0), split.classes).float()
        spread = LabelPropagation(num_layers=50, alpha=0.9)
        told = spread(known_NC, self.edges_2E, mask=torch.from_numpy(split.train))
        self._score("propagation", told, split, shots)

    def _with_encoder(self, objective: str) -> None:
        how, settings = self.settings.pretraining, self.settings
        encoder = pretrain(objective, self.x_NF, self.edges_2E, how, self.seed)
        before = digest(encoder)
        graphs = {"probe": self.adjacency, "knn": mixed(self.adjacency, self.prompt_2M, 0.0)}
        for kept in KEPT:
            graphs[f"kept_{kept:g}"] = mixed(self.adjacency, self.prompt_2M, kept)
        for k in NEIGHBOURS:
            graphs[f"k_{k}"] = mixed(self.adjacency, knn_edges(self.x_NF, k), settings.kept)
        with torch.no_grad():
            fixed = {name: encoder(self.x_NF, *graph) for name, graph in graphs.items()}
        for shots, split in self._splits():
            for name, rows_ND in fixed.items():
                self._fit(name, LinearProbe(rows_ND, split.classes), split, shots, objective)
            for name, make in self._learners(encoder).items():
                self._fit(name, make(split.classes), split, shots, objective)
        self.scores["encoder_changed"].append(float(digest(encoder) != before))
        self._equivalence(fixed["probe"])

    def _learners(self, encoder: GCN) -> Mapping[str, Callable[[int], Adapted]]:
        """Row -> its model for so many classes: those in which more than a head moves."""
        x_NF, graph, settings = self.x_NF, self.adjacency, self.settings
        tau = tau_for(settings.kept, settings.training.steps)
        rest, xw_NF = _AfterProduct(encoder), x_NF @ encoder.first.weight

        def uniprompt(classes: int, learn: bool) -> Adapted:
            return UniPrompt(rest, xw_NF, graph, self.prompt_2M, classes, tau, learn)

        return {
            "fixed": lambda classes: uniprompt(classes, learn=False),
            "learned": lambda classes: uniprompt(classes, learn=True),
            "gpf": lambda classes: FeaturePrompt(encoder, x_NF, graph, classes),
            "tuned": lambda classes: FineTuned(encoder, x_NF, graph, classes),
        }

    def _fit(
        self,
        row: str,
        model: Adapted,
        split: Split,
        shots: int,
        objective: str = "",
        how: Training | None = None,
    ) -> None:
        labels_N, train, held = map(torch.from_numpy, (split.labels_N, split.train, split.held))
        logits_NC = fit(model, labels_N, train, held, how or self.settings.training)
        self._score(row, logits_NC, split, shots, objective)

    def _score(
        self, row: str, logits_NC: Tensor, split: Split, shots: int, objective: str = ""
    ) -> None:
        told = logits_NC.argmax(1)[split.test]
        truth = torch.from_numpy(split.labels_N)[split.test]
        accuracy = float((told == truth).double().mean())
        for name in (row, f"{row}_{shots}_shot", *([f"{row}_{objective}"] if objective else [])):
            self.scores[name].append(accuracy)
        self.scores[f"{row}_f1"].append(macro_f1(told, truth, split.classes))

    def _equivalence(self, h_ND: Tensor) -> None:
        """Representation prompts beside linear probes: the same logits, and the same optimum."""
        labels_N = torch.from_numpy(self.graph.labels_N)
        known = labels_N >= 0
        # Few directions, many labels: classes that do not come apart have an optimum to compare.
        h_ND = h_ND[known].double()
        few_ND = torch.linalg.svd(h_ND - h_ND.mean(0), full_matrices=False)[0][:, :8]
        few_ND = few_ND * len(few_ND) ** 0.5
        width, classes = few_ND.shape[1], int(labels_N.max()) + 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, "uniprompt", "equivalence"))
            prompt = RepresentationPrompt(width, classes).double()
        with torch.no_grad():
            gap = (prompt(few_ND) - prompt.collapsed()(few_ND)).abs().max()
        self.scores["representation_gap"].append(float(gap))
        for name, model in (("representation", prompt), ("probe", Head(width, classes).double())):
            self.scores[f"{name}_optimum"].append(optimum(model, few_ND, labels_N[known]))


class _AfterProduct(nn.Module):
    """An encoder that is given x W of its first layer in the place of x."""

    def __init__(self, encoder: GCN) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, xw_ND: Tensor, edges_2E: Tensor, weights_E: Tensor) -> Tensor:
        return self.encoder.after(xw_ND, edges_2E, weights_E)


def optimum(model: nn.Module, h_ND: Tensor, labels_N: Tensor) -> float:
    """The lowest cross-entropy that L-BFGS finds, in nats."""
    solver = torch.optim.LBFGS(
        model.parameters(),
        max_iter=500,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(model(h_ND), labels_N)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    return float(loss().detach())


def macro_f1(told: Tensor, truth: Tensor, classes: int) -> float:
    """The mean over classes of 2 hits / (told + true); 0 for a class that is never told."""
    pairs_CC = torch.zeros(classes, classes)
    pairs_CC.index_put_((truth, told), torch.ones(len(truth)), accumulate=True)
    return float((2 * pairs_CC.diagonal() / (pairs_CC.sum(0) + pairs_CC.sum(1))).mean())
