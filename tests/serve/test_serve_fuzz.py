"""Whatever is sent to any route has an answer, and none is the server's fault.

Requests are made by schemathesis from /openapi.json; broken clients speak through plain sockets.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fuzzing import fuzz

from benchmarks.serve_streams import ListWorker
from puna.gateway.describe import BODIES
from puna.serve.app import create_app
from puna.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["the quick brown fox"], 330)
WORDS = TOKENIZER.encode("the quick [brown] fox é ")


@pytest.fixture(scope="module")
def worker() -> ListWorker:
    stop = TOKENIZER.special("eot")
    return ListWorker(TOKENIZER, lambda _: [*WORDS * 400, stop], max_context=20_000)


@pytest.fixture(scope="module")
def address(worker: ListWorker, run_app: Callable[..., Any], runs: Path) -> Iterator[str]:
    app = create_app(worker, runs, home=runs / "tiny")  # type: ignore[arg-type]
    with run_app(app) as found:
        body = {"prompt": "go", "max_tokens": 1}  # the first answer loads PyTorch
        assert httpx.post(f"{found}/v1/completions", json=body, timeout=60).status_code == 200
        yield found


def described(address: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{address}/openapi.json").json()
    return found


def test_no_request_of_any_route_is_the_servers_fault(address: str) -> None:
    counts = fuzz(address, described(address), 12)
    for path in BODIES:
        of_path = {status: n for (route, status), n in counts.items() if route == f"POST {path}"}
        assert of_path.get(200, 0) >= 2, counts  # it reached the model
        assert of_path.get(400, 0) >= 2, counts


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nor_of_many_more(address: str) -> None:
    counts = fuzz(address, described(address), 600, 240)
    assert counts.total() > 1000


def test_every_route_is_described(address: str) -> None:
    paths = httpx.get(f"{address}/openapi.json").json()["paths"]
    assert set(BODIES) <= set(paths)
    assert {"/health", "/metrics", "/v1/models", "/api/runs", "/"} <= set(paths)


def raw(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def post(address: str, body: bytes, path: str = "/v1/chat/completions", length: int = -1) -> bytes:
    size = len(body) if length < 0 else length
    host = address.removeprefix("http://")
    head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {size}\r\n"
    return f"{head}connection: close\r\n\r\n".encode() + body


def read_all(sock: socket.socket) -> bytes:
    out = b""
    while part := sock.recv(65536):
        out += part
    return out


LONG = json.dumps(
    {"messages": [{"role": "user", "content": "go"}], "stream": True, "max_tokens": 4000}
).encode()


def settled(worker: ListWorker) -> int:
    """Tokens drawn once nothing is being drawn any more."""
    deadline, last = time.monotonic() + 60, -1
    while (now := worker.generated) != last:
        assert time.monotonic() < deadline
        last = now
        time.sleep(0.3)
    return last


@pytest.fixture
def slowly(worker: ListWorker) -> Iterator[None]:
    """A token every 5 ms, so that an answer takes 20 s where nobody ends it."""
    worker.every = 0.005
    yield
    worker.every = 0.0


@pytest.mark.usefixtures("slowly")
@pytest.mark.parametrize("how", ["close", "reset", "half-closed"])
def test_who_leaves_is_not_answered_on(address: str, worker: ListWorker, how: str) -> None:
    before = settled(worker)
    sock = raw(address)
    sock.sendall(post(address, LONG))
    assert b" 200 " in sock.recv(64)
    if how == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half-closed":
        sock.shutdown(socket.SHUT_WR)
    else:
        sock.close()
    assert 0 < settled(worker) - before < 2000
    sock.close()


@pytest.mark.usefixtures("slowly")
def test_who_leaves_before_the_first_token_is_not_begun_on(
    address: str, worker: ListWorker
) -> None:
    before = settled(worker)
    for _ in range(5):
        with raw(address) as sock:
            sock.sendall(post(address, LONG))
    assert settled(worker) - before < 2000
    assert httpx.get(f"{address}/health").status_code == 200


def test_a_reader_that_takes_nothing_holds_no_memory(address: str, worker: ListWorker) -> None:
    """The answer is bounded by its tokens; others are answered meanwhile."""
    with raw(address) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(post(address, LONG))
        time.sleep(0.3)
        done = httpx.post(
            f"{address}/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "go"}], "max_tokens": 3},
            timeout=60,
        )
        assert done.status_code == 200
        told = read_all(sock)  # it still gets all of it
    pieces = [json.loads(x) for x in re.findall(rb"data: (\{.*\})\n", told)]
    text = "".join(p["choices"][0]["delta"].get("content", "") for p in pieces)
    assert text == TOKENIZER.decode((WORDS * 400)[:4000])


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux")
@pytest.mark.parametrize("stall", [1.0, 60.0])
def test_a_stalled_reader_is_cut_off(
    stall: float, run_app: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection ends after a while, and what was open for it; with a minute it stays."""
    monkeypatch.setattr("puna.serve.main.STALL_S", stall)
    worker = ListWorker(TOKENIZER, lambda _: WORDS * 2000, max_context=20_000)

    def running() -> str:
        lines = httpx.get(f"{address}/metrics").text.splitlines()
        return next(x for x in lines if x.startswith("puna_requests_running ")).split()[1]

    body = json.loads(LONG) | {"n": 16, "max_tokens": 15_000, "logprobs": True, "top_logprobs": 9}
    with run_app(create_app(worker, tmp_path)) as address:  # type: ignore[arg-type]
        worker.every = 0.002
        with raw(address) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(post(address, json.dumps(body).encode()))
            assert b" 200 " in sock.recv(64)
            deadline = time.monotonic() + (60 if stall == 1.0 else 4)
            while running() == "1" and time.monotonic() < deadline:
                time.sleep(0.2)
            assert running() == ("0" if stall == 1.0 else "1")


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\x00" * 100,
        b"GET\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: 127.0.0.1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\nzz",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
        b"GET /%00%ff/../../etc/passwd HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
        b"GET /static/..%2f..%2fapp.py HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    ],
)
def test_broken_requests_break_nothing(address: str, broken: bytes) -> None:
    with raw(address) as sock:
        try:
            sock.sendall(broken)
            sock.shutdown(socket.SHUT_WR)
            answer = read_all(sock)
        except (ConnectionResetError, BrokenPipeError):
            answer = b""
    assert b" 200 " not in answer[:20]
    assert b" 5" not in answer[8:11]
    assert b"from __future__" not in answer
    assert httpx.get(f"{address}/health").status_code == 200


