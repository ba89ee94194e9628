"""Judging is total: whatever a verifier does, an outcome comes out that blames the right one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from toy_game import Guess, bisect, play, upwards

from puna.core.messages import Message
from puna.core.outcome import Infra, Invalid, Scored
from puna.engine.policy import EndpointError, Reply
from puna.envs.arithmetic.env import Arithmetic
from puna.gym.environment import say
from puna.gym.loop import Context, Job, play_scripts
from puna.gym.seat import Scripted
from puna.gym.trajectory import Episode
from puna.gym.verify import judge_group
from puna.gym.workers import Workers


def episode(text: str) -> Episode:
    return Episode("t", (("agent", Message.assistant(text)),))


def judged(env: Any, answers: Sequence[str], index: int = 0) -> list[Any]:
    """Outcomes of these answers to one arithmetic task, "RIGHT" standing for the right one."""

    async def judge() -> list[Any]:
        workers, task = Workers(2), env.task("test", index)
        right = task.hidden["problem"].answer
        said = [episode(a.replace("RIGHT", right)) for a in answers]
        verdicts = await judge_group(env, task, said, Context(), workers)
        workers.close()
        return [v["agent"] for v in verdicts]

    return asyncio.run(judge())


class Odd(Arithmetic):
    """Arithmetic whose verifier does `act` first, and has `seconds` for all of it."""

    def __init__(self, act: Callable[[Sequence[Episode]], Any], seconds: float = 60.0) -> None:
        super().__init__()
        self.act, self.judge_seconds = act, seconds

    def judge(self, episodes: Any, hidden: Any, ctx: Any) -> Any:
        odd = self.act(episodes)
        return super().judge(episodes, hidden, ctx) if odd is None else odd


def raises(error: BaseException) -> Callable[[Any], Any]:
    def act(_: Any) -> Any:
        raise error

    return act


def endless(_: Any) -> None:
    while True:
        pass


BROKEN: dict[str, Callable[[Any], Any]] = {
    "ValueError": raises(ValueError("x")),
    "no text": raises(type("E", (Exception,), {"__repr__": lambda s: 1 / 0})()),
    "OSError": raises(OSError(28, "No space left on device")),
    "EndpointError": raises(EndpointError("judge down")),
    "MemoryError": raises(MemoryError()),
    "TimeoutError": raises(TimeoutError("mine")),
    "StopIteration": raises(StopIteration()),
    "SystemExit": raises(SystemExit(0)),
    "KeyboardInterrupt": raises(KeyboardInterrupt()),
    "CancelledError": raises(asyncio.CancelledError()),
    "None inside": lambda es: [None] * len(es),
    "string": lambda es: "Scored(1.0)",
    "tensor": lambda es: torch.ones(len(es)),
    "number": lambda es: 1.0,
    "bare outcomes": lambda es: [Scored(1.0, True)] * len(es),
    "tensor inside": lambda es: [{"agent": torch.tensor(1.0)}] * len(es),
    "wrong roles": lambda es: [{"user": Scored(1.0, True)}] * len(es),
    "more roles": lambda es: [dict.fromkeys(("agent", "x"), Scored(1.0, True))] * len(es),
    "too few": lambda es: [{"agent": Scored(1.0, True)}] * (len(es) - 1),
    "too many": lambda es: [{"agent": Scored(1.0, True)}] * (len(es) + 1),
    "NaN": lambda es: [{"agent": Scored(float("nan"), True)}] * len(es),
    "endless": endless,
    "endless generator": lambda es: (endless(es) for _ in es),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_verifier_is_infra_and_never_a_score(name: str) -> None:
    if name in ("endless", "endless generator"):
        outcomes = judged(Odd(BROKEN[name], 0.15), ["RIGHT"])
    else:
        outcomes = judged(Odd(BROKEN[name]), ["RIGHT", "wrong"])
    assert all(isinstance(o, Infra) for o in outcomes), outcomes
    assert "arithmetic on arithmetic/test/0" in outcomes[0].error
    assert "\n" not in outcomes[0].error


def test_invalid_and_infra_pass_through() -> None:
    both = [{"agent": Invalid("no answer exists")}, {"agent": Infra("prover down")}]
    assert judged(Odd(lambda es: both), ["1", "2"]) == [o["agent"] for o in both]


class Careless(Arithmetic):
    """Reads the answer as a number without care: int("9" * 5000) raises, and so does int("x")."""

    def score(self, answer: str, problem: Any) -> float:
        return float(int(answer) == int(problem.answer))


@pytest.mark.parametrize("bad", ["9" * 5000, "x", ""])
def test_an_answer_that_alone_breaks_the_verifier_is_scored_0(bad: str) -> None:
    outcomes = judged(Careless(), ["RIGHT", bad, "123456", "RIGHT"])
    assert [type(o) for o in outcomes] == [Scored] * 4
    assert [o.value for o in outcomes] == [1, 0, 0, 1]
    assert "makes the verifier fail" in outcomes[1].evidence
    (alone,) = judged(Careless(), [bad])
    assert (alone.value, alone.success) == (0, False)


def test_a_missed_deadline_is_never_a_score() -> None:
    class Loops(Arithmetic):
        judge_seconds = 0.5

        def score(self, answer: str, problem: Any) -> float:
            while answer == "loop":
                pass
            return super().score(answer, problem)

    outcomes = judged(Loops(), ["RIGHT", "loop", "no"])
    assert [type(o) for o in outcomes] == [Scored, Infra, Scored]
    assert "longer than 0.5 s" in outcomes[1].error


@pytest.mark.parametrize("error", [OSError(36, "File name too long"), MemoryError()])
def test_an_answer_that_exhausts_the_machine_is_scored_0(error: Exception) -> None:
    class Opens(Arithmetic):
        def score(self, answer: str, problem: Any) -> float:
            if answer == "x":
                raise error
            return super().score(answer, problem)

    right, exhausts = judged(Opens(), ["RIGHT", "x"])
    assert right == Scored(1.0, True)
    assert (exhausts.value, exhausts.success) == (0.0, False)
    assert "makes the verifier fail" in exhausts.evidence


class Model:
    """A ChatPolicy as judge: likes what `likes` says, in the words of `form`."""

    def __init__(self, form: str = 'Well: {{"score": {}, "reason": "so"}}') -> None:
        self.form, self.seen = form, []  # type: ignore[var-annotated]

    async def chat(self, messages: Any, tools: Any = (), **rest: Any) -> Reply:
        self.seen.append([m.text for m in messages])
        return Reply(Message.assistant(self.form.format(int("good" in messages[1].text))))


class Asks(Arithmetic):
    """Judged by a model, on the event loop."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.judge_seconds = seconds

    async def judge(self, episodes: Any, hidden: Any, ctx: Any) -> Any:  # type: ignore[override]
        if episodes[0].said() == "slow":
            await asyncio.sleep(60)
        found = [await ctx.judge("Be kind {}.", [e.said()]) for e in episodes]
        return [{"agent": Scored(f["score"], f["score"] == 1, {}, f["reason"])} for f in found]


