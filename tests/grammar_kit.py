"""Tokenizers of every family and chat format, and a small decoder sampled under grammars.

`complete(named("qwen3"), [json_grammar(named("qwen3"), None)], temperature=1.0)` -> rows of ids.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from family_like import FAMILIES, family_like
from meta_layout import write_ranks

from puna.engine.grammar import Grammar, Matcher, apply
from puna.models import Decoder, ModelConfig, build
from puna.text.formats import LLAMA4_META
from puna.text.template import stop_ids
from puna.text.tokenizer import Tokenizer

NAMES = ("puna", "llama3.1", "llama4", "llama4-meta", "chatml", *FAMILIES)
CONTEXT = 8  # tokens that the decoder looks back: it knows nothing anyway
PADDED = 37  # ids of the model behind those of the tokenizer


@cache
def named(name: str) -> Tokenizer:
    """A small tokenizer whose chat format is `name`."""
    if name == "puna":
        return Tokenizer.train(['{"name": "add", "parameters": {"a": 1}}\n\n the cat'] * 9, 320)
    if name == "llama4-meta":
        tokenizer = copy.copy(named("llama4"))
        tokenizer.format = LLAMA4_META
        return tokenizer
    if name not in ("llama3.1", "llama4"):
        return family_like(name)
    with tempfile.TemporaryDirectory() as at:
        write_ranks(Path(at))
        more = {"moe_args": {"num_experts": 2}} if name == "llama4" else {}
        (Path(at) / "params.json").write_text(json.dumps({"n_heads": 2} | more))
        return Tokenizer.load(Path(at))


@cache
def decoder(vocab: int) -> Decoder:
    """Random weights, which make some tokens far likelier than others."""
    config = ModelConfig(
        family="llama3", vocab_size=vocab, hidden_size=32, num_layers=1, num_heads=2,
        num_kv_heads=1, head_dim=16, intermediate_size=32, max_positions=CONTEXT,
    )  # fmt: skip
    model = build(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.2, generator=generator)
    return model


def complete(
    tokenizer: Tokenizer,
    grammars: Sequence[Grammar | None],
    temperature: float,
    limit: int = 3000,
    opening: Sequence[int] = (),
    seed: int = 0,
) -> list[list[int]]:
    """A completion for each grammar, which begins with `opening`; None has no grammar.

    With a grammar it ends before `limit` tokens, and some token is allowed at every step.
    """
    model, stops = decoder(tokenizer.vocab_size + PADDED), set(stop_ids(tokenizer))
    generator = torch.Generator().manual_seed(seed)
    matchers = [g.matcher() if g else None for g in grammars]
    rows = [list(opening) for _ in grammars]
    for matcher in filter(None, matchers):
        for token in opening:
            matcher.accept(token)
    for _ in range(limit):
        open_rows = [k for k, row in enumerate(rows) if not row or row[-1] not in stops]
        if not open_rows:
            break
        seen = torch.tensor([([k] * CONTEXT + rows[k])[-CONTEXT:] for k in open_rows])
        with torch.inference_mode():
            logits = model.logits(model(seen, torch.arange(CONTEXT).expand_as(seen))[:, -1])
        logits = apply(logits, [matchers[k] for k in open_rows])
        assert logits.isfinite().any(1).all()
        if temperature:
            chances = (logits / temperature).softmax(-1)
            drawn = torch.multinomial(chances, 1, generator=generator)[:, 0]
        else:
            drawn = logits.argmax(-1)
        for k, token in zip(open_rows, drawn.tolist(), strict=True):
            rows[k].append(token)
            if matcher := matchers[k]:
                matcher.accept(token)
                assert matcher.done == (token in stops)
    for row, matcher in zip(rows, matchers, strict=True):
        assert matcher is None or (matcher.done and not matcher.failed), tokenizer.decode(row)
    return rows


def allowed(matcher: Matcher) -> list[int]:
    """The ids that may come next."""
    row = torch.empty(matcher.words, dtype=torch.int32)
    matcher.allowed(row)
    bits = (row[:, None] >> torch.arange(32)) & 1
    return bits.flatten().nonzero().flatten().tolist()
