"""RemoteChat against a real HTTP server scripted to answer well, badly, late or not at all."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("httpx")

from puna.core.errors import UserError
from puna.core.messages import Message, Reasoning, Text, ToolCall
from puna.engine.endpoint import Endpoint
from puna.engine.remote import EndpointError, RemoteChat, RemoteConfig, RequestRefused
from puna.engine.wire import Garbage, base_url, read_answer, retry_after

KEY = "sk-very-secret-42"
ASK = [Message.user("2+2=")]
Step = tuple[Any, ...]


def answer(text: str = "4", **message: Any) -> bytes:
    """A well-formed chat-completions body."""
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


class Server:
    """HTTP/1.1 on 127.0.0.1 in a thread; `script` holds the next steps, then every answer is good.

    A step: (status, body, headers) · ("close",) · ("slow", seconds) · ("short",) says more bytes
    than it sends · ("drip",) sends a byte now and then, for ever · ("huge",) sends 21 MB.
    No answer is given before `together` requests have been there at once.
    """

    def __init__(self) -> None:
        self.script: list[Step] = []
        self.seen: list[tuple[str, dict[str, str], Any, float]] = []
        self.good, self.models = answer(), ["tiny"]
        self.active = self.most = 0
        self.delay, self.together = 0.0, 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        start = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.server = asyncio.run_coroutine_threadsafe(start, self.loop).result(5)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()

    async def _end(self) -> None:
        self.server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
                raw = await reader.readexactly(int(headers.get("content-length", 0)))
                body = json.loads(raw) if raw else None
                self.seen.append((first.split()[1], headers, body, time.monotonic()))
                self.active += 1
                self.most = max(self.most, self.active)
                try:
                    while self.most < self.together:
                        await asyncio.sleep(0.001)
                    await asyncio.sleep(self.delay)
                    await self._answer(writer, first.split()[1])
                finally:
                    self.active -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, path: str) -> None:
        if path.endswith("/models") and not self.script:
            rows = [{"id": name} for name in self.models]
            step: Step = (200, json.dumps({"data": rows}).encode())
        else:
            step = self.script.pop(0) if self.script else (200, self.good)
        match step[0]:
            case "close":
                writer.close()
            case "slow":
                await asyncio.sleep(step[1])
                self._write(writer, 200, self.good, {})
            case "short":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n" + self.good)
                writer.close()
            case "drip":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n")
                while not writer.is_closing():
                    writer.write(b" ")
                    await asyncio.sleep(0.05)
            case "huge":
                self._write(writer, 200, b" " * 21_000_000, {})
                await writer.drain()
            case status:
                self._write(writer, status, step[1], step[2] if len(step) > 2 else {})

    def _write(
        self, writer: asyncio.StreamWriter, status: int, body: bytes, headers: dict[str, str]
    ) -> None:
        extra = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
        writer.write(head.encode() + body)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


def config(server: Server, **settings_: Any) -> RemoteConfig:
    return RemoteConfig(server.url, **{"model": "tiny", "backoff_s": 0.01, **settings_})


def run(
    settings_: RemoteConfig, work: Callable[[RemoteChat], Coroutine[Any, Any, Any]]
) -> tuple[Any, RemoteChat]:
    async def main() -> tuple[Any, RemoteChat]:
        async with RemoteChat(settings_) as chat:
            return await work(chat), chat

    return asyncio.run(main())


def ask(settings_: RemoteConfig, **kwargs: Any) -> tuple[Any, RemoteChat]:
    return run(settings_, lambda chat: chat.chat(ASK, **kwargs))


def test_a_chat_sends_what_was_asked_and_reads_the_answer(server: Server) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    server.good = answer("4", tool_calls=[call], reasoning="two and two")
    reply, chat = ask(config(server), tools=[tool], seed=7, temperature=0.5, stop=["\n"])
    assert reply.message.parts == (
        Reasoning("two and two"),
        Text("4"),
        ToolCall("c1", "add", "{}"),
    )
    assert reply.finish == "stop"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (10, 5)
    assert reply.usage.cost is None
    assert chat.calls == 1
    path, headers, body, _ = server.seen[0]
    assert path == "/v1/chat/completions"
    assert "authorization" not in headers
    assert body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "2+2="}],
        "tools": [tool],
        "max_tokens": 512,
        "temperature": 0.5,
        "seed": 7,
        "stop": ["\n"],
    }


@pytest.mark.parametrize(
    ("given_", "meant"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/v1/", "http://h:1/v1"),
        ("https://h/api", "https://h/api/v1"),
        ("https://h/v1beta/openai/", "https://h/v1beta/openai"),
        ("http://h/v1/chat/completions", "http://h/v1"),
    ],
)
def test_address_with_or_without_version(given_: str, meant: str) -> None:
    assert base_url(given_) == meant


@pytest.mark.parametrize("url", ["", "h:80", "ftp://h", "http://", "http://[x", "http://h:99999"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="not a URL"):
        base_url(url)


@pytest.mark.parametrize("url", [f"http://u:{KEY}@h", f"http://h/v1?key={KEY}"])
def test_a_key_inside_the_address_is_refused_unprinted(url: str) -> None:
    with pytest.raises(UserError) as error:
        base_url(url)
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    "step",
    [(429, b""), (408, b""), (500, b"oops"), (503, b""), ("close",), ("short",), ("huge",)]
    + [(200, body) for body in (b"", b"<html>502</html>", b"[1]", b"{}", b'{"choices": []}')]
    + [(200, b'{"choices": [{"message": 5}]}'), (200, answer()[:40]), (200, b"[" * 100_000)],
    ids=lambda step: str(step)[:30],
)
def test_a_passing_fault_is_tried_again(server: Server, step: Step) -> None:
    server.script = [step, step]
    reply, chat = ask(config(server))
    assert reply.message.text == "4"
    assert len(server.seen) == 3
    assert chat.calls == 1


def test_slow_and_dripping_answers_are_cut_at_the_timeout(server: Server) -> None:
    server.script = [("slow", 600), ("drip",)]
    reply, _ = ask(config(server, timeout_s=0.5))
    assert reply.message.text == "4"
    assert len(server.seen) >= 3


def test_retry_after_is_honoured(server: Server) -> None:
    server.script = [(429, b"", {"retry-after": "0.5"})]
    ask(config(server))
    waited = server.seen[1][3] - server.seen[0][3]
    assert waited >= 0.5  # the backoff alone would have been 0.01 s


def test_retry_after_beyond_the_deadline_ends_at_once(server: Server) -> None:
    server.script = [(429, b"busy", {"retry-after": "3600"})]
    with pytest.raises(EndpointError, match=r"after 1 try; .*429: busy.*deadline 600 s"):
        ask(config(server))
    assert len(server.seen) == 1


def test_retry_after_reads_seconds_and_dates() -> None:
    assert retry_after("2") == 2
    assert retry_after("-5") == 0
    assert retry_after(formatdate(time.time() + 900, usegmt=True)) == pytest.approx(900, abs=90)
    assert [retry_after(v) for v in (None, "", "soon", "nan", "inf")] == [None] * 5


def test_backoff_doubles_and_is_the_same_each_time() -> None:
    from puna.engine.endpoint import _Failure

    endpoint = Endpoint(RemoteConfig("http://h", backoff_s=1.0))
    pauses = [endpoint._pause(_Failure("x"), b"body", tries) for tries in range(1, 8)]
    assert pauses == [endpoint._pause(_Failure("x"), b"body", tries) for tries in range(1, 8)]
    assert all(0.5 <= p / min(30, 2**i) <= 1 for i, p in enumerate(pauses))
    assert endpoint._pause(_Failure("x"), b"other", 1) != pauses[0]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ((500, b"boom"), "it answered 500: boom"),
        ((200, b"<html>" + b"x" * 500), "not JSON: <html>" + "x" * 74),
        (("close",), "RemoteProtocolError"),
    ],
    ids=["500", "html", "close"],
)
def test_a_lasting_fault_is_an_endpoint_error(server: Server, step: Step, said: str) -> None:
    server.script = [step] * 10
    with pytest.raises(EndpointError) as error:
        ask(config(server, retries=2))
    text = str(error.value)
    assert text.startswith(f"no usable answer from {server.url}/v1 after 3 tries; last: ")
    assert said in text
    assert "x" * 75 not in text
    assert len(server.seen) == 3


def test_the_deadline_ends_the_tries(server: Server) -> None:
    server.delay = 600.0
    with pytest.raises(EndpointError, match=r"nothing answers at .*silent"):
        ask(config(server, timeout_s=0.2, deadline_s=0.5, retries=50))
    assert len(server.seen) <= 4  # and not 51


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (400, RequestRefused, "400: why not"),
        (422, RequestRefused, "422: why not"),
        (401, UserError, "MY_KEY"),
        (402, UserError, "pay"),
        (403, UserError, "MY_KEY"),
        (404, UserError, "model's name"),
        (301, UserError, "redirects"),
    ],
)
def test_what_no_retry_mends_is_said_at_once(
    server: Server, monkeypatch: Any, status: int, kind: type[Exception], said: str
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    server.script = [(status, f"why not, {KEY}?".encode())]
    with pytest.raises(kind) as error:
        ask(config(server, api_key_env="MY_KEY"))
    assert said in str(error.value)
    assert len(server.seen) == 1
    assert server.seen[0][1]["authorization"] == f"Bearer {KEY}"
    assert KEY not in str(error.value)


@pytest.mark.parametrize("value", [None, "", "  ", "a\nb", "schlüssel"])
def test_a_missing_or_broken_key_is_a_user_error(monkeypatch: Any, value: str | None) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(UserError, match="export MY_KEY=KEY"):
        RemoteChat(RemoteConfig("http://h", api_key_env="MY_KEY"))


def test_the_key_reaches_no_error_no_repr_and_no_file(
    server: Server, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    settings_ = config(server, api_key_env="MY_KEY", cache_dir=tmp_path, retries=1)
    echo = f'{{"choices": [{{"message": {{"role": "{KEY}"}}}}]}}'.encode()
    for step in [(500, KEY.encode() * 9), (200, b"x" * 70 + KEY.encode()), (200, echo)]:
        server.script = [step, step]
        with pytest.raises(EndpointError) as error:
            ask(settings_, seed=1)
        assert KEY[:8] not in str(error.value)
        assert KEY not in "".join(traceback.format_exception(error.value))
    server.good = answer(f"your key is {KEY}")
    _, chat = ask(settings_, seed=1)
    server.good = answer()
    ask(settings_, seed=2)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) == 1
    assert KEY not in files[0].read_text()
    assert KEY not in repr(chat)
    assert KEY not in repr(chat.config)


def test_the_only_model_is_asked_for_once(server: Server) -> None:
    async def many(chat: RemoteChat) -> None:
        await asyncio.gather(*(chat.chat(ASK) for _ in range(20)))

    run(config(server, model=None), many)
    assert [s[0] for s in server.seen].count("/v1/models") == 1
    assert server.seen[-1][2]["model"] == "tiny"


@pytest.mark.parametrize(("models", "said"), [(["a", "b"], "a, b; name one"), ([], "none")])
def test_several_models_are_listed(server: Server, models: list[str], said: str) -> None:
    server.models = models
    with pytest.raises(UserError, match=said):
        ask(config(server, model=None))


def test_the_newer_name_of_the_token_limit_is_learnt(server: Server) -> None:
    server.script = [(400, b"Unsupported parameter: use 'max_completion_tokens' instead")]

    async def twice(chat: RemoteChat) -> None:
        await chat.chat(ASK)
        await chat.chat(ASK)

    run(config(server), twice)
    names = [sorted(k for k in s[2] if k.startswith("max")) for s in server.seen]
    assert names == [["max_tokens"], ["max_completion_tokens"], ["max_completion_tokens"]]


def test_concurrency_is_bounded(server: Server) -> None:
    server.delay, server.together = 0.02, 4

    async def many(chat: RemoteChat) -> None:
        await asyncio.gather(*(chat.chat(ASK) for _ in range(30)))

    run(config(server, concurrency=4), many)
    assert server.most == 4
    assert len(server.seen) == 30


def test_the_rate_limit_spreads_requests(server: Server) -> None:
    async def many(chat: RemoteChat) -> float:
        start = time.monotonic()
        await asyncio.gather(*(chat.chat(ASK) for _ in range(15)))
        return time.monotonic() - start

    spent, _ = run(config(server, requests_per_minute=600), many)
    assert spent > 0.49  # five of them at 10 a second, after the first 10
    assert len(server.seen) == 15


def test_waiting_for_the_rate_limit_is_not_the_endpoints_fault(server: Server) -> None:
    async def many(chat: RemoteChat) -> None:
        await asyncio.gather(*(chat.chat(ASK) for _ in range(3)))

    run(config(server, requests_per_minute=60, deadline_s=1.5), many)  # the third waits 2 s
    assert len(server.seen) == 3


def test_cost_and_totals(server: Server) -> None:
    async def twice(chat: RemoteChat) -> Any:
        await chat.chat(ASK)
        return await chat.chat(ASK)

    reply, chat = run(config(server, price_in=2.0, price_out=10.0), twice)
    assert reply.usage.cost == pytest.approx((10 * 2 + 5 * 10) / 1e6)
    assert chat.usage.cost == pytest.approx(2 * 70 / 1e6)
    assert (chat.usage.prompt_tokens, chat.usage.completion_tokens, chat.calls) == (20, 10, 2)


def test_the_budget_stops_even_calls_that_were_waiting(server: Server) -> None:
    settings_ = config(server, price_in=0.0, price_out=1e6, budget=10.0, concurrency=1)

    async def many(chat: RemoteChat) -> Any:
        return await asyncio.gather(*(chat.chat(ASK) for _ in range(9)), return_exceptions=True)

    results, _ = run(settings_, many)  # 5 a call
    assert len(server.seen) == 2
    assert all(isinstance(r, UserError) and "10 is spent" in str(r) for r in results[2:])


def test_a_budget_without_prices_or_counts_is_refused(server: Server) -> None:
    with pytest.raises(UserError, match="needs prices"):
        config(server, budget=1.0)
    server.good = b'{"choices": [{"message": {"content": "4"}}]}'
    with pytest.raises(UserError, match="does not report token counts"):
        ask(config(server, budget=1.0, price_in=1.0, price_out=1.0))
    reply, chat = ask(config(server, price_in=1.0, price_out=1.0))
    assert reply.usage.cost is None
    assert chat.usage.cost is None


def test_the_cache_answers_the_same_request_and_no_other(server: Server, tmp_path: Path) -> None:
    settings_ = config(server, cache_dir=tmp_path, price_in=1.0, price_out=1.0)
    server.good = answer("4 \ud83d \N{LLAMA}")  # a lone surrogate is JSON, though not Unicode
    first, _ = ask(settings_, seed=1)
    again, chat = ask(settings_, seed=1)
    assert again.message == first.message
    assert again.usage.cached
    assert not first.usage.cached
    assert again.usage.cost == 0
    assert (chat.calls, chat.cached_calls) == (0, 1)
    assert len(server.seen) == 1
    for other in ({"seed": 2}, {"seed": 1, "temperature": 0.3}, {"seed": 1, "max_tokens": 9}):
        ask(settings_, **other)
    ask(settings_, seed=1, stop=["x"])
    assert len(server.seen) == 5
    assert not list(tmp_path.rglob("*.tmp"))


def test_unseeded_samples_stay_different(server: Server, tmp_path: Path) -> None:
    settings_ = config(server, cache_dir=tmp_path)
    ask(settings_)
    ask(settings_)
    assert len(server.seen) == 2
    ask(settings_, temperature=0.0)
    ask(settings_, temperature=0.0)
    assert len(server.seen) == 3


def test_a_corrupted_cache_entry_is_asked_again(server: Server, tmp_path: Path) -> None:
    settings_ = config(server, cache_dir=tmp_path)
    ask(settings_, seed=1)
    (file,) = [p for p in tmp_path.rglob("*") if p.is_file()]
    whole = file.read_bytes()
    flipped = whole.replace(b'"4"', b'"5"')
    broken = [b"", whole[: len(whole) // 2], b"[]", b"{}", b"\xff\x00", b"null", flipped]
    for count, raw in enumerate(broken, start=2):
        file.write_bytes(raw)
        reply, _ = ask(settings_, seed=1)
        assert reply.message.text == "4"
        assert len(server.seen) == count
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_says_so(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        ask(config(server, cache_dir=tmp_path / "file"), seed=1)


def test_probe_names_the_model(server: Server) -> None:
    name, chat = run(config(server, model=None), lambda c: c.probe())
    assert name == "tiny"
    assert chat.calls == 1


def test_probe_says_in_one_line_that_nothing_answers() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    for model in ("tiny", None):
        start = time.monotonic()
        with pytest.raises(UserError, match=f"^nothing answers at {url}/v1") as error:
            run(RemoteConfig(url, model=model), lambda c: c.probe())
        assert "\n" not in str(error.value)
        assert time.monotonic() - start < 7  # the pauses between six tries would be 7.75 s
    with pytest.raises(EndpointError, match=r"nothing answers at .* after 3 tries"):
        ask(RemoteConfig(url, model="tiny", retries=2, backoff_s=0.01))


def test_probe_in_one_loop_chat_in_the_next(server: Server) -> None:
    chat = RemoteChat(config(server))
    asyncio.run(chat.probe())

    async def rest() -> str:
        async with chat:
            return (await chat.chat(ASK)).message.text

    assert asyncio.run(rest()) == "4"


@given(st.one_of(st.binary(max_size=60), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["choices", "message", "content", "role", "tool_calls", "function",
                         "finish_reason", "usage", "prompt_tokens", "reasoning"]), inner),
    max_leaves=12,
)))  # fmt: skip
@settings(max_examples=150)
def test_any_body_is_an_answer_or_garbage(data: Any) -> None:
    bodies = [data] if isinstance(data, bytes) else [
        json.dumps(x).encode()
        for x in (data, {"choices": [data]}, {"choices": [{"message": data, "usage": data}]})
    ]  # fmt: skip
    for body in bodies:
        try:
            assert read_answer(body).message.role == "assistant"
        except Garbage:
            pass


def test_import_leaves_httpx_and_torch_alone() -> None:
    code = "import sys, puna.engine.remote; print({'httpx', 'torch'} & set(sys.modules))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.strip() == "set()", done.stderr


def test_a_call_costs_a_few_milliseconds_of_cpu(server: Server) -> None:
    async def many(chat: RemoteChat) -> float:
        await chat.chat(ASK)
        start = time.thread_time()  # this thread only: the server has its own
        await asyncio.gather(*(chat.chat(ASK) for _ in range(200)))
        return (time.thread_time() - start) / 200

    spent, chat = run(config(server), many)
    assert chat.calls == 201
    assert spent < 0.035  # 3.4 ms measured over 1,000 calls
