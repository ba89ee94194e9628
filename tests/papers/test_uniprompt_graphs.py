"""Graphs of the paper uniprompt: splits, made graphs and their ceiling, files and broken files."""

from __future__ import annotations

import contextlib
import math
import pickle
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from puna.core.errors import UserError
from puna.core.rng import stream
from puna.papers.uniprompt.graphs import (
    Recipe,
    Split,
    agreement,
    bayes_scores,
    both_ways,
    by_kind,
    few_shot,
    synthetic,
)
from puna.papers.uniprompt.reading import EDGES, NODES, read_graphs

SHARED = Path(__file__).parents[3] / "shared" / "data"  # beside the repository, where it is


def test_a_split_has_no_node_twice_and_leaves_none_out():
    labels = np.repeat([0, 1, 2, 3], [20, 9, 2, 30])
    labels[:3] = -1
    split = few_shot(labels, shots=3, held=2, rng=stream(0))
    # The class of two nodes has none left for the test, so that it is no part of the task.
    assert split.classes == 3
    every = np.concatenate([split.train, split.held, split.test])
    assert sorted(every) == sorted(np.flatnonzero((labels >= 0) & (labels != 2)))
    assert [np.bincount(split.labels_N[part]).tolist() for part in (split.train, split.held)] == [
        [3, 3, 3],
        [2, 2, 2],
    ]
    assert np.array_equal(split.labels_N[labels == 3], np.full(30, 2))
    assert set(split.labels_N[labels == 2]) == {-1}
    other = few_shot(labels, 3, 2, stream(1))
    assert sorted(split.train) != sorted(other.train)


def test_a_split_with_a_node_twice_is_an_error():
    one, two = np.array([0, 1]), np.array([1, 2])
    with pytest.raises(ValueError, match="two parts of the split"):
        Split(one, np.array([5]), two, np.zeros(6, dtype=np.int64), 2)


def test_too_many_shots_are_refused():
    with pytest.raises(UserError, match="1 of 2 classes have the 8 nodes that 5 shots need"):
        few_shot(np.repeat([0, 1], [20, 7]), 5, 2, stream(0))


@pytest.mark.parametrize("homophily", [0.8, 0.15])
def test_a_made_graph_is_as_asked_and_no_simpler_rule_reaches_its_ceiling(homophily):
    recipe = Recipe(homophily, nodes=1000)
    graph = synthetic(recipe, "g", 0)
    assert graph.homophily == pytest.approx(homophily, abs=0.03)
    assert graph.edges_2E.shape[1] / 1000 == pytest.approx(recipe.degree, abs=0.3)
    assert graph.features_NF.mean() == pytest.approx((0.18 + 4 * 0.04) / 5, abs=0.002)
    words, labels = graph.features_NF.astype(bool), graph.labels_N
    linked = np.zeros((1000, 1000), dtype=bool)
    linked[tuple(graph.edges_2E)] = True
    none = np.zeros_like(linked)
    by_words = (bayes_scores(recipe, words, none, labels).argmax(1) == labels).mean()
    by_edges = (bayes_scores(recipe, 0 * words > 0, linked, labels).argmax(1) == labels).mean()
    assert graph.ceiling > by_words > 0.5
    assert graph.ceiling > by_edges
    assert graph.ceiling < 1
    again, other = synthetic(recipe, "g", 0), synthetic(recipe, "g", 1)
    assert np.array_equal(graph.edges_2E, again.edges_2E)
    assert not np.array_equal(labels, other.labels_N)


