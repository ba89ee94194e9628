"""Graphs for few-shot node classification: what one is, the split without leaks, synthetic ones.

`graph = synthetic(Recipe(homophily=0.1), seed=0); few_shot(graph.labels_N, 3, 2, stream(0))`.
Suffixes: N nodes, F features, E directed edges, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from puna.core.errors import UserError
from puna.core.rng import stream

if TYPE_CHECKING:
    from collections.abc import Mapping

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Graph:
    """Features [N, F], edges [2, E] both ways without loops or doubles, labels [N] or -1."""

    name: str
    features_NF: NDArray[np.float32]
    edges_2E: Ints
    labels_N: Ints
    ceiling: float | None = None

    @property
    def homophily(self) -> float:
        """The share of edges between labelled nodes that join two of one label."""
        return agreement(self.edges_2E, self.labels_N)


def agreement(edges_2E: Ints, labels_N: Ints) -> float:
    """The share of edges with equal labels at both ends, of those with two labels (0 of none)."""
    ends_2E = labels_N[edges_2E]
    known = (ends_2E >= 0).all(0)
    return float((ends_2E[0] == ends_2E[1])[known].mean()) if known.any() else 0.0


def both_ways(pairs_E2: Ints, nodes: int) -> Ints:
    """Edges [2, E] sorted, each in both directions and once, loops dropped, from pairs [*, 2]."""
    a, b = pairs_E2.reshape(-1, 2).T
    apart = a != b
    keys = np.unique(np.concatenate([(a * nodes + b)[apart], (b * nodes + a)[apart]]))
    return np.stack([keys // nodes, keys % nodes])


@dataclass(frozen=True)
class Split:
    """Nodes to learn from, to choose a step by, and to test on; labels [N] 0..classes-1 or -1."""

    train: Ints
    held: Ints
    test: Ints
    labels_N: Ints
    classes: int

    def __post_init__(self) -> None:
        every = np.concatenate([self.train, self.held, self.test])
        if len(np.unique(every)) != len(every):
            raise ValueError("a node stands in two parts of the split")


def few_shot(labels_N: Ints, shots: int, held: int, rng: np.random.Generator) -> Split:
    """`shots` nodes a class to learn from, `held` a class to choose by, every other one the test.

    One permutation gives all three, so that no node is in two. A class with no node left for the
    test is no part of the task. Raises UserError where fewer than two classes remain.
    """
    need = shots + held + 1
    kinds, counts = np.unique(labels_N[labels_N >= 0], return_counts=True)
    kept = kinds[counts >= need]
    if len(kept) < 2:
        what = f"{len(kept)} of {len(kinds)} classes have the {need} nodes that {shots} shots need"
        raise UserError(what, "take fewer shots")
    order = rng.permutation(len(labels_N))
    by_class = [order[labels_N[order] == kind] for kind in kept]
    renamed_N = np.full(len(labels_N), -1, dtype=np.int64)
    for index, nodes in enumerate(by_class):
        renamed_N[nodes] = index
    train, chosen, test = (
        np.concatenate([nodes[part] for nodes in by_class])
        for part in (slice(shots), slice(shots, shots + held), slice(shots + held, None))
    )
    return Split(train, chosen, test, renamed_N, len(kept))


@dataclass(frozen=True)
class Recipe:
    """A stochastic block model with words: labels uniform, an edge by its ends' labels alone.

    Of a node's expected `degree` edges the share `homophily` stays within its class, the rest goes
    to all other classes alike. Each class owns `words / classes` of the words; a node has its
    class's words with probability `own`, the others with `base`.
    """

    homophily: float
    nodes: int = 400
    classes: int = 5
    degree: float = 5.0
    words: int = 200
    own: float = 0.18
    base: float = 0.04

    def __post_init__(self) -> None:
        if not 0 <= self.homophily <= 1:
            raise ValueError(f"homophily is {self.homophily}; it must lie within 0..1")
        if self.classes < 2 or self.words < self.classes or self.nodes < 10 * self.classes:
            raise ValueError("at least 2 classes, 10 nodes and one word each are needed")
        if not (
            0 < self.base < 1 and 0 < self.own < 1 and 0 < self.degree < self.nodes / self.classes
        ):
            raise ValueError("own and base lie within 0..1, degree within 0..nodes/classes")

    @property
    def edge_CC(self) -> Floats:
        """The probability of an edge between nodes of two classes."""
        size = self.nodes / self.classes
        within = self.degree * self.homophily / size
        across = self.degree * (1 - self.homophily) / (self.nodes - size)
        eye_CC = np.eye(self.classes)
        return np.asarray(within * eye_CC + across * (1 - eye_CC))

    @property
    def word_CF(self) -> Floats:
        """The probability of each word in each class."""
        owner_F = np.arange(self.words) * self.classes // self.words
        return np.where(owner_F == np.arange(self.classes)[:, None], self.own, self.base)


def synthetic(recipe: Recipe, name: str, seed: int) -> Graph:
    """A graph drawn from the recipe, with the accuracy of the best rule as its ceiling.

    The rule is Bayes' with the recipe and every *other* node's label in hand: in expectation no
    method is above it.
    """
    rng, n = stream(seed, "uniprompt", "graph", name), recipe.nodes
    labels_N = rng.integers(recipe.classes, size=n)
    words_NF = rng.random((n, recipe.words)) < recipe.word_CF[labels_N]
    chance_NN = recipe.edge_CC[labels_N][:, labels_N]
    linked_NN = np.triu(rng.random((n, n)) < chance_NN, 1)
    linked_NN |= linked_NN.T
    best_N = bayes_scores(recipe, words_NF, linked_NN, labels_N).argmax(1)
    edges_2E = both_ways(np.argwhere(linked_NN), n)
    ceiling = float((best_N == labels_N).mean())
    return Graph(name, words_NF.astype(np.float32), edges_2E, labels_N, ceiling)


def bayes_scores(
    recipe: Recipe, words_NF: NDArray[np.bool_], linked_NN: NDArray[np.bool_], labels_N: Ints
) -> Floats:
    """log P(label | words, edges, all other labels) up to a constant, [N, C].

    sum_f log P(x_f | c) + sum_{j != i} log P(edge ij or none | c, y_j): words and edges are
    independent given the labels.
    """
    word_CF, edge_CC = recipe.word_CF, recipe.edge_CC
    out_NC = words_NF @ np.log(word_CF / (1 - word_CF)).T + np.log1p(-word_CF).sum(1)
    others_NC = np.eye(recipe.classes)[labels_N]
    tiny = np.finfo(np.float64).tiny  # a probability of 0 forbids, log 0 would spoil the sums
    yes_CC, no_CC = np.log(np.maximum(edge_CC, tiny)), np.log1p(-edge_CC)
    linked_NC = linked_NN @ others_NC
    absent_NC = others_NC.sum(0) - others_NC - linked_NC
    return np.asarray(out_NC + linked_NC @ yes_CC + absent_NC @ no_CC)


def by_kind(graphs: list[Graph]) -> Mapping[str, list[Graph]]:
    """The graphs where at least half of the edges join equals (homophilic), and the others."""
    return {
        "homophilic": [g for g in graphs if g.homophily >= 0.5],
        "heterophilic": [g for g in graphs if g.homophily < 0.5],
    }
