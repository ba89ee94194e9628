"""OpenEnv both ways: our client at our server, and each at the real library's other half."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from puna.compat import openenv
from puna.compat.openenv_wire import ActionRefused, Server
from puna.core.errors import UserError
from puna.core.messages import Message, ToolCall
from puna.core.outcome import Infra, Outcome, Scored
from puna.engine.policy import EndpointError
from puna.gym.audit.probes import ask_here
from puna.gym.environment import Environment, say
from puna.gym.loop import Context, Job, Rollout, play_scripts
from puna.gym.registry import load_environment
from puna.gym.seat import Scripted
from puna.gym.task import Script
from puna.gym.trajectory import Episode

pytest.importorskip("websockets", reason="pip install 'puna[openenv]'")
uvicorn = pytest.importorskip("uvicorn")

HERE = Path(__file__).parent
PEER = HERE.parents[1] / ".peers" / "openenv" / "bin" / "python"
needs_peer = pytest.mark.skipif(
    not PEER.exists(), reason="no .peers/openenv: benchmarks/requirements-openenv.txt"
)


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The address of `app` under uvicorn in a thread."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def peer_server(kind: str, places: int = 8) -> Iterator[str]:
    """The address of a real OpenEnv server."""
    command = [str(PEER), str(HERE / "peers" / "openenv_server.py"), kind, str(places)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                Server(url, 5).fetch("/health")
                break
            except EndpointError:
                time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait()


def play(env: Environment, index: int, script: Script) -> tuple[Episode, Outcome]:
    """The episode of test task `index` that `script` plays, and what it earned."""

    async def one() -> tuple[Episode, Outcome]:
        rollout = Rollout(env, {"agent": Scripted(script)})
        try:
            async for group in rollout.run([Job("test", index)]):
                found = group.trajectories[0]
                return found.episode, found.outcomes["agent"]
        finally:
            rollout.close()
        raise AssertionError("no group")

    return asyncio.run(one())


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    with serving(openenv.app("shop")) as url:
        yield url


@pytest.fixture(scope="module")
def sums() -> Iterator[str]:
    with serving(openenv.app("arithmetic")) as url:
        yield url


@pytest.mark.parametrize("name", ["arithmetic", "shop"])
def test_an_environment_over_the_wire_is_what_it_is_here(
    name: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue({"arithmetic": "sums", "shop": "shop"}[name])
    there, here = openenv.load(url, {}, 0), load_environment(name)
    assert [there.count(s) for s in ("train", "test")] == [here.count(s) for s in ("train", "test")]
    paid = set()
    for index in range(3):
        task = here.task("test", index)
        scripts = [here.oracle(task), {"agent": say("")}, *here.cheats(task).values()]
        for script in (s["agent"] for s in scripts):
            (far, gave), (near, gives) = play(there, index, script), play(here, index, script)
            assert far.transcript == near.transcript
            assert isinstance(gave, Scored)
            assert isinstance(gives, Scored)
            assert (gave.value, gave.success) == (gives.value, gives.success)
            paid.add(gave.value)
    assert paid == {0.0, 1.0}


def test_tasks_are_of_their_split_and_the_same_when_loaded_again(sums: str) -> None:
    env, again = openenv.load(sums, {}, 3), openenv.load(sums, {}, 3)
    keys = {s: {env.task(s, i).key for i in range(300)} for s in ("train", "test")}
    assert not keys["train"] & keys["test"]
    assert env.task("test", 5).digest == again.task("test", 5).digest
    assert env.task("test", 5).digest != env.task("test", 6).digest
    assert len({openenv.load(sums, s, 3).content_hash for s in ({}, {}, {"turns": 5})}) == 2
    with pytest.raises(IndexError):
        env.task("test", 10**9)


def test_reference_solutions_come_from_a_file(sums: str, tmp_path: Path) -> None:
    local, path = load_environment("arithmetic"), tmp_path / "actions.jsonl"
    env = openenv.load(sums, {}, 0)
    task = env.task("test", 0)
    with pytest.raises(NotImplementedError, match="name a file"):
        env.oracle(task)
    answer = local.task("test", 0).hidden["problem"].answer
    path.write_text(json.dumps({"split": "test", "index": 0, "actions": [answer]}))
    env = openenv.load(sums, {"actions": str(path)}, 0)
    assert play(env, 0, env.oracle(env.task("test", 0))["agent"])[1].success  # type: ignore[union-attr]
    path.write_text('{"split": "test"}')
    with pytest.raises(UserError, match="no reference solutions"):
        openenv.load(sums, {"actions": str(path)}, 0)


def test_what_cannot_be_played_is_one_line() -> None:
    for rest, settings, expected in (
        ("127.0.0.1:1", {}, "is no address of a server"),
        ("http://127.0.0.1:1", {}, "cannot be played: http://127.0.0.1:1/metadata"),
        ("http://127.0.0.1:1", {"turn": 3}, "unknown key 'turn'; did you mean 'turns'?"),
        ("http://127.0.0.1:1", {"turns": 0}, "turns is 0, must be above 0"),
    ):
        with pytest.raises(UserError, match=re.escape(expected)):
            openenv.load(rest, settings, 0)
    with pytest.raises(UserError, match="no split"):
        openenv.app("arithmetic", split="dev")


def test_the_wire_refuses_what_is_malformed_and_stays_open(shop: str) -> None:
    with Server(shop, 20).connect() as wire:
        with pytest.raises(EndpointError, match="EXECUTION_ERROR no episode is in progress"):
            wire.step({"text": "hello"})
        with pytest.raises(EndpointError, match="refuses reset"):
            wire.reset({"split": "test", "index": -1})
        wire.reset({"split": "test", "index": 0})
        for action in ({"says": "x"}, {"text": 3}, {"tool_calls": "x"}, {"tool_calls": [{}]}):
            with pytest.raises(ActionRefused):
                wire.step(action)
        wire.socket.send("{")
        assert "INVALID_JSON" in wire.socket.recv(timeout=20)
        wire.socket.send(b"\x00")
        assert "INVALID_JSON" in wire.socket.recv(timeout=20)
        wire.socket.send('{"type": "mcp", "data": {}}')
        assert "UNKNOWN_TYPE" in wire.socket.recv(timeout=20)
        assert wire.step({"text": "\ud800 hello"}).reward is None
        assert wire.state() == {"episode_id": "shop/test/0", "step_count": 1}


def test_sessions_are_isolated_and_as_many_as_there_are_places() -> None:
    with serving(openenv.app("arithmetic", capacity=2)) as url:
        server, local = Server(url, 20), load_environment("arithmetic")
        answers = [local.task("test", i).hidden["problem"].answer for i in (0, 1)]
        assert answers[0] != answers[1]
        with server.connect() as one, server.connect() as two:
            one.reset({"index": 0})
            two.reset({"index": 1})
            third = server.connect()
            with closing(third), pytest.raises(EndpointError, match="CAPACITY_REACHED"):
                third.reset({"index": 0})
            assert two.step({"text": answers[1]}).reward == 1.0
            assert one.step({"text": answers[0]}).reward == 1.0
        env = openenv.load(url, {}, 0)  # the places are free again, at once
        for index in (0, 1, 0, 1):
            assert play(env, index, say(answers[index]))[1].success  # type: ignore[union-attr]


def test_a_silent_session_is_ended() -> None:
    with serving(openenv.app("arithmetic", idle_s=1.0)) as url, Server(url, 60).connect() as wire:
        wire.reset({"index": 0})
        until = time.monotonic() + 60
        while wire.socket.protocol.state.name == "OPEN":
            assert time.monotonic() < until
            time.sleep(0.05)
        with pytest.raises(EndpointError, match="SESSION_ERROR nothing was said"):
            wire.step({"text": "1"})


def test_an_environment_that_hangs_or_fails_is_an_error_never_a_reward(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    with serving(openenv.app(str(tmp_path / "odd.py"))) as url, Server(url, 20).connect() as wire:
        for said, expected in (
            ("hang", "EXECUTION_ERROR odd took longer than 1.5 s"),
            ("raise", "EXECUTION_ERROR odd: ValueError: no good"),
            ("judge", "EXECUTION_ERROR no score: Infra"),
        ):
            wire.reset({"index": 0})
            with pytest.raises(EndpointError, match=expected):
                wire.step({"text": said})
            with pytest.raises(EndpointError, match="no episode is in progress"):
                wire.step({"text": "right"})
        wire.reset({"index": 0})
        assert wire.step({"text": "right"}).reward == 1.0


ODD = """
import time
from puna.gym.environment import Limits, OneTurn, Problem, SingleTurn

