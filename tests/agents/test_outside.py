"""Outside programs as agents: real processes, the real endpoint, a real small model."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from outside_play import PROGRAMS, Play, answering, answers, player, sampler_of

from puna.agents.outside import Outside
from puna.core.errors import UserError
from puna.core.outcome import Infra, Scored
from puna.engine.policy import SamplingParams
from puna.engine.rendezvous import LocalSampler
from puna.gateway.capture import Capture, Guest
from puna.gym.registry import load_environment
from puna.gym.seat import SamplerSeat


def command(program: str, *words: str) -> str:
    return " ".join((sys.executable, str(PROGRAMS / program), *words))


@pytest.fixture(scope="module")
def sampler(clerk: Path) -> LocalSampler:
    return sampler_of(clerk)


@pytest.fixture
def play(sampler: LocalSampler) -> Iterator[Play]:
    with player(sampler) as played:
        yield played


def test_a_program_earns_what_its_policy_does(play: Play) -> None:
    (alone,), (through,) = play(), play(command("talker.py"))
    assert alone.outcomes["agent"] == through.outcomes["agent"]
    assert isinstance(alone.outcomes["agent"], Scored)
    assert alone.outcomes["agent"].value == 1.0
    (a,), (b,) = alone.branches["agent"], through.branches["agent"]
    assert sum(a.mask) > 20
    assert (a.ids, a.mask, a.versions) == (b.ids, b.mask, b.versions)
    assert torch.allclose(torch.tensor(a.logprobs), torch.tensor(b.logprobs), atol=1e-5)
    said = [(who, m.text) for who, m in alone.episode.transcript]
    assert said == [(who, m.text) for who, m in through.episode.transcript]


def test_one_process_serves_many_episodes_and_their_number_changes_nothing(play: Play) -> None:
    tasks = tuple(range(6))
    wide = play(command("talker.py"), tasks=tasks, programs=6, heat=1.0, most=12)
    narrow = play(command("talker.py"), tasks=tasks, programs=1, heat=1.0, most=12)
    for a, b in zip(wide, narrow, strict=True):
        assert [x.ids for x in a.branches["agent"]] == [x.ids for x in b.branches["agent"]]
    assert len({tuple(t.branches["agent"][0].ids) for t in wide}) == 6


def test_a_history_that_is_edited_branches(play: Play) -> None:
    (t,) = play(command("talker.py", "edits"), load_environment("arithmetic", {}, 0), (0,), most=4)
    first, other = t.branches["agent"]
    assert [answers(b) for b in (first, other)] == [2, 1]  # the question and "are you sure?" go on
    assert first.ids[: len(other.ids)] != other.ids


def test_what_is_forgotten_is_asked_anew(play: Play) -> None:
    (t,) = play(command("talker.py", "forgets"), tasks=(0,), most=12)
    assert len(t.branches["agent"]) > 1
    kept = [sum(b.mask) for b in t.branches["agent"]]
    assert sum(kept) == t.usage["sampled_tokens"]


def test_a_program_of_one_turn(play: Play) -> None:
    env = load_environment("arithmetic", {}, 0)
    (alone,) = play(env=env, tasks=(1,), most=8)
    (through,) = play(command("once.py", "'{prompt}'"), env, (1,), most=8)
    assert alone.branches["agent"][0].ids == through.branches["agent"][0].ids
    assert through.episode.said() == alone.episode.said().strip()


def test_how_programs_end(play: Play) -> None:
    (t,) = play(command("talker.py", "crashes"))
    assert t.episode.ended == "left"
    assert isinstance(t.outcomes["agent"], Scored)
    assert t.outcomes["agent"].value == 0.0
    (t,) = play(command("talker.py", "hangs"), seconds=5.0)
    assert t.episode.ended == "seconds"
    (t,) = play(command("talker.py", "early"))
    assert isinstance(t.outcomes["agent"], Infra)
    assert "exit status 1: no idea how to begin" in t.outcomes["agent"].error
    (t,) = play(command("talker.py", "lies"))
    assert isinstance(t.outcomes["agent"], Infra)
    assert "no message" in t.outcomes["agent"].error


def test_a_command_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="there is no program 'no-such-agent'"):
        Outside("no-such-agent --fast")
    with pytest.raises(UserError, match="No closing quotation"):
        Outside("python 'agent.py")


def test_the_endpoint_refuses_what_an_episode_does_not_do(sampler: LocalSampler) -> None:
    capture = Capture()
    asked: list[tuple[int, str]] = []

    def post(port: int, key: str, body: dict[str, Any], path: str = "chat/completions") -> None:
        url, data = f"http://127.0.0.1:{port}/v1/{path}", json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"authorization": f"Bearer {key}"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                asked.append((answer.status, answer.read().decode()))
        except urllib.error.HTTPError as error:
            asked.append((error.code, error.read().decode()))

    async def main() -> None:
        seat = SamplerSeat(sampler, SamplingParams(4, 0.0), ("x", "agent"))
        key = capture.admit(Guest(seat, asyncio.get_running_loop()))
        async with answering(capture) as port:
            hello = {"messages": [{"role": "user", "content": "hello"}]}
            long = {"messages": [{"role": "user", "content": "hello " * 20_000}]}
            form = {"type": "json_object"}
            for given in (
                (key, hello),
                (key, hello | {"stream": True}),
                ("sk-other", hello),
                (key, hello | {"n": 2}),
                (key, hello | {"response_format": form}),
                (key, {"prompt": "hello"}, "completions"),
                (key, long),
                (key, {"messages": 7}),
                (key, {"input": "hello"}, "responses"),
            ):
                await asyncio.to_thread(post, port, *given)
            capture.dismiss(key)
            await asyncio.to_thread(post, port, key, hello)
        assert [sum(b.mask) for b in seat.branches] == [4, 4, 4]

    asyncio.run(main())
    assert [status for status, _ in asked] == [200, 200, 401, 400, 400, 400, 400, 400, 200, 401]
    assert "data: [DONE]" in asked[1][1]
    assert json.loads(asked[6][1])["error"]["code"] == "context_length_exceeded"
    assert "response_format would change" in asked[4][1]
