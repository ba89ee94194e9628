"""Rows that begin alike: each distinct prefix once, and hidden states as if rows were apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from puna.models.prefixes import grow, shared
from puna.models.presets import build, preset

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=8).map(
    sorted
)


@given(ROWS)
def test_every_prefix_once_and_every_place_its_own(rows):
    tree = grow(rows)
    prefixes = {tuple(row[: i + 1]) for row in rows for i in range(len(row))}
    assert tree.ids_1N.shape[1] == len(prefixes)
    for row, nodes in zip(rows, tree.nodes_BT, strict=True):
        mine = nodes[: len(row)]
        assert tree.ids_1N[0, mine].tolist() == row
        assert tree.positions_1N[0, mine].tolist() == list(range(len(row)))
    assert tree.nodes_BT.flatten()[tree.places_N].tolist() == list(range(len(prefixes)))


def test_by_hand():
    tree = grow([[5, 6, 7], [5, 6, 8, 9], [5, 6, 8]])
    assert shared([[5, 6, 7], [5, 6, 8, 9], [5, 6, 8]]) == [0, 2, 3]
    assert tree.ids_1N.tolist() == [[5, 6, 7, 8, 9]]
    assert tree.nodes_BT.tolist() == [[0, 1, 2, 0], [0, 1, 3, 4], [0, 1, 3, 0]]
    assert tree.places_N.tolist() == [0, 1, 2, 6, 7]


def test_marks_must_agree_too():
    marks = [np.array([[1], [2], [3]]), np.array([[1], [0], [3]])]
    assert shared([[5, 6, 7], [5, 6, 7]]) == [0, 3]
    assert shared([[5, 6, 7], [5, 6, 7]], marks) == [0, 1]


@pytest.mark.parametrize("chunk", [None, 8])
def test_hidden_states_are_those_of_separate_rows(chunk):
    """Both families' ways of placing tokens, rows across the chunk's end, experts, QK norm."""
    config = replace(preset("nano"), attention_chunk=chunk, floor_scale=4)
    model = build(config, 0).eval()
    rng = np.random.default_rng(0)
    stem = rng.integers(0, 512, 7).tolist()
    rows = sorted(stem + rng.integers(0, 512, n).tolist() for n in (1, 5, 9, 14))
    tree = grow(rows)
    with torch.inference_mode():
        nodes = model(tree.ids_1N, tree.positions_1N, tree=tree)[0]
        for row, places in zip(rows, tree.nodes_BT, strict=True):
            alone = model(torch.tensor([row]))[0]
            torch.testing.assert_close(nodes[places[: len(row)]], alone, atol=1e-5, rtol=1e-4)
        # Without its tree the same row of tokens is one conversation, and something else.
        plain = model(tree.ids_1N, tree.positions_1N)[0]
    assert (plain - nodes).abs().max() > 1e-2
