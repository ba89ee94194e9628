"""Decoding through the engine's public call, kernel by kernel, and transformers' `generate`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from typing import get_args

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.models import MEMORY, ROUTED, VOCAB, NoStops, bytes_each, drawn, saved
from puna.core.stage import Weights
from puna.engine.local import Engine, Request
from puna.engine.policy import Completion, SamplingParams
from puna.models.decoder import Decoder

ROWS = (1, 64, 256)
SHORT, LONG, PEERS = 64, 576, 48  # tokens drawn
WATCHED = 40  # steps under the profiler
ASKED = {1: 2500, 64: 60_000, 256: 150_000}
PAGES_OF = 131_072 - 512  # positions of the long prompts


def decoding() -> None:
    """Agreement with the plain path, tokens a second, and what each kernel takes, by weights."""
    model = drawn(ROUTED, torch.bfloat16).eval()
    for weights in get_args(Weights):
        model.decode_weights = weights
        agreement(model)
        for rows in ROWS:
            pace = _steady(model, rows)
            asked = f" (asked {ASKED[rows]:,})" if weights == "auto" else ""
            print(f"{weights}, batch {rows}: {pace:,.0f} tokens/s{asked}", flush=True)
            _kernels(model, rows)
    model.decode_weights = "auto"
    agreement(model, graphs=False)


def generating() -> None:
    """The same in transformers."""
    for rows, pace in peer(drawn(ROUTED, torch.bfloat16).eval()).items():
        print(f"transformers, batch {rows}: {pace:,.0f} tokens/s", flush=True)


def prompts(rows: int, low: int, high: int, seed: int = 1) -> list[tuple[int, ...]]:
    """Distinct random prompts of `low` to `high` tokens."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(low, high, (rows,), generator=random).tolist()
    return [tuple(torch.randint(0, VOCAB, (n,), generator=random).tolist()) for n in lengths]


def sampled(
    engine: Engine, texts: Sequence[tuple[int, ...]], new: int, key: object
) -> list[Completion]:
    """Completions of `new` tokens each at temperature 1."""
    params = SamplingParams(new)
    return engine.generate([Request(t, params, (str(key), i)) for i, t in enumerate(texts)])


@torch.inference_mode()
def agreement(model: Decoder, graphs: bool = True) -> None:
    """Log-probabilities of 64 sampled texts beside those of the plain pass; shares of experts."""
    texts = prompts(64, 20, 200)
    engine = Engine(model, NoStops(), 0, slots=64, frozen=True)
    if not graphs:
        engine.captured = None
    gaps, shares = [], torch.zeros(ROUTED.num_experts)
    for text, done in zip(texts, sampled(engine, texts, 100, "agree"), strict=True):
        ids = torch.tensor([[*text, *done.ids]], device="cuda")
        logp = model.logits(model(ids)[0, len(text) - 1 : -1]).log_softmax(-1).cpu()
        told = torch.tensor(done.logprobs)
        gaps.append((logp[range(len(done.ids)), done.ids] - told).abs())
        assert done.routes is not None
        taken = torch.from_numpy(done.routes).long().flatten()
        shares += taken.bincount(minlength=ROUTED.num_experts)
    gap = torch.cat(gaps)
    spread = (shares / shares.sum()).tolist()
    print(
        f"{model.decode_weights if graphs else 'plain path'}: log-probabilities differ from one "
        f"pass over the text by {gap.mean():.4f} on average, {gap.max():.2f} at most (bf16); "
        f"experts take {min(spread):.3f} to {max(spread):.3f}",
        flush=True,
    )


def _steady(model: Decoder, rows: int) -> float:
    """Tokens a second while every row draws its tokens SHORT to LONG, the middle of three."""
    engine = Engine(model, NoStops(), 0, slots=max(8, rows), frozen=True)
    sampled(engine, prompts(rows, 64, 128), LONG, "warm")
    found = []
    for turn in range(3):
        _line_up(engine, rows, turn)
        start, began = 0, 0.0
        while not engine.idle:
            told = engine.step(urgent=False)
            if not start and told and min(len(r.ids) for r in told) >= SHORT:
                start, began = engine.generated_tokens, time.perf_counter()
        found.append((engine.generated_tokens - start) / (time.perf_counter() - began))
    print(f"  {', '.join(f'{f:,.0f}' for f in found)}", flush=True)
    return sorted(found)[1]


