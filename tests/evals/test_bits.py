"""Bits per byte by hand: a uniform model, one row, intervals over files, paired differences."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from puna.evals.bits import Bits, bits_per_byte, compared, document, interval, told
from puna.models.decoder import Decoder
from puna.models.presets import build, preset
from puna.text.corpus import TextFile
from puna.text.tokenizer import Tokenizer

FILES = [TextFile("0.txt", "file 0 " + "so it goes " * 3)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["one and one is two, and so it goes"], 290)


@pytest.fixture
def model(tokenizer: Tokenizer) -> Decoder:
    shape = {"hidden_size": 32, "num_layers": 2, "intermediate_size": 48, "expert_size": 24}
    return build(preset("nano", **shape, vocab_size=tokenizer.vocab_size), 0).eval()


def test_bits_per_byte_of_a_uniform_model(model: Decoder, tokenizer: Tokenizer) -> None:
    """Every token costs log2(vocabulary), however the file is cut into rows."""
    torch.nn.init.zeros_(model.embed)
    files = [SimpleNamespace(text="so it goes " * 40), SimpleNamespace(text="one")]
    tokens = [len(tokenizer.encode(f.text)) + 1 for f in files]
    sizes = [len(f.text) for f in files]
    for row_length in (16, 33, 512):
        bits = bits_per_byte(model, tokenizer, files, row_length)
        wanted = sum(tokens) * math.log2(tokenizer.vocab_size) / sum(sizes)
        assert bits.total == pytest.approx(wanted, rel=1e-5)
        assert bits.bytes == sum(sizes)


def test_bits_per_byte_of_a_file_in_one_row(model: Decoder, tokenizer: Tokenizer) -> None:
    ids = torch.tensor([document(tokenizer, FILES[0].text)])
    with torch.no_grad():
        logp = torch.log_softmax(model.logits(model(ids[:, :-1])).float(), -1)
    bits = -logp.gather(2, ids[:, 1:, None]).sum().item() / math.log(2)
    found = bits_per_byte(model, tokenizer, FILES[:1], 256)
    assert found.total == pytest.approx(bits / FILES[0].bytes, rel=1e-5)
    assert found.by_file[0][1] == FILES[0].bytes


def test_the_interval_is_over_files() -> None:
    same = Bits(2.0, 300, ((200.0, 100), (400.0, 200)))
    assert interval(same) == pytest.approx((2.0, 2.0))
    mixed = Bits(2.0, 300, ((100.0, 100), (200.0, 100), (300.0, 100)))
    half = 4.302653 * 1 / 3**0.5  # t with 2 degrees of freedom; the files lie 1 apart
    assert interval(mixed) == pytest.approx((2 - half, 2 + half), rel=1e-5)
    assert interval(Bits(2.0, 9, ((18.0, 9),))) == (2.0, 2.0)


def test_the_difference_is_paired_by_file() -> None:
    before = Bits(2.0, 300, ((100.0, 100), (200.0, 100), (300.0, 100)))
    after = Bits(1.9, 300, ((90.0, 100), (190.0, 100), (290.0, 100)))
    row = compared("context 512", before, after)
    assert row["name"] == "context 512"
    assert row["difference"] == {
        "mean": pytest.approx(-0.1),
        "low": pytest.approx(-0.1),
        "high": pytest.approx(-0.1),
        "n": 3,
    }
    # unpaired, files that differ by a whole bit would hide it
    assert row["before"]["low"] < row["after"]["mean"] < row["before"]["high"]
    mixed = Bits(1.9, 300, ((100.0, 100), (170.0, 100), (300.0, 100)))
    found = compared("", before, mixed)["difference"]
    half = 4.302653 * 0.1732051 / 3**0.5  # t(2); changes of 0, -0.3 and 0 a byte
    assert (found["low"], found["high"]) == pytest.approx((-0.1 - half, -0.1 + half), rel=1e-5)
    one = compared("", Bits(2.0, 9, ((18.0, 9),)), Bits(1.0, 9, ((9.0, 9),)))
    assert one["difference"] == {"mean": -1.0, "low": None, "high": None, "n": 1}
    assert "one file is no sample" in told(one)
    assert told(row).endswith("over 3 files: a gain")
    assert told(compared("", before, mixed)).endswith("no gain shown")
    assert told(compared("", after, before)).endswith("worse")
