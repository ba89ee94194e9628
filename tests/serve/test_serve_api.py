"""The endpoint, asked by the real `openai` client and by broken ones."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import real

from puna.core.messages import Message
from puna.core.outcome import Scored
from puna.engine.policy import Reply, SamplingParams
from puna.gym.loop import Job, Rollout
from puna.gym.registry import load_environment

HELLO = [{"role": "user", "content": "Refund 388."}]


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(client: openai.OpenAI, **more: Any) -> Any:
    given = {"model": "model", "messages": HELLO, "temperature": 0, "max_tokens": 12} | more
    return client.chat.completions.create(**given)


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["model"]


def test_an_answer_has_what_clients_read(client: openai.OpenAI) -> None:
    done = ask(client, logprobs=True)
    choice = done.choices[0]
    assert choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length", "tool_calls")
    assert done.usage.prompt_tokens > 5
    assert done.usage.completion_tokens == len(choice.logprobs.content) <= 12
    assert all(t.logprob <= 0 for t in choice.logprobs.content)


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    whole = ask(client, temperature=1, seed=5, max_tokens=40)
    pieces = list(
        ask(client, temperature=1, seed=5, max_tokens=40, stream=True,
            stream_options={"include_usage": True})
    )  # fmt: skip
    text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert text == (whole.choices[0].message.content or "")
    assert pieces[-1].usage == whole.usage
    finishes = [p.choices[0].finish_reason for p in pieces if p.choices]
    assert finishes[-1] == whole.choices[0].finish_reason
    assert finishes[:-1] == [None] * (len(finishes) - 1)


def test_seeds_repeat_and_choices_differ(client: openai.OpenAI) -> None:
    def texts(seed: int) -> list[str | None]:
        done = ask(client, temperature=2, seed=seed, n=4, max_tokens=20)
        return [c.message.content for c in done.choices]

    assert texts(1) == texts(1)
    assert len(set(texts(1))) > 1
    assert texts(1) != texts(2)


def test_a_stop_string_ends_and_is_not_said(client: openai.OpenAI) -> None:
    free = ask(client, temperature=2, seed=3, max_tokens=60).choices[0].message.content
    assert free is not None
    assert len(free) > 6
    stop = free[3:5]
    cut = free[: free.index(stop)]
    for stream in (False, True):
        done = ask(client, temperature=2, seed=3, max_tokens=60, stop=[stop], stream=stream)
        if stream:
            said = "".join(p.choices[0].delta.content or "" for p in done)
        else:
            assert done.choices[0].finish_reason == "stop"
            said = done.choices[0].message.content
        assert said == cut


SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "of": {"enum": ["a", "b"]}},
    "required": ["ok", "of"],
    "additionalProperties": False,
}


def test_an_answer_keeps_to_its_schema(client: openai.OpenAI) -> None:
    pytest.importorskip("llguidance")
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    hot: dict[str, Any] = {"temperature": 2, "seed": 5, "n": 8, "max_tokens": 90}
    for choice in ask(client, **hot, response_format=form).choices:
        assert choice.finish_reason == "stop"
        found = json.loads(choice.message.content)
        assert found["ok"] in (True, False)
        assert found["of"] in ("a", "b")
        assert set(found) == {"ok", "of"}
    free = [c.message.content or "" for c in ask(client, **hot).choices]
    assert not any(text.startswith("{") for text in free)


@pytest.mark.parametrize("parallel", [True, False])
def test_a_call_that_is_required_is_made(client: openai.OpenAI, parallel: bool) -> None:
    pytest.importorskip("llguidance")
    names = ("yes", "no")
    tools = [{"type": "function", "function": {"name": n, "parameters": SCHEMA}} for n in names]
    hot: dict[str, Any] = {"temperature": 2, "seed": 5, "n": 6, "max_tokens": 300, "tools": tools}
    hot |= {"parallel_tool_calls": parallel}
    made = ask(client, **hot, tool_choice="required").choices
    for choice in made:
        if choice.finish_reason == "length":
            continue  # call after call, which no grammar forbids
        assert choice.finish_reason == "tool_calls"
        assert {c.function.name for c in choice.message.tool_calls} <= set(names)
        assert all(set(json.loads(c.function.arguments)) == {"ok", "of"}
                   for c in choice.message.tool_calls)  # fmt: skip
        assert parallel or len(choice.message.tool_calls) == 1
    assert parallel or all(c.finish_reason == "tool_calls" for c in made)
    only = {"type": "function", "function": {"name": "no"}}
    for choice in ask(client, **hot, tool_choice=only).choices:
        assert {c.function.name for c in choice.message.tool_calls or ()} <= {"no"}


def test_the_likeliest_are_told_in_order(client: openai.OpenAI) -> None:
    rows = ask(client, logprobs=True, top_logprobs=5, temperature=0).choices[0].logprobs.content
    for row in rows:
        top = [t.logprob for t in row.top_logprobs]
        assert len(top) == 5
        assert top == sorted(top, reverse=True)
        assert row.top_logprobs[0].token == row.token
        assert row.top_logprobs[0].logprob == pytest.approx(row.logprob, abs=1e-5)
    narrow = ask(client, temperature=2, seed=1, max_tokens=20, extra_body={"min_p": 1.0})
    greedy = ask(client, temperature=0, max_tokens=20)
    assert narrow.choices[0].message.content == greedy.choices[0].message.content
    wide = ask(client, temperature=2, seed=1, max_tokens=20)
    assert wide.choices[0].message.content != greedy.choices[0].message.content


class Outside:
    """A ChatPolicy that is nothing but the `openai` client; it may stream."""

    def __init__(self, address: str, stream: bool) -> None:
        self.client = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        self.stream = stream

    async def chat(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), **_: Any
    ) -> Reply:
        asked: dict[str, Any] = {
            "model": "model",
            "messages": [m.to_openai() for m in messages],
            "temperature": 0,
            "max_tokens": 64,
        }
        if tools:
            asked["tools"] = list(tools)
            asked["tool_choice"] = "none"  # this model learnt them without a prompt
        if not self.stream:
            done = await self.client.chat.completions.create(**asked)
            return Reply(Message.from_openai(done.choices[0].message.model_dump()))
        said: dict[str, Any] = {"role": "assistant", "content": ""}
        async for piece in await self.client.chat.completions.create(**asked, stream=True):
            delta = piece.choices[0].delta
            said["content"] += delta.content or ""
            if delta.tool_calls:
                calls = [{k: v for k, v in c.model_dump().items() if k != "index"}
                         for c in delta.tool_calls]  # fmt: skip
                said["tool_calls"] = calls
        return Reply(Message.from_openai(said))


@pytest.mark.parametrize("stream", [False, True])
def test_the_openai_client_serves_a_customer(server: str, stream: bool) -> None:
    env = load_environment("shop", {"prompt": "none", "intents": 1}, 0)
    last = env.count("train") - 1

    async def play() -> Any:
        policy = Outside(server, stream)
        rollout = Rollout(env, {"agent": policy}, SamplingParams(64, 0.0), workers=1)
        async with policy.client:
            groups = [g async for g in rollout.run([Job("train", last, 1, ("outside",))])]
        rollout.close()
        return groups[0].trajectories[0]

    trajectory = asyncio.run(play())
    outcome = trajectory.outcomes["agent"]
    assert isinstance(outcome, Scored), outcome
    calls = [c.name for _, m in trajectory.episode.transcript for c in m.tool_calls]
    assert "verify" in calls, calls
    assert outcome.success, outcome


def test_the_command_plays_against_it(server: str, tmp_path: Path) -> None:
    done = real("eval", "--model", f"{server}/v1", "--env", "shop", "-n", "2", "--max-tokens", "16",
                "--set", "env.prompt=none", "--out", tmp_path / "out")  # fmt: skip
    assert done.code == 0, done.err
    assert "shop" in done.out


def test_many_at_once(server: str) -> None:
    async def all_of_them() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="none") as many:
            asked = [
                many.chat.completions.create(
                    model="model", messages=HELLO, max_tokens=10, temperature=0
                )
                for _ in range(40)
            ]
            return [d.choices[0].message.content for d in await asyncio.gather(*asked)]

    assert len(set(asyncio.run(all_of_them()))) == 1


def test_leaving_frees_the_worker(server: str) -> None:
    body = {"messages": HELLO, "temperature": 2, "max_tokens": 900, "stream": True, "n": 16}

    def generated() -> int:
        lines = httpx.get(f"{server}/metrics").text.splitlines()
        return int(next(x.split()[1] for x in lines if x.startswith("puna_generated_tokens")))

    first = before = generated()
    with httpx.stream("POST", f"{server}/v1/chat/completions", json=body, timeout=30) as response:
        next(response.iter_lines())
    deadline = time.monotonic() + 60
    while (now := generated()) != before:
        assert time.monotonic() < deadline
        before = now
        time.sleep(0.3)
    assert 0 < before - first < 16 * 900 / 2
    answered = httpx.post(
        f"{server}/v1/chat/completions", json={"messages": HELLO, "max_tokens": 1}
    )
    assert answered.status_code == 200


def test_leaving_before_the_whole_answer_frees_it_too(server: str) -> None:
    def generated() -> int:
        lines = httpx.get(f"{server}/metrics").text.splitlines()
        return int(next(x.split()[1] for x in lines if x.startswith("puna_generated_tokens")))

    body = {"messages": HELLO, "temperature": 2, "max_tokens": 900, "n": 16}
    first = generated()
    patience = httpx.Timeout(30, read=0.03)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server}/v1/chat/completions", json=body, timeout=patience)
    deadline, drawn = time.monotonic() + 60, -1
    while (now := generated() - first) != drawn:
        assert time.monotonic() < deadline
        drawn = now
        time.sleep(0.5)
    assert drawn < 16 * 900 * 0.9


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"messages": []}, 400, "messages"),
        ({"messages": "hi"}, 400, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, r"messages\[0\].*robot"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
         400, "no images"),
        ({"model": "gpt"}, 404, "no model 'gpt'; there are model"),
        ({"model": "\ud800"}, 404, "no model"),
        ({"n": 10**400}, 400, "n is 1"),
        ({"max_completion_tokens": 0}, 400, "max_completion_tokens"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"temperature": 3}, 400, "temperature is 3"),
        ({"n": 99}, 400, "n is 99"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": True}, 400, "max_tokens"),
        ({"stop": [""]}, 400, "stop"),
        ({"stream": "yes"}, 400, "stream"),
        ({"tools": [{"type": "function"}]}, 400, r"tools\[0\]"),
        ({"tool_choice": "required"}, 400, "tool_choice"),
        ({"response_format": {"type": "xml"}}, 400, "response_format"),
        ({"prompt_token_ids": [10**6], "messages": None}, 400, "beyond the vocabulary"),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, 400, "tokens"),
    ],
)  # fmt: skip
def test_mistakes_are_named(server: str, change: dict[str, Any], status: int, words: str) -> None:
    import re

    body = {"messages": HELLO, "max_tokens": 2} | change
    raw = json.dumps(body).encode()
    response = httpx.post(f"{server}/v1/chat/completions", content=raw, timeout=60)
    error = response.json()["error"]
    assert response.status_code == status, error
    assert re.search(words, error["message"]), error
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"messages": ' + b"[" * 50_000,
     b'{"messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 1e400}'],
)  # fmt: skip
def test_garbage_is_answered(server: str, raw: bytes) -> None:
    response = httpx.post(f"{server}/v1/chat/completions", content=raw, timeout=60)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_lone_surrogates_are_only_text(server: str) -> None:
    raw = b'{"messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 2}'
    assert httpx.post(f"{server}/v1/chat/completions", content=raw).status_code == 200


def test_large_bodies_are_refused_early(server: str) -> None:
    response = httpx.post(f"{server}/v1/chat/completions", content=b"x" * 9_000_000, timeout=60)
    assert response.status_code == 413


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["messages", "role", "content", "tools", "stop", "n", "type", "user",
                             "tool_calls", "function", "name", "stream", "seed"]) | st.text(),
            inner, max_size=4),
        max_leaves=12,
    )
)  # fmt: skip
def test_no_body_breaks_it(server: str, body: Any) -> None:
    if isinstance(body, dict):
        body["max_tokens"] = 1
    raw = json.dumps(body).encode()
    response = httpx.post(f"{server}/v1/chat/completions", content=raw, timeout=60)
    assert response.status_code in (200, 400, 404), response.text


def test_other_paths_and_methods_have_an_answer(server: str) -> None:
    for method, path in (("GET", "/nothing"), ("GET", "/v1/chat/completions"), ("PUT", "/")):
        response = httpx.request(method, server + path)
        assert response.status_code in (404, 405)
        assert path in response.json()["error"]["message"]


def test_metrics_count_what_was_asked(server: str) -> None:
    def value(name: str) -> float:
        lines = httpx.get(f"{server}/metrics").text.splitlines()
        return next((float(x.split()[1]) for x in lines if x.split()[0] == name), 0.0)

    names = (
        'puna_requests_total{route="/v1/chat/completions",status="200"}',
        'puna_requests_total{route="other",status="404"}',
        "puna_said_tokens_total",
        "puna_time_to_first_token_seconds_count",
        'puna_time_between_tokens_seconds_bucket{le="+Inf"}',
    )
    before = [value(n) for n in names]
    body = {"messages": HELLO, "max_tokens": 3, "temperature": 2, "seed": 1}
    done = httpx.post(f"{server}/v1/chat/completions", json=body, timeout=60).json()
    httpx.get(f"{server}/made/up")
    said = done["usage"]["completion_tokens"]
    after = [value(n) for n in names]
    found = [b - a for a, b in zip(before, after, strict=True)]
    assert found[:4] == [1, 1, said, 1]
    assert 0 <= found[4] < said  # those that came with the first one are not waited for
    assert value("puna_requests_running") == value("puna_requests_queued") == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--host", "0.0.0.0"), "open to others"),
        (("--api-key-env", "NOT_SET_ANYWHERE"), "NOT_SET_ANYWHERE is not set"),
        (("--stage", "x"), "no stage 'x'"),
        (("--port", "99999999"), "cannot listen"),
    ],
)
def test_the_command_refuses_in_one_line(clerk: Path, args: tuple[str, ...], words: str) -> None:
    assert words in real("serve", clerk, *args).error


def test_a_taken_port_is_one_line(clerk: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"127.0.0.1:{port}" in real("serve", clerk, "--port", str(port)).error
