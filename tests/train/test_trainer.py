"""The loop shared by stages: steps, checkpoints, early ends, and weights that are not numbers."""

from __future__ import annotations

import json
import math

import pytest
import torch

from puna.core.errors import UserError
from puna.core.stage import StageError, Stopwatch
from puna.train.checkpoint import save_model
from puna.train.loop import StopTraining, Trainer
from puna.train.optim import OptimConfig


def trainer_of(ctx, model, tokenizer, steps=6, save_every=2, **optim):
    return Trainer(ctx, model, tokenizer, OptimConfig(**optim), steps, save_every)


def loss_of(trainer, bad_at=-1):
    def backward(step):
        ids = torch.randint(0, 256, (2, 8), generator=torch.Generator().manual_seed(step))
        loss = trainer.model.logits(trainer.model(ids)).float().logsumexp(-1).mean()
        loss = loss * (math.nan if step == bad_at else 1)
        loss.backward()
        return {"loss": loss.item(), "tokens": 16}

    return backward


def kept(ctx):
    return sorted(int(p.name[5:]) for p in (ctx.dir / "checkpoints").iterdir())


def test_a_stage_goes_on_where_it_was(ctx, new_model, tokenizer):
    first = trainer_of(ctx, new_model(), tokenizer)
    with pytest.raises(StageError):
        first.run(loss_of(first, bad_at=5), "loss")
    assert kept(ctx) == [2, 4]
    second = trainer_of(ctx, new_model(seed=5), tokenizer)
    assert (second.step, second.tokens) == (4, 64)
    second.run(loss_of(second), "loss")
    whole = trainer_of(ctx.__class__("w", ctx.dir / "w", 7, ctx.machine), new_model(), tokenizer)
    whole.run(loss_of(whole), "loss")
    for a, b in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert second.finish()["tokens"] == whole.tokens == 96
    lines = (ctx.dir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(x)["step"] for x in lines] == [1, 2, 3, 4, 5, 5, 6]


def test_a_stage_goes_on_with_what_it_began_with(ctx, new_model, tokenizer):
    def trainer(inputs):
        return Trainer(ctx, new_model(), tokenizer, OptimConfig(), 6, 2, inputs)

    first = trainer("rows abc")
    with pytest.raises(StageError):
        first.run(loss_of(first, bad_at=3), "loss")
    assert trainer("rows abc").step == 2
    with pytest.raises(UserError) as caught:
        trainer("rows xyz")
    assert str(caught.value) == (
        "data of stage stage changed since it began (rows abc then, rows xyz now); "
        "choose another --dir or restore it"
    )


def test_a_loss_that_is_not_finite_stops_before_it_does_harm(ctx, new_model, tokenizer):
    trainer = trainer_of(ctx, new_model(), tokenizer)
    with pytest.raises(StageError, match=r"loss is nan.* at step 4; the last good checkpoint"):
        trainer.run(loss_of(trainer, bad_at=3), "loss")
    assert all(bool(p.isfinite().all()) for p in trainer.model.parameters())
    assert kept(ctx) == [2]


def test_weights_that_are_not_finite_are_not_saved(ctx, new_model, tokenizer):
    """The loss of the step before was fine: only the weights tell."""
    trainer = trainer_of(ctx, new_model(), tokenizer, steps=4)

    def spoil(step):
        if step == 4:
            with torch.no_grad():
                trainer.model.embed[0, 0] = math.inf

    with pytest.raises(StageError, match="embed is not finite after step 4"):
        trainer.run(loss_of(trainer), "loss", spoil)
    assert kept(ctx) == [2]


def test_a_stage_may_end_early_and_stays_ended(ctx, new_model, tokenizer):
    def stop(step):
        if step == 3:
            raise StopTraining({"held_out": 0.5})

    for _ in range(2):
        trainer = trainer_of(ctx, new_model(), tokenizer)
        trainer.run(loss_of(trainer), "loss", stop)
        assert trainer.step == 3
    lines = (ctx.dir / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[-1])["held_out"] == 0.5


def test_where_backward_stops_it_nothing_is_learned_of_that_step(ctx, new_model, tokenizer):
    """No checkpoint either: resumed, it repeats the steps since the last and stops there again."""
    seen = []
    for _ in range(2):
        trainer = trainer_of(ctx, new_model(), tokenizer)
        loss = loss_of(trainer)

        def backward(step, loss=loss):
            if step == 3:
                raise StopTraining({"reward": 0.5})
            return loss(step)

        trainer.run(backward, "loss")
        assert trainer.step == 3
        seen.append({k: v.clone() for k, v in trainer.model.state_dict().items()})
    assert all(torch.equal(seen[0][k], seen[1][k]) for k in seen[0])
    assert kept(ctx) == [2]
    records = [json.loads(x) for x in (ctx.dir / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [1, 2, 3, 4, 3, 4]
    assert records[-1]["reward"] == 0.5
    save_model(new_model(5), tokenizer, ctx.dir / "start")
    assert trainer.rewind(2, ctx.dir / "start") == 2
    assert trainer.rewind(1, ctx.dir / "start") == 0
    wanted = new_model(5).state_dict()
    assert all(torch.equal(v, wanted[k]) for k, v in trainer.model.state_dict().items())


def timed(ctx, model, tokenizer, spent, minutes=1000.0, steps=10):
    optim = OptimConfig(lr=0.01, warmup=2, schedule="linear", final=0.0)
    watch = Stopwatch(wall=60 * spent)
    return Trainer(ctx, model, tokenizer, optim, steps, 100, minutes=minutes, watch=watch)


def rates(ctx):
    """Shares of the peak."""
    lines = (ctx.dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(x)["lr"] / 0.01 for x in lines]


def test_the_rate_falls_with_the_time_where_that_is_further_on(ctx, new_model, tokenizer):
    """600 of 1,000 minutes are six of ten steps, also at the third one; a second is 2e-5 of it."""
    trainer = timed(ctx, new_model(), tokenizer, spent=600)
    trainer.run(loss_of(trainer), "loss")
    assert trainer.step == 10
    assert rates(ctx) == pytest.approx(
        [0.5, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 3 / 8, 2 / 8, 1 / 8], abs=1e-3
    )


def test_a_stage_ends_with_its_time_and_does_not_begin_again(ctx, new_model, tokenizer):
    trainer = timed(ctx, new_model(), tokenizer, spent=0.99, minutes=1.0, steps=100_000)
    trainer.run(loss_of(trainer), "loss")
    assert 3 <= trainer.step < 10_000
    assert kept(ctx)[-1] == trainer.step
    assert rates(ctx)[-1] < 0.011  # the last hundredth of the time
    again = timed(ctx, new_model(seed=5), tokenizer, spent=0, minutes=1.0, steps=100_000)
    again.run(loss_of(again), "loss")
    assert again.step == trainer.step
    for a, b in zip(again.model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_time_that_is_over_before_the_first_step(ctx, new_model, tokenizer):
    trainer = timed(ctx, new_model(), tokenizer, spent=2, minutes=1.5)
    with pytest.raises(UserError, match=r"stage: 1\.5 minutes were over before its first step"):
        trainer.run(loss_of(trainer), "loss")
