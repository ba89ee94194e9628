"""Queries and keys turned to their positions and normalised, forward and backward, in one kernel.

`place(qk_BTHD, factors, interleaved, norm, eps)`; `puna.models.decoder.Attention` computes the same
and is the twin. Layers without positions have nothing to do here. Read once and written once each
way; backward computes again from the unplaced heads, which values keep in memory anyway.
Shapes: B rows, T tokens, H heads (queries and keys together), D head width.
"""

# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def place(
    qk_BTHD: Tensor, factors: tuple[Tensor, ...], interleaved: bool, norm: bool, eps: float
) -> Tensor:
    """Heads rotated by the `factors` of `puna.models.rope.Rope`, then with `norm` divided by their
    root mean square, in their dtype. Differentiable by the heads.
    """
    if interleaved:
        cos, sin = factors[0].real, factors[0].imag
    else:
        half = qk_BTHD.shape[-1] // 2
        cos, sin = factors[0][..., :half], factors[1][..., half:]
    return torch.ops.puna.place(qk_BTHD, cos, sin, interleaved, norm, eps)


@triton.jit
def turn(
    y, cos, sin, ROWS: tl.constexpr, HEAD: tl.constexpr, INTERLEAVED: tl.constexpr
):  # fmt: skip
    """Heads [ROWS, HEAD] turned by the angles whose cosines and sines [1, HEAD / 2] are given."""
    if INTERLEAVED:
        a, b = tl.split(tl.reshape(y, (ROWS, HEAD // 2, 2)))
        y = tl.reshape(tl.join(a * cos - b * sin, a * sin + b * cos), (ROWS, HEAD))
    else:
        a, b = tl.split(tl.permute(tl.reshape(y, (ROWS, 2, HEAD // 2)), (0, 2, 1)))
        y = tl.join(a * cos - b * sin, b * cos + a * sin)
        y = tl.reshape(tl.permute(y, (0, 2, 1)), (ROWS, HEAD))
    return y


@triton.jit
def forward(
    x, cos, sin, out, stride, period, along, across, eps,
    HEADS: tl.constexpr, PAD: tl.constexpr, HEAD: tl.constexpr,
    INTERLEAVED: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """All heads of one token; `stride` lies between tokens, `along` between those of the factors.

    Factors begin again after `period` tokens.
    """
    token = tl.program_id(0).to(tl.int64)
    h, d, c = tl.arange(0, PAD)[:, None], tl.arange(0, HEAD)[None, :], tl.arange(0, HEAD // 2)
    at = token % period * along + c * across
    there_cos, there_sin = tl.load(cos + at).to(tl.float32), tl.load(sin + at).to(tl.float32)
    y = tl.load(x + token * stride + h * HEAD + d, mask=h < HEADS, other=0.0)
    dtype = y.dtype
    y = turn(y.to(tl.float32), there_cos[None, :], there_sin[None, :], PAD, HEAD, INTERLEAVED)
    if NORM:
        y = y.to(dtype).to(tl.float32)
        y = y * tl.rsqrt(tl.sum(y * y, 1) / HEAD + eps)[:, None]
    tl.store(out + (token * HEADS + h) * HEAD + d, y.to(dtype), mask=h < HEADS)


@triton.jit
def backward(
    gradient, x, cos, sin, out, stride, period, along, across, eps,
    HEADS: tl.constexpr, PAD: tl.constexpr, HEAD: tl.constexpr,
    INTERLEAVED: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """The gradient by x of one token from that by its placed heads.

    With z = s y and s = 1 / rms(y), the gradient by y is s (g - z mean(g z)); turned back.
    """
    token = tl.program_id(0).to(tl.int64)
    h, d, c = tl.arange(0, PAD)[:, None], tl.arange(0, HEAD)[None, :], tl.arange(0, HEAD // 2)
    at = token % period * along + c * across
    there_cos, there_sin = tl.load(cos + at).to(tl.float32), tl.load(sin + at).to(tl.float32)
    place_of = (token * HEADS + h) * HEAD + d
    g = tl.load(gradient + place_of, mask=h < HEADS, other=0.0).to(tl.float32)
    if NORM:
        y = tl.load(x + token * stride + h * HEAD + d, mask=h < HEADS, other=0.0)
        dtype = y.dtype
        y = turn(y.to(tl.float32), there_cos[None, :], there_sin[None, :], PAD, HEAD, INTERLEAVED)
        y = y.to(dtype).to(tl.float32)
        s = tl.rsqrt(tl.sum(y * y, 1) / HEAD + eps)[:, None]
        z = y * s
        g = s * (g - z * (tl.sum(g * z, 1) / HEAD)[:, None])
    g = turn(g, there_cos[None, :], -there_sin[None, :], PAD, HEAD, INTERLEAVED)
    tl.store(out + place_of, g.to(out.dtype.element_ty), mask=h < HEADS)


_SCHEMA = "(Tensor x, Tensor cos, Tensor sin, bool interleaved, bool norm, float eps) -> Tensor"


# Operators of their own, so that torch.compile takes them as they are.
@torch.library.custom_op("puna::place", mutates_args=(), schema=_SCHEMA)
def _place(
    x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, norm: bool, eps: float
) -> Tensor:
    return _run(forward, (), x, cos, sin, interleaved, norm, eps)


@torch.library.custom_op(
    "puna::place_backward", mutates_args=(), schema=_SCHEMA.replace("(", "(Tensor gradient, ", 1)
)
def _place_backward(
    gradient: Tensor, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, norm: bool, eps: float
) -> Tensor:
    return _run(backward, (gradient.contiguous(),), x, cos, sin, interleaved, norm, eps)


def _run(kernel, first, x, cos, sin, interleaved, norm, eps) -> Tensor:
    rows, tokens, heads, width = x.shape
    stride = x.stride(1)
    if x.stride() != (tokens * stride, stride, width, 1):
        x, stride = x.contiguous(), heads * width
    # Factors of one row serve all rows.
    period = tokens if cos.shape[0] == 1 else rows * tokens
    assert cos.stride() == sin.stride()
    assert cos.shape[0] == 1 or cos.stride(0) == tokens * cos.stride(1)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if rows * tokens:
        kernel[(rows * tokens,)](
            *first, x, cos, sin, out, stride, period, cos.stride(1), cos.stride(3), eps,
            HEADS=heads, PAD=triton.next_power_of_2(heads), HEAD=width, INTERLEAVED=interleaved,
            NORM=norm, num_warps=4,
        )  # fmt: skip
    return out


@_place.register_fake
def _(x, *_) -> Tensor:
    return x.new_empty(x.shape)


@_place_backward.register_fake
def _(gradient, x, *_) -> Tensor:
    return x.new_empty(x.shape)


def _keep(ctx, inputs, output) -> None:
    x, cos, sin, *ctx.how = inputs
    ctx.save_for_backward(x, cos, sin)


def _back(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.puna.place_backward(gradient, *ctx.saved_tensors, *ctx.how), *[None] * 5


_place.register_autograd(_back, setup_context=_keep)
