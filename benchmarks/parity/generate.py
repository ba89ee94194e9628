"""Checkpoints that Puna wrote: transformers loads them and decodes the tokens of Puna's engine.

The difference is the number of tokens that differ, greedily drawn by both.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.parity.broken import without
from benchmarks.parity.case import Found, case
from benchmarks.parity.models import (
    DTYPES,
    TINY,
    library,
    peer_logits,
    read_back,
    tokens,
    unlike,
    wide,
)
from puna.engine.local import Engine, Request
from puna.engine.policy import SamplingParams
from puna.models import Decoder, ModelConfig, RopeScaling, load, save
from puna.text.tokenizer import Tokenizer

ROWS = 300  # of the vocabulary; the last few are padding
NEW = 24
PROMPTS = (1, 5, 8, 11)  # tokens, the chunk being 8
_DENSE = ModelConfig(
    "llama3", ROWS, 64, 4, 4, 2, 16, 96, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 64)
)
SHAPES = {
    "llama 3.1": _DENSE,
    "llama 4 dense": replace(TINY, vocab_size=ROWS, num_experts=0, moe_every=1, expert_size=0),
    "llama 4 MoE": replace(TINY, vocab_size=ROWS),
    "qwen2": replace(_DENSE, family="qwen2", rope_scaling=None),
    "qwen3": replace(_DENSE, family="qwen3", rope_scaling=None),
    "mistral": replace(_DENSE, family="mistral", rope_scaling=None),
}
FEATURES = {
    "llama 3.1": ("own head", "rotated pairs", "rope scaling"),
    "llama 4 dense": ("own head", "chunks", "NoPE phase", "QK norm"),
    "llama 4 MoE": ("own head", "chunks", "NoPE phase", "score on the input", "sigmoid"),
    "qwen2": ("own head", "bias", "rotated pairs"),
    "qwen3": ("own head", "head norms", "rotated pairs"),
    "mistral": ("own head", "rotated pairs"),
}


@cache
def tokenizer() -> Tokenizer:
    """Any: only ids are compared."""
    return Tokenizer.train(["the llama of the puna"], 290)


def decoded(model: Decoder, prompts: list[tuple[int, ...]]) -> list[int]:
    """What Puna's engine draws greedily behind all prompts, in one batch."""
    engine = Engine(model, tokenizer(), 0)
    engine.ignore_stops()
    params = SamplingParams(NEW, temperature=0.0)
    requests = [Request(p, params, (str(i),)) for i, p in enumerate(prompts)]
    return [i for done in engine.generate(requests) for i in done.ids]


def peer_decoded(theirs: Any, prompts: list[tuple[int, ...]]) -> list[int]:
    """The same by the peer's `generate`, a prompt at a time."""
    options = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    rows = [theirs.generate(torch.tensor([p]), **options)[0, len(p) :] for p in prompts]
    return [int(i) for row in rows for i in row]


def apart(theirs: Any, prompts: list[tuple[int, ...]], ours: list[int], expected: list[int]) -> int:
    """How many rows part where the peer's two logits are no tie within four roundings of bf16.

    Behind such a tie two right answers go separate ways, as the peer's own do with and without
    its cache.
    """
    out = 0
    for i, prompt in enumerate(prompts):
        said, wanted = (list(x[i * NEW : (i + 1) * NEW]) for x in (ours, expected))
        at = next((t for t in range(NEW) if said[t] != wanted[t]), None)
        if at is not None:
            last = peer_logits(theirs, torch.tensor([[*prompt, *wanted[:at]]]))[0, -1]
            out += float(last.max() - last[said[at]]) > 2**-6 * float(last.max().abs())
    return out


def written(shape: str, dtype: str, shard_bytes: int) -> Found:
    """Written by Puna; read by the peer, with nothing missing or too much, and by Puna."""
    rounded = dtype == "bf16"
    prompts = [tuple(tokens(1, n, ROWS, seed=n)[0].tolist()) for n in PROMPTS]
    with TemporaryDirectory() as directory:
        save(wide(SHAPES[shape]), directory, DTYPES[dtype], shard_bytes)
        files = len(list(Path(directory).glob("*.safetensors")))
        theirs, complaint = read_back(library().AutoModelForCausalLM, directory, dtype)
        ours = load(directory, DTYPES[dtype])[0]
    if complaint:
        return Found(float("inf"), note=complaint)
    expected = peer_decoded(theirs, prompts)

    def differ(model: Decoder) -> float:
        said = decoded(model, prompts)
        return float(apart(theirs, prompts, said, expected) if rounded else unlike(said, expected))

    off = {f: differ(without(ours, f)) for f in FEATURES[shape]}
    return Found(differ(ours), off, f"{len(expected)} tokens, in {files} file{'s' * (files > 1)}")


for _shape in SHAPES:
    case(f"{_shape}: written by Puna, decoded", 0, unit="tokens")(
        partial(written, _shape, "fp32", 1 << 40)
    )
case("llama 4 MoE: written by Puna in shards", 0, unit="tokens")(
    partial(written, "llama 4 MoE", "fp32", 100_000)
)
case("llama 4 dense: written by Puna, bf16", 0, dtype="bf16", unit="rows")(
    partial(written, "llama 4 dense", "bf16", 1 << 40)
)
