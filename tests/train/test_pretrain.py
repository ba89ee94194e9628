"""Pretraining: batches by step, bits per byte by hand, micro-batches that change nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from puna.evals.bits import document
from puna.text.corpus import Corpus, TextFile
from puna.text.packing import pack
from puna.train import pretrain
from puna.train.loop import Trainer

FILES = [TextFile(f"{i}.txt", f"file {i} " + "so it goes " * (i % 7 + 3)) for i in range(12)]
CONFIG = pretrain.Config(batch_tokens=256, row_length=32)


@pytest.fixture
def make(ctx, new_model, tokenizer):
    def loop(config=CONFIG):
        packed = pack([document(tokenizer, f.text) for f in FILES], config.row_length)
        trainer = Trainer(ctx, new_model(num_experts=4), tokenizer, config.optim, 9, 9)
        return pretrain.TextLoop(ctx, config, Corpus(FILES, FILES[:2], "", {}), trainer, packed)

    return loop


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("micro_tokens", [32, 96])
def test_micro_batches_change_nothing(make, micro_tokens, lanes):
    found = []
    for config in (CONFIG, replace(CONFIG, micro_tokens=micro_tokens)):
        loop = make(config)
        loop.trainer.lanes.count = lanes if config.micro_tokens else 1
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
    whole = packed.whole(loop.batch(0))
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


def test_another_drawing_of_the_first_weights(ctx, tokenizer):
    """The same seed has several; 0 is the one that its number alone gives."""
    shape = {"preset": "nano", "num_layers": 1, "num_experts": 0}
    found = [
        pretrain._fresh_model(
            ctx, replace(CONFIG, model=shape, initial=i), tokenizer
        ).embed.detach()
        for i in (0, 1, 2, 1)
    ]
    assert torch.equal(found[1], found[3])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        alike = torch.corrcoef(torch.stack([found[a].flatten(), found[b].flatten()]))[0, 1]
        assert abs(float(alike)) < 0.05
    with pytest.raises(ValueError, match="initial is -1"):
        replace(CONFIG, initial=-1)


def test_whole_epochs_each_in_its_own_order(make):
    loop = make(replace(CONFIG, batch_tokens=3 * 32))
    rows = len(loop.packed.ids_NT)
    seen = np.concatenate([loop.batch(s) for s in range(rows)])
    assert (np.bincount(seen) == 3).all()
    assert seen[:rows].tolist() != seen[rows : 2 * rows].tolist()
    assert loop.batch(2).tolist() == make(loop.config).batch(2).tolist()
