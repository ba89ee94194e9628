"""Triton kernels of the matrix products of a decoding step, for more than a few rows.

`puna.kernels.launch` launches them; `lone` has those for a few rows. A matrix lies as the model has
it, or quantised (`puna.kernels.quantised`): then it is read as it lies, in half or a quarter of the
bytes, and its scales are multiplied onto sums in fp32. No order of summation depends on the rows.
Shapes: B rows, D width, E experts, F inner width; a matrix is WIDTH outputs by INNER inputs.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def low_half(both, dtype: tl.constexpr):
    """The signed numbers in the low bits of bytes."""
    return ((both << 4) >> 4).to(tl.float32).to(dtype)


@triton.jit
def high_half(both, dtype: tl.constexpr):
    """The signed numbers in the high bits of bytes."""
    return (both >> 4).to(tl.float32).to(dtype)


@triton.jit
def gated(gate, up, dtype: tl.constexpr):
    """silu(gate) * up of two products in fp32, rounded to `dtype` where the twin rounds."""
    gate = gate.to(dtype).to(tl.float32)
    act = (gate * tl.sigmoid(gate)).to(dtype).to(tl.float32)
    return (act * up.to(dtype).to(tl.float32)).to(dtype)


@triton.jit
def multiply(
    left, inside, weight, scales, column,
    INNER: tl.constexpr, WIDTH: tl.constexpr, SECOND: tl.constexpr, ALONG: tl.constexpr,
    ACROSS: tl.constexpr, KIND: tl.constexpr, GROUP: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Rows that begin at `left` [BM, 1] times columns of a matrix, [BM, BN] in fp32, twice.

    The other time, unless SECOND is 0, it is the columns SECOND further. ALONG and ACROSS are the
    strides of inputs and outputs of a matrix that is not quantised; otherwise rows lie whole.
    """
    dtype: tl.constexpr = left.dtype.element_ty
    one = tl.zeros((BM, BN), tl.float32)
    two = tl.zeros((BM, BN), tl.float32)
    if KIND == "int4":
        half: tl.constexpr = GROUP // 2
        h = tl.arange(0, half)
        for group in range(0, INNER // GROUP):
            at = left + group * GROUP + h[None, :]
            low = tl.load(at, mask=inside, other=0.0)
            high = tl.load(at + half, mask=inside, other=0.0)
            source = weight + column[None, :] * (INNER // 2) + group * half + h[:, None]
            scale = scales + group * WIDTH + column
            both = tl.load(source)
            part = tl.dot(low, low_half(both, dtype), input_precision="ieee")
            part = tl.dot(high, high_half(both, dtype), part, input_precision="ieee")
            one += part * tl.load(scale)[None, :]
            if SECOND > 0:
                both = tl.load(source + SECOND * (INNER // 2))
                part = tl.dot(low, low_half(both, dtype), input_precision="ieee")
                part = tl.dot(high, high_half(both, dtype), part, input_precision="ieee")
                two += part * tl.load(scale + SECOND)[None, :]
    else:
        along: tl.constexpr = ALONG if KIND == "plain" else 1
        across: tl.constexpr = ACROSS if KIND == "plain" else INNER
        k = tl.arange(0, BK)
        for at in range(0, INNER, BK):
            x = tl.load(left + at + k[None, :], mask=inside, other=0.0)
            source = weight + (at + k[:, None]) * along + column[None, :] * across
            one = tl.dot(x, tl.load(source).to(dtype), one, input_precision="ieee")
            if SECOND > 0:
                w = tl.load(source + SECOND * across).to(dtype)
                two = tl.dot(x, w, two, input_precision="ieee")
        if KIND == "fp8":
            one *= tl.load(scales + column)[None, :]
            if SECOND > 0:
                two *= tl.load(scales + column + SECOND)[None, :]
    return one, two


@triton.jit
def project(
    a, weight, scales, out, rows,
    INNER: tl.constexpr, WIDTH: tl.constexpr, KIND: tl.constexpr, GROUP: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """out [B, WIDTH] = a [B, INNER] times the transposed weight [WIDTH, INNER]."""
    row = tl.program_id(1) * BM + tl.arange(0, BM)
    column = tl.program_id(0) * BN + tl.arange(0, BN)
    inside = (row < rows)[:, None]
    total, _ = multiply(
        a + row[:, None] * INNER, inside, weight, scales, column,
        INNER, WIDTH, 0, 1, INNER, KIND, GROUP, BM, BN, BK,
    )  # fmt: skip
    target = out + row[:, None] * WIDTH + column[None, :]
    tl.store(target, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def count_of(choice, expert, rows, BLOCK: tl.constexpr):
    """How many rows chose an expert."""
    b = tl.arange(0, BLOCK)
    count = 0
    for at in range(0, rows, BLOCK):
        mine = tl.load(choice + at + b, mask=at + b < rows, other=-1) == expert
        count += tl.sum(mine.to(tl.int32), 0)
    return count


@triton.jit
def rows_of(choice, expert, first, rows, BM: tl.constexpr, BLOCK: tl.constexpr):
    """Rows number `first` to `first + BM` of those that chose an expert, -1 where there are none.

    Every program finds its rows itself: a sort would be one more launch.
    """
    j, b = first + tl.arange(0, BM), tl.arange(0, BLOCK)
    found = tl.full((BM,), -1, tl.int32)
    before = 0
    for at in range(0, rows, BLOCK):
        mine = tl.load(choice + at + b, mask=at + b < rows, other=-1) == expert
        rank = before + tl.cumsum(mine.to(tl.int32), 0) - 1
        hit = mine[:, None] & (rank[:, None] == j[None, :])
        found = tl.maximum(found, tl.max(tl.where(hit, (at + b)[:, None], -1), 0))
        before += tl.sum(mine.to(tl.int32), 0)
    return found


@triton.jit
def gate_up(
    normed, choice, score, experts, expert_scales, shared, shared_scales, out, rows,
    WIDTH: tl.constexpr, INNER: tl.constexpr, EXPERTS: tl.constexpr, KIND: tl.constexpr,
    GROUP: tl.constexpr, BM: tl.constexpr, BS: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    BLOCK: tl.constexpr, TURNS: tl.constexpr,
):  # fmt: skip
    """silu(gate) * up: of the routed expert [B, F] first, then of the shared one [B, F].

    Program (columns, part): the first parts are the shared expert's rows, BS at a time, whose
    weights lie [out, in]; then comes every expert, TURNS times. The programs of an expert take its
    rows in turns, BM at a time: few stand by for the case that many rows choose one. Without
    EXPERTS `out` has only the shared one's. The score, which scales what the routed expert reads,
    is multiplied in behind the product.
    """
    part, tiles = tl.program_id(1), tl.cdiv(rows, BS)
    dtype: tl.constexpr = normed.dtype.element_ty
    column = tl.program_id(0) * BN + tl.arange(0, BN)
    wide: tl.constexpr = INNER * 2 if EXPERTS > 0 else INNER
    if part < tiles:
        every = part * BS + tl.arange(0, BS)
        within = (every < rows)[:, None]
        gates, ups = multiply(
            normed + every[:, None] * WIDTH, within, shared, shared_scales, column,
            WIDTH, 2 * INNER, INNER, 1, WIDTH, KIND, GROUP, BS, BN, BK,
        )  # fmt: skip
        there = out + every[:, None] * wide + (wide - INNER) + column[None, :]
        tl.store(there, gated(gates, ups, dtype), mask=within)
    elif EXPERTS > 0:
        which, turn = (part - tiles) % EXPERTS, (part - tiles) // EXPERTS
        own: tl.constexpr = WIDTH * INNER if KIND == "int4" else WIDTH * 2 * INNER
        matrix = experts + which.to(tl.int64) * own
        its_scales = expert_scales
        if KIND != "plain":
            its_scales = expert_scales + which * (WIDTH // GROUP * 2 * INNER)
        for first in range(turn * BM, count_of(choice, which, rows, BLOCK), TURNS * BM):
            row = rows_of(choice, which, first, rows, BM, BLOCK)
            inside = (row >= 0)[:, None]
            gate, up = multiply(
                normed + row[:, None] * WIDTH, inside, matrix, its_scales, column,
                WIDTH, 2 * INNER, INNER, 2 * INNER, 1, KIND, GROUP, BM, BN, BK,
            )  # fmt: skip
            heat = tl.load(score + row, mask=row >= 0, other=0.0)[:, None]
            target = out + row[:, None] * wide + column[None, :]
            tl.store(target, gated(gate * heat, up * heat, dtype), mask=inside)


@triton.jit
def down(
    act, choice, experts, expert_scales, shared, shared_scales, own, common, rows,
    WIDTH: tl.constexpr, INNER: tl.constexpr, EXPERTS: tl.constexpr, KIND: tl.constexpr,
    GROUP: tl.constexpr, BM: tl.constexpr, BS: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    BLOCK: tl.constexpr, TURNS: tl.constexpr,
):  # fmt: skip
    """Down-projections of what `gate_up` made: `own` [B, D] of the routed expert, `common` of the
    shared one. Program (columns, part) as there.
    """
    part, tiles = tl.program_id(1), tl.cdiv(rows, BS)
    column = tl.program_id(0) * BN + tl.arange(0, BN)
    dtype = act.dtype.element_ty
    if part < tiles:
        every = part * BS + tl.arange(0, BS)
        within = (every < rows)[:, None]
        whole, _ = multiply(
            act + every[:, None] * (2 * INNER) + INNER, within, shared, shared_scales, column,
            INNER, WIDTH, 0, 1, INNER, KIND, GROUP, BS, BN, BK,
        )  # fmt: skip
        tl.store(common + every[:, None] * WIDTH + column[None, :], whole.to(dtype), mask=within)
    else:
        which, turn = (part - tiles) % EXPERTS, (part - tiles) // EXPERTS
        size: tl.constexpr = WIDTH * INNER // 2 if KIND == "int4" else WIDTH * INNER
        matrix = experts + which.to(tl.int64) * size
        its_scales = expert_scales
        if KIND != "plain":
            its_scales = expert_scales + which * (INNER // GROUP * WIDTH)
        for first in range(turn * BM, count_of(choice, which, rows, BLOCK), TURNS * BM):
            row = rows_of(choice, which, first, rows, BM, BLOCK)
            inside = (row >= 0)[:, None]
            total, _ = multiply(
                act + row[:, None] * (2 * INNER), inside, matrix, its_scales, column,
                INNER, WIDTH, 0, WIDTH, 1, KIND, GROUP, BM, BN, BK,
            )  # fmt: skip
            tl.store(own + row[:, None] * WIDTH + column[None, :], total.to(dtype), mask=inside)
