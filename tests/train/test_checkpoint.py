"""Checkpoints: whole or not there, bit for bit, the newest whole one first."""

from __future__ import annotations

import pytest
import torch

from puna.core.errors import UserError
from puna.train.checkpoint import Checkpoints, load_model, save_model
from puna.train.optim import OptimConfig, make_optimizer, optimizer_tensors, update


def learn(model, optimizer, steps):
    for step in steps:
        ids = torch.randint(0, 256, (4, 12), generator=torch.Generator().manual_seed(step))
        model.logits(model(ids)).float().logsumexp(-1).mean().backward()
        update(model, optimizer, OptimConfig(), 1e-2)
        model.balance_experts(torch.tensor([[0.4, 0.3, 0.2, 0.1]]), 1e-3)


def trained(new_model, steps=3):
    model = new_model()
    optimizer = make_optimizer(model, OptimConfig())
    learn(model, optimizer, range(steps))
    return model, optimizer


def everything(model, optimizer):
    return {**model.state_dict(), **optimizer_tensors(model, optimizer)}


def test_weights_buffers_and_optimiser_come_back_bit_for_bit(new_model, tokenizer, tmp_path):
    model, optimizer = trained(new_model)
    assert any("expert_bias" in n and b.any() for n, b in model.named_buffers())
    checkpoints = Checkpoints(tmp_path)
    extra = {"kept": torch.arange(3)}
    checkpoints.save(3, model, tokenizer, optimizer, {"any": ["json", 1.5]}, extra)
    path, record = checkpoints.latest()
    assert (record["step"], record["state"]) == (3, {"any": ["json", 1.5]})
    assert torch.equal(checkpoints.extra(path)["kept"], extra["kept"])
    other = new_model(seed=9)
    of_other = make_optimizer(other, OptimConfig())
    checkpoints.restore(path, other, of_other)
    for _ in range(2):
        a, b = everything(model, optimizer), everything(other, of_other)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)
        learn(model, optimizer, range(3, 5))
        learn(other, of_other, range(3, 5))


def test_no_optimiser_step_yet(new_model, tokenizer, tmp_path):
    model = new_model()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, model, tokenizer, make_optimizer(model, OptimConfig()), {})
    path, _ = checkpoints.latest()
    checkpoints.restore(path, model, make_optimizer(model, OptimConfig()))


def test_the_oldest_go(new_model, tokenizer, tmp_path):
    model, optimizer = trained(new_model, 1)
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, model, tokenizer, optimizer, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


@pytest.mark.parametrize("keep", [1, 2])
def test_a_broken_one_never_displaces_a_whole_one(new_model, tokenizer, tmp_path, keep):
    """Step 9 is broken, training goes on from 3 and saves step 4: 4 must stay."""
    model, optimizer = trained(new_model, 1)
    checkpoints = Checkpoints(tmp_path, keep=keep, note=(notes := []).append)
    checkpoints.save(3, model, tokenizer, optimizer, {})
    Checkpoints(tmp_path, keep=9).save(9, model, tokenizer, optimizer, {})
    (tmp_path / "step-00000009" / "model.safetensors").unlink()
    assert checkpoints.latest()[0].name == "step-00000003"
    assert "step-00000009 is broken (model.safetensors is missing)" in notes[0]
    checkpoints.save(4, model, tokenizer, optimizer, {})
    assert checkpoints.latest()[0].name == "step-00000004"
    assert not (tmp_path / "step-00000009").exists()


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"files": {"none": "x"}}'])
def test_every_record_that_is_not_one(new_model, tokenizer, tmp_path, damage):
    model, optimizer = trained(new_model, 1)
    checkpoints = Checkpoints(tmp_path, note=lambda text: None)
    assert checkpoints.latest() is None
    checkpoints.save(1, model, tokenizer, optimizer, {})
    (tmp_path / "step-00000001" / "checkpoint.json").write_bytes(damage)
    with pytest.raises(UserError, match="every checkpoint in"):
        checkpoints.latest()


def test_one_changed_bit_is_seen(new_model, tokenizer, tmp_path):
    model, optimizer = trained(new_model, 1)
    checkpoints = Checkpoints(tmp_path, note=(notes := []).append)
    checkpoints.save(1, model, tokenizer, optimizer, {})
    path = tmp_path / "step-00000001" / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError):
        checkpoints.latest()
    assert "optimizer.safetensors is truncated or changed" in notes[0]


def test_a_model_directory(new_model, tokenizer, tmp_path):
    model = new_model()
    save_model(model, tokenizer, tmp_path / "stage" / "model")
    for name in ("stage", "stage/model"):
        loaded, tok = load_model(tmp_path / name)
        assert tok.digest == tokenizer.digest
        ours, theirs = model.state_dict(), loaded.state_dict()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    with pytest.raises(UserError, match="no model in"):
        load_model(tmp_path)


def test_one_may_be_spared(new_model, tokenizer, tmp_path):
    """The newest of at most `spare` steps stays, and goes once a newer one may be spared."""
    model, optimizer = trained(new_model)
    checkpoints = Checkpoints(tmp_path, keep=2)
    kept = []
    for step, spare in ((3, None), (6, 4), (9, 4), (12, 5), (15, 13), (18, 13)):
        checkpoints.save(step, model, tokenizer, optimizer, {}, spare=spare)
        kept.append([int(p.name[5:]) for p in sorted(tmp_path.iterdir())])
    assert kept == [[3], [3, 6], [3, 6, 9], [3, 9, 12], [12, 15], [12, 15, 18]]
    assert checkpoints.latest(14)[1]["step"] == 12
    assert checkpoints.latest()[1]["step"] == 18
    assert checkpoints.latest(11) is None
