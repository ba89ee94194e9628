"""Rows: who is compared with whom, and what weighs how much."""

from __future__ import annotations

import pytest

from puna.core.outcome import Infra, Invalid, Scored
from puna.gym.loop import Group, Job
from puna.gym.task import Task
from puna.gym.trajectory import Branch, Episode, Trajectory
from puna.train.rl.advantages import ALGORITHMS
from puna.train.rl.rows import Deferred, Row, has_signal, rows_of, settle, weigh


def row(value, role="agent", group="g", episode=0):
    return Row(role, group, "", Scored(value, value == 1), 0, Branch(), episode)


def weighed(rows, algorithm="rloo", weights=None):
    settle(rows)
    return weigh(rows, ALGORITHMS[algorithm], weights or {})


def test_baselines_are_within_role_and_group_only():
    """Alone each pair is +-1; over the groups or the roles together it would be something else."""
    rows = [
        row(1, group="a", episode=0),
        row(0, group="a", episode=1),
        row(11, group="b", episode=0),
        row(10, group="b", episode=1),
        row(101, "critic", "a", 0),
        row(100, "critic", "a", 1),
    ]
    found = weighed(rows)
    assert [r.advantage for r in found] == [1, -1] * 3
    assert weighed([row(1, episode=0), row(11, episode=1)])[0].advantage == -10


def test_an_episode_counts_once_however_many_branches_it_has():
    rows = [row(1, episode=0), row(1, episode=0), row(1, episode=0), row(0, episode=1)]
    assert [r.advantage for r in weighed(rows)] == [1, 1, 1, -1]
    assert [r.advantage for r in weighed(rows, "grpo")] == pytest.approx([1, 1, 1, -1], abs=1e-5)


def test_weights_by_role():
    rows = [row(1, "a", episode=0), row(0, "a", episode=1), row(1, "b"), row(0, "b", episode=1)]
    found = weighed(rows, weights={"b": 0.25})
    assert [(r.role, r.weight) for r in found] == [("a", 1), ("a", 1), ("b", 0.25), ("b", 0.25)]


def test_rows_without_an_advantage_count_unless_they_are_rejected():
    rows = [row(1, group="a"), row(1, group="a", episode=1)]
    rows += [row(1, group="b"), row(0, group="b", episode=1)]
    assert {(r.group, r.advantage) for r in weighed(rows)} == {("a", 0), ("b", 1), ("b", -1)}
    assert len(weighed(rows, weights={"agent": 0.0})) == 4
    best = weigh(rows, ALGORITHMS["raft"], {}, rejects=True)
    assert [(r.group, r.episode) for r in best] == [("a", 0), ("a", 1), ("b", 0)]


def test_has_signal():
    def signal(*rows):
        settle(rows)
        return has_signal(rows)

    assert signal(row(1), row(0, episode=1))
    assert not signal(row(1), row(1, episode=1))
    assert not signal(row(1), row(0, "critic"))  # roles are not compared
    assert not signal(row(1, group="a"), row(0, group="b"))
    assert not signal()


def test_a_proposer_is_paid_by_what_became_of_its_task():
    pay = Deferred("child", "solver", lambda rewards: 1 - sum(rewards) / len(rewards))
    proposed = Row("proposer", "g", "", pay, 0, Branch(), 0)
    children = [row(v, "solver", "child", i) for i, v in enumerate((1, 0, 0, 0))]
    settle([proposed, *children])
    assert proposed.reward == 0.75
    assert settle([proposed]) == 1
    assert proposed.reward is None


def trajectory(sample, **outcomes):
    def branch(version):
        return Branch([1, 2], [False, True], [0.0, -1.0], [-1, version])

    branches = {role: [branch(4), branch(5)] for role in outcomes}
    episode = Episode("t", ())
    return Trajectory({}, "t", "train", 0, sample, episode, branches, outcomes)


def test_only_scored_episodes_give_rows():
    scored = Scored(1.0, True)
    group = Group(Job("train", 0, 3), Task("t", (), "t"), [
        trajectory(0, a=scored, b=scored),
        trajectory(1, a=Infra("down"), b=scored),
        trajectory(2, a=Invalid("no answer"), b=Invalid("no answer")),
    ])  # fmt: skip
    rows = rows_of(group, "name")
    assert [(r.role, r.episode, r.version) for r in rows] == [
        ("a", 0, 4), ("a", 0, 5), ("b", 0, 4), ("b", 0, 5), ("b", 1, 4), ("b", 1, 5),
    ]  # fmt: skip
    assert {r.group for r in rows} == {"name"}
