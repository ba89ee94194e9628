"""The experiment of the paper uniprompt: all its numbers, on made graphs and on a folder's."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch_geometric", reason="torch-geometric is not installed")

import torch
import torch.nn.functional as F

from puna.core.claims import judge, read_claims
from puna.core.errors import UserError
from puna.papers.uniprompt import experiment
from puna.papers.uniprompt.experiment import ROWS, Config, measure
from puna.papers.uniprompt.method import Training, UniPrompt, adjacency, fit, knn_edges, tau_for
from puna.papers.uniprompt.pretrain import Pretraining, pretrain
from puna.papers.uniprompt.reading import EDGES, NODES
from puna.papers.uniprompt.rows import Bench, Settings

CLAIMS = read_claims(Path(experiment.__file__).parent / "claims.toml")
TINY = Config(
    nodes=100, shots=(2,), splits=1, encoders=("dgi",), hidden=16, epochs=15, steps=20, k=5
)


@pytest.fixture(scope="module")
def tiny():
    return measure(TINY, 0)


def test_every_number_that_a_claim_names_is_measured(tiny):
    judge(CLAIMS, {0: tiny})  # raises for a name that is not there
    for kind in ("homophilic", "heterophilic"):
        for row in ROWS:
            assert 0 < tiny[f"{kind}.{row}"] < 1
            assert tiny[f"{kind}.{row}"] == tiny[f"{kind}.{row}_2_shot"]
        assert tiny[f"{kind}.ceiling"] > tiny[f"{kind}.learned"]
        assert tiny[f"{kind}.representation_gap"] < 1e-12
        optima = (tiny[f"{kind}.{who}_optimum"] for who in ("representation", "probe"))
        assert next(optima) == pytest.approx(next(optima), abs=1e-5)
        assert tiny[f"{kind}.encoder_changed"] == 0
    assert tiny["homophilic.homophily"] > 0.6 > 0.4 > tiny["heterophilic.homophily"]


def test_a_seed_gives_the_same_numbers_again_and_another_gives_others(tiny):
    torch.manual_seed(5)
    assert measure(TINY, 0) == tiny
    other = measure(TINY, 1)
    assert other.keys() == tiny.keys()
    assert other["ceiling"] != tiny["ceiling"]


def test_the_rows_are_what_the_library_gives():
    how, training = Pretraining(16, 10), Training(steps=15)
    (graph,) = experiment.graphs_of(TINY, 0)["homophilic"]
    settings = Settings(("edges",), (2,), 2, 1, 5, 0.82, how, training)
    bench = Bench(graph, settings, 0)
    found = bench.numbers()
    x, edges = F.normalize(torch.from_numpy(graph.features_NF), dim=1), bench.edges_2E
    encoder = pretrain("edges", x, edges, how, 0)
    ((_, split),) = bench._splits()
    parts = (torch.from_numpy(p) for p in (split.labels_N, split.train, split.held))
    tau = tau_for(0.82, 15)
    model = UniPrompt(encoder, x, adjacency(edges, 100), knn_edges(x, 5), split.classes, tau)
    told = fit(model, *parts, training).argmax(1)[split.test]
    assert found["learned"] == float((told.numpy() == split.labels_N[split.test]).mean())


def test_a_folder_of_graphs_and_the_kind_that_it_lacks(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=60)
    words = rng.random((60, 30)) < np.where(np.arange(30) // 10 == labels[:, None], 0.6, 0.1)
    pairs = [(a, b) for a, b in rng.integers(60, size=(300, 2)) if labels[a] != labels[b]]
    folder = tmp_path / "mine"
    folder.mkdir()
    lines = [
        f"{i}\t{','.join(map(str, row.astype(int)))}\t{label}"
        for i, (row, label) in enumerate(zip(words, labels, strict=True))
    ]
    (folder / NODES).write_text("\n".join(["node_id\tfeature\tlabel", *lines]))
    (folder / EDGES).write_text("\n".join(["node_id\tnode_id", *(f"{a}\t{b}" for a, b in pairs)]))
    found = measure(replace(TINY, data=str(tmp_path)), 0)
    judge(CLAIMS, {0: found})
    assert found["mine.homophily"] == found["heterophilic.homophily"] == 0
    assert found["mine.learned"] == found["heterophilic.learned"]
    assert "heterophilic.ceiling" not in found
    assert found["ceiling"] == found["homophilic.ceiling"]
    # Words tell the classes and links do not join them, so the control is above the probe.
    assert found["mine.raw"] > found["mine.probe"] + 0.1
    (folder / EDGES).write_text("node_id\tnode_id\n0\t60\n")
    with pytest.raises(UserError, match=r"edges\.txt line 2: node 60 of 60"):
        measure(replace(TINY, data=str(tmp_path)), 0)


def test_quick_is_smaller():
    small = Config().small
    assert (small.nodes, small.encoders, small.splits) == (200, ("dgi", "graphmae"), 1)
    assert small.epochs < Config().epochs
    assert small.steps < Config().steps
    assert replace(TINY, quick=True).small.hidden == TINY.hidden


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("k", 0, "k must be at least 1"),
        ("kept", 1.5, "kept must lie within"),
        ("shots", (), "shots must be"),
        ("nodes", 50, "nodes must be at least 60"),
        ("homophilic", 2.0, "homophily is 2.0"),
    ],
)
def test_settings_out_of_range_are_refused(setting, value, words):
    with pytest.raises(ValueError, match=words):
        Config(**{setting: value})


def test_without_torch_geometric_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    with pytest.raises(UserError, match=r"needs torch-geometric.*pip install 'puna\[graphs\]'"):
        measure(TINY, 0)


def test_a_picture_of_the_rows(tmp_path, tiny):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    experiment.plots([tiny, tiny], tmp_path)
    text = (tmp_path / "rows.svg").read_text()
    assert "<svg" in text
    assert text.count("<path") > 2 * len(ROWS)
