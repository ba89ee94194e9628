"""What a size makes of a pretrain stage, beside numbers worked out by hand; what is said stays."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from puna.core.config import build, to_dict
from puna.core.errors import UserError
from puna.models.presets import preset
from puna.train.pretrain import Config
from puna.train.sized import Pace, chosen, with_size


def config_of(**table) -> Config:
    return build(Config, table, "pretrain")


def shape_of(config: Config):
    given = {k: v for k, v in config.model.items() if k not in ("size", "preset")}
    return preset(config.model["preset"], **given, vocab_size=config.vocab)


def test_the_pace_of_a_hundred_million_parameters():
    pace = Pace(100_000_000)
    assert pace.tokens == 2_000_000_000
    assert pace.compute == pytest.approx(1.2e18)
    assert pace.lr == 0.0017  # 0.3118 * exp(-41.6288 / 8) = 0.3118 * 0.0054956
    # 0.2920 * exp(41.6288 * 0.3271) = 0.2920 * 819,700 = 239,360: 234 rows of 1,024
    assert pace.batch_tokens(1024) / 1024 == pytest.approx(234, abs=1)


def test_the_rate_falls_and_the_batch_grows_by_the_power_of_the_compute():
    small, large = Pace(1_000_000), Pace(1_000_000 * 16)  # 256 times the compute
    assert small.lr / large.lr == pytest.approx(256**0.125, rel=0.02)
    ratio = large.batch_tokens(1) / small.batch_tokens(1)
    assert ratio == pytest.approx(256**0.3271, rel=1e-3)


def test_a_size_says_everything():
    config = config_of(model={"size": 4})
    assert (config.row_length, config.vocab) == (256, 2048)
    assert config.batch_tokens % 256 == 0
    assert config.optim.lr == Pace(shape_of(config).active_parameters()).lr
    tokens = config.steps * config.batch_tokens
    assert tokens == pytest.approx(20 * shape_of(config).active_parameters(), rel=0.01)
    assert config.optim.warmup == config.steps // 50


def test_larger_sizes_learn_longer_and_slower():
    found = [config_of(model={"size": size}) for size in range(1, 33)]
    for small, large in pairwise(found):
        assert small.steps * small.batch_tokens < large.steps * large.batch_tokens
        assert small.batch_tokens < large.batch_tokens
        assert small.optim.lr >= large.optim.lr
    assert found[0].optim.lr > 5 * found[-1].optim.lr


@pytest.mark.parametrize(
    ("table", "value"),
    [
        ({"steps": 7}, lambda c: c.steps == 7),
        ({"batch_tokens": 512}, lambda c: (c.batch_tokens, c.steps) == (512, 143_530)),
        ({"row_length": 64}, lambda c: c.row_length == 64 and c.model["attention_chunk"] == 32),
        ({"vocab": 300}, lambda c: c.vocab == 300),
        ({"optim": {"lr": 0.5}}, lambda c: c.optim.lr == 0.5 and c.optim.warmup > 20),
        ({"optim": {"kind": "muon"}}, lambda c: c.optim.kind == "muon" and c.optim.lr < 5e-3),
        ({"optim": {"warmup": 3}}, lambda c: c.optim.warmup == 3 and c.optim.lr < 5e-3),
    ],
)
def test_what_is_said_stays(table, value):
    assert value(config_of(model={"size": 4}, **table))
    assert not value(config_of(model={"size": 4}))


def test_fields_of_the_model_stay_and_the_rest_follows_them():
    plain, narrow = config_of(model={"size": 4}), config_of(model={"size": 4, "hidden_size": 64})
    assert (narrow.model["hidden_size"], narrow.model["num_layers"]) == (64, 4)
    assert narrow.optim.lr > plain.optim.lr
    assert narrow.steps * narrow.batch_tokens < plain.steps * plain.batch_tokens / 2


def test_a_stored_stage_is_read_back_as_it_was():
    config = config_of(model={"size": 6}, optim={"kind": "muon"})
    assert to_dict(build(Config, to_dict(config), "pretrain")) == to_dict(config)


def test_without_a_size_nothing_changes():
    for table in ({}, {"model": "micro"}, {"model": {"preset": "micro"}}, {"model": 3}):
        assert with_size(table) is table


def test_the_line_says_what_there_is():
    config = config_of(model={"size": 4})
    line = chosen(4, shape_of(config), (config.steps, config.batch_tokens), config.optim.lr)
    assert line == (
        "size 4: 4 layers of width 256, 4 heads, vocabulary 2048, 5,443,840 parameters (3,674,368 "
        "of them active); at most 2,657 steps of 27,648 tokens, 20 a parameter, rate 0.0039"
    )


@pytest.mark.parametrize(
    ("table", "error"),
    [
        ({"model": {"size": 40}}, "model.size is 40; give a whole number from 1 to 32"),
        ({"model": {"size": 4, "preset": "nani"}}, "no model preset 'nani'; did you mean 'nano'?"),
        ({"model": {"size": 4, "widht": 3}}, "model: unknown key 'widht'; known: "),
        ({"model": {"size": 4, "num_heads": 3}}, "model: num_kv_heads = 2; give"),
        ({"model": {"size": 4}, "vocab": "many"}, "pretrain.vocab is 'many' (str); give a int"),
        ({"model": {"size": 4}, "row_length": 0}, "pretrain: row_length is 0, must be"),
        ({"model": {"size": 4}, "batch_tokens": -1}, "pretrain: batch_tokens is -1, must be"),
        ({"model": {"size": 4}, "optim": "muon"}, "pretrain.optim is 'muon' (str); give a Optim"),
        ({"model": {"size": 4}, "minutes": -1}, "pretrain: minutes is -1.0, must be 0 or more"),
    ],
)
def test_mistakes_are_named(table, error):
    with pytest.raises(UserError, match=re.escape(error)):
        config_of(**table)