def asked(model: Any, answers: Sequence[str], seconds: float = 60.0) -> list[Any]:
    jobs = [Job("test", 0)]
    return [
        play(Asks(seconds), {"agent": Scripted(say(a))}, jobs, judge_policy=model)[0]
        .trajectories[0].outcomes["agent"]
        for a in answers
    ]  # fmt: skip


def test_a_model_judges_through_the_context() -> None:
    model = Model()
    assert asked(model, ["good", "bad"]) == [
        Scored(1, True, {}, "so"), Scored(0, False, {}, "so")
    ]  # fmt: skip
    assert model.seen[0][0].startswith("Be kind {}.")
    assert model.seen[0][1] == '["good"]'


@pytest.mark.parametrize("form", ["no idea", '{{"score": 7}}', '{{"points": {}}}', "}}{{"])
def test_a_judge_that_gives_no_verdict_is_infra(form: str) -> None:
    (outcome,) = asked(Model(form), ["good"])
    assert isinstance(outcome, Infra)
    assert "gave no verdict" in outcome.error


def test_no_judge_and_a_slow_one_are_infra() -> None:
    (outcome,) = asked(None, ["good"])
    assert "no judge is configured" in outcome.error
    (outcome,) = asked(Model(), ["slow"], 0.3)
    assert "longer than 0.3 s" in outcome.error


