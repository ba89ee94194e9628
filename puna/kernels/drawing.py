"""Triton kernels that draw a token of every row from its logits, by inverse CDF of a uniform.

`puna.engine.sampling.Drawing` is their twin, up to draws within rounding of a boundary.
Shapes: B rows, V vocabulary, N blocks of the vocabulary.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from puna.kernels.decoding import begin, near_end


@triton.jit
def shares(
    logits, heat, tops, sums, best, vocab, blocks, BLOCK: tl.constexpr, OVERLAP: tl.constexpr
):
    """Of one block of one row: its highest logit, where that is, and the sum of exponentials."""
    begin(OVERLAP)
    row, block = tl.program_id(0), tl.program_id(1)
    v = block * BLOCK + tl.arange(0, BLOCK)
    at = logits + row.to(tl.int64) * vocab + v
    logit = tl.load(at, mask=v < vocab, other=float("-inf")).to(tl.float32) / tl.load(heat + row)
    top = tl.max(logit, 0)
    level = tl.where(top > float("-inf"), top, 0.0)
    near_end(OVERLAP)
    tl.store(tops + row * blocks + block, top)
    tl.store(sums + row * blocks + block, tl.sum(tl.exp(logit - level), 0))
    tl.store(best + row * blocks + block, block * BLOCK + tl.argmax(logit, 0))


@triton.jit
def draw(
    logits, heat, greedy, tops, sums, best, uniforms, tick, ids, positions, live, tokens, logprobs,
    rows, vocab, blocks, BLOCK: tl.constexpr, PADDED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The token of one row and its log-probability; it becomes the row's last, one place further.

    `uniforms` [steps, B] are read at the step that `tick` counts.
    """
    begin(OVERLAP)
    row, n = tl.program_id(0), tl.arange(0, PADDED)
    inside = n < blocks
    top = tl.load(tops + row * blocks + n, mask=inside, other=float("-inf"))
    most = tl.max(top, 0)
    share = tl.load(sums + row * blocks + n, mask=inside, other=0.0) * tl.exp(top - most)
    reach = tl.cumsum(share, 0)
    total = tl.sum(share, 0)
    want = tl.load(uniforms + tl.load(tick) * rows + row) * total
    # Sums in another order differ in their last bits: beyond all of them is the last that adds.
    hit = (reach > want) | (reach == tl.max(reach, 0))
    block = tl.minimum(tl.min(tl.where(hit, n, PADDED), 0), blocks - 1)
    before = tl.sum(tl.where(n < block, share, 0.0), 0)
    b = tl.arange(0, BLOCK)
    v = block * BLOCK + b
    at = logits + row.to(tl.int64) * vocab + v
    warmth = tl.load(heat + row)
    logit = tl.load(at, mask=v < vocab, other=float("-inf")).to(tl.float32) / warmth
    within = before + tl.cumsum(tl.exp(logit - most), 0)
    hit = (within > want) | (within == tl.max(within, 0))
    token = block * BLOCK + tl.min(tl.where(hit, b, BLOCK), 0)
    if tl.load(greedy + row) > 0:
        winner = tl.minimum(tl.argmax(top, 0), blocks - 1)
        token = tl.load(best + row * blocks + winner)
    # Logits that are not numbers have no order: still a token that there is.
    token = tl.minimum(tl.maximum(token, 0), vocab - 1)
    chosen = tl.load(logits + row.to(tl.int64) * vocab + token).to(tl.float32) / warmth
    near_end(OVERLAP)
    tl.store(tokens + row, token)
    tl.store(logprobs + row, chosen - most - tl.log(total))
    tl.store(ids + row, token)
    tl.store(positions + row, tl.load(positions + row) + tl.load(live + row))
