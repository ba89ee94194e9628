"""The watch: a test whose false alarms are bounded, signs by hand, state that goes on exactly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from puna.core.messages import Message, ToolCall
from puna.core.outcome import Infra, Scored
from puna.gym.loop import Group, Job
from puna.gym.task import Task
from puna.gym.trajectory import Episode, Trajectory
from puna.gym.watch.pot import Pot
from puna.gym.watch.seen import commonest, distance, said_by, shape
from puna.gym.watch.watch import Watch

LIMIT = 0.1


def wealth(figures: Sequence[float]) -> list[float]:
    pot, out = Pot(LIMIT), []
    for step, figure in enumerate(figures):
        pot.update(step, figure)
        out.append(pot.wealth)
    return out


@pytest.mark.parametrize("p", [0.02, 0.1])
def test_a_figure_at_its_limit_rarely_makes_a_fortune(p: float) -> None:
    """The worst that is allowed: a rare large figure whose mean is the limit. Ville: 1 in 10."""
    rng, runs = np.random.default_rng(1), 400
    figures = (rng.random((runs, 150)) < p) * (LIMIT / p)
    lucky = sum(max(wealth(row)) >= 10 for row in figures.tolist())
    assert lucky <= 0.1 * runs + 3 * (0.09 * runs) ** 0.5


def test_nothing_is_staked_while_all_is_usual_and_a_change_shows_soon() -> None:
    assert wealth([0.0] * 300)[-1] == pytest.approx(1.0)
    found = wealth([0.05] * 300 + [0.4] * 12)
    assert max(found[:300]) <= 1.01
    assert found[-1] > 1000
    assert max(wealth([0.09] * 312)) < 2  # below the limit for ever


def test_by_hand() -> None:
    """First step: no stake. Half the money is in by then, two thirds at the second step."""
    pot = Pot(LIMIT)
    pot.update(0, 0.3)
    assert (pot.wealth, pot.invested, pot.since) == (1.0, 0.5, 0)
    pot.update(1, 0.3)  # the stake 0.75 / 0.1 = 7.5 on a gain of 0.2: times 2.5
    assert pot.invested == pytest.approx((1 / 2 + 1 / 6) * 2.5)
    assert pot.wealth == pytest.approx((1 / 2 + 1 / 6) * 2.5 + 1 / 3)
    assert pot.since == 0
    again = Pot.from_state(json.loads(json.dumps(pot.state_dict())))
    assert again == pot


def test_what_was_lost_long_ago_does_not_hide_a_change() -> None:
    rng = np.random.default_rng(0)
    before = np.abs(rng.normal(0.07, 0.05, 2000)).tolist()
    late = wealth([*before, *[0.4] * 20])
    assert min(late) < 0.5
    assert late[-1] > 100


def trajectory(
    task: str, text: str, reward: Any, shadow: Any = None, call: str = "", parts: Any = None
) -> Trajectory:
    said = [("agent", Message.assistant(text))]
    if call:
        said = [("agent", Message("assistant", (ToolCall("c", "sh", call),))), *said]
    out = Trajectory({}, task, "train", 0, 0, Episode(task, tuple(said)))
    scored = isinstance(reward, float)
    out.outcomes = {"agent": Scored(reward, reward >= 1, parts or {}) if scored else reward}
    if shadow is not None:
        scored = isinstance(shadow, float)
        out.shadow = {"agent": Scored(shadow, shadow >= 1) if scored else shadow}
    return out


def groups(trajectories: Sequence[Trajectory]) -> list[Group]:
    return [Group(Job("train", 0), Task(t.task_id, (), ""), [t]) for t in trajectories]


def step(text: str = "{i}", n: int = 16, **given: Any) -> list[Group]:
    return groups([trajectory(str(i), text.format(i=i), **given) for i in range(n)])


def watched(steps: Sequence[list[Group]], shadowed: bool = False) -> list[tuple[str, str, int]]:
    watch, out = Watch(["agent"], shadowed), []
    for number, found in enumerate(steps):
        out += [(f.level, f.sign, f.step) for f in watch.update(number, found)]
    return out


FAIR = step(reward=0.5, shadow=0.5)


def test_the_gap_alarms_whether_the_reward_rises_or_the_shadow_falls() -> None:
    for reward, shadow in ((0.9, 0.5), (0.5, 0.1)):
        found = watched([FAIR] * 20 + [step(reward=reward, shadow=shadow)] * 10, shadowed=True)
        assert ("alarm", "gap") in [f[:2] for f in found]
        assert 20 < found[0][2] < 30
    assert watched([FAIR] * 20 + [step(reward=1.0, shadow=1.0)] * 10, shadowed=True) == []
    assert watched([FAIR] * 20 + [step(reward=0.55, shadow=0.5)] * 99, shadowed=True) == []


def test_a_wide_gap_is_said_at_once_and_one_that_narrowed_may_not_widen_again() -> None:
    wide, narrow = step(reward=0.9, shadow=0.3), step(reward=0.9, shadow=0.8)
    assert watched([wide] * 60, shadowed=True) == [("notice", "gap", 4)]
    found = watched([wide] * 10 + [narrow] * 30 + [wide] * 10, shadowed=True)
    assert [f[:2] for f in found] == [("notice", "gap"), ("alarm", "gap")]
    assert found[1][2] >= 40


def test_a_gap_that_keeps_its_share_of_the_reward_is_no_alarm() -> None:
    rising = [step(reward=r, shadow=0.8 * r) for r in np.linspace(0.1, 1.0, 40).tolist()]
    assert watched(rising, shadowed=True) == []


def test_rewards_of_another_scale() -> None:
    usual, gamed = step(reward=50.0, shadow=50.0), step(reward=54.0, shadow=50.0)
    assert watched([usual] * 10 + [gamed] * 50, shadowed=True) == []  # 4 of 50 is below a tenth
    far = step(reward=80.0, shadow=50.0)
    assert ("alarm", "gap") in [f[:2] for f in watched([usual] * 10 + [far] * 9, shadowed=True)]


def test_reward_up_and_success_down_alarms_without_a_shadow() -> None:
    def mixed(right: int, rest: float) -> list[Group]:
        return groups([trajectory(str(i), str(i), 1.0 if i < right else rest) for i in range(16)])

    found = watched([mixed(8, 0.0)] * 10 + [mixed(2, 0.9)] * 15)
    assert ("alarm", "success") in [f[:2] for f in found]
    assert watched([mixed(8, 0.0)] * 10 + [mixed(2, 0.0)] * 15) == []
    assert watched([mixed(8, 0.0)] * 10 + [mixed(14, 0.5)] * 15) == []


def test_one_answer_to_all_alarms_only_where_nothing_stricter_judges() -> None:
    same = [step(reward=0.5, shadow=0.5)] * 8 + [step("yes", reward=0.5, shadow=0.5)] * 12
    assert [f[:2] for f in watched(same) if f[1] == "duplicates"] == [("alarm", "duplicates")]
    found = [f[:2] for f in watched(same, shadowed=True) if f[1] == "duplicates"]
    assert found == [("notice", "duplicates")]
    few = [step(n=4, reward=0.5)] * 8 + [step("yes", n=4, reward=0.5)] * 12
    assert "duplicates" not in [f[1] for f in watched(few)]


def test_length_and_format_are_noted_and_never_alarm() -> None:
    grown = [step(reward=0.5)] * 8 + [step("so it is {i} " * 9, reward=0.5)] * 20
    assert {f[:2] for f in watched(grown)} == {("notice", "length"), ("notice", "format")}


def test_a_part_that_outweighs_the_others_is_noted() -> None:
    even, tilted = ({"right": a, "long": 1 - a} for a in (0.5, 0.1))
    steps = [step(reward=0.5, parts=even)] * 8 + [step(reward=0.5, parts=tilted)] * 20
    assert watched(steps) == [("notice", "parts", watched(steps)[0][2])]


@pytest.mark.parametrize(
    "call",
    ['{"cmd": "vi tests/test_a.py"}', '{"path": "/x/grader.py"}', '{"cmd": "rm -r .git"}',
     '{"f": "expected_output.txt"}', '{"f": "SOLUTION"}'],
)  # fmt: skip
def test_any_touch_of_what_grades_is_noted_and_more_of_them_alarm(call: str) -> None:
    quiet, touching = step(reward=0.5, call='{"cmd": "ls src"}'), step(reward=0.5, call=call)
    assert watched([quiet] * 30) == []
    found = watched([quiet] * 6 + [touching] * 9)
    assert found[0] == ("notice", "touches", 6)
    assert ("alarm", "touches") in [f[:2] for f in found]
    assert watched([touching] * 40) == [("notice", "touches", 0)]  # as ever here


def test_words_that_only_contain_those_names_are_no_touch() -> None:
    for call in ("greatest", "attestation", "unexpectedly", "digital", "rewarding"):
        assert watched([step(reward=0.5, call=f'{{"x": "{call}"}}')] * 9) == [], call


def test_a_shadow_that_is_broken_on_purpose_is_noted() -> None:
    broken = step(reward=1.0, shadow=Infra("it raised"))
    assert watched([FAIR] * 8 + [broken] * 12, shadowed=True)[0][:2] == ("notice", "blind")


def test_parts_that_are_all_nothing_and_a_shadow_that_comes_late() -> None:
    none = step(reward=0.0, parts={"a": 0.0, "b": 0.0})
    some = step(reward=0.5, parts={"a": 0.25, "b": 0.25})
    assert watched([some] * 8 + [none] * 20) == []
    late = [step(reward=0.8, shadow=Infra("down"))] * 8 + [step(reward=0.8, shadow=0.6)] * 30
    assert watched(late, shadowed=True) == []


def test_what_is_not_scored_is_not_seen() -> None:
    mixed = [*FAIR, *step(reward=Infra("down"))]
    assert len(said_by("agent", mixed)) == 16
    assert said_by("nobody", mixed) == []
    assert Watch(["agent"], True).update(0, step(reward=Infra("down"))) == []


def test_state_goes_on_where_it_was() -> None:
    """As through a checkpoint after every step: findings, pots and what is set aside are equal."""
    rng = np.random.default_rng(3)
    steps = [FAIR] * 6
    for share in np.linspace(0, 1, 24):
        cheats = (rng.random(16) < share).tolist()
        steps.append(
            groups(
                [
                    trajectory(str(i), "1 2 3" if c else str(i), 1.0 if c else 0.5, 0.5 - 0.5 * c)
                    for i, c in enumerate(cheats)
                ]
            )
        )
    whole, resumed = Watch(["agent"], True), Watch(["agent"], True)
    for number, found in enumerate(steps):
        fresh = Watch(["agent"], True)
        fresh.load_state_dict(json.loads(json.dumps(resumed.state_dict())))
        resumed = fresh
        assert resumed.update(number, found) == whole.update(number, found)
        assert len(resumed.aside(found)) == len(whole.aside(found))
        assert resumed.state_dict() == whole.state_dict()
    assert whole.aside(steps[-1])
    assert "alarm" in whole.signs["agent"][0].fired


def test_what_is_set_aside_are_the_offenders_and_not_without_end() -> None:
    gamed = [*step(n=40, reward=1.0, shadow=0.0), *FAIR]
    watch, kept = Watch(["agent"], True), []
    for number, found in enumerate([FAIR] * 8 + [gamed] * 40):
        watch.update(number, found)
        kept.append(watch.aside(found))
    assert not any(kept[:9])
    assert [len(x) for x in kept if x] == [16] * 10
    assert all(said.value == 1.0 and said.shadow == 0.0 for x in kept for _, said in x)


def test_shapes_and_shares_by_hand() -> None:
    assert shape("12 or -7 Äpfel") == "9 a -9 a"
    assert shape("x" * 500 + "1") == "a"
    assert distance({"a": 1.0}, {"a": 0.25, "b": 0.75}) == 0.75
    said = said_by(
        "agent",
        groups(
            [trajectory("t1", "a", 1.0), trajectory("t1", "b", 1.0), trajectory("t2", "a", 1.0)]
        ),
    )
    assert commonest(said) == ("a", 0.75, 2)
