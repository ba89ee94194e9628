"""Triton kernels of one decoding step: one new token of every row through one layer.

Here is what lies between products; they are in `products` and, for a few rows, in `lone`.
`puna.kernels.launch` launches them one after the other; `puna.models.decoder` computes the same and
is their twin. All sizes are fixed when a kernel is launched and all else is read from memory, so
that a CUDA graph may hold the launches.
Rounding follows the twin: a product is rounded to the residual's dtype before it is used.
Shapes: B rows, D width, H query heads, K key heads, W head width, P pages of S tokens, n entries of
a row's page table, E experts.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def begin(OVERLAP: tl.constexpr):
    """Wait for what the kernel before writes: this one was set up while that one ran."""
    if OVERLAP:
        gdc_wait()


@triton.jit
def near_end(OVERLAP: tl.constexpr):
    """Let the next kernel be set up; it waits for this one's end by itself.

    At the beginning it would take the place of programs that still have to run.
    """
    if OVERLAP:
        gdc_launch_dependents()


@triton.jit
def rotate(
    y, place, frequencies, dtype: tl.constexpr,
    ROWS: tl.constexpr, HEAD: tl.constexpr, ROTATE: tl.constexpr, NORM: tl.constexpr, eps,
):  # fmt: skip
    """Heads [ROWS, W] at one position, in fp32: rotated, then with NORM divided by their length.

    ROTATE: 0 not at all, 1 neighbours are a pair (Llama 4), 2 halves of a head are (Llama 3).
    """
    if ROTATE > 0:
        angle = place.to(tl.float32) * tl.load(frequencies + tl.arange(0, HEAD // 2))[None, :]
        cos, sin = tl.cos(angle), tl.sin(angle)
        if ROTATE == 1:
            a, b = tl.split(tl.reshape(y, (ROWS, HEAD // 2, 2)))
            y = tl.reshape(tl.join(a * cos - b * sin, a * sin + b * cos), (ROWS, HEAD))
        else:
            cos, sin = cos.to(dtype).to(tl.float32), sin.to(dtype).to(tl.float32)
            a, b = tl.split(tl.permute(tl.reshape(y, (ROWS, 2, HEAD // 2)), (0, 2, 1)))
            first = (a * cos).to(dtype).to(tl.float32) - (b * sin).to(dtype).to(tl.float32)
            second = (b * cos).to(dtype).to(tl.float32) + (a * sin).to(dtype).to(tl.float32)
            y = tl.reshape(tl.permute(tl.join(first, second), (0, 2, 1)), (ROWS, HEAD))
        y = y.to(dtype).to(tl.float32)
        if NORM:
            y = y * tl.rsqrt(tl.sum(y * y, 1) / HEAD + eps)[:, None]
    return y


@triton.jit
def attend(
    heads, keys, values, table, positions, live, frequencies, out, partial, weights, entries,
    scale, eps, floor_scale, attn_scale,
    CHUNK: tl.constexpr, KEYS: tl.constexpr, GROUP: tl.constexpr, PAD: tl.constexpr,
    HEAD: tl.constexpr, SIZE: tl.constexpr, SPLITS: tl.constexpr, BS: tl.constexpr,
    ROTATE: tl.constexpr, NORM: tl.constexpr, TEMPER: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The queries of one key head of a row over a SPLITS-th of what they see.

    `heads` [B, H + 2K, W] are q, k and v before they are rotated. The last split rotates k, keeps k
    and v in their page and has them in its registers, so that nobody waits for them. With CHUNK
    what is seen begins at the row's attention chunk: pages before it are never read.
    """
    begin(OVERLAP)
    row, key, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    dtype = heads.dtype.element_ty
    g, d, s = tl.arange(0, PAD), tl.arange(0, HEAD), tl.arange(0, BS)
    inside = (g < GROUP)[:, None]
    place = tl.load(positions + row)
    mine = heads + row * ((GROUP + 2) * KEYS * HEAD)
    q = tl.load(mine + (key * GROUP + g)[:, None] * HEAD + d[None, :], mask=inside, other=0.0)
    q = rotate(q.to(tl.float32), place, frequencies, dtype, PAD, HEAD, ROTATE, NORM, eps)
    if TEMPER:
        heat = tl.log(1.0 + tl.floor((place.to(tl.float32) + 1.0) / floor_scale))
        q = q * (heat * attn_scale + 1.0)
    q = q.to(dtype)
    first = place // CHUNK * CHUNK if CHUNK > 0 else 0
    count = (place + 1 - first) * (tl.load(live + row) > 0).to(tl.int32)
    part = tl.cdiv(tl.cdiv(count, SPLITS), BS) * BS
    low = first + split * part
    high = tl.minimum(low + part, first + count)
    top = tl.full((PAD,), float("-inf"), tl.float32)
    norm = tl.zeros((PAD,), tl.float32)
    total = tl.zeros((PAD, HEAD), tl.float32)
    if (low <= place) & (place < high):
        k = tl.load(mine + ((GROUP * KEYS + key) * HEAD + d)[None, :] + g[:, None] * 0)
        k = rotate(k.to(tl.float32), place, frequencies, dtype, PAD, HEAD, ROTATE, NORM, eps)
        k = k.to(dtype)
        v = tl.load(mine + (((GROUP + 1) * KEYS + key) * HEAD + d)[None, :] + g[:, None] * 0)
        page = tl.load(table + row * entries + place // SIZE).to(tl.int64)
        slot = ((page * KEYS + key) * SIZE + place % SIZE) * HEAD + d[None, :] + g[:, None] * 0
        # Only once; a row that ended may be one place further than it has room.
        once = (g == tl.where(page >= 0, 0, -1))[:, None] & (d >= 0)[None, :]
        tl.store(keys + slot, k, mask=once)
        tl.store(values + slot, v, mask=once)
        top = tl.sum(q.to(tl.float32) * k.to(tl.float32), 1) * scale
        norm = tl.full((PAD,), 1.0, tl.float32)
        total = v.to(tl.float32)
        high = place
    for at in range(low, high, BS):
        page = tl.maximum(tl.load(table + row * entries + at // SIZE), 0).to(tl.int64)
        base = ((page * KEYS + key) * SIZE + at % SIZE) * HEAD
        seen = at + s < high
        k_t = tl.load(keys + base + d[:, None] + s[None, :] * HEAD, mask=seen[None, :], other=0.0)
        score = tl.dot(q, k_t, input_precision="ieee") * scale
        score = tl.where(seen[None, :], score, float("-inf"))
        most = tl.maximum(top, tl.max(score, 1))
        share, faded = tl.exp(score - most[:, None]), tl.exp(top - most)
        vs = tl.load(values + base + s[:, None] * HEAD + d[None, :], mask=seen[:, None], other=0.0)
        total = tl.dot(share.to(dtype), vs, total * faded[:, None], input_precision="ieee")
        norm, top = norm * faded + tl.sum(share, 1), most
    near_end(OVERLAP)
    mean = total / tl.where(norm > 0, norm, 1.0)[:, None]
    head = row * (KEYS * GROUP) + key * GROUP + g
    if SPLITS == 1:
        tl.store(out + head[:, None] * HEAD + d[None, :], mean.to(dtype), mask=inside)
    else:
        place_of = head * SPLITS + split
        tl.store(partial + place_of[:, None] * HEAD + d[None, :], mean, mask=inside)
        tl.store(weights + place_of, tl.where(norm > 0, top + tl.log(norm), top), mask=g < GROUP)


@triton.jit
def combine(partial, weights, out, HEAD: tl.constexpr, SPLITS: tl.constexpr, OVERLAP: tl.constexpr):
    """The splits of one head of one row, weighed by their log-sum-exp."""
    begin(OVERLAP)
    head = tl.program_id(0)
    s, d = tl.arange(0, SPLITS), tl.arange(0, HEAD)
    weight = tl.load(weights + head * SPLITS + s)
    top = tl.max(weight, 0)
    share = tl.where(weight > float("-inf"), tl.exp(weight - top), 0.0)
    near_end(OVERLAP)
    mean = tl.load(partial + (head * SPLITS + s)[:, None] * HEAD + d[None, :])
    total = tl.sum(mean * share[:, None], 0) / tl.maximum(tl.sum(share, 0), 1e-30)
    tl.store(out + head * HEAD + d, total.to(out.dtype.element_ty))


@triton.jit
def route(
    y, k, here, router, bias,
    WIDTH: tl.constexpr, EXPERTS: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """The expert of the highest biased logit of a normed row, and its score."""
    e = tl.arange(0, PADDED)
    inside = (e < EXPERTS)[:, None] & here[None, :]
    w = tl.load(router + e[:, None] * WIDTH + k[None, :], mask=inside, other=0.0)
    logit = tl.sum(w.to(tl.float32) * y.to(tl.float32)[None, :], 1).to(y.dtype).to(tl.float32)
    biased = logit + tl.load(bias + e, mask=e < EXPERTS, other=0.0)
    best = tl.argmax(tl.where(e < EXPERTS, biased, float("-inf")), 0)
    best = tl.minimum(best, EXPERTS - 1)  # what is not a number has no order
    return best, tl.sigmoid(tl.sum(tl.where(e == best, logit, 0.0), 0))


@triton.jit
def normalise(
    x, first, second, gain, router, bias, normed, choice, score, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ADDED: tl.constexpr, EXPERTS: tl.constexpr,
    PADDED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """x of one row += ADDED increments; its norm; with EXPERTS the one of the highest biased logit.

    Increments are added here, since a row is read here anyway: no product waits to add its own.
    """
    begin(OVERLAP)
    row = tl.program_id(0)
    dtype = x.dtype.element_ty
    k = tl.arange(0, BLOCK)
    at, here = row * WIDTH + k, k < WIDTH
    wide = tl.load(x + at, mask=here, other=0.0).to(tl.float32)
    if ADDED > 0:
        more = tl.load(first + at, mask=here, other=0.0).to(tl.float32)
        if ADDED > 1:
            more += tl.load(second + at, mask=here, other=0.0).to(tl.float32)
            more = more.to(dtype).to(tl.float32)
        wide = (wide + more).to(dtype)
        tl.store(x + at, wide, mask=here)
        wide = wide.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / WIDTH + eps)
    g = tl.load(gain + k, mask=here, other=0.0).to(tl.float32)
    y = ((wide * scale).to(dtype).to(tl.float32) * g).to(dtype)
    near_end(OVERLAP)
    tl.store(normed + at, y, mask=here)
    if EXPERTS > 0:
        best, heat = route(y, k, here, router, bias, WIDTH, EXPERTS, PADDED)
        tl.store(choice + row, best)
        tl.store(score + row, heat)


@triton.jit
def embed(ids, table, x, tick, WIDTH: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    """x [B, D] = rows `ids` of the embedding; counts the step."""
    begin(OVERLAP)
    row, k = tl.program_id(0), tl.arange(0, BLOCK)
    source = table + tl.load(ids + row).to(tl.int64) * WIDTH + k
    near_end(OVERLAP)
    tl.store(x + row * WIDTH + k, tl.load(source, mask=k < WIDTH), mask=k < WIDTH)
    if row == 0:
        tl.store(tick, tl.load(tick) + 1)
