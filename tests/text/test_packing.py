"""Packing: every token once, targets inside documents, masks kept; against hand-worked rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.text.packing import IGNORE, Packed, pack, pack_whole

# Masks come with the tokens: an odd id is one to learn.
documents = st.lists(st.lists(st.integers(1, 999), max_size=20), max_size=12)
row_lengths = st.integers(1, 9)


def test_rows_by_hand() -> None:
    packed = pack([[1, 2, 3], [4, 5, 6, 7, 8]], 4)
    assert packed.ids_NT.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert packed.targets_NT.tolist() == [[2, 3, IGNORE, 5], [6, 7, 8, IGNORE]]
    assert packed.positions_NT.tolist() == [[0, 1, 2, 0], [0, 1, 2, 3]]
    assert packed.documents_NT.tolist() == [[0, 0, 0, 1], [1, 1, 1, 1]]


def test_whole_documents_by_hand() -> None:
    masks = [[False, True], [True] * 3, [True] * 6, [True]]
    packed = pack_whole([[1, 2], [3, 4, 5], [6, 7, 8, 9, 10, 11], [12]], 5, masks=masks)
    assert packed.ids_NT.tolist() == [[6, 7, 8, 9, 10], [3, 4, 5, 1, 2], [12, 0, 0, 0, 0]]
    assert packed.targets_NT[:2].tolist() == [[7, 8, 9, 10, 11], [4, 5, IGNORE, 2, IGNORE]]
    assert packed.documents_NT.tolist() == [[2] * 5, [1, 1, 1, 0, 0], [3, -1, -1, -1, -1]]
    assert packed.positions_NT[1].tolist() == [0, 1, 2, 0, 1]
    assert packed.truncated == 1


def _tokens(packed: Packed) -> dict[int, list[int]]:
    out: dict[int, list[int]] = {}
    for i, owner in zip(packed.ids_NT.flat, packed.documents_NT.flat, strict=True):
        if owner >= 0:
            out.setdefault(int(owner), []).append(int(i))
    return out


def _targets(packed: Packed) -> dict[int, list[int]]:
    out: dict[int, list[int]] = {}
    for i, owner in zip(packed.targets_NT.flat, packed.documents_NT.flat, strict=True):
        if i != IGNORE:
            assert owner >= 0
            out.setdefault(int(owner), []).append(int(i))
    return out


@given(documents, row_lengths)
def test_every_token_is_packed_once_and_in_order(docs: list[list[int]], length: int) -> None:
    packed = pack(docs, length)
    assert _tokens(packed) == {i: d for i, d in enumerate(docs) if d}
    assert packed.ids_NT.shape == (-(-sum(map(len, docs)) // length), length)
    assert _tokens(pack_whole(docs, length)) == {i: d[:length] for i, d in enumerate(docs) if d}


@given(documents, row_lengths)
def test_targets_are_the_masked_tokens_of_the_same_document(
    docs: list[list[int]], length: int
) -> None:
    masks = [[i % 2 == 1 for i in d] for d in docs]
    cut = [d[: length + 1] for d in docs]
    for packed, seen in ((pack(docs, length, masks=masks), docs),
                         (pack_whole(docs, length, masks=masks), cut)):  # fmt: skip
        learned = {i: [t for t in d[1:] if t % 2] for i, d in enumerate(seen)}
        assert _targets(packed) == {i: d for i, d in learned.items() if d}


@given(documents, row_lengths)
def test_positions_restart_with_documents_and_rows(docs: list[list[int]], length: int) -> None:
    for packed in (pack(docs, length), pack_whole(docs, length)):
        for positions, owners in zip(packed.positions_NT, packed.documents_NT, strict=True):
            for owner in set(owners.tolist()) - {-1}:
                inside = positions[owners == owner]
                assert inside.tolist() == list(range(len(inside)))


def test_unmasked_and_masked_differ() -> None:
    off = pack([[1, 3, 5]], 3, masks=[[False] * 3])
    assert (off.targets_NT == IGNORE).all()
    assert (pack([[1, 3, 5]], 3).targets_NT != IGNORE).sum() == 2
    with pytest.raises(AssertionError, match="mask values"):
        pack([[1, 2]], 2, masks=[[True]])


def test_best_fit_leaves_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(20, 400, 2000)
    packed = pack_whole([[1] * n for n in lengths], 512)
    assert (packed.documents_NT >= 0).mean() > 0.97
    first_come = 512 * -(-len(lengths) // 2)  # two a row, the best that needs no search
    assert packed.ids_NT.size < 0.85 * first_come


def test_nothing_packs_to_no_rows() -> None:
    assert pack([], 4).ids_NT.shape == (0, 4)
    assert pack_whole([[]], 4).ids_NT.shape == (0, 4)
