"""Which blocks are fast for experts and attention: candidates for `puna.kernels.launch`.

Sixteen layers, one after the other, so that nothing is found in the GPU's cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import get_args

import torch
from torch import Tensor

from benchmarks.gpu.models import MEMORY, ROUTED, bytes_each
from puna.core.stage import Weights
from puna.kernels.launch import Blocks, Launch, Shape
from puna.kernels.quantised import Quantised

LAYERS, TURNS = 16, 20
ROWS = (64, 256)
PAGE, HELD = 256, 400  # tokens of a page, and of a row
Held = Tensor | Quantised


SHAPE = Shape(
    ROUTED.hidden_size, ROUTED.num_heads, ROUTED.num_kv_heads, ROUTED.head_dim, PAGE,
    ROUTED.num_experts, ROUTED.vocab_size, 1, True, ROUTED.norm_eps, 0, 8192.0, 0.1,
)  # fmt: skip


def expert_tiles() -> None:
    """Prints the microseconds of each candidate for the experts, the one in use first."""
    for weights in get_args(Weights):
        layers = [_layer(weights) for _ in range(LAYERS)]
        for rows in ROWS:
            experts(rows, weights, layers)


def attention_tiles() -> None:
    """The same for attention."""
    for rows in ROWS:
        attention(rows)


def experts(rows: int, weights: Weights, layers: list[tuple[Held, Held, Held, Held]]) -> None:
    """Both products of the experts."""
    c, launch = ROUTED, Launch(SHAPE, rows, 1, overlap=False)
    x, own, common = (_bf16(rows, c.hidden_size) for _ in range(3))
    act = _bf16(rows, 2 * c.expert_size)
    choice = torch.randint(0, c.num_experts, (rows,), device="cuda", dtype=torch.int32)
    score = torch.rand(rows, device="cuda")

    def gate_up() -> None:
        for up, _, shared, _ in layers:
            launch.experts_up(x, choice, score, up, shared, act)

    def down() -> None:
        for _, down, _, shared in layers:
            launch.down(act, choice, down, shared, x, own, common)

    each = bytes_each(weights)
    read = (c.num_experts + 1) * c.hidden_size * c.expert_size * each
    for run, times in ((gate_up, 2), (down, 1)):
        for blocks in candidates(launch.blocks[run.__name__], weights):
            launch.blocks[run.__name__] = blocks
            report(f"{weights}, {rows} rows, {run.__name__}", str(blocks), times * read, run)


def attention(rows: int) -> None:
    """Attention over HELD tokens of every row."""
    c, each = ROUTED, -(-HELD // PAGE)
    pools = [
        tuple(_bf16(rows * each, c.num_kv_heads, PAGE, c.head_dim) for _ in range(2))
        for _ in range(LAYERS)
    ]
    table = torch.randperm(rows * each, device="cuda").view(rows, each).to(torch.int32)
    positions = torch.full((rows,), HELD - 1, device="cuda", dtype=torch.int32)
    live, angles = torch.ones_like(positions), torch.rand(c.head_dim // 2, device="cuda")
    heads = _bf16(rows, (c.num_heads + 2 * c.num_kv_heads) * c.head_dim)
    out = _bf16(rows, c.num_heads * c.head_dim)
    partial = torch.empty(rows * c.num_heads * 4 * c.head_dim, device="cuda")
    weights = torch.empty(rows * c.num_heads * 4, device="cuda")
    read = 2 * rows * HELD * c.num_kv_heads * c.head_dim * 2
    now = 2 if rows == 64 else 1
    ways = [(now, *Launch(SHAPE, rows, now, overlap=False).seeing)]
    many = product((1, 2, 4) if rows == 64 else (1, 2), (32, 64, 128), (2, 4), (2, 3))
    ways += [way for way in many if way not in ways]
    for splits, keys_at_once, warps, stages in ways:
        launch = Launch(SHAPE, rows, splits, overlap=False)
        launch.seeing = (keys_at_once, warps, stages)

        def run(launch: Launch = launch) -> None:
            for keys, values in pools:
                launch.attend(
                    heads, keys, values, table, positions, live, angles, out, partial, weights,
                    False, False, False,
                )  # fmt: skip

        report(f"{rows} rows, attention", f"splits {splits}, {launch.seeing}", read, run)


def candidates(now: Blocks, weights: Weights) -> list[Blocks]:
    """Those in use, and others; groups of int4 are taken one at a time, whatever `inner` says."""
    found = [now]
    for columns, warps in ((32, 4), (64, 4), (64, 8), (128, 8)):
        for inner, stages in ((64, 4), (128, 3)) if weights != "int4" else ((64, 3), (64, 5)):
            other = replace(now, columns=columns, inner=inner, warps=warps, stages=stages)
            found += [other] if other != now else []
    return [*found, replace(now, shared=16), replace(now, shared=64)]


def report(name: str, blocks: str, read: float, run: Callable[[], None]) -> None:
    """Prints the microseconds of a layer beside those of the bytes that it has to read."""
    try:
        taken = timed(run) / LAYERS
    except Exception as error:  # more shared memory than there is
        print(f"{name}: {blocks}: {type(error).__name__}", flush=True)
        return
    print(f"{name}: {taken:.1f} us, its bytes {read / MEMORY * 1e6:.1f}: {blocks}", flush=True)


def timed(run: Callable[[], None]) -> float:
    """Microseconds of `run` in a captured graph."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    graph.replay()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(TURNS):
        graph.replay()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) * 1e6 / TURNS


def _bf16(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def _layer(weights: Weights) -> tuple[Held, Held, Held, Held]:
    c = ROUTED
    width, inner, experts = c.hidden_size, c.expert_size, c.num_experts

    def held(*shape: int) -> Held:
        """[..., out, in] as decoding holds it; experts that are not quantised lie turned."""
        found = _bf16(*shape) * 0.02
        if weights == "auto":
            return found if len(shape) == 2 else found.mT.contiguous()
        made = Quantised(shape, weights, found.device)
        made.fill(found)
        return made

    return (
        held(experts, 2 * inner, width), held(experts, width, inner),
        held(2 * inner, width), held(width, inner),
    )  # fmt: skip
