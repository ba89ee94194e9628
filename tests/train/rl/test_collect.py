"""Collecting: groups without signal are replaced up to a bound; step t asks the same tasks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from puna.core.outcome import Infra, Scored
from puna.engine.local import Engine
from puna.engine.policy import SamplingParams
from puna.engine.rendezvous import LocalSampler, Rendezvous
from puna.evals.playing import failed_share
from puna.gym.environment import Environment, Problem, SingleTurn, Turn
from puna.gym.loop import Rollout
from puna.gym.task import Task
from puna.train.rl.collect import Collector


class Halves(SingleTurn):
    """Tasks of even index pay by the answer's text, the others pay all answers alike."""

    name = "halves"
    every = 2

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def task(self, split, index):
        self.asked.append(index)
        problem = Problem(f"{index}?", "")
        task = super().task(split, 0)
        return Task(f"halves/{index}", task.messages, str(index), {"problem": problem, "i": index})

    def make(self, rng):
        return Problem(f"{rng.integers(10**6)}?", "")

    def judge(self, episodes, hidden, ctx):
        pays = hidden["i"] % self.every == 0
        values = [sum(e.said().encode()) % 97 / 97 if pays else 0.5 for e in episodes]
        return [{"agent": Scored(v, False)} for v in values]


class Ending(LocalSampler):
    """Every answer counts as ended: a cut-off one ends the episode, and few end by themselves."""

    async def sample(self, prompt_ids, params, key, pictures=()):
        return replace(await super().sample(prompt_ids, params, key), finish="stop")


@pytest.fixture
def collector(new_model, tokenizer):
    def make(env, prompts=4, samples=4, refills=0, slots=64, workers=2, roles=("agent",), seed=0):
        meet = Rendezvous()
        sampler = Ending(Engine(new_model().eval(), tokenizer, seed, slots), meet)
        policies = dict.fromkeys(env.roles, sampler)
        params = SamplingParams(3, 1.0)
        rollout = Rollout(env, policies, params, meet=meet, wave=256, workers=workers)
        return Collector(rollout, prompts, samples, refills, roles)

    return make


def asked(collector, env, step):
    env.asked.clear()
    found = collector.collect(step)
    return found, list(env.asked)


@pytest.mark.parametrize(
    ("refills", "tasks", "used"),
    [
        (0, [12, 13, 14, 15], 2),
        (1, [24, 25, 26, 27, 28, 29], 3),  # two are missing: 28 and 29, of which 28 pays
        (2, [36, 37, 38, 39, 40, 41, 44], 4),  # then one is missing: 44
        (9, [120, 121, 122, 123, 124, 125, 128], 4),  # no more than needed
    ],
)
def test_groups_without_signal_are_replaced_up_to_the_bound(collector, refills, tasks, used):
    env = Halves()
    found, seen = asked(collector(env, refills=refills), env, 3)
    assert sorted(set(seen)) == tasks
    assert (found.figures["groups_seen"], found.figures["groups_used"]) == (len(tasks), used)
    assert found.figures["zero_signal"] == pytest.approx(1 - used / len(tasks))
    assert all(g.job.index % 2 == 0 for g in found.groups)
    assert len(found.rows) == 4 * used


def test_a_step_repeats_itself_on_any_number_of_workers_and_slots(collector):
    def rows(step, **options):
        env = Halves()
        found, _ = asked(collector(env, refills=1, **options), env, step)
        return [(r.group, r.episode, r.reward, r.branch.ids, r.branch.logprobs) for r in found.rows]

    assert rows(3) == rows(3, workers=1) == rows(3, workers=4)
    assert [r[:4] for r in rows(3, slots=3)] == [r[:4] for r in rows(3)]
    assert [r[3] for r in rows(3)] != [r[3] for r in rows(4)]
    assert [r[3] for r in rows(3)] != [r[3] for r in rows(3, seed=1)]


def test_no_two_samples_share_their_draws(collector):
    env = Halves()
    env.sizes = {"train": 2, "test": 1}  # each task twice a step
    env.every = 1
    found, seen = asked(collector(env), env, 0)
    assert sorted(seen) == [0, 0, 1, 1]
    assert len({r.group for r in found.rows}) == 4
    assert len({tuple(r.branch.ids) for r in found.rows}) == 16


class Pair(Environment):
    """Two roles answer once each; one is paid by its text, the other always alike."""

    name = "pair"
    roles = ("worker", "boss")

    def count(self, split):
        return 100

    def task(self, split, index):
        return Task(f"pair/{index}", (), str(index))

    def start(self, task, resources, ctx):
        return _PairSession()

    def judge(self, episodes, hidden, ctx):
        values = [sum(e.said("worker").encode()) % 97 / 97 for e in episodes]
        return [{"worker": Scored(v, False), "boss": Scored(1.0, True)} for v in values]


class _PairSession:
    def __init__(self) -> None:
        from puna.core.messages import Message

        self.left = [Turn(r, (Message.user(f"you are {r}"),)) for r in ("boss", "worker")]

    def next(self):
        return self.left[-1] if self.left else None

    def take(self, turn, message):
        self.left.pop()

    def artifacts(self):
        return {}

    def close(self):
        pass


def test_a_frozen_role_gives_no_rows(collector):
    both = collector(Pair(), roles=("worker", "boss")).collect(0)
    assert {r.role for r in both.rows} == {"worker", "boss"}
    found = collector(Pair(), roles=("worker",)).collect(0)
    assert {r.role for r in found.rows} == {"worker"}
    assert len(found.rows) * 2 == len(both.rows)
    assert not collector(Pair(), roles=("boss",)).collect(0).rows  # its rewards are all alike


class Failing(Halves):
    """Every second task's verifier meets a disk that is full."""

    def judge(self, episodes, hidden, ctx):
        if hidden["i"] % 2:
            raise OSError(28, "No space left on device")
        return super().judge(episodes, hidden, ctx)


def test_failures_of_the_machinery_are_counted_and_named(collector):
    found = collector(Failing(), prompts=4, samples=4).collect(0)
    assert (found.figures["scored"], found.figures["infra"]) == (8, 8)
    assert failed_share(found.figures) == 0.5
    assert "No space left on device" in found.failure
    assert all(isinstance(r.outcome, Scored) for r in found.rows)
    assert len(found.rows) == 8
    outcomes = [o for g in found.seen[:1] for t in g.trajectories for o in t.outcomes.values()]
    assert not any(isinstance(o, Infra) for o in outcomes)  # the first group was fine
    assert collector(Halves()).collect(0).failure == ""


def test_nothing_played_counts_as_all_failed():
    assert failed_share({"scored": 0, "invalid": 0, "infra": 0}) == 1
