"""Token ids of documents into rows of one length, with targets that never leave a document.

`pack([[1, 2, 3], [4, 5]], 4).targets_NT` -> `[[2, 3, -100, 5], [-100, -100, -100, -100]]`.

N rows, T tokens a row.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from puna.text.images import Picture

IGNORE = -100  # what PyTorch's cross entropy leaves out by default

Ints = NDArray[np.int32]
Masks = Sequence[Sequence[bool]]


@dataclass(frozen=True)
class Packed:
    """Rows to train on, all int32.

    ids_NT: token ids, 0 where padded. targets_NT: the next token of the same document, IGNORE
    where there is none or its mask is False. positions_NT: from 0 at each document and row.
    documents_NT: index of the document, -1 where padded. truncated: documents that lost their end.
    pictures: those of each document, empty where no document has any.
    """

    ids_NT: Ints
    targets_NT: Ints
    positions_NT: Ints
    documents_NT: Ints
    truncated: int = 0
    pictures: Sequence[Sequence[Picture]] = ()

    def whole(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of `rows`, indices, hold one document from end to end."""
        documents = self.documents_NT[rows]
        found: NDArray[np.bool_] = (documents == documents[:, :1]).all(1)
        return found


def pack(
    documents: Sequence[Sequence[int]], row_length: int, *, masks: Masks | None = None
) -> Packed:
    """Documents end to end, cut where a row ends; only the last row has padding (pretraining).

    A cut document continues in the next row, its positions from 0 again; the last token before
    the cut still has its target. `masks`, as long as the documents, say which tokens to learn.
    """
    ids, targets, starts, owners = _flat(documents, masks)
    index = np.arange(len(ids))
    positions = index - np.maximum(starts, index // row_length * row_length)
    rows = -(-len(ids) // row_length)

    def shaped(flat: NDArray[np.int64] | Ints, padding: int) -> Ints:
        out = np.full(rows * row_length, padding, dtype=np.int32)
        out[: len(flat)] = flat
        return out.reshape(rows, row_length)

    return Packed(shaped(ids, 0), shaped(targets, IGNORE), shaped(positions, 0), shaped(owners, -1))


def pack_whole(
    documents: Sequence[Sequence[int]], row_length: int, *, masks: Masks | None = None
) -> Packed:
    """Documents uncut, each in the fullest row that still has room, longest first (SFT).

    Best fit decreasing; ties go by index, so the result is a function of the arguments alone.
    A document longer than a row loses its end, and `truncated` counts it. Empty ones vanish.
    """
    lengths = [min(len(d), row_length) for d in documents]
    rows = _best_fit(lengths, row_length)
    shape = (len(rows), row_length)
    packed = Packed(
        np.zeros(shape, np.int32),
        np.full(shape, IGNORE, np.int32),
        np.zeros(shape, np.int32),
        np.full(shape, -1, np.int32),
        sum(len(d) > row_length for d in documents),
    )
    for row, members in enumerate(rows):
        at = 0
        for i in members:
            end = at + lengths[i]
            mask = None if masks is None else [masks[i]]
            ids, targets, _, _ = _flat([documents[i]], mask)
            packed.ids_NT[row, at:end] = ids[: lengths[i]]
            packed.targets_NT[row, at:end] = targets[: lengths[i]]
            packed.positions_NT[row, at:end] = np.arange(lengths[i])
            packed.documents_NT[row, at:end] = i
            at = end
    return packed


def _flat(
    documents: Sequence[Sequence[int]], masks: Masks | None
) -> tuple[Ints, Ints, NDArray[np.int64], NDArray[np.int64]]:
    """Of all tokens end to end: ids, targets, where the token's document starts, which it is."""
    lengths = np.array([len(d) for d in documents], dtype=np.int64)
    owners = np.repeat(np.arange(len(documents)), lengths)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    ids = _joined(documents, np.int32)
    learn = owners[1:] == owners[:-1]
    if masks is not None:
        mask = _joined(masks, np.bool_)
        assert len(mask) == len(ids), f"{len(mask)} mask values for {len(ids)} tokens"
        learn &= mask[1:]
    targets = np.full(len(ids), IGNORE, dtype=np.int32)
    targets[:-1][learn] = ids[1:][learn]
    return ids, targets, starts, owners


def _joined(sequences: Sequence[Sequence[int]] | Masks, dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *(np.asarray(s, dtype) for s in sequences)])


def _best_fit(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    order = sorted((i for i, n in enumerate(lengths) if n), key=lambda i: (-lengths[i], i))
    rows: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # (room left, row), sorted
    for i in order:
        at = bisect_left(spaces, (lengths[i], -1))
        if at < len(spaces):
            space, row = spaces.pop(at)
        else:
            space, row = row_length, len(rows)
            rows.append([])
        rows[row].append(i)
        if space > lengths[i]:
            insort(spaces, (space - lengths[i], row))
    return rows
