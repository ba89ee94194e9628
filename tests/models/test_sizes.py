"""Every size is a model that builds, in widths that kernels take, larger than the one before."""

from __future__ import annotations

from itertools import pairwise

import pytest

from puna.core.errors import UserError
from puna.models.presets import build, preset
from puna.models.sizes import LARGEST, check_size, row_length, shape, vocab_size

ALL = range(1, LARGEST + 1)


def sized(size: int, base: str = "nano"):
    ids = {"bos_id": None, "eos_ids": (), "pad_id": None}
    return preset(base, **shape(size, base), **ids, vocab_size=vocab_size(size))


@pytest.mark.parametrize("base", ["nano", "micro", "llama3-8b", "llama4-maverick"])
def test_every_size_has_widths_that_kernels_take(base: str) -> None:
    for size in ALL:
        config = sized(size, base)
        assert config.num_heads % config.num_kv_heads == 0
        widths = (config.hidden_size, config.intermediate_size, config.head_dim)
        assert all(w % 64 == 0 for w in (*widths, config.num_heads * config.head_dim))
        assert config.expert_size % 64 == 0
        assert 8 / 3 <= config.intermediate_size / config.hidden_size <= 4
        assert config.num_heads * config.head_dim - config.hidden_size in (0, 64)


def test_what_is_said_of_size_12() -> None:
    assert shape(12) == {
        "hidden_size": 768, "num_layers": 12, "num_heads": 12, "num_kv_heads": 6, "head_dim": 64,
        "intermediate_size": 2048, "expert_size": 1024, "num_experts": 8,
        "attention_chunk": 512, "max_positions": 4096,
    }  # fmt: skip
    assert (row_length(12), vocab_size(12)) == (1024, 8192)


def test_larger_sizes_are_larger() -> None:
    for small, large in pairwise(ALL):
        a, b = sized(small), sized(large)
        for name in ("hidden_size", "num_layers", "intermediate_size", "expert_size"):
            assert getattr(a, name) < getattr(b, name)
        for name in ("num_heads", "num_kv_heads", "num_experts", "max_positions", "vocab_size"):
            assert getattr(a, name) <= getattr(b, name)
        assert a.active_parameters() < b.active_parameters()
        assert a.num_parameters() < b.num_parameters()
        assert row_length(small) <= row_length(large)


@pytest.mark.parametrize("size", [1, 2, 5, 8, 17, 31])
def test_parameters_are_as_many_as_said(size: int) -> None:
    config = sized(size)
    counted = sum(p.numel() for p in build(config, device="meta").parameters())
    assert counted == config.num_parameters()


def test_layers_with_experts_multiply_as_much_as_those_without() -> None:
    config = sized(9)
    assert 2 * config.expert_size == config.intermediate_size


def test_some_layer_sees_the_whole_row() -> None:
    for size in ALL:
        config = sized(size)
        far = [config.is_nope(i) or config.attention_chunk >= row_length(size) for i in range(size)]
        assert any(far), size
    assert sized(4).attention_chunk == row_length(4) // 2


def test_a_preset_lends_what_has_no_size() -> None:
    config = sized(6, "llama3-8b")
    assert (config.family, config.num_experts, config.attention_chunk) == ("llama3", 0, None)
    assert (config.hidden_size, config.num_layers) == (384, 6)


@pytest.mark.parametrize("size", [0, -1, 33, 1.0, "12", True, None, [4]])
def test_what_is_no_size(size: object) -> None:
    with pytest.raises(UserError, match="give a whole number from 1 to 32"):
        check_size(size)
