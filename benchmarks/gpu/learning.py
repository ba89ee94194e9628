"""Training steps of the pretraining stage's parts, beside transformers and a plain loop."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.gpu.models import DENSE, PEAK, ROUTED, SEQUENCE, VOCAB, drawn, operations, saved
from puna.models import decoder
from puna.models.config import ModelConfig
from puna.models.decoder import Decoder
from puna.models.moe import Routes
from puna.train.loss import next_token_loss
from puna.train.optim import OptimConfig, make_optimizer, update

MICRO, PER_STEP = 16, 8  # rows of a pass, passes of a step


def training() -> None:
    """Tokens a second of whole steps, AdamW and clipping included."""
    for name, config in (("16 experts", ROUTED), ("dense 1B", DENSE)):
        for way, run in (
            ("one document a row", _ours(config, packed=False)),
            ("packed documents", _ours(config, packed=True)),
            ("plain loop, same model", _plain(config)),
        ):
            report(f"{name}, {way}", config, run)
            del run
            _clear()
    report("16 experts, transformers", ROUTED, _theirs(ROUTED), passes=1)


def placing() -> None:
    """The same with queries and keys placed by one kernel, and without."""
    for name, config in (("16 experts", ROUTED), ("dense 1B", DENSE)):
        for on in (False, True):
            decoder.PLACED_BY_KERNEL = on
            report(
                f"{name}, placed by {'a kernel' if on else 'the model'}",
                config,
                _ours(config, False),
            )
            _clear()
    decoder.PLACED_BY_KERNEL = False


def report(name: str, config: ModelConfig, step: Callable[[int], None], passes: int = 8) -> None:
    """Prints tokens a second, the share of the peak, and memory."""
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        step(1)
    found = []
    for _ in range(3):
        torch.cuda.synchronize()
        began = time.perf_counter()
        step(passes)
        torch.cuda.synchronize()
        found.append(passes * MICRO * SEQUENCE / (time.perf_counter() - began))
    pace = sorted(found)[1]
    share = pace * operations(config, SEQUENCE) / PEAK
    memory = torch.cuda.max_memory_allocated() / 1e9
    print(f"{name}: {pace:,.0f} tokens/s, {share:.3f} of peak, {memory:.0f} GB", flush=True)


def _clear() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch._dynamo.reset()


def _rows() -> torch.Tensor:
    return torch.randint(0, VOCAB, (MICRO, SEQUENCE + 1), device="cuda")


def _documents() -> torch.Tensor:
    """Numbers of documents of 64 to 1,024 tokens, [B, T]."""
    random = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(MICRO):
        ends = torch.randint(64, 1024, (SEQUENCE // 64,), generator=random).cumsum(0)
        rows.append(torch.bucketize(torch.arange(SEQUENCE), ends, right=True))
    return torch.stack(rows).cuda()


def _ours(config: ModelConfig, packed: bool) -> Callable[[int], None]:
    model = drawn(config, torch.float32)
    model.compute_dtype = torch.bfloat16
    model.compile_blocks()
    optim = OptimConfig()
    optimizer, ids = make_optimizer(model, optim), _rows()
    documents = _documents() if packed else None

    def step(passes: int) -> None:
        for _ in range(passes):
            routes = Routes() if config.num_experts else None
            hidden = model(ids[:, :-1], None, documents, routes=routes)
            loss = next_token_loss(model, hidden.flatten(0, 1), ids[:, 1:].flatten())
            (loss / ids.numel()).backward()  # type: ignore[no-untyped-call]
            if routes is not None:
                model.balance_experts(routes.load(config.num_experts), 1e-3)
        update(model, optimizer, optim, 1e-4)

    return step


def _plain(config: ModelConfig) -> Callable[[int], None]:
    """The model as it is, logits whole, nothing compiled: what a newcomer would write."""
    model: Decoder = drawn(config, torch.float32)
    model.compute_dtype = torch.bfloat16
    optimizer, ids = torch.optim.AdamW(model.parameters(), lr=1e-4), _rows()

    def step(passes: int) -> None:
        for _ in range(passes):
            logits = model.logits(model(ids[:, :-1]))
            loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _theirs(config: ModelConfig) -> Callable[[int], None]:
    with tempfile.TemporaryDirectory() as directory:
        model = saved(drawn(config, torch.bfloat16), directory).train()
    _clear()
    optimizer, ids = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True), _rows()

    def step(passes: int) -> None:
        for _ in range(passes):
            model(input_ids=ids[:, :-1], labels=ids[:, :-1]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def layer() -> None:
    """One grouped layer at Scout's widths, forward and backward, beside bare grouped products."""
    from puna.kernels.grouped import gated_experts

    width, inner, experts = 5120, 8192, 16
    gate_up = torch.randn(experts, width, 2 * inner, device="cuda", dtype=torch.bfloat16) * 0.02
    down = torch.randn(experts, inner, width, device="cuda", dtype=torch.bfloat16) * 0.02
    for weight in (gate_up, down):
        weight.requires_grad_()
    compiled = torch.compile(gated_experts)
    for tokens in (16_384, 131_072):
        x = torch.randn(tokens, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        choice = torch.randint(0, experts, (tokens,), device="cuda")
        ends = choice.bincount(minlength=experts).cumsum(0).to(torch.int32)

        def bare() -> torch.Tensor:
            gate, up = F.grouped_mm(x, gate_up, offs=ends).chunk(2, -1)  # noqa: B023
            return F.grouped_mm(F.silu(gate) * up, down, offs=ends)  # noqa: B023

        def ours() -> torch.Tensor:
            return compiled(x, choice, gate_up, down)  # noqa: B023

        work = 3 * 2 * 3 * width * inner * tokens
        for name, run in (("bare grouped products", bare), ("sort, gather and products", ours)):
            seconds = _timed(run)
            print(
                f"layer, {tokens:,} tokens, {name}: {seconds * 1e3:.2f} ms, "
                f"{work / seconds / 1e12:.0f} TFLOP/s",
                flush=True,
            )


def _timed(run: Callable[[], torch.Tensor]) -> float:
    found = []
    gradient = torch.randn_like(run())
    for turn in range(8):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run().backward(gradient)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        if turn > 2:
            found.append(time.perf_counter() - began)
    return sorted(found)[2]
