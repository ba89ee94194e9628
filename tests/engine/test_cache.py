"""The key-value cache: any split of a sequence, padding, row selection, bounded memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from puna.engine.cache import KVCache
from puna.engine.pages import Held
from puna.models import Decoder, ModelConfig, build, preset

CLOSE = 2e-6
CONFIG = ModelConfig(
    family="llama4",
    vocab_size=64,
    hidden_size=32,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=48,
    expert_size=32,
    num_experts=4,
    moe_every=2,
    attention_chunk=8,
    nope_every=4,
    qk_norm=True,
    temperature_tuning=True,
    floor_scale=4,
)


def wide(config: ModelConfig) -> Decoder:
    torch.set_num_threads(1)
    model = build(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.1, generator=generator)
    return model


MODEL = wide(CONFIG)
IDS = torch.randint(0, 64, (3, 29), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def full(model: Decoder, ids: Tensor) -> Tensor:
    return model.logits(model(ids))


@torch.no_grad()
def step(model: Decoder, cache: KVCache, ids: Tensor, start: Tensor) -> Tensor:
    """Logits of `ids` [B, T] whose first tokens are at `start` [B]."""
    positions = start[:, None] + torch.arange(ids.shape[1])
    return model.logits(model(ids, positions, cache=cache))


@settings(max_examples=40)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=29))
def test_any_split_gives_the_same_logits(sizes: list[int]) -> None:
    cache = KVCache.fresh(CONFIG, 3, 29)
    parts, done = [], 0
    for size in [*sizes, *[1] * 29]:
        size = min(size, 29 - done)
        if size:
            piece = IDS[:, done : done + size]
            parts.append(step(MODEL, cache, piece, torch.full((3,), done)))
            done += size
    torch.testing.assert_close(torch.cat(parts, 1), full(MODEL, IDS), rtol=0, atol=CLOSE)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 20), min_size=3, max_size=3), st.integers(1, 9))
def test_rows_of_different_length_go_on_alone(lengths: list[int], block: int) -> None:
    """Padded prompts, then a padded block, then single tokens: each row as if it were alone."""
    cache, held = KVCache.fresh(CONFIG, 3, 40), torch.tensor(lengths)
    width = max(lengths)
    valid = torch.arange(width) < held[:, None]
    ids = torch.where(valid, IDS[:, :width], 63)
    positions = torch.arange(width).expand(3, width)
    cache.begin(positions, valid)
    with torch.no_grad():
        got = MODEL.logits(MODEL(ids, positions, cache=cache, begun=True))
    expected = full(MODEL, IDS)
    torch.testing.assert_close(got[valid], expected[:, :width][valid], rtol=0, atol=CLOSE)
    at = held[:, None] + torch.arange(block)
    real = at < torch.tensor([[29], [29], [int(held[2])]])  # the last row has nothing to add
    cache.begin(at, real)
    with torch.no_grad():
        piece = torch.where(real, IDS.gather(1, at.clamp(max=28)), 5)
        got = MODEL.logits(MODEL(piece, at, cache=cache, begun=True))
    torch.testing.assert_close(
        got[real], expected.gather(1, at.clamp(max=28)[..., None].expand(-1, -1, 64))[real],
        rtol=0, atol=CLOSE,
    )  # fmt: skip
    held = held + real.sum(1)
    last = IDS.gather(1, held[:, None].clamp(max=28))
    one = step(MODEL, cache, last, held)[:, 0]
    rows = torch.arange(3)[held < 29]
    torch.testing.assert_close(one[rows], expected[rows, held[rows]], rtol=0, atol=CLOSE)


def test_a_padded_token_lands_nowhere() -> None:
    cache = KVCache.fresh(CONFIG, 3, 29)
    step(MODEL, cache, IDS[:, :11], torch.zeros(3, dtype=torch.long))
    held = [keys for pool in cache.pages.pools.values() for keys in pool.keys]
    before = [keys.clone() for keys in held]
    cache.begin(torch.full((3, 1), 5), torch.zeros(3, 1, dtype=torch.bool))
    with torch.no_grad():
        MODEL(IDS[:, :1], torch.full((3, 1), 5), cache=cache, begun=True)
    assert all(map(torch.equal, held, before))
    step(MODEL, cache, IDS[:, 11:12], torch.full((3,), 11))
    assert not any(map(torch.equal, held, before))


@pytest.mark.parametrize("length", [7, 8, 11, 16, 21])
@pytest.mark.parametrize("rows", [[0, 0, 1, 2, 2, 2], [2, 0], [1], [0, 2, 1]])
def test_forked_rows_go_on_alone(rows: list[int], length: int) -> None:
    """Each with a text of its own from there on, beside the rows that they come from."""
    cache = KVCache.fresh(CONFIG, 3, 29)
    step(MODEL, cache, IDS[:, :length], torch.zeros(3, dtype=torch.long))
    made = cache.pages.fork([cache.held[r] for r in rows], [length] * len(rows))
    assert made is not None
    both = KVCache(cache.pages, [*made, *cache.held])
    told = torch.cat((IDS[rows], IDS))
    told[:, length:] = torch.randint(0, 64, told[:, length:].shape, generator=torch.manual_seed(2))
    expected = full(MODEL, told)
    for i in range(length, 29):
        got = step(MODEL, both, told[:, i : i + 1], torch.full((len(told),), i))
        torch.testing.assert_close(got[:, 0], expected[:, i], rtol=0, atol=CLOSE)
    for held in both.held:
        both.pages.release(held)
    assert both.pages.used == 0


def test_retired_rows_leave_the_others_alone() -> None:
    """Their pages are given back at once and go to rows that come, in a batch with holes."""
    cache = KVCache.fresh(CONFIG, 3, 29)
    step(MODEL, cache, IDS[:, :11], torch.zeros(3, dtype=torch.long))
    expected = full(MODEL, IDS)
    for i in range(11, 14):
        step(MODEL, cache, IDS[:, i : i + 1], torch.full((3,), i))
    cache.retire([1])
    cache.pages.release(cache.held[1])
    other = KVCache(cache.pages, [Held()])
    got = step(MODEL, other, IDS[1:2, :9], torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(got, expected[1:2, :9], rtol=0, atol=CLOSE)
    for i in range(14, 29):
        got = step(MODEL, cache, IDS[:, i : i + 1], torch.tensor([i, 14, i]))[[0, 2], 0]
        torch.testing.assert_close(got, expected[[0, 2], i], rtol=0, atol=CLOSE)
    got = step(MODEL, other, IDS[1:2, 9:], torch.tensor([9]))
    torch.testing.assert_close(got, expected[1:2, 9:], rtol=0, atol=CLOSE)


def test_stale_slots_stay_unseen() -> None:
    """A cache full of another text, used again from position 0, shows nothing of it."""
    cache = KVCache.fresh(CONFIG, 3, 29)
    step(MODEL, cache, IDS.flip(1), torch.zeros(3, dtype=torch.long))
    expected = full(MODEL, IDS)
    for i in range(29):
        got = step(MODEL, cache, IDS[:, i : i + 1], torch.full((3,), i))
        torch.testing.assert_close(got[:, 0], expected[:, i], rtol=0, atol=CLOSE)


def test_without_the_chunk_the_same_decoding_would_fail() -> None:
    plain = replace(CONFIG, attention_chunk=None)
    model = Decoder(plain).eval()
    model.load_state_dict(MODEL.state_dict())
    cache = KVCache.fresh(plain, 3, 29)
    parts = [step(model, cache, IDS[:, i : i + 1], torch.full((3,), i)) for i in range(29)]
    assert (torch.cat(parts, 1) - full(MODEL, IDS)).abs().max() > 100 * CLOSE


def test_local_layers_hold_one_chunk() -> None:
    row = 2 * 2 * 8 * 4  # keys and values, 2 heads of 8, fp32
    for capacity in (100, 1000):
        waste = 4 * row // 2  # one slot of one head in each of the 8 stores
        expected = 3 * (3 * 8 + -(-capacity // 8) * 8) * row + waste
        assert KVCache.fresh(CONFIG, 3, capacity).bytes == expected
    assert KVCache.fresh(replace(CONFIG, attention_chunk=None), 3, 100).bytes > 3 * 4 * 100 * row


@pytest.mark.parametrize(("length", "billion"), [(8192, 1.61), (131_072, 7.65), (1_048_576, 52.7)])
def test_scouts_cache_is_a_chunk_for_each_local_layer(length: int, billion: float) -> None:
    """bf16: 4096 bytes a token and layer; 12 layers hold all, 36 hold at most 8192 tokens."""
    needed = 4096 * (12 * length + 36 * min(8192, length))
    assert needed / 1e9 == pytest.approx(billion, rel=5e-3)
    held = KVCache.fresh(preset("llama4-scout"), 1, length, torch.bfloat16, "meta").bytes
    assert needed <= held <= 1.15 * needed
    if length > 8192:
        assert 4096 * 48 * length > 3 * held  # what a cache without chunks would take