def test_the_best_rule_is_bayes_written_out():
    recipe = Recipe(0.7, nodes=30, classes=3, degree=4.0, words=6)
    rng = np.random.default_rng(0)
    words, labels = rng.random((30, 6)) < 0.3, rng.integers(3, size=30)
    linked = np.triu(rng.random((30, 30)) < 0.2, 1)
    linked |= linked.T
    edge, word = recipe.edge_CC, recipe.word_CF
    found = bayes_scores(recipe, words, linked, labels)
    for node, label in ((0, 0), (7, 1), (29, 2)):
        total = 0.0
        for f in range(6):
            total += math.log(word[label, f] if words[node, f] else 1 - word[label, f])
        for other in set(range(30)) - {node}:
            p = edge[label, labels[other]]
            total += math.log(p if linked[node, other] else 1 - p)
        assert found[node, label] == pytest.approx(total)


def test_edges_go_both_ways_once_and_join_no_node_with_itself():
    edges = both_ways(np.array([[0, 1], [1, 0], [2, 2], [0, 1], [2, 0]]), 3)
    assert edges.T.tolist() == [[0, 1], [0, 2], [1, 0], [2, 0]]
    assert both_ways(np.zeros((0, 2), dtype=np.int64), 3).shape == (2, 0)
    # 0-1 joins equals, 0-2 does not, and a node without a label does not count.
    assert agreement(edges, np.array([4, 4, 1])) == 0.5
    assert agreement(edges, np.array([4, 4, -1])) == 1.0


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("homophily", 1.5, "homophily is 1.5"),
        ("nodes", 10, "at least 2 classes"),
        ("degree", 200.0, "degree within"),
        ("own", 0.0, "own and base"),
    ],
)
def test_a_recipe_that_makes_no_graph_is_refused(setting, value, words):
    with pytest.raises(ValueError, match=words):
        Recipe(**{"homophily": 0.5, setting: value})


# Planetoid: nodes 0..3 in allx, 5 and 4 in tx (in this order), 6 in neither.


@pytest.fixture
def cora(tmp_path):
    scipy = pytest.importorskip("scipy.sparse", reason="scipy is not installed")
    hot = np.eye(2, dtype=np.int32)
    graph = defaultdict(list, {0: [1, 1, 2], 3: [3, 4], 5: [0]})
    put(tmp_path, "allx", scipy.csr_matrix(np.arange(12.0).reshape(4, 3)))
    put(tmp_path, "tx", scipy.csr_matrix([[0, 0, 5.0], [4.0, 0, 0]]))
    put(tmp_path, "ally", hot[[0, 1, 1, 0]])
    put(tmp_path, "ty", hot[[1, 0]])
    put(tmp_path, "graph", graph)
    (tmp_path / "ind.toy.test.index").write_text("5\n4\n")
    return tmp_path


def put(folder, part, value):
    (folder / f"ind.toy.{part}").write_bytes(pickle.dumps(value, protocol=3))


def test_a_graph_of_planetoid(cora):
    (graph,) = read_graphs(cora)
    assert graph.name == "toy"
    expected = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11], [4, 0, 0], [0, 0, 5]]
    assert graph.features_NF.tolist() == expected
    assert graph.labels_N.tolist() == [0, 1, 1, 0, 0, 1]
    assert graph.edges_2E.T.tolist() == [
        [0, 1], [0, 2], [0, 5], [1, 0], [2, 0], [3, 4], [4, 3], [5, 0],
    ]  # fmt: skip


def test_a_node_of_no_file_has_no_label(cora):
    (cora / "ind.toy.test.index").write_text("6\n4\n")
    (graph,) = read_graphs(cora)
    assert graph.labels_N.tolist() == [0, 1, 1, 0, 0, -1, 1]
    assert graph.features_NF[5].tolist() == [0, 0, 0]


def csr(**parts):
    scipy = pytest.importorskip("scipy.sparse")
    matrix = scipy.csr_matrix(np.ones((2, 3)))
    for name, value in parts.items():
        setattr(matrix, name, np.array(value))
    return matrix


