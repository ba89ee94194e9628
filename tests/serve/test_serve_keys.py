"""One check before every route, whatever the route, the method and the answer would be."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny_run import environment

from puna.serve.keys import Gate

KEY = "sesame-and-more"
ROUTES = [
    "/", "/runs", "/static/chat.js", "/static/none.js", "/v1/models", "/health", "/api/runs",
    "/api/examples", "/nothing", "/docs", "/openapi.json", "/v1/chat/completions",
]  # fmt: skip


@pytest.fixture(scope="module")
def locked(clerk: Path, runs: Path, start: Callable[..., Any]) -> Iterator[str]:
    with start(clerk, runs, key=KEY) as address:
        yield address


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD", "DELETE"])
def test_nothing_is_reached_without_the_key(locked: str, path: str, method: str) -> None:
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Basic {KEY}"},
        {"cookie": "puna_key=wrong"},
    ):
        assert httpx.request(method, locked + path, headers=headers).status_code == 401
    given = httpx.request(method, locked + path, headers={"authorization": f"Bearer {KEY}"})
    assert given.status_code not in (401, 403)


def test_a_browser_logs_in_once(locked: str) -> None:
    with httpx.Client(base_url=locked) as browser:
        assert browser.get("/?key=wrong").status_code == 401
        done = browser.get(f"/?key={KEY}")
        assert done.status_code == 303
        assert done.headers["location"] == "/"
        cookie = done.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert browser.get("/").status_code == 200
        assert browser.get("/v1/models").status_code == 200


def test_keys_and_cookies_as_they_come(clerk: Path, runs: Path, start: Callable[..., Any]) -> None:
    key = "Zm9v+YmFy/cXV4=="
    with start(clerk, runs, key=key) as address:
        assert httpx.get(f"{address}/?key={key}").status_code == 303
        for other in ('prefs={"a":1}', "x=a b", "a[b]=1", "flag"):
            headers = {"cookie": f"{other}; puna_key={key}"}
            assert httpx.get(f"{address}/v1/models", headers=headers).status_code == 200, other


def test_a_link_to_a_page_may_stand_anywhere(server: str) -> None:
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    for path in ("/", "/runs"):
        assert httpx.get(server + path, headers=followed).status_code == 200
    for path in ("/v1/models", "/api/runs", "/health"):
        assert httpx.get(server + path, headers=followed).status_code == 403
    assert httpx.get(f"{server}/", headers={"origin": "http://[::1"}).status_code == 403


def test_without_a_key_only_loopback_names_and_our_own_pages(server: str) -> None:
    port = server.rsplit(":", 1)[1]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "[::1"):
        assert httpx.get(f"{server}/health", headers={"host": host}).status_code in (400, 403)
    for name in ("localhost", "127.0.0.1", "[::1]"):
        found = httpx.get(f"{server}/health", headers={"host": f"{name}:{port}"})
        assert found.status_code == 200
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"},
                    {"sec-fetch-site": "cross-site"}):  # fmt: skip
        assert httpx.get(f"{server}/health", headers=headers).status_code == 403
    assert httpx.get(f"{server}/health", headers={"origin": server}).status_code == 200


def test_the_gate_never_calls_what_it_guards() -> None:
    """With the gate off (another key) the same request would reach the application."""
    reached: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    async def request(key: str) -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        sent: list[Any] = []
        headers = [(b"authorization", b"Bearer right"), (b"host", b"x")]
        scope = {"type": "http", "method": "GET", "path": "/x", "query_string": b"",
                 "headers": headers}  # fmt: skip
        await Gate(application, key)(scope, None, send)

    asyncio.run(request("other"))
    assert reached == []
    asyncio.run(request("right"))
    assert reached == ["/x"]


def test_the_command_serves_and_ends_on_ctrl_c(clerk: Path) -> None:
    command = [sys.executable, "-m", "puna.cli", "serve", str(clerk), "--port", "0"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        lines = [served.stdout.readline() for _ in range(3)]
        address = next(word for line in lines for word in line.split() if word.endswith("/v1"))
        deadline = time.monotonic() + 30
        while True:
            try:
                assert httpx.get(f"{address}/models").status_code == 200
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline
        served.send_signal(signal.SIGINT)
        assert served.wait(timeout=15) in (0, 130, -signal.SIGINT)