def test_a_body_that_never_comes_is_not_waited_for_by_others(address: str) -> None:
    with raw(address) as sock:
        sock.sendall(post(address, b'{"mess', length=5000))
        assert httpx.get(f"{address}/health", timeout=30).status_code == 200


def test_equal_requests_at_once_have_equal_answers(address: str) -> None:
    found: list[bytes] = []

    def ask() -> None:
        with raw(address) as sock:
            body = LONG.replace(b'"stream": true', b'"seed": 1').replace(b"4000", b"40")
            sock.sendall(post(address, body))
            found.append(read_all(sock))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = {json.loads(f.split(b"\r\n\r\n", 1)[1])["choices"][0]["message"]["content"]
             for f in found}  # fmt: skip
    assert len(found) == 20
    assert len(texts) == 1


def bomb() -> str:
    """A PNG of 30,000 x 30,000 pixels in a few kilobytes."""
    import base64
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    data += chunk(b"IDAT", zlib.compress(b"\x00" * 10_000)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def eyes() -> ListWorker:
    """A model that reads images."""
    from puna.text.tiling import Tiling

    pytest.importorskip("PIL")
    tokenizer = Tokenizer.train(["the quick brown fox"], 340, tiling=Tiling(28, 1, 4))
    return ListWorker(tokenizer, lambda _: tokenizer.encode("a"))


def test_images_reach_a_model_with_eyes(run_app: Callable[..., Any], tmp_path: Path) -> None:
    import base64
    import io

    import PIL.Image

    worker, out = eyes(), io.BytesIO()
    PIL.Image.new("RGB", (30, 20), "red").save(out, "PNG")
    data = base64.b64encode(out.getvalue()).decode()
    url = f"data:image/png;base64,{data}"
    source = {"type": "base64", "media_type": "image/png", "data": data}
    bodies: dict[str, Any] = {
        "chat/completions": {"type": "image_url", "image_url": {"url": url}},
        "responses": {"type": "input_image", "image_url": url},
        "messages": {"type": "image", "source": source},
    }
    with run_app(create_app(worker, tmp_path)) as found:  # type: ignore[arg-type]
        for route, part in bodies.items():
            turn = [{"role": "user", "content": [part]}]
            body = {"input" if route == "responses" else "messages": turn, "max_tokens": 1}
            answer = httpx.post(f"{found}/v1/{route}", json=body, timeout=30)
            assert answer.status_code == 200, answer.text
            picture = worker.asked[-1].pictures[0]
            start = worker.served.engine.tokenizer.special("image_start")
            assert worker.asked[-1].prompt_ids[picture.at] == start


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://169.254.169.254/latest", "nothing is fetched"),
        ("/etc/passwd", "nothing is fetched"),
        ("file:///etc/passwd", "nothing is fetched"),
        ("data:image/png;base64,AAAA", "image"),
        ("data:text/html,hi", "image"),
        (bomb(), "million pixels"),
    ],
)
def test_images_come_with_the_message_or_not_at_all(
    url: str, words: str, run_app: Callable[..., Any], tmp_path: Path
) -> None:
    worker = eyes()
    content = [{"type": "image_url", "image_url": {"url": url}}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
    with run_app(create_app(worker, tmp_path)) as found:  # type: ignore[arg-type]
        answer = httpx.post(f"{found}/v1/chat/completions", json=body, timeout=30)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert not worker.asked


os.environ.setdefault("NO_PROXY", "127.0.0.1,localhost")
