"""Runs of packed tokens, and runs behind pages, beside the masks that say the same."""

from __future__ import annotations

import pytest
import torch

from puna.engine.cache import KVCache
from puna.engine.pages import Held, Pages
from puna.kernels import attention
from puna.models.config import ModelConfig
from puna.models.decoder import masks, restart, sdpa
from puna.models.presets import build

CONFIG = ModelConfig(
    "llama4", 100, 64, 4, 4, 2, 16, 128, expert_size=64, num_experts=2, attention_chunk=32,
    nope_every=2, qk_norm=True, max_positions=512,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor the twin stands for the GPU's kernel: what is tested are the runs."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(attention, "causal", attention.causal_plain)


@pytest.mark.parametrize("chunk", [None, 8, 64])
@pytest.mark.parametrize("documents", [False, True])
def test_runs_are_the_masks(chunk: int | None, documents: bool) -> None:
    random = torch.Generator().manual_seed(0)
    rows, tokens = 3, 40
    ends = torch.tensor([[5, 17, 40], [40, 40, 40], [1, 2, 39]])
    numbers = torch.stack([torch.bucketize(torch.arange(tokens), e, right=True) for e in ends])
    numbers[2, 39] = -1
    given = numbers if documents else None
    positions = restart(numbers) if documents else None
    q = torch.randn(rows, 4, tokens, 16, generator=random)
    k, v = (torch.randn(rows, 2, tokens, 16, generator=random) for _ in range(2))
    device = torch.device("cpu")
    largest = tokens - 1 if positions is None else int(positions.max())
    of_masks = masks(tokens, positions, given, chunk, largest, device, torch.float32)
    of_runs = attention.packed((rows, tokens), positions, given, chunk, largest, device)
    for mask, found in zip(of_masks, of_runs, strict=True):
        want = sdpa(q, k, v, mask, 0.25)
        assert (found.attend(q, k, v, 0.25) - want).abs().max() < 1e-6
    if documents:
        assert (sdpa(q, k, v, None, 0.25) - sdpa(q, k, v, of_masks[1], 0.25)).abs().max() > 0.1


@pytest.mark.parametrize("pieces", [[3, 40, 70], [64, 64, 64], [90, 1, 5], [1, 31, 33]])
def test_runs_behind_pages_are_the_whole_text(pieces: list[int]) -> None:
    model = build(CONFIG, 0)
    pages = Pages(CONFIG, torch.float32, "cpu", 16)
    ids = torch.randint(0, 100, (len(pieces), 250), generator=torch.Generator().manual_seed(1))
    held = [Held() for _ in pieces]
    lengths = [0] * len(pieces)
    with torch.inference_mode():
        for turn in range(4):
            counts = [pieces[(i + turn) % 3] for i in range(3)]
            if turn:  # behind a chunk's end pages are new: a piece ends with it
                counts = [min(c, 32 - n % 32) for c, n in zip(counts, lengths, strict=True)]
            wide = max(counts)
            block, places = torch.zeros(3, wide, dtype=torch.long), torch.zeros(3, wide).long()
            for i, (n, c) in enumerate(zip(lengths, counts, strict=True)):
                block[i, :c] = ids[i, n : n + c]
                places[i] = n
                places[i, :c] += torch.arange(c)
            valid = torch.arange(wide) < torch.tensor(counts)[:, None]
            cache = KVCache(pages, held)
            cache.ragged = True
            cache.begin(places, valid)
            hidden = model(block, places, cache=cache, begun=True)
            for i, (n, c) in enumerate(zip(lengths, counts, strict=True)):
                want = model(ids[i : i + 1, : n + c])[0, n:]
                assert (hidden[i, :c] - want).abs().max() < 1e-5
                lengths[i] = n + c


def test_padding_sees_nothing() -> None:
    runs = attention.ragged([0, 4], [2, 3], 3, None, _pages(), (1, 4), torch.device("cpu"))
    assert runs.ends[0].tolist() == [0, 2, 3, 6]
    assert runs.ends[1].tolist() == [0, 2, 2, 9]
    assert runs.old.tolist() == [8, 9, 10, 11]
    q = torch.ones(2, 1, 3, 2)
    flat = (torch.randn(20, 2), torch.randn(20, 2))
    out = runs.attend(q, q, q, flat, 1.0)
    assert out[0, 0, 2].tolist() == [0.0, 0.0]


def _pages() -> attention.Ints:
    import numpy as np

    return np.array([[0, 1], [2, 3]])
