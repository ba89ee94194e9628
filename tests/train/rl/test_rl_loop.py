"""The rl loop from within: what the loss is divided by, updates that fail, rollouts cut short."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from dataclasses import replace

import pytest
import torch
from test_rl_batch import rows

from puna.core.errors import UserError
from puna.core.stage import StageError
from puna.gym.environment import Problem, SingleTurn
from puna.train.checkpoint import save_model
from puna.train.loop import Trainer
from puna.train.loss import PolicyLoss
from puna.train.rl import loop as rl

CONFIG = rl.Config("none", steps=4, prompts=2, samples=2, max_tokens=2, refills=0)


class Slow(SingleTurn):
    """The verifier is slow, or the session is, which holds up the event loop itself."""

    name = "slow"
    judging = 0.0
    begun = False

    def __init__(self):
        super().__init__()
        self.free = threading.Event()
        self.free.set()

    def make(self, rng):
        return Problem(f"{rng.integers(1000)}?", "")

    def start(self, task, resources, ctx):
        Slow.begun = True
        self.free.wait(60)
        return super().start(task, resources, ctx)

    def score(self, answer, problem):
        time.sleep(self.judging)
        return len(answer) / 100


@pytest.fixture
def make(ctx, new_model, tokenizer):
    def loop(config=CONFIG, env=None):
        trainer = Trainer(ctx, new_model(), tokenizer, config.optim, config.steps, 9)
        return rl._Loop(ctx, config, env or Slow(), trainer)

    return loop


def gradient(loop, given, total):
    figures = loop.learn(given, total, 0)
    grads = [p.grad for p in loop.trainer.model.parameters() if p.grad is not None]
    return figures, torch.cat([g.flatten() for g in grads])


def test_the_loss_is_divided_by_the_tokens_of_all_rows(make):
    """Rows without an advantage add nothing but their tokens, passed through the model or not."""
    loop, given = make(), rows(6)
    for silent in given[3:]:
        silent.advantage = 0.0
    tokens = [sum(r.branch.mask) for r in given]
    _, whole = gradient(loop, given, sum(tokens))
    loop.trainer.optimizer.zero_grad()
    figures, skipped = gradient(loop, given[:3], sum(tokens))
    torch.testing.assert_close(skipped, whole, atol=1e-7, rtol=1e-4)
    loop.trainer.optimizer.zero_grad()
    other, larger = gradient(loop, given[:3], sum(tokens[:3]))
    torch.testing.assert_close(larger, whole * sum(tokens) / sum(tokens[:3]), atol=1e-6, rtol=1e-4)
    assert (larger - whole).abs().max() > 1e-4
    assert other["surprisal"] == pytest.approx(figures["surprisal"])  # of the tokens passed
    loop.close()


@pytest.mark.parametrize("updates", [1, 2])
def test_lanes_change_nothing(make, new_model, updates):
    """With what the reference and, for a second update, the first weights say of the rows."""
    found = []
    for lanes, tokens in ((1, 10_000), (2, 40), (3, 60)):
        loop = make(replace(CONFIG, updates=updates, micro_tokens=tokens))
        loop.reference = new_model(1)
        loop.config = replace(loop.config, loss=PolicyLoss(kl=0.1))
        loop.trainer.lanes.count = lanes
        given = rows(6)
        found.append(gradient(loop, given, sum(sum(r.branch.mask) for r in given)))
        loop.close()
    (figures, whole), *others = found
    assert figures["kl"] > 0.01
    for other, parts in others:
        assert other == pytest.approx(figures, rel=1e-4, abs=1e-6)
        torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-3)


def test_an_update_before_the_last_that_is_not_finite_stops_the_stage(make):
    loop, given = make(replace(CONFIG, updates=2)), rows(4)
    given[1].branch.logprobs[-1] = math.nan
    with pytest.raises(StageError, match="norm of update 1 is nan at step 1; the last good"):
        loop.learn(given, 9, 0)
    loop.close()


def close_while(make, env, patience_s):
    """Close a loop whose thread is in the middle of a rollout; its source."""
    Slow.begun = False
    loop = make(replace(CONFIG, staleness=1), env)
    loop.source.patience_s = patience_s
    while not Slow.begun:
        time.sleep(0.01)
    time.sleep(0.2)
    with pytest.raises(ZeroDivisionError), contextlib.closing(loop):
        raise ZeroDivisionError
    return loop.source


def test_a_rollout_that_waits_is_cancelled(make):
    """Closing would give up before the verdicts, each a minute away, have come."""
    env = Slow()
    env.judging = 60.0
    assert not close_while(make, env, 30.0).thread.is_alive()


def test_a_rollout_that_cannot_be_cancelled_hides_no_error(make):
    env = Slow()
    env.free.clear()
    source = close_while(make, env, 0.3)
    assert source.thread.is_alive()
    env.free.set()
    source.patience_s = 60.0
    source.close()
    assert not source.thread.is_alive()


def test_held_out_scores_are_of_the_roles_in_training(make, new_model, tokenizer, tmp_path):
    from test_collect import Pair

    save_model(new_model(3), tokenizer, tmp_path / "other")
    for frozen, wanted in (("worker", 1.0), ("boss", None)):
        config = replace(CONFIG, frozen={frozen: str(tmp_path / "other")}, eval_every=1)
        loop = make(replace(config, eval_tasks=3), Pair())
        found = loop.after(1)["held_out"]
        assert (found == 1.0) == (wanted == 1.0)  # the boss always earns 1, the worker never
        loop.close()


def test_frozen_models_get_the_machines_type(ctx, make, new_model, tokenizer, tmp_path):
    from test_collect import Pair

    save_model(new_model(3), tokenizer, tmp_path / "other")
    ctx.machine = replace(ctx.machine, dtype="bfloat16")
    config = replace(CONFIG, frozen={"boss": str(tmp_path / "other")})
    loop = make(config, Pair())
    boss = loop.source.collector.rollout.policies["boss"].engine.model
    assert boss.compute_dtype == torch.bfloat16
    assert not boss.training
    loop.close()


NOTHING = """
from puna import Problem, SingleTurn


class Nothing(SingleTurn):
    name = "nothing"
    sizes = {"train": 0, "test": 5}

    def make(self, rng):
        return Problem("?", "")

    def score(self, answer, problem):
        return 0.0
"""


def test_nothing_to_train_on_and_nobody_to_play_with(ctx, new_model, tokenizer, tmp_path):
    save_model(new_model(), tokenizer, tmp_path / "init")
    (tmp_path / "nothing.py").write_text(NOTHING)
    config = replace(CONFIG, env=str(tmp_path / "nothing.py"), init=tmp_path / "init")
    with pytest.raises(UserError, match="nothing has no train tasks"):
        rl.run(ctx, config)
    (tmp_path / "two.py").write_text(
        NOTHING.replace('name = "nothing"', 'name = "two"\n    roles = ("agent", "other")')
    )
    config = replace(config, env=str(tmp_path / "two.py"), frozen={"other": "no/such"})
    with pytest.raises(UserError, match=r"stage.frozen.other: no directory no/such; check"):
        rl.run(ctx, config)


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_that_cannot_weigh(weight):
    with pytest.raises(ValueError, match=r"roles\.agent is"):
        replace(CONFIG, roles={"agent": weight})
