"""The stricter verifier: asked after the reward's own, on a worker, and never able to touch it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from toy_game import play

from puna.core.messages import Message
from puna.core.outcome import Infra, Outcome, Scored
from puna.envs.arithmetic.env import Arithmetic
from puna.gym.environment import Environment, say
from puna.gym.loop import Job
from puna.gym.seat import Scripted
from puna.gym.verify import has_shadow


class Doubted(Arithmetic):
    """Arithmetic whose shadow does `act` first, and halves what the reward gives."""

    def __init__(
        self, act: Callable[[Any], Any] = lambda episodes: None, seconds: float = 60.0
    ) -> None:
        super().__init__()
        self.judge_seconds = seconds
        self.act, self.calls = act, list[tuple[str, str, int]]()

    def judge(self, episodes: Any, hidden: Any, ctx: Any) -> Any:
        self.calls.append(("judge", threading.current_thread().name, len(episodes)))
        return super().judge(episodes, hidden, ctx)

    def shadow(self, episodes: Any, hidden: Any, ctx: Any) -> Any:
        self.calls.append(("shadow", threading.current_thread().name, len(episodes)))
        odd = self.act(episodes)
        if odd is not None:
            return odd
        given = super().judge(episodes, hidden, ctx)
        return [{"agent": Scored(v["agent"].value / 2, False)} for v in given]  # type: ignore[union-attr]


def judged(env: Environment, shadow: bool = True, k: int = 3) -> list[tuple[Outcome, Any]]:
    """Reward and shadow of `k` episodes, of which only the first gives the right answer."""
    right, turn = env.task("test", 0).hidden["problem"].answer, iter(range(99))

    def speak(messages: Any) -> Message:
        return Message.assistant(right if next(turn) == 0 else "nonsense")

    (group,) = play(env, {"agent": Scripted(speak)}, [Job("test", 0, k)], shadow=shadow)
    return [(t.outcomes["agent"], t.shadow.get("agent")) for t in group.trajectories]


FAIR = [Scored(1.0, True), Scored(0.0, False), Scored(0.0, False)]


def test_it_is_asked_after_the_verifier_on_a_worker_with_the_whole_group() -> None:
    env = Doubted()
    found = judged(env)
    assert [reward for reward, _ in found] == FAIR
    assert [stricter.value for _, stricter in found] == [0.5, 0.0, 0.0]
    assert [(name, count) for name, _, count in env.calls] == [("judge", 3), ("shadow", 3)]
    assert {thread for _, thread, _ in env.calls} == {"puna-worker"}


def test_it_is_asked_only_where_wanted() -> None:
    env = Doubted()
    assert [stricter for _, stricter in judged(env, shadow=False)] == [None] * 3
    assert [name for name, _, _ in env.calls] == ["judge"]
    assert has_shadow(env)
    assert not has_shadow(Arithmetic())
    assert [stricter for _, stricter in judged(Arithmetic())] == [None] * 3


def sleepy(_: Any) -> None:
    threading.Event().wait(3.0)


def angry(_: Any) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "act", [sleepy, angry, lambda e: [], lambda e: [{}] * len(e), lambda e: [{"agent": 1.0}] * 3]
)
def test_whatever_it_does_the_reward_stands_and_it_counts_for_nothing(act: Any) -> None:
    found = judged(Doubted(act, 1.0 if act is sleepy else 60.0))
    assert [reward for reward, _ in found] == FAIR
    assert all(isinstance(stricter, Infra) for _, stricter in found)
    assert "the shadow of arithmetic" in found[0][1].error


def test_one_answer_that_breaks_it_does_not_hide_the_others() -> None:
    def picky(episodes: Any) -> None:
        assert all(e.said() != "nonsense" for e in episodes)

    found = judged(Doubted(picky))
    assert isinstance(found[0][1], Scored)
    assert [type(stricter) for _, stricter in found[1:]] == [Infra, Infra]


def test_it_may_have_nothing_to_say_of_a_task() -> None:
    class Silent(Arithmetic):
        def shadow(self, episodes: Any, hidden: Any, ctx: Any) -> None:
            return None

    assert [stricter for _, stricter in judged(Silent())] == [None] * 3


def test_it_may_ask_a_judge() -> None:
    class Asking(Arithmetic):
        async def shadow(self, episodes: Any, hidden: Any, ctx: Any) -> Any:  # type: ignore[override]
            verdict = await ctx.judge("how good?", [e.said() for e in episodes])
            return [{"agent": Scored(verdict["score"], False)} for _ in episodes]

    env = Asking()
    (group,) = play(
        env,
        {"agent": Scripted(say("1"))},
        [Job("test", 0, 2)],
        shadow=True,
        judge_policy=Scripted(say('{"score": 0.25, "reason": "so"}')),
    )
    assert [t.shadow["agent"].value for t in group.trajectories] == [0.25, 0.25]  # type: ignore[union-attr]
