"""The audit spares slow scorers and slow tasks: fewer tries, the same holes, no false alarm."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from puna.core.outcome import Scored
from puna.gym.audit import parent
from puna.gym.audit.bench import EARLY, FEW_FRESH, JUDGING, SURE, Bench, Fared, Try
from puna.gym.audit.case import Case, script
from puna.gym.audit.data_probes import determinism, overlap
from puna.gym.audit.making import FEW, SLOW_S, Tasks
from puna.gym.audit.probe import Result, counted
from puna.gym.audit.text_probes import echo, frequent, overlong
from puna.gym.audit.verdict_probes import repeats
from puna.gym.environment import Problem, SingleTurn
from puna.gym.task import Task


def work(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


class Sums(SingleTurn):
    """Sound and quick; counts what is asked of it."""

    name = "sums"
    judge_seconds = 100.0  # of a machine that is busy with others

    def __init__(self, config: Any = None, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.scored: list[str] = []
        self.made: list[str] = []

    def make(self, rng: np.random.Generator) -> Problem:
        a, b = (int(x) for x in rng.integers(100, 1000, 2))
        return Problem(f"{a} + {b} = ?", str(a + b))

    def task(self, split: str, index: int) -> Task:
        self.made.append(f"{split}/{index}")
        return super().task(split, index)

    def score(self, answer: str, problem: Problem) -> float:
        self.scored.append(answer)
        return self.pays(answer, problem)

    def pays(self, answer: str, problem: Problem) -> float:
        return float(answer == problem.answer)


class SlowScorer(Sums):
    """Takes longer for each answer than an audit has time for."""

    def pays(self, answer: str, problem: Problem) -> float:
        work(0.06)
        return super().pays(answer, problem)


class SlowEcho(SlowScorer):
    """Pays for the prompt."""

    def pays(self, answer: str, problem: Problem) -> float:
        return max(super().pays(answer, problem), 0.5 * (problem.prompt in answer))


class SlowMaker(Sums):
    """Tasks take longer than an audit has time for."""

    def task(self, split: str, index: int) -> Task:
        work(3 * SLOW_S)
        return super().task(split, index)


def asked(env: Sums, *probes: Any, n: int = 12) -> tuple[list[Result], Bench]:
    async def ask() -> tuple[list[Result], Bench]:
        bench = await Bench(env, n).open()
        env.scored.clear()
        found = [await probe(bench) for probe in probes]
        bench.close()
        return found, bench

    return asyncio.run(ask())


def test_a_slow_scorer_is_asked_less_often_and_the_text_says_so() -> None:
    quick, slow = Sums(), SlowScorer()
    (told, _), bench = asked(quick, echo, repeats)
    assert told.seen == "2 echoes, none paid"
    assert not bench.slow
    (few, again), bench = asked(slow, echo, repeats)
    assert bench.slow
    assert few.status == again.status == "ok"
    assert few.seen == "2 echoes (some on 4 of 24 tasks), none paid"
    assert again.seen == "24 episodes judged twice"
    assert len(slow.scored) * 5 < len(quick.scored)


def test_the_hole_of_a_slow_scorer_is_found_all_the_same() -> None:
    env = SlowEcho()
    (found,), bench = asked(env, echo)
    assert found.status == "hole"
    assert found.earned == pytest.approx(0.5)
    assert sum("=" in text for text in env.scored) == 2 + EARLY  # sure by then
    assert len(bench.memo["fresh"]) == FEW_FRESH
    splits = [c.task.id.split("/")[1] for c in bench.memo["fresh"][:EARLY]]
    assert splits.count("train") == splits.count("test") == EARLY // 2


class LongPays(Sums):
    """Slow for a long answer alone, and pays a little for it."""

    reward = 0.25

    def pays(self, answer: str, problem: Problem) -> float:
        if len(answer) < 10_000:
            return super().pays(answer, problem)
        work(0.35)
        return self.reward


class LongPaysNothing(LongPays):
    """Slow for a long answer alone."""

    reward = 0.0


def test_one_slow_way_of_answering_is_tried_on_few_tasks() -> None:
    env = LongPays()
    (found,), bench = asked(env, overlong)
    assert not bench.slow
    assert found.status == "hole"
    assert found.earned == pytest.approx(0.25)
    assert sum(len(x) >= 10_000 for x in env.scored) == 2 + EARLY
    env = LongPaysNothing()
    (found,), _ = asked(env, overlong)
    assert found.seen == "3 long answers (some on 2 of 6 tasks), none paid"
    assert sum(len(x) >= 10_000 for x in env.scored) == 3 * 2


def test_luck_is_not_enough_to_stop_early() -> None:
    env = Sums()
    env.chance = 0.25  # type: ignore[misc]
    case = Case(env.task("train", 0), "agent")
    tries = [Try("x", case, Scored(float(i < 4), i < 4)) for i in range(EARLY)]
    bench = Bench(env, 1)
    assert bench.above_chance(tries)
    assert not bench.above_chance(tries, level=SURE)
    assert bench.above_chance([t for t in tries if t.outcome == tries[0].outcome] * 2, level=SURE)
    bench.close()


def test_slow_tasks_are_made_once_and_few_again() -> None:
    quick, slow = Sums(), SlowMaker()
    asked(quick, determinism, overlap)
    found, bench = asked(slow, determinism, frequent, overlap, n=6)
    assert bench.tasks.slow
    assert [r.status for r in found] == ["ok"] * 3
    assert "12 tasks" not in found[0].seen
    assert found[0].seen.startswith(f"{2 * FEW} tasks, the same again")
    assert "on 20 fresh tasks" in found[1].seen
    assert found[2].seen.startswith("16 and 16 different problems")  # those there are
    assert len(slow.made) == 2 * 6 + 2 * FEW + FEW_FRESH
    assert len(quick.made) > 4000


def test_making_a_task_is_never_taken_for_a_judge_that_hangs() -> None:
    notes: list[str] = []

    class Watched(Sums):
        def task(self, split: str, index: int) -> Task:
            assert notes[-1] == f"making task {split}/{index}"
            return super().task(split, index)

        def pays(self, answer: str, problem: Problem) -> float:
            assert notes[-1].startswith(JUDGING)
            return super().pays(answer, problem)

    async def ask() -> None:
        env = Watched()
        bench = await Bench(env, 3, notes.append).open()
        for probe in (determinism, repeats, overlap, frequent):
            assert not notes[-1].startswith(JUDGING)
            assert (await probe(bench)).status == "ok"
        bench.close()

    asyncio.run(ask())
    assert sum(note.startswith(JUDGING) for note in notes) > 50


def facts(few: bool, **verdicts: Any) -> Mapping[str, Any]:
    return {"tasks": {"train/0": "x"}, "verdicts": verdicts, "few": few}


def test_processes_that_asked_for_few_are_compared_on_what_both_asked() -> None:
    def agreement(*told: Mapping[str, Any]) -> tuple[str, str]:
        (found,) = parent._agreement(parent._Seen(facts=list(told)))
        return found.status, found.seen

    whole = facts(False, a=[1, True], b=[0, False])
    assert agreement(whole, whole) == ("ok", "1 tasks and 2 verdicts agree")
    assert agreement(whole, facts(True, a=[1, True])) == ("ok", "1 tasks and 1 verdicts agree")
    assert agreement(whole, facts(False, a=[1, True]))[0] == "hole"
    assert agreement(whole, facts(True, a=[0, True]))[0] == "hole"
    assert agreement(whole, {**facts(True), "tasks": {"train/0": "y"}})[0] == "hole"


def test_the_dearest_tasks_do_not_say_what_one_costs() -> None:
    tasks = Tasks(Sums())
    assert tasks.seconds == 0
    tasks.spent += [9.0]
    assert tasks.slow
    tasks.spent += [9.0, 0.01, 0.02, 0.03]
    assert tasks.seconds == pytest.approx(0.02)
    assert not tasks.slow


@pytest.mark.parametrize(
    ("many", "one"),
    [("forgeries", "forgery"), ("echoes", "echo"), ("pieces of the prompt", "piece of the prompt")],
)
def test_one_of_several_is_called_by_its_name(many: str, one: str) -> None:
    assert (counted(1, many), counted(2, many)) == (f"1 {one}", f"2 {many}")


def test_a_way_that_is_not_slow_is_tried_on_every_task() -> None:
    async def fared() -> Fared:
        bench = await Bench(Sums(), 12).open()
        found = await bench.paid(lambda case: script([]), "nothing")
        bench.close()
        return found

    found = asyncio.run(fared())
    assert (found.tasks, found.slow, found.earned) == (24, False, 0.0)