def test_a_verifier_that_fails_now_and_then_blames_nobody() -> None:
    calls = iter(range(100))

    def sometimes(es: Sequence[Episode]) -> None:
        if next(calls) == 0:
            raise ValueError("flaky")

    assert [type(o) for o in judged(Odd(sometimes), ["wrong"])] == [Infra]
    calls = iter(range(100))
    assert [o.value for o in judged(Odd(sometimes), ["RIGHT", "wrong"])] == [1, 0]


def test_a_verifier_that_fails_on_groups_only_is_infra() -> None:
    def groups(es: Sequence[Episode]) -> None:
        if len(es) > 1:
            raise ValueError("cannot compare")

    assert [type(o) for o in judged(Odd(groups), ["RIGHT", "wrong"])] == [Infra, Infra]


def test_without_an_oracle_nobody_can_be_blamed() -> None:
    class NoOracle(Careless):
        def oracle(self, task: Any) -> Any:
            raise NotImplementedError

    outcomes = judged(NoOracle(), ["RIGHT", "x"])
    assert [type(o) for o in outcomes] == [Scored, Infra]


def test_an_answer_is_not_blamed_where_the_reference_is_not_paid_either() -> None:
    class WrongOracle(Careless):
        def oracle(self, task: Any) -> Any:
            return {"agent": say("123456")}

    assert [type(o) for o in judged(WrongOracle(), ["RIGHT", "x"])] == [Scored, Infra]


def test_the_outside_world_is_nobodys_fault() -> None:
    class Reads(Arithmetic):
        def score(self, answer: str, problem: Any) -> float:
            if answer == "x":
                raise ConnectionError("the prover hung up")
            return super().score(answer, problem)

    right, hung = judged(Reads(), ["RIGHT", "x"])
    assert right == Scored(1.0, True)
    assert "the prover hung up" in hung.error


def test_mates_are_still_compared_with_each_other() -> None:
    """A group reward stays a group reward when one of the group has to be left out."""

    class Fragile(Guess):
        def judge(self, episodes: Any, hidden: Any, ctx: Any) -> Any:
            for each in episodes:
                if each.said("guesser") == "0":
                    raise ValueError("zero")
            return super().judge(episodes, hidden, ctx)

    async def judge() -> Any:
        env, workers = Fragile(), Workers(1)
        task = env.task("test", 0)
        scripts = [bisect, upwards, say("0")]
        played = [
            await play_scripts(env, task, {"proposer": say("3"), "guesser": s}, Context())
            for s in scripts
        ]
        verdicts = await judge_group(env, task, played, Context(), workers)
        workers.close()
        return verdicts

    fast, slow, zero = asyncio.run(judge())
    assert (fast["guesser"].value, slow["guesser"].value) == (1.0, 0.0)  # alone, slow would get 1
    assert isinstance(zero["guesser"], Infra)  # two roles: whose fault it is nobody knows


def test_everything_finishes_although_every_verdict_hangs() -> None:
    env, before = Odd(endless, 0.15), set(threading.enumerate())
    groups = play(env, {"agent": Scripted(say("1"))}, [Job("test", i) for i in range(6)], workers=2)
    assert all(isinstance(g.trajectories[0].outcomes["agent"], Infra) for g in groups)
    until = time.monotonic() + 60
    while (spinning := set(threading.enumerate()) - before) and time.monotonic() < until:
        time.sleep(0.01)
    assert not spinning


HANG = """
import asyncio, sys
sys.path.insert(0, "tests/gym")
from test_verify import Odd, judged
def deaf(_):
    while True:
        try:
            while True: pass
        except BaseException: pass
print(judged(Odd(deaf, 0.15), ["1"])[0])
"""


def test_a_process_can_exit_although_a_verifier_cannot_be_stopped() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANG], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.startswith("Infra(error='the verifier of arithmetic on arithmetic/test/0 to")
