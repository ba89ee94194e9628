"""Qwen 2.5, Qwen 3 and Mistral token by token; in one pass they stand in `full`."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.parity.broken import without
from benchmarks.parity.case import Found, case
from benchmarks.parity.full import FEATURES
from benchmarks.parity.models import cached_logits, largest, logits, pair, peer_logits, tokens
from puna.engine.cache import KVCache
from puna.engine.step import Step, suits
from puna.models import Decoder

FAMILIES = ("qwen2", "qwen3", "mistral")


@torch.no_grad()
def decoded(model: Decoder, ids: Tensor, prompt: int, fast: bool) -> Tensor:
    """A prompt in one call, then a token at a time, by the folded step or by the model."""
    rows, count = ids.shape
    if not fast:
        return cached_logits(model, ids, [prompt] + [1] * (count - prompt))
    cache = KVCache.fresh(model.config, rows, count)
    out = [logits(model, ids[:, :prompt], cache=cache)]
    step = Step(model)
    for i in range(prompt, count):
        out.append(step(ids[:, i], torch.full((rows,), i), cache)[:, None])
    return torch.cat(out, 1)


def by_token(family: str) -> Found:
    """Decoding through a cache, by the model and by the step that folds its layers."""
    theirs, ours = pair(family)
    assert suits(ours)
    ids = tokens(3, 24)
    expected = peer_logits(theirs, ids)
    gaps = [largest(decoded(ours, ids, 7, fast), expected) for fast in (False, True)]
    off = {}
    for feature in FEATURES[family]:
        broken = without(ours, feature)
        seen = [largest(decoded(broken, ids, 7, fast), expected) for fast in (False, True)]
        off[feature] = min(seen)
    return Found(max(gaps), off)


for _family in FAMILIES:
    case(f"{_family}: token by token")(partial(by_token, _family))
