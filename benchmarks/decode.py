"""Tokens a second beside transformers, the same 5.5M parameters, at each one's best setting.

`python benchmarks/decode.py --threads 2` prints a line for each batch size and precision, then what
Puna's best is to transformers' best. Both sample 64 tokens behind 32, in turns, in one process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from puna.engine.local import Engine, Request
from puna.engine.policy import SamplingParams
from puna.models import Decoder, ModelConfig, build
from puna.models.hf import save

CONFIG = ModelConfig(
    family="llama3", vocab_size=2048, hidden_size=256, num_layers=6, num_heads=8, num_kv_heads=4,
    head_dim=32, intermediate_size=704, max_positions=2048,
)  # fmt: skip
PROMPT, NEW, REPEATS = 32, 64, 5
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class NoStops:
    """As much of a tokenizer as the engine asks for: no token ends a completion."""

    vocab_size = 0

    def token(self, name: str) -> None:
        return None


def ours(model: Decoder, rows: int) -> Callable[[], None]:
    """Completions of `rows` prompts by the engine."""
    engine = Engine(model, NoStops(), 0, slots=rows)
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, CONFIG.vocab_size, (rows, PROMPT), generator=draw).tolist()
    asked = [Request(tuple(row), SamplingParams(NEW), ("d", i)) for i, row in enumerate(ids)]

    def run() -> None:
        assert all(len(done.ids) == NEW for done in engine.generate(asked))

    return run


def theirs(model: torch.nn.Module, rows: int) -> Callable[[], None]:
    """The same by transformers' `generate`."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, CONFIG.vocab_size, (rows, PROMPT), generator=draw)
    how = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": True, "top_k": 0}

    @torch.inference_mode()
    def run() -> None:
        found = model.generate(  # type: ignore[operator]
            ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **how
        )
        assert found.shape == (rows, PROMPT + NEW)

    return run


def milliseconds(works: dict[str, Callable[[], None]]) -> dict[str, tuple[float, float]]:
    """Wall and CPU milliseconds a token of each row, the best of some turns."""
    found: dict[str, tuple[float, float]] = {}
    for work in works.values():
        work()
    for _ in range(REPEATS):
        for name, work in works.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            spent = (time.perf_counter() - wall, time.process_time() - cpu)
            took = (spent[0] / NEW * 1e3, spent[1] / NEW * 1e3)
            found[name] = min(found.get(name, took), took)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 8, 1])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    import transformers

    transformers.logging.set_verbosity_error()
    model = build(CONFIG, 0).eval()
    count = sum(p.numel() for p in model.parameters())
    print(f"{count:,} parameters, {given.threads} threads, transformers {transformers.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder))
        peer = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    for rows in given.rows:
        best = {"puna": float("inf"), "transformers": float("inf")}
        for precision, dtype in PRECISIONS.items():
            own = build(CONFIG, 0).eval()
            own.compute_dtype = dtype
            own, peer = own.to(dtype), peer.to(dtype)
            took = milliseconds({"puna": ours(own, rows), "transformers": theirs(peer, rows)})
            for name, (wall, cpu) in took.items():
                best[name] = min(best[name], wall)
                print(
                    f"{rows:3} rows {precision} {name:<12} {rows / wall * 1e3:8,.0f} tokens/s, "
                    f"{wall:6.2f} ms a step, {cpu:6.2f} of CPU",
                    flush=True,
                )
        print(f"{rows:3} rows: {best['transformers'] / best['puna']:.2f} times transformers' speed")


if __name__ == "__main__":
    main()
