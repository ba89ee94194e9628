"""The pool of prompts: what is kept, tested again and asked for, and when there is no more."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from test_collect import Halves, collector  # noqa: F401 - a fixture

from puna.core.errors import UserError
from puna.core.outcome import Infra, Scored
from puna.core.stage import StageError
from puna.gym.environment import SingleTurn
from puna.gym.loop import Group, Job
from puna.gym.task import Task
from puna.gym.trajectory import Episode, Trajectory
from puna.train.rl.collect import Collector
from puna.train.rl.pool import InOrder, Pool, PoolConfig

MOVING = PoolConfig(size=30, samples=8, every=10, by="skill")


class Tagged(SingleTurn):
    """Task i is of skill a, b or c in turn."""

    name = "tagged"
    sizes = {"train": 30, "test": 1}  # noqa: RUF012 - as environments state it

    def task(self, split, index):
        return Task(f"tagged/{index}", (), str(index), tags={"skill": "abc"[index % 3]})


def pool_of(config=MOVING, prompts=6, steps=100, seed=0):
    return Pool(config, Tagged(seed=seed), "agent", prompts, steps)


def hear(pool, task, passed, tried=8, step=-1, infra=0):
    """A group of which `passed` succeed."""
    outcomes = [Scored(float(i < passed), i < passed) for i in range(tried)]
    outcomes += [Infra("the grader is down")] * infra
    played = [
        Trajectory({}, "t", "train", task, i, Episode("t", (), {}, "done"), {}, {"agent": o})
        for i, o in enumerate(outcomes)
    ]
    pool.hear(Group(Job("train", task, len(played)), Task("t", (), ""), played), step)


def examine(pool, step, passed):
    """Play what is due before `step`, task i being solved `passed(i)` times of eight."""
    due = pool.due(step)
    for task in due:
        hear(pool, task, passed(task), step=step - 1)
    return due


def asked(pool, step, refills=0, used=()):
    return [pool.more(step, refill, used) for refill in range(1 + refills)]


def skills(tasks):
    return Counter("abc"[i % 3] for i in tasks)


def test_tasks_solved_now_and_then_are_kept():
    """Of eight answers one to five: 0.125 to 0.625. Six are 0.75, which is not below it."""
    pool = pool_of()
    examine(pool, 0, lambda i: min(8, i % 10))
    for task in range(30):
        passed = min(8, task % 10)
        assert pool.kept(task) == (1 <= passed <= 5), passed
        assert pool.too_easy(task) == (passed >= 6), passed
    figures = pool.figures()
    assert (figures["pool_kept"], figures["pool_easy"], figures["pool_hard"]) == (15, 12, 3)
    assert figures["episodes"] == 240


def test_hardness_by_hand():
    """1 - pass@4 of eight: C(8 - c, 4) / C(8, 4) = 35/70, 15/70, 5/70, 1/70, 0."""
    pool = pool_of(replace(MOVING, k=4))
    for passed, wanted in ((1, 35 / 70), (2, 15 / 70), (3, 5 / 70), (4, 1 / 70), (5, 0.0)):
        hear(pool, passed, passed)
        assert pool.hardness(passed) == pytest.approx(wanted)
    hear(pool, 9, 1, tried=2, infra=6)  # of two that were scored: pass@2
    assert pool.hardness(9) == pytest.approx(0.0)
    assert pool.rate(9) == 0.5


def test_what_the_machinery_spoiled_says_nothing():
    pool = pool_of()
    hear(pool, 3, 4)
    hear(pool, 3, 0, tried=0, infra=8)
    assert pool.rate(3) == 0.5
    assert pool.played == 16


def test_a_task_that_had_bad_luck_comes_back():
    """Removed by an estimate from eight answers, tested again with all others, kept then."""
    pool = pool_of()
    assert examine(pool, 0, lambda i: 0 if i == 7 else 3) == list(range(30))
    assert not pool.kept(7)
    assert examine(pool, 1, lambda i: 3) == []
    for task in (1, 2):
        hear(pool, task, 3, step=4)
    hear(pool, 3, 8, step=4)  # solved every time by now
    again = examine(pool, 10, lambda i: 2)
    assert again == [i for i in range(30) if i not in (1, 2)]  # those are known well enough
    assert pool.kept(7)
    assert pool.kept(3)


def test_without_moving_the_first_test_stands():
    pool = pool_of(replace(MOVING, every=0))
    examine(pool, 0, lambda i: 0 if i == 7 else 3)
    hear(pool, 7, 4, step=3)
    hear(pool, 8, 8, step=3)
    assert not pool.kept(7)
    assert pool.kept(8)
    assert pool.due(10) == []


def test_every_skill_has_its_share_of_a_step():
    """Seven tasks of three skills: 3, 2, 2, and the third one goes round."""
    pool = pool_of(prompts=7)
    examine(pool, 0, lambda i: 3)
    counts = [skills(asked(pool, step)[0]) for step in range(3)]
    assert counts == [Counter(a=3, b=2, c=2), Counter(a=2, b=3, c=2), Counter(a=2, b=2, c=3)]
    plain = pool_of(replace(MOVING, by=""), prompts=7)
    examine(plain, 0, lambda i: 3)
    assert any(max(skills(asked(plain, step)[0]).values()) > 3 for step in range(20))


def test_a_skill_without_tasks_leaves_its_share_to_the_others():
    pool = pool_of()
    examine(pool, 0, lambda i: 8 if i % 3 == 0 else 3)
    assert skills(asked(pool, 0)[0]) == Counter(b=3, c=3)


def test_skills_take_turns_in_blocks():
    """Twelve steps, two turns for each of three skills: two steps at a time."""
    pool = pool_of(replace(MOVING, cycles=2, every=0), steps=12)
    examine(pool, 0, lambda i: 3)
    turns = [skills(asked(pool, step)[0]) for step in range(12)]
    assert all(len(turn) == 1 for turn in turns)
    assert "".join("".join(turn) for turn in turns) == "aabbccaabbcc"
    assert turns[0]["a"] == 6


def test_blocks_are_of_episodes_where_these_end_the_stage():
    """240 go into the test; of the 120 after it each skill has 40."""
    pool = pool_of(replace(MOVING, cycles=1, every=0, episodes=360), prompts=1)
    examine(pool, 0, lambda i: 3)
    turns = ""
    for step in range(15):
        (task,) = asked(pool, step)[0]
        turns += "abc"[task % 3]
        hear(pool, task, 3, step=step)
    assert turns == "aaaaabbbbbccccc"


def test_a_group_without_signal_is_replaced_by_one_of_its_skill():
    pool = pool_of()
    examine(pool, 0, lambda i: 3)
    first = pool.more(5, 0, [])
    assert skills(first) == Counter(a=2, b=2, c=2)
    kept = [i for i in first if i % 3 != 1]
    second = pool.more(5, 1, kept)  # both of b gave no signal
    assert skills(second) == Counter(b=2)
    third = pool.more(5, 2, [*kept, second[0]])
    assert skills(third) == Counter(b=1)
    every = first + second + third
    assert len(set(every)) == len(every)


def test_fewer_tasks_than_a_step_wants_are_played_once_each():
    pool = pool_of(prompts=20)
    examine(pool, 0, lambda i: 3 if i < 9 else 0)
    first, second = asked(pool, 0, refills=1)
    assert sorted(first) == list(range(9))
    assert second == []


def test_hardness_rises_over_the_stage():
    """Hardness falls with the number: at first the easiest half, then the middle, then the rest."""
    config = PoolConfig(size=30, samples=64, high=1.0, low=0.0, k=1, every=0)
    pool = pool_of(config, prompts=15, steps=101)
    for task in pool.due(0):
        hear(pool, task, task + 1, tried=64)
    assert sorted(asked(pool, 0)[0]) == list(range(15, 30))
    middle = sorted(asked(pool, 50)[0])
    assert middle[0] in (7, 8)
    assert middle == list(range(middle[0], middle[0] + 15))
    assert sorted(asked(pool, 100)[0]) == list(range(15))
    means = [sum(asked(pool, step)[0]) for step in range(0, 101, 10)]
    assert all(a > b for a, b in pairwise(means))
    pool.config = replace(config, k=0)
    assert sorted(asked(pool, 0)[0]) != list(range(15, 30))
    small = pool_of(config, prompts=20, steps=101)  # more than the half: the nearest ones follow
    small.load_state_dict(pool.state_dict())
    assert sorted(asked(small, 0)[0]) == list(range(10, 30))


def test_a_share_of_easy_tasks_against_forgetting():
    pool = pool_of(replace(MOVING, easy=0.25), prompts=8)
    examine(pool, 0, lambda i: 8 if i < 6 else 3)
    tasks = asked(pool, 0)[0]
    assert sum(i < 6 for i in tasks) == 2
    assert len(tasks) == 8
    without = pool_of(prompts=8)
    examine(without, 0, lambda i: 8 if i < 6 else 3)
    assert not any(i < 6 for step in range(20) for i in asked(without, step)[0])


def test_why_a_stage_ends():
    pool = pool_of(replace(MOVING, episodes=248))
    examine(pool, 0, lambda i: 3)
    assert pool.ended() == ""
    hear(pool, 0, 3)
    assert pool.ended() == "248 episodes are played"
    pool = pool_of()
    examine(pool, 0, lambda i: 8)
    assert "solved more often than 0.05 and less than 0.75" in pool.ended()
    pool = pool_of()
    examine(pool, 0, lambda i: 3)
    for step in range(3):
        assert pool.ended() == ""
        asked(pool, step)
        pool.close([])
    assert "in 3 steps in a row no task gave a signal" in pool.ended()


def test_an_empty_window_is_tested_again_before_the_stage_ends():
    pool = pool_of()
    examine(pool, 0, lambda i: 3)
    for task in range(30):
        hear(pool, task, 8, step=4)
    assert examine(pool, 5, lambda i: 4) == list(range(30))
    assert pool.ended() == ""
    assert pool.due(5) == []  # once


def test_a_test_that_would_use_up_the_episodes_is_left_out():
    pool = pool_of(replace(MOVING, episodes=500))
    examine(pool, 0, lambda i: 3)  # 240, and as many again would fit once
    assert len(examine(pool, 10, lambda i: 3)) == 30
    assert pool.played == 480
    assert examine(pool, 20, lambda i: 3) == []
    assert pool.ended() == ""


def test_one_skill_without_signal_does_not_end_the_others():
    pool = pool_of()
    examine(pool, 0, lambda i: 3)
    for step in range(9):
        pool.close([i for i in asked(pool, step)[0] if i % 3 == 2])
    assert pool.silent == {"a": 9, "b": 9, "c": 0}
    assert pool.ended() == ""


def test_it_goes_on_where_its_state_was_kept():
    pool = pool_of(replace(MOVING, k=4))
    examine(pool, 0, lambda i: i % 9)
    pool.close(asked(pool, 0)[0])
    again = pool_of(replace(MOVING, k=4))
    again.load_state_dict(pool.state_dict())
    kept = pool.state_dict()
    for each in (pool, again):
        hear(each, 4, 8, step=1)
    assert kept["passed"][4] != pool.passed[4]  # a state is no view of what goes on
    for step in range(1, 8):
        assert asked(pool, step, 1) == asked(again, step, 1)
    fresh = pool_of(replace(MOVING, k=4))
    examine(fresh, 0, lambda i: 3)
    assert [asked(fresh, s) for s in range(1, 8)] != [asked(pool, s) for s in range(1, 8)]


def test_the_seed_decides_the_draws():
    def draws(seed):
        pool = pool_of(replace(MOVING, k=4), seed=seed)
        examine(pool, 0, lambda i: 3)
        return [asked(pool, step) for step in range(5)]

    assert draws(0) == draws(0)
    assert draws(0) != draws(1)


def test_in_order_every_step_has_its_own_tasks():
    tasks = InOrder(20, 4, 1)
    assert tasks.more(0, 0, []) == [0, 1, 2, 3]
    assert tasks.more(0, 1, [1, 2, 3]) == [4]
    assert tasks.more(2, 0, []) == [16, 17, 18, 19]
    assert tasks.more(2, 1, [16]) == [0, 1, 2]
    assert tasks.more(2, 1, [0, 1, 2, 3]) == []


def test_settings_that_cannot_be():
    for wrong, said in (
        ({"size": 0}, "size is 0"), ({"samples": -1}, "samples is -1"),
        ({"low": 0.8}, "low is 0.8"), ({"high": 1.1}, "low is"),
        ({"k": 9}, "k is 9, must be 0 to samples = 8"), ({"easy": 1.0}, "easy is 1.0"),
        ({"cycles": 1, "by": ""}, "cycles is 1"),
        ({"episodes": 240}, "more than size . samples = 240"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            replace(MOVING, **wrong)
    with pytest.raises(UserError, match="tagged has no tag 'skil' for its tasks; did you mean"):
        pool_of(replace(MOVING, by="skil"))


class Parity(Halves):
    """Answers of even bytes are right; even tasks are solved whatever is said, 5 never."""

    sizes = {"train": 8, "test": 1}  # noqa: RUF012 - as environments state it

    def judge(self, episodes, hidden, ctx):
        i = hidden["i"]
        fine = [i != 5 and (i % 2 == 0 or sum(e.said().encode()) % 2 == 0) for e in episodes]
        return [{"agent": Scored(float(f), f)} for f in fine]


@pytest.fixture
def pooled(collector):  # noqa: F811 - the fixture
    def make(env, config, prompts=2, samples=8, refills=1):
        plain = collector(env, prompts, samples, refills)
        pool = Pool(config, env, "agent", prompts, 10)
        return Collector(plain.rollout, prompts, samples, refills, ("agent",), pool)

    return make


def test_a_step_plays_what_the_pool_keeps(pooled):
    env = Parity()
    found = pooled(env, PoolConfig(size=8, samples=8, every=5)).collect(0)
    assert set(env.asked[:8]) == set(range(8))  # the test
    assert set(env.asked[8:]) <= {1, 3, 7}
    assert found.figures["pool_easy"] >= 4
    assert found.figures["pool_hard"] >= 1
    assert found.figures["episodes"] == 64 + 8 * found.figures["groups_seen"]
    assert found.pool["tested"] == 0
    assert found.ended == ""


def test_a_pool_that_nobody_can_judge_is_an_error(pooled):
    env = Parity()

    def judge(episodes, hidden, ctx):
        raise OSError(28, "No space left on device")

    env.judge = judge
    with pytest.raises(StageError, match=r"no answer to a task of the pool was scored: .*No space"):
        pooled(env, PoolConfig(size=8, samples=8)).collect(0)


def test_refills_are_bounded_and_then_the_stage_is_over(pooled):
    """All solved: three steps of at most two rounds, and no more."""
    env = Parity()
    env.sizes = {"train": 8, "test": 1}
    env.judge = lambda episodes, hidden, ctx: [{"agent": Scored(1.0, True)} for _ in episodes]
    collecting = pooled(env, PoolConfig(size=8, samples=0))
    for step in range(3):
        found = collecting.collect(step)
        assert found.ended == ""
        assert found.figures["groups_seen"] == 4
        assert not found.rows
    env.asked.clear()
    over = collecting.collect(3)
    assert "no task gave a signal" in over.ended
    assert env.asked == []
    assert over.pool["played"] == 3 * 4 * 8
    tested = pooled(env, PoolConfig(size=8, samples=8, every=5)).collect(0)
    assert "solved more often than" in tested.ended
    assert len(env.asked) == 8