NOT_FINITE = np.array([[0, 1, 2], [np.nan, 0, 0]])


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("tx", NOT_FINITE, "ind.toy.tx row 1: a value is not a finite number"),
        ("tx", np.ones((2, 4)), "4 words a row"),
        ("tx", np.ones(3), "no matrix of numbers"),
        ("tx", np.ones((0, 3)), "an empty matrix"),
        ("tx", np.array([[1, None, 3]]), "values of type O8"),
        ("tx", np.array([["a", "b", "c"]]), "values of type U1"),
        ("tx", {"a": 1}, "no matrix of numbers"),
        ("ally", np.ones((4, 2)), "ind.toy.ally row 0: a label is one 1 among zeros"),
        ("ally", np.eye(2), "has 2 rows, its features have 4"),
        ("graph", [1, 2], "no dictionary of neighbours"),
        ("graph", {0: [1, 9]}, "ind.toy.graph node 0: 9 is none of 6 nodes"),
        ("graph", {-1: [0]}, "node -1: -1 is none"),
        ("graph", {0: [True]}, "node 0: True is none"),
        ("graph", {0: 3}, "node 0: None is none"),
        ("graph", Path("x"), "asks for pathlib"),
    ],
)
def test_broken_files_of_planetoid(cora, part, value, words):
    put(cora, part, value)
    refused(cora, words)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"indices": [0, 1, 7, 0, 1, 2]}, "ind.toy.tx row 0: column 7 of 3"),
        ({"indices": [0, 1, 2, 0, -1, 2]}, "ind.toy.tx row 1: column -1 of 3"),
        ({"indptr": [0, 3]}, "its parts do not fit together"),
        ({"indptr": [0, 8, 6]}, "row 1 ends before it starts"),
        ({"data": [1.0]}, "its parts do not fit together"),
        ({"data": [1, 1, 1, 1, np.inf, 1]}, "row 1: a value is not a finite number"),
    ],
)
def test_broken_sparse_matrices(cora, parts, words):
    put(cora, "tx", csr(**parts))
    refused(cora, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5\nx\n", "test.index line 2: 'x' is not a whole number"),
        ("5\n-4\n", "line 2: '-4' is not a whole number"),
        ("5\n5\n", "line 2: node 5 has features already"),
        ("3\n5\n", "line 1: node 3 has features already"),
        ("5\n4000000\n", "line 2: node 4000000 of about 6"),
        ("5\n" + "9" * 5000 + "\n", "line 2: '999"),
        ("5\n", "has 1 lines, tx has 2 rows"),
    ],
)
def test_broken_test_indices(cora, text, words):
    (cora / "ind.toy.test.index").write_text(text)
    refused(cora, words)


def test_a_file_that_is_missing_or_no_pickle(cora):
    (cora / "ind.toy.ty").write_bytes(b"\x80\x04never")
    refused(cora, "ind.toy.ty is no pickle of Planetoid's")
    (cora / "ind.toy.ty").unlink()
    refused(cora, "cannot read .*ind.toy.ty: No such file")


