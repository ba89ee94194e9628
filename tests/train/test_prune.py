"""Pruned demonstrations: difficulty by pass rate, and which easy ones are left out."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from puna.core.errors import UserError
from puna.core.outcome import Infra, Scored
from puna.gym.environment import Problem, SingleTurn
from puna.gym.loop import Group
from puna.gym.trajectory import Episode, Trajectory
from puna.train import prune as pruning
from puna.train import sft
from puna.train.data import demonstrations, last_tasks
from puna.train.prune import PruneConfig, left_out, prune

PASSED = (16, 13, 12, 8, 1, 0, 16, 0, 16, 14)  # of sixteen; 13 are 0.8125, 12 are 0.75


class Ten(SingleTurn):
    """Ten tasks; the answer to one is its number."""

    name = "ten"
    sizes = {"train": 10, "test": 1}  # noqa: RUF012 - as environments state it

    def task(self, split, index):
        problem = Problem("?" * (index + 1), str(index))
        return self._as_task(split, index, problem)

    def score(self, answer, problem):
        return float(answer == problem.answer)


def played(passed, spoiled=0):
    """What `play_tasks` does, each task solved as often as `passed` says."""

    def play(ctx, env, model, tokenizer, jobs, params, keep):
        groups = []
        for job in jobs:
            outcomes = [Scored(float(i < passed[job.index]), i < passed[job.index])
                        for i in range(job.k)]  # fmt: skip
            if job.index < spoiled:
                outcomes = [Infra("the grader is down")] * job.k
            task = env.task("train", job.index)
            all_ = [Trajectory({}, task.id, "train", job.index, i, Episode(task.id, (), {}, "done"),
                               {}, {"agent": o}) for i, o in enumerate(outcomes)]  # fmt: skip
            groups.append(keep(Group(job, task, all_)))
        return groups

    return play


@pytest.fixture
def run(ctx, monkeypatch):
    ctx.dir.mkdir()

    def go(config, passed=PASSED, demos=10, **options):
        monkeypatch.setattr(pruning, "play_tasks", played(passed, **options))
        return prune(ctx, config, Ten(), None, None, demos)

    return go


def test_easy_is_what_more_than_the_share_solves(run):
    """16, 13, 16, 16 and 14 of sixteen are above 0.8; 12 are not."""
    out, figures = run(PruneConfig(drop=1.0))
    assert out == {0, 1, 6, 8, 9}
    assert (figures["tasks"], figures["easy_tasks"], figures["pruned_tasks"]) == (10, 5, 5)
    assert run(PruneConfig(above=0.9, drop=1.0), passed=[16] * 10)[0] == {0, 6, 8}  # measured once


def test_the_last_tasks_are_those_that_demonstrate(run, ctx):
    out, figures = run(PruneConfig(drop=1.0), demos=4)
    assert out == {6, 8, 9}
    assert figures["tasks"] == 4
    tags = json.loads((ctx.dir / "difficulty.json").read_text())
    assert tags["first"] == 6
    assert tags["tags"][0] == [16, 16, 7]


def test_rates_above_decide_and_the_chance_is_met():
    rates = {i: 0.9 if i < 2000 else 0.5 for i in range(3000)}
    for drop in (0.0, 0.5, 0.95, 1.0):
        out = left_out(rates, PruneConfig(drop=drop), seed=0)
        assert all(task < 2000 for task in out)
        # Four standard deviations of a share of 2,000.
        assert abs(len(out) / 2000 - drop) <= 4 * (drop * (1 - drop) / 2000) ** 0.5
    few, many = (left_out(rates, PruneConfig(drop=d), 0) for d in (0.5, 0.95))
    assert few < many
    assert left_out(rates, PruneConfig(drop=0.5), 1) != few


def test_what_was_not_scored_is_kept(run):
    out, figures = run(PruneConfig(drop=1.0), spoiled=2)
    assert out == {6, 8, 9}
    assert figures["easy_tasks"] == 3


def test_a_tag_is_compared_with_the_length_of_its_task(run):
    """Prompts of one to ten characters, of which difficulty is all but independent."""
    assert run(PruneConfig())[1]["length_correlation"] == pytest.approx(0.0912831, abs=1e-6)


def test_a_tag_that_only_says_the_length(run):
    by_length = run(PruneConfig(), passed=[15 - i for i in range(10)])[1]
    assert by_length["length_correlation"] == pytest.approx(1.0)


def test_no_correlation_of_what_is_constant(run):
    assert run(PruneConfig(), passed=[8] * 10)[1]["length_correlation"] is None


def test_nothing_left_is_one_line(run):
    with pytest.raises(UserError, match=r"every demonstration is of an easy task.*prune.drop"):
        run(PruneConfig(drop=1.0), passed=[16] * 10)


def test_demonstrations_without_those_left_out():
    env = Ten()
    assert list(last_tasks(env, 4)) == [6, 7, 8, 9]
    answers = [chat.messages[-1].text for chat in demonstrations(env, 4, {6, 9})]
    assert answers == ["7", "8"]
    assert [chat.messages[-1].text for chat in demonstrations(env, 4)] == ["6", "7", "8", "9"]


def test_pruning_needs_an_oracle():
    for wrong in ({"rows": "right"}, {"rows": "practice"}, {"data": "x.jsonl"}):
        with pytest.raises(ValueError, match="prune needs"):
            sft.Config(env="skills", prune=PruneConfig(), **wrong)


def test_shares_must_be_shares():
    for wrong in ({"above": 1.0}, {"above": -0.1}, {"drop": 1.1}, {"samples": 0},
                  {"temperature": 0.0}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(PruneConfig(), **wrong)


def test_the_model_itself_is_asked(ctx, new_model, tokenizer):
    """No answer of an untrained model is a number, so nothing is easy; twice it is the same."""
    ctx.dir.mkdir()
    env, config = Ten(), PruneConfig(samples=2, max_tokens=2)
    out, figures = prune(ctx, config, env, new_model(), tokenizer, 4)
    assert out == frozenset()
    assert figures["easy_tasks"] == 0
    tags = json.loads((ctx.dir / "difficulty.json").read_text())["tags"]
    assert [tried for _, tried, _ in tags] == [2, 2, 2, 2]
    assert prune(ctx, config, env, None, None, 4)[0] == out  # read, not played