class Asked(OneTurn):
    def take(self, turn, message):
        super().take(turn, message)
        if message.text == "raise":
            raise ValueError("no good")
        until = time.monotonic() + 60
        while message.text == "hang" and time.monotonic() < until:
            pass

class Odd(SingleTurn):
    name = "odd"
    limits = Limits(seconds=1.5)
    def make(self, rng):
        return Problem(str(rng.integers(10**9)), "right")
    def start(self, task, resources, ctx):
        return Asked(task)
    def score(self, answer, problem):
        if answer == "judge":
            raise ConnectionError("no database")
        return float(answer == problem.answer)
"""


def test_a_page_of_another_site_is_not_answered(sums: str) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    with pytest.raises(InvalidStatus):
        connect(sums.replace("http", "ws") + "/ws", origin="http://evil.example")  # type: ignore[arg-type]


def test_http_calls_hold_no_session(sums: str) -> None:
    server, local = Server(sums, 20), load_environment("arithmetic")
    answer = local.task("test", 7).hidden["problem"].answer
    first = server.fetch("/reset", {"split": "test", "index": 7})
    assert first["observation"]["messages"] == [local.task("test", 7).messages[0].to_openai()]
    assert (first["reward"], first["done"]) == (None, False)
    body = {"action": {"text": answer}, "split": "test", "index": 7}
    assert server.fetch("/step", body)["reward"] == 1.0
    assert server.fetch("/step", body | {"action": {"text": "x"}})["reward"] == 0.0
    assert server.fetch("/health") == {"status": "healthy"}
    with pytest.raises(EndpointError, match="answers 422"):
        server.fetch("/step", {"action": {"words": 1}})


class FakeServer:
    """Speaks just enough to be loaded; `answer` says what it does with each message."""

    def __init__(self, answer: Callable[[str], str | None]) -> None:
        from fastapi import FastAPI, WebSocket

        self.app = FastAPI()
        schema = {"properties": {"word": {"type": "string"}}, "required": ["word"]}
        self.app.get("/metadata")(lambda: {"name": "fake", "version": "1.0.0"})
        self.app.get("/schema")(lambda: {"action": schema})

        async def endpoint(socket: Any) -> None:
            await socket.accept()
            while True:
                kind = (await socket.receive_json())["type"]
                reply = None if kind == "close" else answer(kind)
                if reply is None:
                    await socket.close()
                    return
                if reply:
                    await socket.send_text(reply)

        endpoint.__annotations__["socket"] = WebSocket
        self.app.websocket("/ws")(endpoint)


def _seen(reward: Any = None) -> str:
    data = {"observation": {"text": "go"}, "reward": reward, "done": False}
    return json.dumps({"type": "observation", "data": data})


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (None, "the server hung up"),
        ("", "no answer in 1 s"),
        ("}", "no OpenEnv message"),
        ("[" * 100_000, "no OpenEnv message"),
        ('{"type": "observation", "data": {"reward": 1}}', "gives no result of a step"),
        (_seen("NaN"), "gives no result of a step"),
        ('{"type": "error", "data": {"code": "EXECUTION_ERROR", "message": "fire"}}', "fire"),
        ('{"type": "error", "data": 3}', "step at"),
    ],
)
def test_a_server_that_fails_is_infra_not_a_zero(reply: str | None, expected: str) -> None:
    fake = FakeServer(lambda kind: _seen() if kind == "reset" else reply)
    with serving(fake.app) as url:
        env = openenv.load(url, {"seconds": 60.0 if reply != "" else 1.0}, 0)
        episode, outcome = play(env, 0, say("x"))
        assert isinstance(outcome, Infra)
        assert expected in outcome.error
        assert [who for who, _ in episode.transcript] == ["env", "env", "agent"]


def test_rewards_are_summed_and_steps_can_be_bounded() -> None:
    with serving(FakeServer(lambda kind: _seen(0.25)).app) as url:
        env = openenv.load(url, {"steps": 3, "success": 0.7}, 0)
        outcome = play(env, 0, say("x"))[1]
        assert isinstance(outcome, Scored)
        assert (outcome.value, outcome.success, outcome.parts["steps"]) == (0.75, True, 3.0)
        cut = play(openenv.load(url, {"turns": 3}, 0), 0, say("x"))[1]
        assert isinstance(cut, Scored)
        assert (cut.value, cut.success) == (0.0, False)
        assert "cut off" in cut.evidence


def test_a_malformed_action_is_told_counted_and_ends_the_episode() -> None:
    refused = '{"type": "error", "data": {"code": "VALIDATION_ERROR", "message": "bad word"}}'
    with serving(FakeServer(lambda kind: _seen() if kind == "reset" else refused).app) as url:
        episode, outcome = play(openenv.load(url, {"malformed": 2}, 0), 0, say("x"))
        assert isinstance(outcome, Scored)
        assert (outcome.value, outcome.parts["malformed"]) == (0.0, 2.0)
        assert "bad word" in episode.transcript[3][1].text


def test_the_audit_tells_a_server_that_ignores_its_seed() -> None:
    def server(ignores: bool) -> FakeServer:
        count = itertools.count()

        def answer(kind: str) -> str:
            text = str(next(count)) if kind == "reset" and ignores else "go"
            data = {"observation": {"text": text}, "reward": 0, "done": kind == "step"}
            return json.dumps({"type": "observation", "data": data})

        return FakeServer(answer)

    for ignores in (True, False):
        with serving(server(ignores).app) as url:
            env = openenv.load(url, {}, 0)
            env.reference = {("train", 0): ["x"], ("test", 0): ["x"]}  # type: ignore[attr-defined]
            found = asyncio.run(ask_here(env, 1, ["same verdict"]))["same verdict"]
            assert (found.status == "hole") is ignores, found


# The real library.


def _words(heard: Sequence[Message]) -> Message:
    return Message.assistant(heard[-1].text[::-1])


def _board(heard: Sequence[Message]) -> Message:
    row, column = re.findall(r"\d", heard[-1].text)
    return Message.assistant(json.dumps({"row": int(row), "column": int(column)}))


def _adder(heard: Sequence[Message]) -> Message:
    last = heard[-1]
    if last.role == "user":
        a, b = re.findall(r"\d+", last.text)
        call = ToolCall("call_0", "add", json.dumps({"a": int(a), "b": int(b)}))
    else:
        total = last.to_openai()["content"]
        call = ToolCall("call_1", "hand_in", json.dumps({"value": int(total)}))
    return Message("assistant", (call,))


SOLVERS: Mapping[str, Script] = {"words": _words, "board": _board, "tools": _adder}


@needs_peer
@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SOLVERS))
def test_a_real_server_is_audited_with_references_that_a_solver_found(
    kind: str, tmp_path: Path
) -> None:
    with peer_server(kind) as url:
        env = openenv.load(url, {}, 0)
        lines = []
        for split in ("train", "test"):
            for index in range(4):
                task = env.task(split, index)
                episode = asyncio.run(play_scripts(env, task, {"agent": SOLVERS[kind]}, Context()))
                acts = [_action(m) for who, m in episode.transcript if who == "agent"]
                lines.append(json.dumps({"split": split, "index": index, "actions": acts}))
        (tmp_path / "a.jsonl").write_text("\n".join(lines))
        env = openenv.load(url, {"actions": str(tmp_path / "a.jsonl")}, 0)
        asked = ["oracle", "idle", "empty answer", "constant answer", "broken answers"]
        found = asyncio.run(ask_here(env, 4, asked))
        assert all(r.status != "hole" for r in found.values()), found


def _action(message: Message) -> Any:
    for call in message.tool_calls:
        return {"tool_name": call.name, "arguments": json.loads(call.arguments)}
    return message.text


@needs_peer
@pytest.mark.slow
def test_a_real_servers_failures_are_told_apart() -> None:
    with peer_server("words", places=1) as url:
        env = openenv.load(url, {}, 0)
        crash = play(env, 0, say("crash"))[1]
        assert isinstance(crash, Infra)
        assert "EXECUTION_ERROR the machine is on fire" in crash.error
        odd = play(env, 0, say("\ud800"))[1]
        assert isinstance(odd, Scored)
        assert odd.parts["malformed"] == 3.0
        with closing(env.server.connect()) as held:  # type: ignore[attr-defined]
            held.reset({"seed": 1})
            full = play(env, 0, _words)[1]
            assert isinstance(full, Infra)
            assert "CAPACITY_REACHED" in full.error
        for index in range(5):  # each session's place is free when the next one wants it
            assert play(env, index, _words)[1].success  # type: ignore[union-attr]
    with peer_server("board") as url:
        env = openenv.load(url, {}, 0)
        for said in ('{"row": 1}', '{"row": "x", "column": 1}', '{"row": 1, "column": 1, "z": 0}'):
            outcome = play(env, 0, say(said))[1]
            assert isinstance(outcome, Scored)
            assert outcome.parts == {"steps": 0.0, "malformed": 3.0}


@needs_peer
@pytest.mark.slow
@pytest.mark.parametrize("name", ["arithmetic", "shop"])
def test_the_real_client_plays_our_server(name: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue({"arithmetic": "sums", "shop": "shop"}[name])
    here, games, expected = load_environment(name), [], []
    for index in range(3):
        task = here.task("test", index)
        for script in (here.oracle(task), next(iter(here.cheats(task).values()))):
            episode, outcome = play(here, index, script["agent"])
            spoken = [m for who, m in episode.transcript if who == "agent"]
            games.append([index, [_as_client(m) for m in spoken]])
            assert isinstance(outcome, Scored)
            expected.append(outcome.value)
    command = [str(PEER), str(HERE / "peers" / "openenv_client.py"), url]
    done = subprocess.run(
        command, input=json.dumps(games), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    played = json.loads(done.stdout)
    assert [game["steps"][-1][:2] for game in played] == [[value, True] for value in expected]
    assert {1.0, 0.0} == set(expected)
    for game, (index, actions) in zip(played, games, strict=True):
        assert all(reward is None and not done for reward, done, _ in game["steps"][:-1])
        assert game["state"]["step_count"] == len(actions)
        assert game["state"]["episode_id"] == f"{name}/test/{index}"


def _as_client(message: Message) -> dict[str, Any]:
    """One call as OpenEnv's clients of tools spell it, anything else as our action."""
    calls = message.tool_calls
    if len(calls) == 1 and not message.text:
        arguments = json.loads(calls[0].arguments)
        return {"type": "call_tool", "tool_name": calls[0].name, "arguments": arguments}
    listed = [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in calls]
    return {"text": message.text, "tool_calls": listed}