def test_bytes_that_are_wrong_anywhere_get_an_answer(cora):
    rng = stream(0)
    for part in ("tx", "graph", "ally"):
        path = cora / f"ind.toy.{part}"
        whole = path.read_bytes()
        for _ in range(150):
            broken = bytearray(whole)
            for place in rng.integers(len(whole), size=int(rng.integers(1, 4))):
                broken[place] = rng.integers(256)
            path.write_bytes(bytes(broken[: rng.integers(len(whole) // 2, len(whole) + 1)]))
            with contextlib.suppress(UserError):
                read_graphs(cora)
        path.write_bytes(whole)
    read_graphs(cora)


# geom-gcn: three nodes, in any order.


def geom(folder, nodes, edges, name="texas"):
    place = folder / name
    place.mkdir(exist_ok=True)
    (place / NODES).write_text("node_id\tfeature\tlabel\n" + nodes)
    (place / EDGES).write_text("node_id\tnode_id\n" + edges)
    return folder


GOOD = "1\t0,1\t3\n0\t1,0.5\t0\n2\t0,0\t3\n"


def test_a_graph_of_geom_gcn(tmp_path):
    (graph,) = read_graphs(geom(tmp_path, GOOD, "0\t1\n1\t0\n2\t2\n"))
    assert graph.name == "texas"
    assert graph.features_NF.tolist() == [[1, 0.5], [0, 1], [0, 0]]
    assert graph.labels_N.tolist() == [0, 3, 3]
    assert graph.edges_2E.tolist() == [[0, 1], [1, 0]]


def test_film_lists_the_numbers_of_words(tmp_path):
    (graph,) = read_graphs(geom(tmp_path, "0\t2\t0\n1\t0,4\t1\n", "0\t1\n", "film"))
    assert graph.features_NF.tolist() == [[0, 0, 1, 0, 0], [1, 0, 0, 0, 1]]
    geom(tmp_path, "0\t2\t0\n1\t0,99999999\t1\n", "0\t1\n", "film")
    refused(tmp_path, "node 1: a word is a whole number below")


@pytest.mark.parametrize(
    ("nodes", "edges", "words"),
    [
        (GOOD + "3\t1\t0\n", "", "label.txt line 5: 1 features, the first node has 2"),
        (GOOD + "1\t1,1\t0\n", "", "line 5: node 1 was there before"),
        (GOOD + "4\t1,1\t0\n", "", "node 3 is missing of 4"),
        (GOOD + "3\tnan,1\t0\n", "", "line 5: a feature is not a finite number"),
        (GOOD + "3\t1e999,1\t0\n", "", "line 5: a feature is not a finite number"),
        (GOOD + "3\t1,x\t0\n", "", "line 5: could not convert"),
        (GOOD + "3\t1,1\t-1\n", "", "line 5: '-1' is not a whole number"),
        (GOOD + "3\t1,1\t0.5\n", "", "line 5: '0.5' is not a whole number"),
        (GOOD + "3\t1,1\n", "", "line 5: 2 columns; it needs 3"),
        ("", "", "node 0 is missing of 0"),
        (GOOD, "0\t3\n", "edges.txt line 2: node 3 of 3"),
        (GOOD, "0\n", "edges.txt line 2: 1 columns"),
        (GOOD, "0\tone\n", "edges.txt line 2: 'one' is not a whole number"),
    ],
)
def test_broken_files_of_geom_gcn(tmp_path, nodes, edges, words):
    refused(geom(tmp_path, nodes, edges), words)


def test_files_that_are_no_text(tmp_path):
    (geom(tmp_path, GOOD, "") / "texas" / EDGES).write_bytes(b"\xff\xfe0\t1")
    refused(tmp_path, "edges.txt is no text")


def test_folders_without_one_graph_of_a_name(tmp_path):
    refused(tmp_path / "none", "no folder")
    refused(tmp_path, "holds no graph")
    (tmp_path / "a").mkdir()
    geom(tmp_path / "a", GOOD, "")
    refused(geom(tmp_path, GOOD, ""), "two graphs 'texas'")


def refused(folder, words):
    with pytest.raises(UserError, match=words) as caught:
        read_graphs(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no folder of real graphs here")
def test_the_published_graphs_are_as_published():
    found = {g.name: g for g in read_graphs(SHARED)}
    sizes = {
        name: (*g.features_NF.shape, int((g.labels_N >= 0).sum()), g.labels_N.max() + 1)
        for name, g in found.items()
    }
    assert sizes == {
        "cora": (2708, 1433, 2708, 7),
        "citeseer": (3327, 3703, 3312, 6),
        "texas": (183, 1703, 183, 5),
    }
    assert {name: g.edges_2E.shape[1] // 2 for name, g in found.items()} == {
        "cora": 5278,
        "citeseer": 4552,
        "texas": 279,
    }
    assert found["cora"].homophily == pytest.approx(0.81, abs=0.005)
    assert found["texas"].homophily < 0.12
    kinds = by_kind(list(found.values()))
    assert [[g.name for g in kinds[k]] for k in kinds] == [["citeseer", "cora"], ["texas"]]
