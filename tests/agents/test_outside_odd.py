"""Outside programs that misbehave, over a policy that always says the same."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from outside_play import PROGRAMS, answering

import puna
from puna.agents.outside import Outside
from puna.core.errors import UserError
from puna.core.messages import Image, Message, Reasoning, Text, ToolCall
from puna.core.outcome import Infra, Scored
from puna.core.rng import Key
from puna.engine.policy import Completion, EndpointError, SamplingParams
from puna.gateway import capture as gateway
from puna.gateway.asked import Asked
from puna.gateway.capture import Capture, Guest
from puna.gateway.reading import BadRequest
from puna.gym.environment import Problem, SingleTurn
from puna.gym.loop import Job, Rollout
from puna.gym.seat import SamplerSeat, alike
from puna.gym.trajectory import Branch, Episode, Trajectory
from puna.models import hf
from puna.models.presets import build, preset
from puna.text.images import Picture
from puna.text.tokenizer import Tokenizer

SAYS = "yes it is"
TOKENIZER = Tokenizer.train([SAYS, "no it is not", "what is it?"] * 3, 280)


@dataclass
class Parrot:
    """A Sampler of one answer, which fails with `error` where there is one."""

    error: Exception | None = None
    thinks_s: float = 0.0
    tokenizer: Any = TOKENIZER

    def __post_init__(self) -> None:
        self.keys: list[tuple[Key, ...]] = []
        self.given_up = 0

    async def sample(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        key: tuple[Key, ...],
        pictures: Sequence[Picture] = (),
    ) -> Completion:
        self.keys.append(key)
        try:
            await asyncio.sleep(self.thinks_s)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if self.error is not None:
            raise self.error
        whole = [*TOKENIZER.encode(SAYS), TOKENIZER.special("eot")]
        ids = tuple(whole[: params.max_tokens])
        logprobs = tuple(-float(i) for i in range(len(ids)))
        return Completion(ids, logprobs, 3, "stop" if len(ids) == len(whole) else "length")


class Long(SingleTurn):
    """Questions of `size` letters, all answered by SAYS."""

    name, version, size = "long", "1.0", 1
    sizes: ClassVar = {"train": 1000, "test": 0}

    def make(self, rng: np.random.Generator) -> Problem:
        return Problem(f"{rng.integers(10**6)}" + "a" * self.size, SAYS)

    def score(self, answer: str, problem: Problem) -> float:
        return float(answer == problem.answer)


@contextmanager
def outside(words: str, seconds: float = 60.0) -> Iterator[Outside]:
    agent = Outside(f"{sys.executable} {words}", seconds, print)
    try:
        yield agent
    finally:
        agent.close()


def odd(mode: str) -> str:
    return f"-S {PROGRAMS / 'odd.py'} {mode}"


def play(agent: Outside, policy: Any, size: int = 1, most: int = 32) -> list[Trajectory]:
    env = Long(0)
    env.size = size
    rollout = Rollout(
        env, {"agent": policy}, SamplingParams(most, 0.0), agents={"agent": agent}, concurrency=1
    )

    async def run() -> list[Trajectory]:
        jobs = [Job("train", 0, 1)]
        return [t async for g in rollout.run(jobs) for t in g.trajectories]

    try:
        return asyncio.run(run())
    finally:
        rollout.close()


def infra(t: Trajectory) -> str:
    outcome = t.outcomes["agent"]
    assert isinstance(outcome, Infra), outcome
    return outcome.error


def value(t: Trajectory) -> float:
    outcome = t.outcomes["agent"]
    assert isinstance(outcome, Scored), outcome
    return outcome.value


def pipes() -> set[str]:
    """Those that this process holds open."""
    links = {str(os.readlink(f)) for f in Path("/proc/self/fd").iterdir() if f.is_symlink()}
    return {link for link in links if link.startswith("pipe:")}


def test_a_child_that_left_the_group_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the episode nor the end of everything waits for it, and no pipe stays open."""
    monkeypatch.setenv("DAEMON", str(tmp_path / "daemon"))
    before = pipes()
    with outside(odd("daemon")) as agent:
        (t,) = play(agent, Parrot())
    assert value(t) == 1.0
    os.kill(int((tmp_path / "daemon").read_text()), signal.SIGKILL)  # it is still there
    assert pipes() <= before


def test_one_that_never_reads_or_never_asks_is_no_score() -> None:
    with outside(odd("deaf"), seconds=1.0) as agent:
        (t,) = play(agent, Parrot(), size=1_000_000)
        assert "took 1 s for a message, and has not asked" in infra(t)
    with outside(odd("slow"), seconds=1.0) as agent:
        (t,) = play(agent, Parrot())
        assert "took 1 s for a message, and has not asked" in infra(t)


def test_a_busy_one_does_not_outlive_a_killed_caller(tmp_path: Path) -> None:
    sign = tmp_path / "sign"  # held open as long as the program lives
    os.mkfifo(sign)
    busy = ["-c", f"import time; f = open({str(sign)!r}, 'w'); time.sleep(60)"]
    begun = f"Program.start([sys.executable, *{busy}], {{}}, Keeper())"
    needs = "import asyncio, sys, time; from puna.agents.program import Keeper, Program"
    words = [sys.executable, "-c", f"{needs}; p = asyncio.run({begun}); time.sleep(60)"]
    with subprocess.Popen(words) as caller, open(sign, "rb") as held:
        caller.kill()
        killed = time.monotonic()
        assert held.read() == b""
    assert time.monotonic() - killed < 30.0


