"""Planned bytes beside what PyTorch allocates: serving a full context; one step of training.

`python benchmarks/plan.py` takes six small shapes on the processor, `--large` one more that trains
in 15 GB (20 GB free); `--device cuda` takes six large ones, up to 75 GB.
The engine, the stages' loss, optimiser and update do the work. On a processor every allocation is
read from PyTorch's profiler, on a GPU from its allocator. Exit status 1: a plan is off by over 3 %.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F

from puna.engine.local import Engine, Request
from puna.engine.policy import SamplingParams
from puna.export.lora import lora_training
from puna.export.memory import Precision, generation, training
from puna.models import lora
from puna.models.config import ModelConfig
from puna.models.decoder import Decoder
from puna.models.moe import Routes
from puna.models.presets import initialise, preset
from puna.models.vision_config import VisionConfig
from puna.text.images import Picture, inline, tiles_of
from puna.train.optim import OptimConfig, make_optimizer, update

Result = TypeVar("Result")
SEED, TOLERANCE, RANK = 20, 0.03, 16


@dataclass(frozen=True)
class Case:
    """A shape, a precision, and how many rows of how many tokens it serves and trains on."""

    name: str
    config: ModelConfig
    precision: Precision
    serving: tuple[int, int]
    training: tuple[int, int]
    pictures: int = 0  # of one tile, in every row

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.precision == "fp32" else torch.bfloat16


def _shape(like: str, vocab: int, size: int, layers: int, **more: object) -> ModelConfig:
    """A shape of the kind `like`, with four queries to a key head of at most 128."""
    wide = min(128, size // 8)
    heads = {"num_heads": size // wide, "num_kv_heads": size // wide // 4, "head_dim": wide}
    ids = {"bos_id": None, "eos_ids": (), "pad_id": None}
    sizes = {"vocab_size": vocab, "hidden_size": size, "num_layers": layers}
    return preset(like, **ids, **sizes, **heads, **more)


SMALL = (
    Case(
        "dense", _shape("llama3-8b", 2000, 256, 4, intermediate_size=768),
        "fp32", serving=(4, 256), training=(4, 128),
    ),
    Case(
        "moe in chunks", _shape("llama4-scout", 2000, 256, 4, expert_size=320, num_experts=4,
                                attention_chunk=64, floor_scale=32),
        "bf16", serving=(4, 256), training=(4, 128),
    ),
    Case(
        "tied", _shape("llama3-1b", 4000, 256, 4, intermediate_size=1024),
        "bf16", serving=(2, 512), training=(2, 256),
    ),
    Case(
        "vocabulary", _shape("llama3-8b", 30000, 128, 3, intermediate_size=512),
        "bf16", serving=(8, 128), training=(2, 256),
    ),
    Case(
        "in pieces", _shape("llama4-scout", 500, 128, 4, expert_size=64, num_experts=2,
                            attention_chunk=2048, floor_scale=2048),
        "bf16", serving=(2, 6300), training=(4, 128),
    ),
)  # fmt: skip
EYES = Case(
    "eyes", _shape("llama4-scout", 2000, 256, 4, expert_size=320, num_experts=4, attention_chunk=64,
                   floor_scale=32, vision=VisionConfig(
                       96, 4, 4, tile_size=112, patch_size=14, adapter_size=192, patch_id=3)),
    "bf16", serving=(4, 256), training=(4, 128), pictures=6,
)  # fmt: skip
LARGE = Case(
    "large", _shape("llama3-8b", 32000, 2048, 13, intermediate_size=8192),
    "fp32", serving=(1, 512), training=(1, 128),
)  # fmt: skip
GPU = (
    Case(
        "dense", _shape("llama3-8b", 32000, 2048, 16, intermediate_size=8192),
        "bf16", serving=(8, 8192), training=(8, 2048),
    ),
    Case(
        "moe in chunks", _shape("llama4-scout", 32000, 2048, 8, expert_size=4096, num_experts=4,
                                attention_chunk=2048, floor_scale=2048),
        "bf16", serving=(2, 8192), training=(2, 4096),
    ),
    Case("tied", preset("llama3-1b"), "bf16", serving=(4, 16384), training=(4, 2048)),
    Case(
        "vocabulary", _shape("llama3-8b", 202048, 1024, 8, intermediate_size=4096),
        "bf16", serving=(16, 4096), training=(4, 2048),
    ),
    Case(
        "large", preset("llama3-8b", num_layers=10), "bf16", serving=(16, 8192), training=(2, 2048)
    ),
    Case(
        "eyes", _shape("llama4-scout", 32000, 1024, 4, expert_size=2048, num_experts=4,
                       attention_chunk=2048, floor_scale=2048, vision=VisionConfig(
                           512, 8, 8, tile_size=336, patch_size=14, adapter_size=1024, patch_id=3)),
        "bf16", serving=(8, 4096), training=(4, 2048), pictures=6,
    ),
)  # fmt: skip


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
        gc.collect()  # what the last measurement left would be counted as released in this one
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

    vocab_size = 0

    def token(self, name: str) -> None:
        return None


def drawn(case: Case, rows: int, tokens: int) -> tuple[torch.Tensor, list[tuple[int, Picture]]]:
    """Random ids [B, T], and the pictures in them, each with its row; every picture is another."""
    config, random = case.config, torch.Generator().manual_seed(SEED)
    ids = torch.randint(0, config.vocab_size, (rows, tokens), generator=random)
    shown: list[tuple[int, Picture]] = []
    tiles_of.cache_clear()
    for row in range(rows if case.pictures else 0):
        assert config.vision is not None
        tiling = config.vision.tiling
        each = len(tiling.names((1, 1)))
        for i in range(case.pictures):
            size = (tiling.side, tiling.side, 3)
            levels = torch.randint(0, 256, size, generator=random, dtype=torch.uint8)
            head = f"P6 {tiling.side} {tiling.side} 255\n".encode()
            part = inline(head + levels.numpy().tobytes(), "image/x-portable-pixmap")
            shown.append((row, Picture(part, i * each)))
    return ids, shown


@dataclass(frozen=True)
class Measured:
    """The most bytes of one kind of work, and parts that say where a gap comes from."""

    peak: int
    parts: dict[str, int]


def generate(case: Case, device: str) -> tuple[Measured, Measured]:
    """Decoding, and before it reading: prompts that fill the context but for four tokens."""
    rows, context = case.serving
    watch = meter(device)
    model, _ = watch.peak(lambda: fresh(case.config, device, case.dtype).eval())
    weights = watch.live
    engine = Engine(model, NoStops(), seed=SEED, slots=rows)
    ids, shown = drawn(case, rows, context - 4)
    hot = SamplingParams(4, temperature=0.7)
    mine = [tuple(p for row, p in shown if row == i) for i in range(rows)]
    for i, (row, seen) in enumerate(zip(ids.tolist(), mine, strict=True)):
        engine.add(Request(tuple(row), hot, ("plan", i), seen))
    _, reading = watch.peak(lambda: engine.step(urgent=False))
    watch.peak(engine.step)  # lets go of the prompts' logits
    held = {"weights": weights, "pages": engine.pages.bytes, "held": watch.live}
    _, decoding = watch.peak(lambda: [engine.step() for _ in range(2)])
    return Measured(decoding, held), Measured(reading, held)


def train(case: Case, device: str, rank: int = 0) -> Measured:
    """A step, and one of two micro-batches, as `pretrain` makes them; the second is measured.

    With a `rank` adapters learn, on frozen weights in the dtype of the activations.
    """
    config, (rows, tokens) = case.config, case.training
    watch = meter(device)

    def made() -> Decoder:
        model = fresh(config, device, case.dtype if rank else torch.float32)
        if rank:
            lora.attach(model, lora.LoraConfig(rank), SEED)
        return model

    model, _ = watch.peak(made)
    model.compute_dtype = case.dtype
    settings = OptimConfig()
    optimizer = make_optimizer(model, settings)
    given, shown = drawn(case, rows, tokens)
    routed = config.num_experts > 0

    def forward() -> torch.Tensor:
        ids = given.to(device, copy=True)
        places = torch.arange(tokens).repeat(rows, 1).to(device)
        images = model.look(ids.shape, shown)
        routes = Routes() if routed else None
        hidden = model(ids, places, torch.zeros_like(ids), routes=routes, images=images)
        want = ids.clone()
        return F.cross_entropy(model.logits(hidden).flatten(0, 1), want.flatten())

    def micro_batch() -> None:
        forward().backward()  # type: ignore[no-untyped-call]

    def first() -> None:
        micro_batch()
        update(model, optimizer, settings, 1e-3)

    watch.peak(first)
    watch.peak(micro_batch)
    fixed = watch.live
    loss, most = watch.peak(forward)
    held = watch.live
    _, later = watch.peak(loss.backward)
    _, updating = watch.peak(lambda: update(model, optimizer, settings, 1e-3))
    parts = {"fixed": fixed, "saved": held - fixed, "update": updating}
    return Measured(max(most, later, updating), parts)


def compare(case: Case, device: str) -> list[tuple[str, int, Measured]]:
    """(work, planned bytes, measured) of decoding, reading, a training step and one of LoRA."""
    config, processor = case.config, device == "cpu"
    tiles = case.serving[0] * case.pictures
    serving = generation(config, *case.serving, case.precision, processor, tiles)
    width = 4 if case.precision == "fp32" else 2
    tiles = case.training[0] * case.pictures
    step = training(config, *case.training, width, on_gpu=not processor, tiles=tiles)
    small = lora_training(config, *case.training, width, RANK, on_gpu=not processor, tiles=tiles)
    decoding, reading = generate(case, device)
    if not processor:
        torch.cuda.empty_cache()
    return [
        ("decode", serving.decoding, decoding),
        ("prompt", serving.reading, reading),
        ("train", step.total, train(case, device)),
        ("lora", small.total, train(case, device, RANK)),
    ]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--large", action="store_true", help="on a processor one more shape")
    given = parser.parse_args()
    cases = GPU if given.device == "cuda" else (*SMALL, EYES, *([LARGE] if given.large else []))
    where = torch.cuda.get_device_name(0) if given.device == "cuda" else "processor"
    print(f"torch {torch.__version__}, {where}")
    off = 0
    for case in cases:
        if case.pictures:
            print(f"{case.name}: {case.pictures} pictures of a tile in every row")
        for work, planned, measured in compare(case, given.device):
            ratio = planned / measured.peak
            off += abs(ratio - 1) > TOLERANCE
            parts = ", ".join(f"{name} {count:,}" for name, count in measured.parts.items())
            print(
                f"{case.name:<14} {case.precision} {work:<7} planned {planned:>15,} "
                f"measured {measured.peak:>15,} ratio {ratio:.4f} ({parts})",
                flush=True,
            )
    return int(off > 0)


if __name__ == "__main__":
    sys.exit(main())
