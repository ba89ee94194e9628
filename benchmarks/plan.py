"""Planned bytes beside what PyTorch allocates: serving a full context; one step of training.

`python benchmarks/plan.py` takes small shapes on the processor; `--device cuda` takes large ones,
one of them above 10 GB each way; `--large` adds that one on a processor with 24 GB free.
The engine and the stages' own loss, optimiser and update do the work. On a processor every
allocation is read from PyTorch's profiler, on a GPU from its allocator.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch

from puna.engine.local import Engine, Request
from puna.engine.policy import SamplingParams
from puna.export.memory import WIDTH, generation, training
from puna.models.config import ModelConfig
from puna.models.decoder import Decoder
from puna.models.moe import Routes
from puna.models.presets import initialise, preset
from puna.train.loss import cross_entropy
from puna.train.optim import OptimConfig, make_optimizer, update

Result = TypeVar("Result")
SEED = 20


class Meter(Protocol):
    """Bytes that PyTorch holds; `peak` runs `work` and tells the most it held meanwhile."""

    @property
    def live(self) -> int: ...

    def peak(self, work: Callable[[], Result]) -> tuple[Result, int]: ...


class ProcessorMeter:
    """Adds up the profiler's record of each allocation and release."""

    def __init__(self) -> None:
        self.live = 0

    def peak(self, work: Callable[[], Result]) -> tuple[Result, int]:
        from torch.profiler import ProfilerActivity, profile

        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            result = work()
            gc.collect()
        assert watched.profiler is not None
        record = watched.profiler.kineto_results.events()
        events = sorted((e.start_ns(), e.nbytes()) for e in record if e.name() == "[memory]")
        most = self.live
        for _, change in events:
            self.live += change
            most = max(most, self.live)
        return result, most


class GpuMeter:
    """The caching allocator's own counts, less what cuBLAS takes for itself once."""

    def __init__(self) -> None:
        square = torch.ones(64, 64, device="cuda")
        for dtype in (torch.float32, torch.bfloat16):
            square.to(dtype) @ square.to(dtype)
        del square
        torch.cuda.synchronize()
        self.before = torch.cuda.memory_allocated()

    @property
    def live(self) -> int:
        return torch.cuda.memory_allocated() - self.before

    def peak(self, work: Callable[[], Result]) -> tuple[Result, int]:
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        result = work()
        torch.cuda.synchronize()
        return result, torch.cuda.max_memory_allocated() - self.before


def meter(device: str) -> Meter:
    return ProcessorMeter() if device == "cpu" else GpuMeter()


def fresh(config: ModelConfig, device: str, dtype: torch.dtype) -> Decoder:
    """A model in place, without a second copy in another dtype."""
    with torch.device("meta"):
        model = Decoder(config)
    model = model.to(dtype).to_empty(device=device)
    initialise(model, torch.Generator(device).manual_seed(SEED))
    return model


class NoStops:
    """As much of a tokenizer as the engine asks for: no token ends a completion."""

    def token(self, name: str) -> None:
        return None


@dataclass(frozen=True)
class Measured:
    """The most bytes of one kind of work, and parts that say where a gap comes from."""

    peak: int
    parts: dict[str, int]


def generate(
    config: ModelConfig, rows: int, context: int, width: int, device: str
) -> tuple[Measured, Measured]:
    """Decoding, and reading before it: prompts that fill the context but for the last four tokens."""
    dtype = torch.float32 if width == 4 else torch.bfloat16
    watch = meter(device)
    model, _ = watch.peak(lambda: fresh(config, device, dtype).eval())
    weights = watch.live
    engine = Engine(model, NoStops(), seed=SEED, slots=rows)
    random = torch.Generator().manual_seed(SEED)
    ids = torch.randint(0, config.vocab_size, (rows, context - 4), generator=random).tolist()
    hot = SamplingParams(4, temperature=0.7)
    steps = engine.decode([Request(tuple(row), hot, ("plan", i)) for i, row in enumerate(ids)])
    _, reading = watch.peak(lambda: next(steps))
    watch.peak(lambda: next(steps))  # lets go of the masks of reading
    held = {"weights": weights, "held": watch.live}
    _, decoding = watch.peak(lambda: [next(steps) for _ in range(2)])
    return Measured(decoding, held), Measured(reading, held)


def train(config: ModelConfig, rows: int, tokens: int, width: int, device: str) -> Measured:
    """Two steps of two micro-batches each, as `pretrain` makes them; the second is measured."""
    watch = meter(device)
    model, _ = watch.peak(lambda: fresh(config, device, torch.float32))
    model.compute_dtype = torch.float32 if width == 4 else torch.bfloat16
    settings = OptimConfig()
    optimizer = make_optimizer(model, settings)
    random = torch.Generator().manual_seed(SEED)
    drawn = torch.randint(0, config.vocab_size, (rows, tokens), generator=random)
    routed = config.num_experts > 0

    def forward() -> torch.Tensor:
        ids, places = drawn.to(device, copy=True), torch.arange(tokens).repeat(rows, 1).to(device)
        hidden = model(ids, places, torch.zeros_like(ids), routes=Routes() if routed else None)
        want = ids.clone()
        return cross_entropy(model.logits(hidden).flatten(0, 1), want.flatten()) / want.numel()

    def micro_batch() -> tuple[int, int]:
        loss, most = watch.peak(forward)
        held = watch.live
        _, later = watch.peak(loss.backward)  # type: ignore[no-untyped-call]
        return max(most, later), held

    def step() -> tuple[int, dict[str, int]]:
        micro_batch()
        fixed = watch.live
        most, held = micro_batch()
        _, updating = watch.peak(lambda: update(model, optimizer, settings, 1e-3))
        return max(most, updating), {"fixed": fixed, "saved": held - fixed, "update": updating}

    step()
    return Measured(*step())
