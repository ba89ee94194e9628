"""Pretraining: batches by step, bits per byte by hand, micro-batches that change nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from puna.text.corpus import Corpus, TextFile
from puna.text.packing import pack
from puna.train import pretrain
from puna.train.loop import Trainer

FILES = [TextFile(f"{i}.txt", f"file {i} " + "so it goes " * (i % 7 + 3)) for i in range(12)]
CONFIG = pretrain.Config(batch_tokens=256, row_length=32)


@pytest.fixture
def make(ctx, new_model, tokenizer):
    def loop(config=CONFIG):
        packed = pack([pretrain.document(tokenizer, f.text) for f in FILES], config.row_length)
        trainer = Trainer(ctx, new_model(num_experts=4), tokenizer, config.optim, 9, 9)
        return pretrain.TextLoop(ctx, config, Corpus(FILES, FILES[:2], "", {}), trainer, packed)

    return loop


@pytest.mark.parametrize("micro_tokens", [32, 96])
def test_micro_batches_change_nothing(make, micro_tokens):
    found = []
    for config in (CONFIG, replace(CONFIG, micro_tokens=micro_tokens)):
        loop = make(config)
        figures = loop.backward(0)
        found.append((figures["loss"], [p.grad for p in loop.trainer.model.parameters()]))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_rows_of_one_document_are_read_without_a_mask(make, tokenizer):
    """The same gradients as with every row under the mask of its documents."""
    loop = make(replace(CONFIG, batch_tokens=16 * 32, balance=0.0))
    long = pretrain.document(tokenizer, "so it goes on " * 30)
    short = [pretrain.document(tokenizer, f.text) for f in FILES]
    loop.packed = packed = pack([long, *short], 32)
    whole = pretrain._whole(packed, loop.batch(0))
    assert 2 <= whole.sum() <= len(whole) - 2
    figures, model = loop.backward(0), loop.trainer.model
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    rows = loop.batch(0)
    ids, positions, documents, targets = (
        torch.from_numpy(a[rows]).long()
        for a in (packed.ids_NT, packed.positions_NT, packed.documents_NT, packed.targets_NT)
    )
    logits = model.logits(model(ids, positions, documents)).flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, targets.flatten())
    loss.backward()
    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-6)
    for a, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(a, parameter.grad, atol=1e-6, rtol=1e-4)
    with torch.no_grad():
        blind = model.logits(model(ids)).flatten(0, 1)
        assert abs(torch.nn.functional.cross_entropy(blind, targets.flatten()) - loss) > 1e-3


@pytest.mark.parametrize("share", [0.0, -1.0, 50.1, math.nan])
def test_some_text_is_held_out_and_most_is_not(share):
    with pytest.raises(ValueError, match="held_out is"):
        replace(CONFIG, held_out=share)
    assert replace(CONFIG, held_out=50.0).held_out == 50


def test_whole_epochs_each_in_its_own_order(make):
    loop = make(replace(CONFIG, batch_tokens=3 * 32))
    rows = len(loop.packed.ids_NT)
    seen = np.concatenate([loop.batch(s) for s in range(rows)])
    assert (np.bincount(seen) == 3).all()
    assert seen[:rows].tolist() != seen[rows : 2 * rows].tolist()
    assert loop.batch(2).tolist() == make(loop.config).batch(2).tolist()


def test_bits_per_byte_of_a_uniform_model(new_model, tokenizer):
    """Every token costs log2(vocabulary), however the file is cut into rows."""
    model = new_model()
    torch.nn.init.zeros_(model.embed)
    files = [SimpleNamespace(text="so it goes " * 40), SimpleNamespace(text="one")]
    tokens = [len(tokenizer.encode(f.text)) + 1 for f in files]
    sizes = [len(f.text) for f in files]
    for row_length in (16, 33, 512):
        bits = pretrain.bits_per_byte(model, tokenizer, files, row_length)
        wanted = sum(tokens) * math.log2(tokenizer.vocab_size) / sum(sizes)
        assert bits.total == pytest.approx(wanted, rel=1e-5)
        assert bits.bytes == sum(sizes)


def test_bits_per_byte_of_a_file_in_one_row(new_model, tokenizer):
    model = new_model().eval()
    ids = torch.tensor([pretrain.document(tokenizer, FILES[0].text)])
    with torch.no_grad():
        logp = torch.log_softmax(model.logits(model(ids[:, :-1])).float(), -1)
    bits = -logp.gather(2, ids[:, 1:, None]).sum().item() / math.log(2)
    found = pretrain.bits_per_byte(model, tokenizer, FILES[:1], 256)
    assert found.total == pytest.approx(bits / FILES[0].bytes, rel=1e-5)
    assert found.by_file[0][1] == FILES[0].bytes


def test_the_interval_is_over_files():
    same = pretrain.Bits(2.0, 300, ((200.0, 100), (400.0, 200)))
    assert pretrain.interval(same) == pytest.approx((2.0, 2.0))
    mixed = pretrain.Bits(2.0, 300, ((100.0, 100), (200.0, 100), (300.0, 100)))
    half = 4.302653 * 1 / 3**0.5  # t with 2 degrees of freedom; the files lie 1 apart
    assert pretrain.interval(mixed) == pytest.approx((2 - half, 2 + half), rel=1e-5)
    assert pretrain.interval(pretrain.Bits(2.0, 9, ((18.0, 9),))) == (2.0, 2.0)
