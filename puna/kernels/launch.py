"""Launching the kernels of a decoding step: which blocks, for how many rows.

`Launch(shape, rows, splits, overlap)` has one method a kernel; the tensors it is given must stay
where they are if the launches are captured in a graph.
Shapes: B rows, D width, H query heads, K key heads, W head width, n page-table entries, E experts,
F inner width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from puna.kernels import decoding, drawing

VOCAB = 2048  # tokens of one block in a draw
CROWD = 600  # programs of attention, above which smaller ones are faster
LONE = 4  # up to so many rows each has programs of its own


@dataclass(frozen=True)
class Shape:
    """The sizes that the kernels of a model have in common; `size` is the tokens of a page.

    `rotate` is 1 where neighbours are a pair of a rotation, 2 where halves of a head are.
    """

    width: int
    heads: int
    keys: int
    head: int
    size: int
    experts: int
    vocab: int
    rotate: int
    norm_queries: bool
    eps: float
    chunk: int
    floor_scale: float
    attn_scale: float


@dataclass(frozen=True)
class Blocks:
    """Rows, columns and inner numbers of one program; its warps and stages in flight."""

    rows: int
    columns: int
    inner: int
    warps: int = 4
    stages: int = 3


def blocks_for(rows: int, shape: Shape) -> dict[str, Blocks]:
    """What was measured to be fast on one H200 at a width of 1,024, by the number of rows."""
    if rows <= LONE:
        row = Blocks(1, 8, 1024)
        two, down = Blocks(1, 16, 1024, 8), Blocks(1, 8, 1024, 8)
        return {"heads": row, "out": row, "gate_up": two, "down": down, "dense": two}
    if rows <= 16:
        small, wide = Blocks(16, 16, 128, 2, 5), Blocks(16, 32, 64, 4, 5)
        return {"heads": small, "out": small, "gate_up": wide, "down": wide, "dense": small}
    share = -(-rows * 3 // (2 * shape.experts)) if shape.experts else rows
    grouped = max(16, min(64, power_of_two(share)))
    routed, down = Blocks(grouped, 128, 64, 8), Blocks(grouped, 128, 64, 4, 4)
    if rows <= 64:
        tall, heads = Blocks(64, 16, 128, 4, 4), Blocks(64, 32, 128)
    else:
        tall = heads = Blocks(64, 64, 128)
    return {"heads": heads, "out": tall, "gate_up": routed, "down": down, "dense": tall}


class Launch:
    """The kernels of one model, for `rows` rows whose attention falls into `splits` parts."""

    def __init__(self, shape: Shape, rows: int, splits: int, overlap: bool) -> None:
        self.shape, self.rows, self.splits = shape, rows, splits
        # Setting a kernel up early gains a tenth with few rows; with many it takes their place.
        early = overlap and rows <= LONE
        self.more: dict[str, Any] = {"OVERLAP": early} | ({"launch_pdl": True} if early else {})
        self.blocks = blocks_for(rows, shape)
        many = rows * shape.keys * splits > CROWD
        self.seen, self.warps = min(64 if many else 128, shape.size & -shape.size), 2 if many else 4
        self.lone = rows <= LONE
        self.find = max(16, min(256, power_of_two(rows)))

    def embed(self, ids_B: Tensor, table_VD: Tensor, x_BD: Tensor, tick: Tensor) -> None:
        """x = the embedding's rows."""
        width = self.shape.width
        decoding.embed[(self.rows,)](
            ids_B, table_VD, x_BD, tick, WIDTH=width, BLOCK=power_of_two(width), **self.more
        )

    def project(self, a: Tensor, weight: Tensor, out: Tensor, which: str) -> None:
        """out [B, rows of the weight] = a times a weight [out, in]."""
        b = self.blocks[which]
        width, inner = weight.shape
        columns = _inner(width, b.columns)
        if self.lone:
            decoding.project_row[(width // columns, self.rows)](
                a, weight, out, INNER=inner, WIDTH=width, BN=columns, BK=_inner(inner, b.inner),
                num_warps=b.warps, **self.more,
            )  # fmt: skip
            return
        decoding.project[(width // columns, _many(self.rows, b.rows))](
            a, weight, out, self.rows, INNER=inner, WIDTH=width, BM=b.rows, BN=columns,
            BK=_inner(inner, b.inner), num_warps=b.warps, num_stages=b.stages, **self.more,
        )  # fmt: skip

    def attend(
        self, heads_BHW: Tensor, keys: Tensor, values: Tensor, table_Bn: Tensor,
        positions_B: Tensor, live_B: Tensor, frequencies: Tensor, out_BHW: Tensor, partial: Tensor,
        weights: Tensor, local: bool, nope: bool, temper: bool,
    ) -> None:  # fmt: skip
        """What the heads bring together; new keys and values go into their pages."""
        s = self.shape
        group = s.heads // s.keys
        decoding.attend[(self.rows, s.keys, self.splits)](
            heads_BHW, keys, values, table_Bn, positions_B, live_B, frequencies, out_BHW, partial,
            weights, table_Bn.shape[1], s.head**-0.5, s.eps, s.floor_scale, s.attn_scale,
            CHUNK=s.chunk if local else 0, KEYS=s.keys, GROUP=group,
            PAD=max(16, power_of_two(group)), HEAD=s.head, SIZE=s.size, SPLITS=self.splits,
            BS=self.seen, ROTATE=0 if nope else s.rotate, NORM=s.norm_queries, TEMPER=temper,
            num_warps=self.warps, num_stages=3, **self.more,
        )  # fmt: skip
        if self.splits > 1:
            grid = (self.rows * s.heads,)
            decoding.combine[grid](
                partial, weights, out_BHW, HEAD=s.head, SPLITS=self.splits, num_warps=2, **self.more
            )

    def normalise(
        self, x_BD: Tensor, added: Sequence[Tensor], gain_D: Tensor, normed_BD: Tensor,
        router: Tensor | None = None, bias: Tensor | None = None, choice_B: Tensor | None = None,
        score_B: Tensor | None = None,
    ) -> None:  # fmt: skip
        """x += what was `added`; the norm of every row; with a router its expert and score."""
        width, experts = self.shape.width, 0 if router is None else self.shape.experts
        first, second = (*added, None, None)[:2]
        decoding.normalise[(self.rows,)](
            x_BD, first, second, gain_D, router, bias, normed_BD, choice_B, score_B,
            self.shape.eps, WIDTH=width, BLOCK=power_of_two(width), ADDED=len(added),
            EXPERTS=experts, PADDED=power_of_two(max(1, experts)), num_warps=8, **self.more,
        )  # fmt: skip

    def gate_up(
        self, normed_BD: Tensor, choice_B: Tensor | None, score_B: Tensor | None,
        experts: Tensor | None, shared: Tensor, act: Tensor,
    ) -> None:  # fmt: skip
        """silu(gate) * up [B, 2F], or [B, F] without experts."""
        s, b = self.shape, self.blocks["dense" if experts is None else "gate_up"]
        inner = shared.shape[0] // 2
        columns = _inner(inner, b.columns)
        routed = 0 if experts is None else s.experts
        if self.lone:
            decoding.gate_up_row[(inner // columns, self.rows, 1 + min(1, routed))](
                normed_BD, choice_B, score_B, experts, shared, act, WIDTH=s.width, INNER=inner,
                EXPERTS=routed, BN=columns, BK=_inner(s.width, b.inner), num_warps=b.warps,
                **self.more,
            )  # fmt: skip
            return
        decoding.gate_up[(inner // columns, 1 + routed, _many(self.rows, b.rows))](
            normed_BD, choice_B, score_B, experts, shared, act, self.rows, WIDTH=s.width,
            INNER=inner, EXPERTS=routed, BM=b.rows, BN=columns,
            BK=_inner(s.width, b.inner), BLOCK=self.find, num_warps=b.warps,
            num_stages=b.stages, **self.more,
        )  # fmt: skip

    def down(
        self, act: Tensor, choice_B: Tensor, experts: Tensor, shared: Tensor, own_BD: Tensor,
        common_BD: Tensor,
    ) -> None:  # fmt: skip
        """What the row's own expert and the shared one make of `act`."""
        s, b = self.shape, self.blocks["down"]
        inner, columns = shared.shape[1], _inner(s.width, b.columns)
        if self.lone:
            decoding.down_row[(s.width // columns, self.rows, 2)](
                act, choice_B, experts, shared, own_BD, common_BD, WIDTH=s.width, INNER=inner,
                BN=columns, BK=_inner(inner, b.inner), num_warps=b.warps, **self.more,
            )  # fmt: skip
            return
        decoding.down[(s.width // columns, 1 + s.experts, _many(self.rows, b.rows))](
            act, choice_B, experts, shared, own_BD, common_BD, self.rows, WIDTH=s.width,
            INNER=inner, BM=b.rows, BN=columns, BK=_inner(inner, b.inner),
            BLOCK=self.find, num_warps=b.warps, num_stages=b.stages, **self.more,
        )  # fmt: skip

    def draw(self, scratch: Any, to: Any) -> None:
        """A token of every row: logits of `scratch`, state and result in `to`.

        They are `puna.engine.captured`'s.
        """
        vocab, rows = self.shape.vocab, self.rows
        blocks = _many(vocab, VOCAB)
        found = scratch.tops, scratch.sums, scratch.best
        drawing.shares[(rows, blocks)](
            scratch.logits, to.heat, *found, vocab, blocks, BLOCK=VOCAB, **self.more
        )
        drawing.draw[(rows,)](
            scratch.logits, to.heat, to.greedy, *found, to.uniforms, to.tick, to.ids, to.positions,
            to.live, to.tokens, to.logprobs, rows, vocab, blocks, BLOCK=VOCAB,
            PADDED=power_of_two(blocks), **self.more,
        )  # fmt: skip


def power_of_two(count: int) -> int:
    """The least power of two that is at least `count`."""
    return 1 << max(0, count - 1).bit_length()


def _many(count: int, size: int) -> int:
    return -(-count // size)


def _inner(count: int, most: int) -> int:
    """The largest power of two up to `most` that divides `count`."""
    return min(most, count & -count)
