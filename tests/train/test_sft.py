"""SFT learns the assistant's tokens and nothing else, in batches that follow from seed and step."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from puna.core.messages import Message
from puna.core.outcome import Scored
from puna.core.stage import StageError
from puna.gym.environment import Problem, SingleTurn
from puna.text.packing import IGNORE
from puna.text.template import render
from puna.train import sft
from puna.train.data import Chat
from puna.train.loop import StopTraining, Trainer

CHATS = [
    Chat((Message.user(f"say {n}"), Message.assistant("x" * (n % 5 + 1))))
    for n in range(30)
] + [
    Chat((Message.system("be brief"), Message.user("one"), Message.assistant("1"),
          Message.user("two"), Message.assistant("2")))
]  # fmt: skip
CONFIG = sft.Config(batch_tokens=256, row_length=64)


@pytest.fixture
def make(ctx, new_model, tokenizer):
    def loop(config=CONFIG, chats=CHATS, **of_packed):
        packed, _ = sft._pack(chats, tokenizer, config.row_length)
        packed = replace(packed, **{k: f(packed) for k, f in of_packed.items()})
        model = new_model()
        trainer = Trainer(ctx, model, tokenizer, config.optim, 9, 9)
        return sft._Loop(ctx, config, None, trainer, packed)

    return loop


def gradients(loop, step=0):
    figures = loop.backward(step)
    return figures, {n: p.grad.clone() for n, p in loop.trainer.model.named_parameters()}


def test_targets_are_the_answers_and_their_ends(tokenizer):
    packed, left_out = sft._pack(CHATS[-1:], tokenizer, 64)
    assert left_out == 0
    told = packed.targets_NT[0][packed.targets_NT[0] != IGNORE].tolist()
    eot = tokenizer.special("eot")
    assert told == [*tokenizer.encode("1"), eot, *tokenizer.encode("2"), eot]


def test_the_loss_is_the_mean_over_the_assistants_tokens(make, tokenizer):
    """Against every conversation alone, unpacked and unbatched."""
    loop = make()
    figures, _ = gradients(loop)
    rows = loop.batch(0)
    chosen = {d for d in loop.packed.documents_NT[rows].ravel().tolist() if d >= 0}
    total, count = 0.0, 0
    for index in chosen:
        seen = render(tokenizer, CHATS[index].messages)
        ids = torch.tensor([seen.ids])
        with torch.no_grad():
            logits = loop.trainer.model.logits(loop.trainer.model(ids[:, :-1]))[0]
        logp = torch.log_softmax(logits.float(), -1).gather(1, ids[0, 1:, None])[:, 0]
        mask = torch.tensor(seen.mask[1:])
        total, count = total - logp[mask].sum().item(), count + int(mask.sum())
    assert figures["loss"] == pytest.approx(total / count, rel=1e-5)


def test_what_the_user_says_next_teaches_nothing(make):
    """Unmarked positions give no gradient, whatever stands there; were they marked, they would."""
    _, plain = gradients(make())

    def marked(packed):
        targets = packed.targets_NT.copy()
        targets[:, :-1] = np.where(
            packed.documents_NT[:, 1:] == packed.documents_NT[:, :-1], packed.ids_NT[:, 1:], IGNORE
        )
        return targets

    _, all_marked = gradients(make(targets_NT=marked))
    worst = max((plain[n] - all_marked[n]).abs().max().item() for n in plain)
    assert worst > 1e-2
    loop = make()
    targets = loop.packed.targets_NT
    assert (targets == IGNORE).sum() > (targets != IGNORE).sum()


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("micro_tokens", [64, 128])
def test_micro_batches_change_nothing(make, micro_tokens, lanes):
    big, grads = gradients(make(replace(CONFIG, micro_tokens=10_000)))
    loop = make(replace(CONFIG, micro_tokens=micro_tokens))
    loop.trainer.lanes.count = lanes
    small, parts = gradients(loop)
    assert small["loss"] == pytest.approx(big["loss"], rel=1e-6)
    for name in grads:
        torch.testing.assert_close(parts[name], grads[name], atol=1e-6, rtol=1e-5)


def test_a_batch_follows_from_seed_and_step(make):
    a, b = make(), make()
    assert [a.batch(s).tolist() for s in range(9)] == [b.batch(s).tolist() for s in range(9)]
    assert a.batch(1).tolist() == b.batch(1).tolist()  # in any order
    assert a.batch(0).tolist() != a.batch(7).tolist()


def test_every_row_once_an_epoch(make):
    loop = make(replace(CONFIG, batch_tokens=3 * 64))
    rows = len(loop.packed.ids_NT)
    seen = np.concatenate([loop.batch(s) for s in range(rows)])  # three epochs
    assert (np.bincount(seen[:rows]) == 1).all()
    assert (np.bincount(seen) == 3).all()
    assert seen[:rows].tolist() != seen[rows : 2 * rows].tolist()


class Graded(SingleTurn):
    """Pays what the test says, below 0 too; None breaks the verifier."""

    name = "graded"

    def make(self, rng):
        return Problem(f"{rng.integers(1000)}?", "1")

    def judge(self, episodes, hidden, ctx):
        if self.pay[0] is None:
            raise ConnectionError("the grader is down")
        return [{"agent": Scored(self.pay[0], False)} for _ in episodes]


def graded(make, *pay):
    config = replace(CONFIG, eval_every=1, eval_tasks=2, max_tokens=2, patience=2)
    loop = make(config)
    loop.env = Graded()
    loop.env.pay = list(pay)
    return loop


def test_the_best_of_scores_below_zero(make):
    loop = graded(make, -5.0)
    for step, pay in enumerate((-5.0, -3.0, -4.0), 1):
        loop.env.pay = [pay]
        assert loop.after(step) == {"held_out": pay}
    assert (loop.trainer.state["best"], loop.trainer.state["best_step"]) == (-3.0, 2)
    with pytest.raises(StopTraining):
        loop.after(4)


def test_a_held_out_score_of_nothing_is_not_zero(make):
    loop = graded(make, None)
    with pytest.raises(StageError, match=r"no held-out task of graded was scored.*grader is down"):
        loop.after(1)
    assert "best" not in loop.trainer.state


def test_conversations_that_do_not_fit_are_counted(tokenizer):
    long = Chat((Message.user("hello"), Message.assistant("y" * 500)))
    packed, left_out = sft._pack([*CHATS, long], tokenizer, 64)
    assert left_out == 1
    assert packed.documents_NT.max() == len(CHATS) - 1
    assert math.prod(packed.ids_NT.shape) < 64 * len(CHATS)
