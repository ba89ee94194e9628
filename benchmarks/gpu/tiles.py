"""Which blocks are fast for the experts' products: the candidates for `launch.blocks_for`.

Sixteen layers of weights, one after the other, so that none is found in the GPU's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import torch

from benchmarks.gpu.models import MEMORY, ROUTED
from puna.core.stage import Weights
from puna.kernels.launch import Blocks, Launch, Shape
from puna.kernels.quantised import Quantised

LAYERS, TURNS = 16, 20
ROWS = (64, 256)
Held = torch.Tensor | Quantised


def tiles() -> None:
    """Prints the microseconds of each candidate, the one in use first."""
    c = ROUTED
    shape = Shape(
        c.hidden_size, c.num_heads, c.num_kv_heads, c.head_dim, 256, c.num_experts, c.vocab_size, 1,
        True, c.norm_eps, 0, 8192.0, 0.1,
    )  # fmt: skip
    for weights in get_args(Weights):
        layers = [_layer(weights) for _ in range(LAYERS)]
        for rows in ROWS:
            x = torch.randn(rows, c.hidden_size, device="cuda", dtype=torch.bfloat16)
            act = torch.randn(rows, 2 * c.expert_size, device="cuda", dtype=torch.bfloat16)
            own, common = torch.empty_like(x), torch.empty_like(x)
            choice = torch.randint(0, c.num_experts, (rows,), device="cuda", dtype=torch.int32)
            score = torch.rand(rows, device="cuda")
            for which in ("gate_up", "down"):
                launch = Launch(shape, rows, 1, overlap=False)
                for blocks in candidates(launch.blocks[which], weights):
                    launch.blocks[which] = blocks

                    def run(launch: Launch = launch, which: str = which) -> None:
                        for up, down, shared_up, shared_down in layers:  # noqa: B023
                            if which == "gate_up":
                                launch.experts_up(x, choice, score, up, shared_up, act)  # noqa: B023
                            else:
                                launch.down(act, choice, down, shared_down, x, own, common)  # noqa: B023

                    report(f"{weights}, {rows} rows, {which}", blocks, weights, run)


def candidates(now: Blocks, weights: Weights) -> list[Blocks]:
    """Those in use, and others; groups of int4 are taken one at a time, whatever `inner` says."""
    found = [now]
    for columns, warps in ((32, 4), (64, 4), (64, 8), (128, 8)):
        for inner, stages in ((64, 4), (128, 3)) if weights != "int4" else ((64, 3), (64, 5)):
            other = replace(now, columns=columns, inner=inner, warps=warps, stages=stages)
            found += [other] if other != now else []
    return [*found, replace(now, shared=32), replace(now, shared=128)]


def report(name: str, blocks: Blocks, weights: Weights, run: Callable[[], None]) -> None:
    """Prints the microseconds of a layer beside those its bytes take."""
    c = ROUTED
    each = {"auto": 2.0, "fp8": 1 + 4 / c.hidden_size, "int4": 0.5 + 4 / 128}[weights]
    down = (c.num_experts + 1) * c.hidden_size * c.expert_size * each
    least = (2 if name.endswith("gate_up") else 1) * down / MEMORY * 1e6
    try:
        taken = timed(run) / LAYERS
    except Exception as error:  # more shared memory than there is
        print(f"{name}: {blocks}: {type(error).__name__}", flush=True)
        return
    print(f"{name}: {taken:.1f} us, its bytes {least:.1f}: {blocks}", flush=True)


def timed(run: Callable[[], None]) -> float:
    """Microseconds of `run` in a captured graph."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    graph.replay()
    begin.record()
    for _ in range(TURNS):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) * 1e3 / TURNS


def _layer(weights: Weights) -> tuple[Held, Held, Held, Held]:
    c = ROUTED
    width, inner, experts = c.hidden_size, c.expert_size, c.num_experts

    def held(*shape: int) -> Held:
        """[..., out, in] as decoding holds it; experts that are not quantised lie turned."""
        found = torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.02
        if weights == "auto":
            return found if len(shape) == 2 else found.mT.contiguous()
        made = Quantised(shape, weights, found.device)
        made.fill(found)
        return made

    return (
        held(experts, 2 * inner, width), held(experts, width, inner),
        held(2 * inner, width), held(width, inner),
    )  # fmt: skip
