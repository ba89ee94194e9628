"""Triton kernels of the products of a decoding step for a few rows, each read by itself.

With one row a step is as long as its launches are many. So what lies between products is done by
the product behind it, over again in each of its programs: norms, the choice of an expert, the
joining of attention's splits; and products add to x in place, each program to its own columns.
The rows' weights are all under way at once. `products` has the same for more rows.
Shapes: B rows, D width, E experts, F inner width; a matrix is WIDTH outputs by INNER inputs.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from puna.kernels.decoding import begin, near_end, route
from puna.kernels.products import gated, high_half, low_half


@triton.jit
def numbers_of(left, gain, inverse, NORM: tl.constexpr):
    """Numbers of a row in fp32; with NORM times `inverse` and the gain, rounded like the twin."""
    x = tl.load(left).to(tl.float32)
    if NORM:
        dtype: tl.constexpr = left.dtype.element_ty
        x = (x * inverse).to(dtype).to(tl.float32) * tl.load(gain).to(tl.float32)
        x = x.to(dtype).to(tl.float32)
    return x


@triton.jit
def spread(
    left, gain, inverse, weight, scales, column,
    INNER: tl.constexpr, WIDTH: tl.constexpr, ALONG: tl.constexpr, ACROSS: tl.constexpr,
    KIND: tl.constexpr, GROUP: tl.constexpr, NORM: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """A row times columns of a matrix, not summed yet (see `summed`), in fp32.

    Threads meet where numbers are summed, and no load passes such a place: so all loads of a kernel
    come before its first sum. Strides as in `products.multiply`. [BK, BN], or of int4
    [BK / GROUP, GROUP / 2, BN].
    """
    if KIND == "int4":
        half: tl.constexpr = GROUP // 2
        g, h = tl.arange(0, BK // GROUP), tl.arange(0, half)
        total = tl.zeros((BK // GROUP, half, BN), tl.float32)
        for start in tl.static_range(0, INNER, BK):
            at = start + g[:, None] * GROUP + h[None, :]
            low = numbers_of(left + at, gain + at, inverse, NORM)
            high = numbers_of(left + at + half, gain + at + half, inverse, NORM)
            byte = start // 2 + g[:, None] * half + h[None, :]
            both = tl.load(weight + byte[:, :, None] + column[None, None, :] * (INNER // 2))
            part = low[:, :, None] * low_half(both, tl.float32)
            part += high[:, :, None] * high_half(both, tl.float32)
            scale = scales + (start // GROUP + g)[:, None] * WIDTH + column[None, :]
            total += part * tl.load(scale)[:, None, :]
    else:
        along: tl.constexpr = ALONG if KIND == "plain" else 1
        across: tl.constexpr = ACROSS if KIND == "plain" else INNER
        k = tl.arange(0, BK)
        total = tl.zeros((BK, BN), tl.float32)
        for start in tl.static_range(0, INNER, BK):
            at = start + k
            x = numbers_of(left + at, gain + at, inverse, NORM)
            w = tl.load(weight + at[:, None] * along + column[None, :] * across).to(tl.float32)
            total += w * x[:, None]
        if KIND == "fp8":
            total *= tl.load(scales + column)[None, :]
    return total


@triton.jit
def summed(total):
    """What `spread` has spread, [BN]."""
    if len(total.shape) == 3:
        total = tl.sum(total, 0)
    return tl.sum(total, 0)


@triton.jit
def inverse_of(wide, eps, WIDTH: tl.constexpr):
    """1 / the root of the mean square of a row that is padded with 0."""
    return tl.rsqrt(tl.sum(wide * wide, 0) / WIDTH + eps)


@triton.jit
def heads(
    x, gain, weight, out, eps, INNER: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """out [B, WIDTH] = the norm of x [B, INNER] times a weight [WIDTH, INNER]. Program (columns,
    row).
    """
    begin(OVERLAP)
    row, column = tl.program_id(1), tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.arange(0, BLOCK)
    left = x + row * INNER
    wide = tl.load(left + k, mask=k < INNER, other=0.0).to(tl.float32)
    total = spread(
        left, gain, inverse_of(wide, eps, INNER), weight, None, column,
        INNER, WIDTH, 1, INNER, "plain", INNER, True, BN, BK,
    )  # fmt: skip
    near_end(OVERLAP)
    tl.store(out + row * WIDTH + column, tl.sum(total, 0).to(out.dtype.element_ty))


@triton.jit
def add_heads(
    mixed, partial, weights, weight, x, INNER: tl.constexpr, WIDTH: tl.constexpr,
    HEAD: tl.constexpr, SPLITS: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """x [B, WIDTH] += what the heads bring together times a weight [WIDTH, INNER].

    With SPLITS it is still in parts, [heads, SPLITS, W] (see `decoding.combine`).
    """
    begin(OVERLAP)
    row, column = tl.program_id(1), tl.program_id(0) * BN + tl.arange(0, BN)
    dtype = x.dtype.element_ty
    total = tl.zeros((BK, BN), tl.float32)
    for start in tl.static_range(0, INNER, BK):
        k = start + tl.arange(0, BK)
        w = tl.load(weight + k[:, None] + column[None, :] * INNER).to(tl.float32)
        if SPLITS == 1:
            y = tl.load(mixed + row * INNER + k).to(tl.float32)
        else:
            head = row * (INNER // HEAD) + k // HEAD
            part = head[None, :] * SPLITS + tl.arange(0, SPLITS)[:, None]
            level = tl.load(weights + part)
            top = tl.max(level, 0)
            share = tl.where(level > float("-inf"), tl.exp(level - top[None, :]), 0.0)
            mean = tl.load(partial + part * HEAD + (k % HEAD)[None, :])
            y = tl.sum(mean * share, 0) / tl.maximum(tl.sum(share, 0), 1e-30)
            y = y.to(dtype).to(tl.float32)
        total += w * y[:, None]
    near_end(OVERLAP)
    target = x + row * WIDTH + column
    more = tl.sum(total, 0).to(dtype).to(tl.float32)
    tl.store(target, (tl.load(target).to(tl.float32) + more).to(dtype))


@triton.jit
def gate_up(
    x, gain, router, bias, choice, score, experts, expert_scales, shared, shared_scales, out, eps,
    WIDTH: tl.constexpr, INNER: tl.constexpr, EXPERTS: tl.constexpr, PADDED: tl.constexpr,
    BLOCK: tl.constexpr, NORM: tl.constexpr, KIND: tl.constexpr, GROUP: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """`products.gate_up` of one row. Program (columns, row, its expert or the shared one).

    With NORM x is still to be normed, and the expert is chosen here, by every program alike;
    without, x is normed, and `choice` and `score` are there.
    """
    begin(OVERLAP)
    row, column = tl.program_id(1), tl.program_id(0) * BN + tl.arange(0, BN)
    dtype: tl.constexpr = x.dtype.element_ty
    wide: tl.constexpr = INNER * 2 if EXPERTS > 0 else INNER
    left, target = x + row * WIDTH, out + row * wide + column
    gate, up = tl.zeros((BN,), tl.float32), tl.zeros((BN,), tl.float32)
    inverse, heat = 1.0, 1.0
    k = tl.arange(0, BLOCK)
    here = k < WIDTH
    full = tl.load(left + k, mask=here, other=0.0).to(tl.float32)
    if NORM:
        inverse = inverse_of(full, eps, WIDTH)
    if tl.program_id(2) == tl.num_programs(2) - 1:
        gates = spread(
            left, gain, inverse, shared, shared_scales, column,
            WIDTH, 2 * INNER, 1, WIDTH, KIND, GROUP, NORM, BN, BK,
        )  # fmt: skip
        ups = spread(
            left, gain, inverse, shared, shared_scales, column + INNER,
            WIDTH, 2 * INNER, 1, WIDTH, KIND, GROUP, NORM, BN, BK,
        )  # fmt: skip
        gate, up = summed(gates), summed(ups)
        target += wide - INNER
    elif EXPERTS > 0:
        if NORM:
            g = tl.load(gain + k, mask=here, other=0.0).to(tl.float32)
            y = ((full * inverse).to(dtype).to(tl.float32) * g).to(dtype)
            expert, heat = route(y, k, here, router, bias, WIDTH, EXPERTS, PADDED)
            if tl.program_id(0) == 0:
                tl.store(choice + row, expert)
        else:
            expert = tl.load(choice + row)
            heat = tl.load(score + row)
        size: tl.constexpr = WIDTH * INNER if KIND == "int4" else WIDTH * 2 * INNER
        matrix = experts + expert.to(tl.int64) * size
        its_scales = expert_scales
        if KIND != "plain":
            its_scales = expert_scales + expert * (WIDTH // GROUP * 2 * INNER)
        gates = spread(
            left, gain, inverse, matrix, its_scales, column,
            WIDTH, 2 * INNER, 2 * INNER, 1, KIND, GROUP, NORM, BN, BK,
        )  # fmt: skip
        ups = spread(
            left, gain, inverse, matrix, its_scales, column + INNER,
            WIDTH, 2 * INNER, 2 * INNER, 1, KIND, GROUP, NORM, BN, BK,
        )  # fmt: skip
        gate, up = summed(gates), summed(ups)
    near_end(OVERLAP)
    tl.store(target, gated(gate * heat, up * heat, dtype))


@triton.jit
def add_down(
    act, choice, experts, expert_scales, shared, shared_scales, x,
    WIDTH: tl.constexpr, INNER: tl.constexpr, EXPERTS: tl.constexpr, KIND: tl.constexpr,
    GROUP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """x [B, D] += `products.down` of both experts of a row. Program (columns, row)."""
    begin(OVERLAP)
    row, column = tl.program_id(1), tl.program_id(0) * BN + tl.arange(0, BN)
    dtype = x.dtype.element_ty
    wide: tl.constexpr = INNER * 2 if EXPERTS > 0 else INNER
    left, target = act + row * wide, x + row * WIDTH + column
    common = spread(
        left + (wide - INNER), left, 1.0, shared, shared_scales, column,
        INNER, WIDTH, 1, INNER, KIND, GROUP, False, BN, BK,
    )  # fmt: skip
    if EXPERTS > 0:
        expert = tl.load(choice + row)
        size: tl.constexpr = WIDTH * INNER // 2 if KIND == "int4" else WIDTH * INNER
        its_scales = expert_scales
        if KIND != "plain":
            its_scales = expert_scales + expert * (INNER // GROUP * WIDTH)
        own = spread(
            left, left, 1.0, experts + expert.to(tl.int64) * size, its_scales, column,
            INNER, WIDTH, WIDTH, 1, KIND, GROUP, False, BN, BK,
        )  # fmt: skip
        more = summed(common).to(dtype).to(tl.float32)
        more = (more + summed(own).to(dtype).to(tl.float32)).to(dtype).to(tl.float32)
    else:
        more = summed(common).to(dtype).to(tl.float32)
    near_end(OVERLAP)
    tl.store(target, (tl.load(target).to(tl.float32) + more).to(dtype))
