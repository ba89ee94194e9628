"""Launching the kernels of a decoding step: which blocks, for how many rows.

`Launch(shape, rows, splits, overlap)` has one method a part of a layer; the tensors it is given
must stay where they are if the launches are captured in a graph. Products of more than LONE rows
write increments, which the next norm adds to x; those of fewer add to x themselves.
Shapes: B rows, D width, H query heads, K key heads, W head width, n page-table entries, E experts,
F inner width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from puna.kernels import decoding, drawing, lone, products
from puna.kernels.quantised import Quantised

Matrix = Tensor | Quantised
Added = tuple[Tensor, ...]
"""Increments [B, D] that are not part of x yet."""

VOCAB = 2048  # tokens of one block in a draw
CROWD = 600  # programs of attention, above which smaller ones are faster
LONE = 4  # up to so many rows each has programs of its own
TURNS = 2  # programs that share an expert's rows: enough where choices are near even
ROUTER = 1 << 16  # numbers of a router, above which not every program reads all of it
JOINED = 8  # splits of attention, above which not every program reads all of them


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
    """Rows, columns and inner numbers of one program; its warps and stages in flight.

    `shared` are the rows that it takes at a time of the shared expert's, which are all there are.
    """

    rows: int
    columns: int
    inner: int
    warps: int = 4
    stages: int = 3
    shared: int = 16


def blocks_for(rows: int, shape: Shape) -> dict[str, Blocks]:
    """What was measured to be fast on one H200 at a width of 1,024, by the number of rows.

    Not measured yet: `shared`, `out` and `down` of up to LONE rows, all with quantised weights.
    """
    if rows <= LONE:
        row, wide, eight = Blocks(1, 8, 1024), Blocks(1, 16, 1024, 8), Blocks(1, 8, 1024, 8)
        return {"heads": row, "out": eight, "gate_up": wide, "down": eight}
    if rows <= 16:
        small, wide = Blocks(16, 16, 128, 2, 5), Blocks(16, 32, 64, 4, 5)
        return {"heads": small, "out": small, "gate_up": wide, "down": wide, "dense": small}
    share = -(-rows * 3 // (2 * shape.experts)) if shape.experts else rows
    grouped = max(16, min(64, power_of_two(share)))
    # With 64 rows of the shared expert a program would have a GPU's multiprocessor to itself.
    routed, down = Blocks(grouped, 128, 64, 8, 3, 32), Blocks(grouped, 128, 64, 4, 4, 32)
    if rows <= 64:
        tall, heads = Blocks(64, 16, 128, 4, 4), Blocks(64, 32, 128)
    else:
        tall = heads = Blocks(64, 64, 128)
    return {"heads": heads, "out": tall, "gate_up": routed, "down": down, "dense": tall}


class Launch:
    """The kernels of one model, for `rows` rows whose attention falls into `splits` parts."""

    def __init__(self, shape: Shape, rows: int, splits: int, overlap: bool) -> None:
        self.shape, self.rows, self.splits = shape, rows, splits
        self.lone = rows <= LONE
        # Setting a kernel up early gains a tenth with few rows; with many it takes their place.
        early = overlap and self.lone
        self.more: dict[str, Any] = {"OVERLAP": early} | ({"launch_pdl": True} if early else {})
        self.blocks = blocks_for(rows, shape)
        many = rows * shape.keys * splits > CROWD
        # Keys that attention takes at a time, its warps and stages in flight.
        self.seeing = (64, 2, 3) if many else (128, 4, 3)
        self.find = max(16, min(256, power_of_two(rows)))
        self.joined = self.lone and splits <= JOINED
        self.routed_alike = shape.experts * shape.width <= ROUTER

    def embed(self, ids_B: Tensor, table_VD: Tensor, x_BD: Tensor, tick: Tensor) -> None:
        """x = the embedding's rows."""
        width = self.shape.width
        decoding.embed[(self.rows,)](
            ids_B, table_VD, x_BD, tick, WIDTH=width, BLOCK=power_of_two(width), **self.more
        )

    def heads(
        self, x_BD: Tensor, added: Added, gain_D: Tensor, normed_BD: Tensor, weight: Tensor,
        out: Tensor,
    ) -> None:  # fmt: skip
        """x += what was added; out [B, H + 2K, W] = its norm times a weight."""
        if not self.lone:
            self.normalise(x_BD, added, gain_D, normed_BD)
            self._project(normed_BD, weight, out, "heads")
            return
        b, (wide, inner) = self.blocks["heads"], weight.shape
        columns = _inner(wide, b.columns)
        lone.heads[(wide // columns, self.rows)](
            x_BD, gain_D, weight, out, self.shape.eps, INNER=inner, WIDTH=wide,
            BLOCK=power_of_two(inner), BN=columns, BK=_inner(inner, b.inner), num_warps=b.warps,
            **self.more,
        )  # fmt: skip

    def _project(self, a: Tensor, weight: Matrix, out: Tensor, which: str) -> None:
        """out [B, rows of the weight] = a times a weight [out, in]."""
        b, (wide, inner) = _fitted(self.blocks[which], weight), weight.shape
        columns = _inner(wide, b.columns)
        products.project[(wide // columns, _many(self.rows, b.rows))](
            a, *_held(weight), out, self.rows, INNER=inner, WIDTH=wide, **_kind(weight),
            BM=b.rows, BN=columns, BK=_inner(inner, b.inner), num_warps=b.warps,
            num_stages=b.stages,
        )  # fmt: skip

    def attend(
        self, heads_BHW: Tensor, keys: Tensor, values: Tensor, table_Bn: Tensor,
        positions_B: Tensor, live_B: Tensor, frequencies: Tensor, out_BHW: Tensor, partial: Tensor,
        weights: Tensor, local: bool, nope: bool, temper: bool,
    ) -> None:  # fmt: skip
        """What the heads bring together; new keys and values go into their pages.

        Where `out` joins them, it is left in parts: `partial` and `weights`.
        """
        s = self.shape
        group, (seen, warps, stages) = s.heads // s.keys, self.seeing
        decoding.attend[(self.rows, s.keys, self.splits)](
            heads_BHW, keys, values, table_Bn, positions_B, live_B, frequencies, out_BHW, partial,
            weights, table_Bn.shape[1], s.head**-0.5, s.eps, s.floor_scale, s.attn_scale,
            CHUNK=s.chunk if local else 0, KEYS=s.keys, GROUP=group,
            PAD=max(16, power_of_two(group)), HEAD=s.head, SIZE=s.size, SPLITS=self.splits,
            BS=_inner(s.size, seen), ROTATE=0 if nope else s.rotate, NORM=s.norm_queries,
            TEMPER=temper, num_warps=warps, num_stages=stages, **self.more,
        )  # fmt: skip
        if self.splits > 1 and not self.joined:
            grid = (self.rows * s.heads,)
            decoding.combine[grid](
                partial, weights, out_BHW, HEAD=s.head, SPLITS=self.splits, num_warps=2, **self.more
            )

    def out(
        self, mixed: Tensor, partial: Tensor, weights: Tensor, weight: Tensor, x_BD: Tensor,
        own_BD: Tensor,
    ) -> Added:  # fmt: skip
        """What the heads bring together times a weight [D, H * W], to be added to x."""
        if not self.lone:
            self._project(mixed, weight, own_BD, "out")
            return (own_BD,)
        b, (wide, inner) = self.blocks["out"], weight.shape
        columns = _inner(wide, b.columns)
        lone.add_heads[(wide // columns, self.rows)](
            mixed, partial, weights, weight, x_BD, INNER=inner, WIDTH=wide, HEAD=self.shape.head,
            SPLITS=self.splits if self.joined else 1, BN=columns, BK=_inner(inner, b.inner),
            num_warps=b.warps, **self.more,
        )  # fmt: skip
        return ()

    def normalise(
        self, x_BD: Tensor, added: Added, gain_D: Tensor, normed_BD: Tensor,
        route: Sequence[Tensor] = (),
    ) -> None:  # fmt: skip
        """x += what was `added`; the norm of every row.

        With a `route` (router, its bias, choice [B], score [B]) the row's expert and score as well.
        """
        width, experts = self.shape.width, self.shape.experts if route else 0
        first, second = (*added, None, None)[:2]
        router, bias, choice, score = route or (None,) * 4
        decoding.normalise[(self.rows,)](
            x_BD, first, second, gain_D, router, bias, normed_BD, choice, score,
            self.shape.eps, WIDTH=width, BLOCK=power_of_two(width), ADDED=len(added),
            EXPERTS=experts, PADDED=power_of_two(max(1, experts)), num_warps=8, **self.more,
        )  # fmt: skip

    def gate_up(
        self, x_BD: Tensor, added: Added, gain_D: Tensor, normed_BD: Tensor,
        route: Sequence[Tensor], experts: Matrix | None, shared: Matrix, act: Tensor,
    ) -> None:  # fmt: skip
        """x += what was added; silu(gate) * up of its norm, [B, 2F], or [B, F] without experts."""
        s, routed = self.shape, self.shape.experts if experts is not None else 0
        fused = self.lone and (not routed or self.routed_alike)
        if not fused:
            self.normalise(x_BD, added, gain_D, normed_BD, route)
        router, bias, choice, score = route or (None,) * 4
        if not self.lone:
            self.experts_up(normed_BD, choice, score, experts, shared, act)
            return
        b, inner = self.blocks["gate_up"], shared.shape[0] // 2
        columns = _inner(inner, b.columns)
        lone.gate_up[(inner // columns, self.rows, 1 + min(1, routed))](
            x_BD if fused else normed_BD, gain_D, router, bias, choice, score, *_held(experts),
            *_held(shared), act, s.eps, WIDTH=s.width, INNER=inner, EXPERTS=routed,
            PADDED=power_of_two(max(1, routed)), BLOCK=power_of_two(s.width), NORM=fused,
            **_kind(shared), BN=columns, BK=_inner(s.width, b.inner), num_warps=b.warps,
            **self.more,
        )  # fmt: skip

    def experts_up(
        self, normed_BD: Tensor, choice_B: Tensor | None, score_B: Tensor | None,
        experts: Matrix | None, shared: Matrix, act: Tensor,
    ) -> None:  # fmt: skip
        """`gate_up` of many rows behind the norm."""
        s, routed = self.shape, self.shape.experts if experts is not None else 0
        b = _fitted(self.blocks["gate_up" if routed else "dense"], shared)
        inner = shared.shape[0] // 2
        columns, every = _inner(inner, b.columns), b.shared if routed else b.rows
        turns = min(TURNS, _many(self.rows, b.rows))
        parts = _many(self.rows, every) + turns * routed
        products.gate_up[(inner // columns, parts)](
            normed_BD, choice_B, score_B, *_held(experts), *_held(shared), act, self.rows,
            WIDTH=s.width, INNER=inner, EXPERTS=routed, **_kind(shared), BM=b.rows,
            BS=every, BN=columns, BK=_inner(s.width, b.inner), BLOCK=self.find, TURNS=turns,
            num_warps=b.warps, num_stages=b.stages,
        )  # fmt: skip

    def down(
        self, act: Tensor, choice_B: Tensor | None, experts: Matrix | None, shared: Matrix,
        x_BD: Tensor, own_BD: Tensor, common_BD: Tensor,
    ) -> Added:  # fmt: skip
        """What the row's own expert and the shared one make of `act`, to be added to x."""
        s, (_, inner) = self.shape, shared.shape
        if experts is None and not self.lone:
            self._project(act, shared, own_BD, "dense")
            return (own_BD,)
        b = self.blocks["down"] if self.lone else _fitted(self.blocks["down"], shared)
        columns = _inner(s.width, b.columns)
        if self.lone:
            lone.add_down[(s.width // columns, self.rows)](
                act, choice_B, *_held(experts), *_held(shared), x_BD, WIDTH=s.width, INNER=inner,
                EXPERTS=0 if experts is None else s.experts, **_kind(shared), BN=columns,
                BK=_inner(inner, b.inner), num_warps=b.warps, **self.more,
            )  # fmt: skip
            return ()
        turns = min(TURNS, _many(self.rows, b.rows))
        parts = _many(self.rows, b.shared) + turns * s.experts
        products.down[(s.width // columns, parts)](
            act, choice_B, *_held(experts), *_held(shared), own_BD, common_BD, self.rows,
            WIDTH=s.width, INNER=inner, EXPERTS=s.experts, **_kind(shared), BM=b.rows,
            BS=b.shared, BN=columns, BK=_inner(inner, b.inner), BLOCK=self.find, TURNS=turns,
            num_warps=b.warps, num_stages=b.stages,
        )  # fmt: skip
        return own_BD, common_BD

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


def _held(weight: Matrix | None) -> tuple[Tensor | None, Tensor | None]:
    """A matrix's numbers and scales as a kernel takes them."""
    return (weight.numbers, weight.scales) if isinstance(weight, Quantised) else (weight, None)


def _kind(weight: Matrix) -> dict[str, Any]:
    """How a kernel reads matrices like this one."""
    if isinstance(weight, Quantised):
        return {"KIND": weight.kind, "GROUP": weight.group}
    return {"KIND": "plain", "GROUP": weight.shape[-1]}


def _fitted(b: Blocks, weight: Matrix) -> Blocks:
    """Blocks of many rows for a matrix: quantised numbers take registers on their way.

    Half as many columns then, and of fp8 twice as many inner numbers, which are as many bytes.
    """
    if not isinstance(weight, Quantised):
        return b
    return replace(b, columns=max(16, b.columns // 2), inner=2 * b.inner)


def power_of_two(count: int) -> int:
    """The least power of two that is at least `count`."""
    return 1 << max(0, count - 1).bit_length()


def _many(count: int, size: int) -> int:
    return -(-count // size)


def _inner(count: int, most: int) -> int:
    """The largest power of two up to `most` that divides `count`."""
    return min(most, count & -count)