def _line_up(engine: Engine, rows: int, turn: int) -> None:
    for i, text in enumerate(prompts(rows, 64, 128, seed=turn)):
        engine.add(Request(text, SamplingParams(LONG), (str(turn), i)))


def _kernels(model: Decoder, rows: int) -> None:
    """Microseconds of each kernel in the middle of a text, and the least that its bytes take."""
    engine = Engine(model, NoStops(), 0, slots=max(8, rows), frozen=True)
    _line_up(engine, rows, 9)
    while min((len(r.ids) for r in engine.running), default=0) < LONG // 2:
        engine.step(urgent=False)
    held = sum(r.held.length for r in engine.running) + rows * WATCHED / 2
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as watched:
        for _ in range(WATCHED):
            engine.step(urgent=False)
        torch.cuda.synchronize()
    floors, total = _bytes(model.decode_weights, rows, held), 0.0
    for event in sorted(watched.key_averages(), key=lambda e: -e.self_device_time_total):
        taken = event.self_device_time_total
        total += taken / WATCHED
        least = floors.get(event.key, 0.0) / MEMORY * 1e6
        floor = f", its bytes {least:.1f}" if least else ""
        if taken / WATCHED > 1:  # microseconds a step
            print(
                f"    {event.key[:40]}: {event.count / WATCHED:.1f} launches a step, "
                f"{taken / event.count:.1f} us each{floor}",
                flush=True,
            )
    print(f"    all: {total:,.0f} us a step", flush=True)


def _bytes(weights: Weights, rows: int, held: float) -> dict[str, float]:
    """What a launch of each kernel reads, by name; `held` tokens are kept of all rows.

    Of `project`, which has two kinds of matrices, the mean.
    """
    c = ROUTED
    each = bytes_each(weights)
    read = c.num_experts * (1 - (1 - 1 / c.num_experts) ** rows) + 1
    down = read * c.hidden_size * c.expert_size * each
    queries, keys = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    heads, out = c.hidden_size * (queries + 2 * keys) * 2, c.hidden_size * queries * 2
    return {
        "gate_up": 2 * down,
        "down": down,
        "add_down": down,
        "heads": heads,
        "add_heads": out,
        "project": (heads + out) / 2,
        "attend": held * 2 * keys * 2,
    }


@torch.inference_mode()
def peer(model: Decoder) -> dict[int, float]:
    """The same by transformers: left-padded prompts of one length, prefill included."""
    with tempfile.TemporaryDirectory() as directory:
        theirs = saved(model, directory).eval()
    how = {"min_new_tokens": PEERS, "max_new_tokens": PEERS, "do_sample": True, "top_k": 0}
    found = {}
    for rows in ROWS:
        ids = torch.randint(0, VOCAB, (rows, 96), device="cuda")
        for _ in range(2):
            torch.cuda.synchronize()
            began = time.perf_counter()
            theirs.generate(  # type: ignore[operator]
                input_ids=ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **how
            )
            torch.cuda.synchronize()
            found[rows] = rows * PEERS / (time.perf_counter() - began)
    return found


def long_contexts() -> None:
    """128K positions at batch 8: tokens a second, and what keys and values take."""
    model = drawn(ROUTED, torch.bfloat16).eval()
    engine = Engine(model, NoStops(), 0, slots=8, frozen=True, memory=60 << 30)
    texts = prompts(8, PAGES_OF, PAGES_OF + 1)
    rows = [engine.add(Request(t, SamplingParams(300), ("l", i))) for i, t in enumerate(texts)]
    began = time.perf_counter()
    while min(len(r.ids) for r in rows) < 8:
        engine.step(urgent=False)
    read = time.perf_counter() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    before = sum(len(r.ids) for r in rows)
    for _ in range(200):
        engine.step(urgent=False)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    drawn_of = sum(len(r.ids) for r in rows) - before
    used, tokens = engine.pages.used, sum(r.length for r in rows)
    each = 2 * ROUTED.num_kv_heads * ROUTED.head_dim * 2
    local = sum(ROUTED.is_local(i) for i in range(ROUTED.num_layers))
    formula = each * ((ROUTED.num_layers - local) * tokens + local * 8 * 2048)
    print(
        f"8 rows of {tokens // 8:,} tokens: read at {tokens / read:,.0f} tokens/s, decoded at "
        f"{drawn_of / seconds:,.0f} tokens/s; keys and values {used / 1e9:.2f} GB, "
        f"{used / formula:.3f} of the formula",
        flush=True,
    )
