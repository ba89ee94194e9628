"""The decoder against itself: packing, casts, masks, runs, gradients (peers: test_parity)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from puna.engine.cache import KVCache
from puna.models import Decoder, ModelConfig, Routes
from puna.models.decoder import masks, query_temperature, restart

from .conftest import tokens, wide

CACHED = 2e-6
WIDE_MARGIN = 100 * CACHED


@torch.no_grad()
def logits(model: Decoder, ids: Tensor, **options: Any) -> Tensor:
    return model.logits(model(ids, **options))


@torch.no_grad()
def cached_logits(model: Decoder, ids: Tensor, prompt: int) -> Tensor:
    """A prompt in one call, then a token at a time."""
    rows, count = ids.shape
    cache = KVCache.fresh(model.config, rows, count)
    out = [logits(model, ids[:, :prompt], cache=cache)]
    for i in range(prompt, count):
        at = torch.full((rows, 1), i)
        out.append(logits(model, ids[:, i : i + 1], positions_BT=at, cache=cache))
    return torch.cat(out, 1)


def without(model: Decoder, config: ModelConfig) -> Decoder:
    """The same weights under another configuration."""
    other = Decoder(config).eval()
    other.load_state_dict(model.state_dict())
    return other


def test_packed_documents_equal_separate_runs(tiny: ModelConfig) -> None:
    model = wide(tiny)
    lengths = (13, 21, 5)
    pieces = [tokens(1, n, seed=n) for n in lengths]
    padding = tokens(1, 3, seed=9)
    documents = torch.tensor([[0] * 13 + [1] * 21 + [2] * 5 + [-1] * 3])
    packed = logits(model, torch.cat([*pieces, padding], 1), documents_BT=documents)
    separate = torch.cat([logits(model, p) for p in pieces], 1)
    torch.testing.assert_close(packed[:, :39], separate, rtol=0, atol=CACHED)
    unmasked = logits(model, torch.cat(pieces, 1))
    assert (unmasked - separate).abs().max() > WIDE_MARGIN


def test_positions_restart_at_each_document() -> None:
    documents = torch.tensor([[0, 0, 0, 1, 1, -1], [4, 5, 5, 5, 5, 5]])
    assert restart(documents).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]]


def test_chunk_mask_is_a_grid_not_a_window() -> None:
    local, everywhere = masks(5, None, None, 2, 4, torch.device("cpu"), torch.float32)
    assert everywhere is None
    assert local is not None
    seen = [row.nonzero().flatten().tolist() for row in local[0, 0] == 0]
    assert seen == [[0], [0, 1], [2], [2, 3], [4]]


def test_no_mask_is_built_inside_one_chunk() -> None:
    assert masks(8, None, None, 8, 7, torch.device("cpu"), torch.float32) == (None, None)


@pytest.mark.parametrize(
    ("count", "scale"),
    [(8191, 1.0), (8192, 1.0693), (32768, 1.1609), (131072, 1.2833), (1048576, 1.4860)],
)
def test_temperature_by_hand(count: int, scale: float) -> None:
    got = query_temperature(torch.tensor(count - 1), 8192, 0.1)
    assert float(got) == pytest.approx(scale, abs=5e-5)


def test_dense_llama4_without_chunk_runs_and_decodes(tiny: ModelConfig) -> None:
    model = wide(replace(tiny, num_experts=0, attention_chunk=None, nope_every=0))
    ids = tokens(2, 20)
    torch.testing.assert_close(
        cached_logits(model, ids, 3), logits(model, ids), rtol=0, atol=CACHED
    )


@pytest.mark.parametrize("family", ["llama3", "llama4"])
def test_bf16_activations_over_fp32_weights_equal_a_cast_model(
    tiny: ModelConfig, family: str
) -> None:
    config = tiny
    if family == "llama3":
        config = ModelConfig("llama3", 128, 64, 2, 4, 2, 16, 128)
    master = wide(config)
    ids = tokens(2, 12)
    exact = logits(master, ids)
    master.compute_dtype = torch.bfloat16
    mixed = logits(master, ids)
    cast = wide(config).to(torch.bfloat16)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, logits(cast, ids))
    assert 0 < (mixed - exact).abs().max() < 0.2
    assert master.embed.dtype == torch.float32


def test_gradients_reach_every_weight(tiny: ModelConfig) -> None:
    model = wide(tiny)
    ids = tokens(8, 24)
    model.logits(model(ids, routes=Routes())).square().mean().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert idle == []


def test_training_goes_on_after_decoding_in_inference_mode(tiny: ModelConfig) -> None:
    model = wide(tiny)
    with torch.inference_mode():
        cached_logits(model, tokens(2, 12), 5)
    model.logits(model(tokens(2, 12))).sum().backward()
    assert model.embed.grad is not None


@pytest.mark.parametrize("chunk", [8, None])
@pytest.mark.parametrize("packed", [True, False])
def test_long_rows_run_by_run_equal_masked_ones(
    tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch, packed: bool, chunk: int | None
) -> None:
    model = wide(replace(tiny, attention_chunk=chunk))
    ids = tokens(2, 42)
    lengths = ([13, 21, 5, 3], [1, 17, 24])
    documents = torch.stack(
        [torch.arange(len(n)).repeat_interleave(torch.tensor(n)) for n in lengths]
    )
    options = {"documents_BT": documents} if packed else {}
    found = []
    for longest in (42, 41):
        monkeypatch.setattr("puna.models.decoder.LONGEST_MASK", longest)
        model.zero_grad()
        out = model.logits(model(ids, **options))
        out.square().mean().backward()
        grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((out.detach(), grads))
    (masked, masked_grads), (by_runs, by_runs_grads) = found
    torch.testing.assert_close(by_runs, masked, rtol=0, atol=CACHED)
    torch.testing.assert_close(by_runs_grads, masked_grads, rtol=1e-4, atol=1e-6)
    if packed or chunk:
        whole = logits(without(model, replace(model.config, attention_chunk=None)), ids)
        assert (by_runs - whole).abs().max() > WIDE_MARGIN