def test_only_a_message_that_was_cut_is_cut() -> None:
    with outside(odd("aside")) as agent:
        (whole,), (cut,) = play(agent, Parrot()), play(agent, Parrot(), most=2)
    assert (whole.episode.ended, value(whole)) == ("done", 1.0)
    assert (cut.episode.ended, value(cut)) == ("tokens", 0.0)


def test_a_policy_that_fails_is_no_score_of_its_agent() -> None:
    with outside(odd("gives_up")) as agent:
        (t,) = play(agent, Parrot(EndpointError("no power")))
        assert "the policy gave no answer: EndpointError('no power')" in infra(t)
        with pytest.raises(UserError, match="the budget is spent"):
            play(agent, Parrot(UserError("the budget is spent", "give more")))


def test_one_that_asks_for_ever_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "CALLS", 5)
    with outside(odd("forever")) as agent:
        (t,) = play(agent, Parrot())
    assert t.episode.ended == "left"
    assert len(t.branches["agent"]) == 5


def test_programs_of_one_turn_that_cannot_begin_or_say_nothing() -> None:
    with outside("-S -c pass {prompt}") as agent:
        (t,) = play(agent, Parrot())
        assert "ended before it asked the policy (exit status 0)" in infra(t)
        (t,) = play(agent, Parrot(), size=200_000)
        assert "did not start: [Errno 7]" in infra(t)


def test_nothing_is_recorded_of_an_episode_that_is_over() -> None:
    async def main() -> None:
        seat, capture = SamplerSeat(Parrot(), SamplingParams(32), ("x", "agent")), Capture()
        guest = Guest(seat, asyncio.get_running_loop())
        key = capture.admit(guest)
        asked = Asked(messages=(Message.user("what is it?"),))
        await asyncio.wrap_future(guest.ask(asked, None))
        before = list(seat.branches[0].ids)
        capture.dismiss(key)
        with pytest.raises(BadRequest, match="the episode is over"):
            await asyncio.wrap_future(guest.ask(asked, None))
        assert [b.ids for b in seat.branches] == [before]

    asyncio.run(main())


def test_what_is_asked_again_draws_the_same() -> None:
    policy = Parrot(EndpointError("once"))

    async def main() -> None:
        seat = SamplerSeat(policy, SamplingParams(32), ("x", "agent"))
        with pytest.raises(EndpointError):
            await seat.reply([Message.user("what is it?")])
        policy.error = None
        await seat.reply([Message.user("what is it?")])
        assert len(seat.branches) == 1

    asyncio.run(main())
    assert policy.keys == [("x", "agent", 0)] * 2


def test_a_call_that_was_given_up_leaves_nothing() -> None:
    policy = Parrot()
    body = json.dumps({"messages": [{"role": "user", "content": "what is it?"}]}).encode()

    async def main() -> None:
        seat, capture = SamplerSeat(policy, SamplingParams(32), ("x", "agent")), Capture()
        key = capture.admit(Guest(seat, asyncio.get_running_loop()))
        async with answering(capture) as port:
            head = f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            call = b"POST /v1/chat/completions HTTP/1.1\r\nhost: here\r\n" + head + body
            policy.thinks_s = 600.0
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(call)
            while not policy.keys:
                await asyncio.sleep(0.01)
            writer.close()
            while not policy.given_up:
                await asyncio.sleep(0.01)
            policy.thinks_s = 0.0
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(call)
            assert b"200 OK" in await reader.readline()
            writer.close()
        (branch,) = seat.branches
        assert sum(branch.mask) == len(TOKENIZER.encode(SAYS)) + 1

    asyncio.run(main())
    assert policy.keys == [("x", "agent", 0)] * 2


def test_alike_is_what_has_the_same_tokens() -> None:
    cat, text = Image("", "", "data:image/png;base64,AA=="), Text("look")
    assert alike(Message("user", (cat, text)), Message("user", (cat, Text("lo"), Text("ok"))))
    assert not alike(Message("user", (cat, text)), Message("user", (text, cat)))

    def call(arguments: str) -> Message:
        return Message("assistant", (ToolCall("call_0", "buy", arguments),))

    assert alike(call('{"n": 1, "x": "a"}'), call('{"x":"a","n":1}'))
    assert not alike(call('{"n": 1}'), call('{"n": true}'))
    thought, plain = Message("assistant", (Reasoning("so"), text)), Message.assistant("look")
    assert alike(thought, thought)
    assert alike(thought, plain)
    assert not alike(thought, Message("assistant", (Reasoning("or"), text)))


def test_a_program_that_changed_is_evaluated_anew(tmp_path: Path) -> None:
    model = build(preset("nano", vocab_size=TOKENIZER.vocab_size, hidden_size=48), seed=1)
    hf.save(model, tmp_path / "model")
    TOKENIZER.save(tmp_path / "model")
    program = tmp_path / "agent.py"
    places = []
    for answer in ("1", "1", "2"):
        program.write_text(f"print({answer})")
        agent = f"{sys.executable} -S {program} {{prompt}}"
        places.append(puna.eval(tmp_path / "model", "arithmetic", n=1, agent=agent).directory)
    assert places[0] == places[1] != places[2]


def test_pictures_that_only_the_agent_showed_are_kept() -> None:
    cat = Image("", "", "data:image/png;base64,AA==")
    branch = Branch([1, 2], [False, True], [0.0, -1.0], [-1, 0], None, [Picture(cat, 0)])
    episode = Episode("t", (("env", Message.user("what is it?")),))
    t = Trajectory({}, "t", "test", 0, 0, episode, {"agent": [branch]})
    (again,) = Trajectory.from_json(t.to_json()).branches["agent"]
    assert again.pictures == branch.pictures
