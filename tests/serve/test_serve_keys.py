"""One check before every route, whatever the route, the method and the answer would be."""

from __future__ import annotations

import asyncio
import json
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

from puna.core.errors import UserError
from puna.serve.app import create_app
from puna.serve.keyring import Key, Keyring, Limits, new_key
from puna.serve.keys import Gate

KEY = "sesame-and-more"
ROUTES = [
    "/", "/runs", "/static/chat.js", "/static/none.js", "/v1/models", "/metrics", "/api/runs",
    "/api/examples", "/nothing", "/docs", "/openapi.json", "/v1/chat/completions", "/health/",
    "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "//health",
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


def test_only_health_is_public(locked: str) -> None:
    assert httpx.get(f"{locked}/health").json() == {"status": "ok"}
    assert httpx.post(f"{locked}/health").status_code == 401


def test_the_header_of_anthropics_clients_is_a_key_too(locked: str) -> None:
    for key, status in ((KEY, 200), ("wrong", 401)):
        found = httpx.get(f"{locked}/v1/models", headers={"x-api-key": key})
        assert found.status_code == status
    refused = httpx.post(f"{locked}/v1/messages", json={}).json()
    assert refused["type"] == "error"
    assert refused["error"]["type"] == "authentication_error"


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
    for path in ("/v1/models", "/api/runs", "/health", "/openapi.json"):
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

    headers = [(b"authorization", b"Bearer right"), (b"host", b"x")]
    assert status_of(Gate(application, Keyring.of("other")), headers) == 401
    assert reached == []
    assert status_of(Gate(application, Keyring.of("right")), headers) is None
    assert reached == ["/v1/x"]


def status_of(
    gate: Gate, headers: list[tuple[bytes, bytes]], method: str = "POST", path: str = "/v1/x"
) -> int | None:
    """The status that the gate itself answers, None where it hands the request on."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": b"",
             "headers": headers}  # fmt: skip
    asyncio.run(gate(scope, None, send))
    return sent[0]["status"] if sent else None


def test_keys_of_a_file_are_only_hashes(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    ann, bob = new_key(path, "ann"), new_key(path, "bob")
    assert path.stat().st_mode & 0o777 == 0o600
    assert ann not in path.read_text()
    ring = Keyring.read(path)
    found = ring.find(ann), ring.find(bob)
    assert [k.name for k in found if k] == ["ann", "bob"]
    assert ring.find(ann[:-1]) is None
    assert ring.find("") is None
    with pytest.raises(UserError, match="named ann"):
        new_key(path, "ann")
    path.write_text(path.read_text().replace("[bob]", "concurrent = 3\n[bob]"))
    assert Keyring.read(path).keys[0].limits == Limits(concurrent=3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no key"),
        ("[", "is not TOML"),
        ("[ann]", "no sha256"),
        ("ann = 1", "no sha256"),
        (f"[ann]\nsha256 = '{'a' * 64}'\nconcurent = 1", "did you mean 'concurrent'"),
        (f"[ann]\nsha256 = '{'a' * 64}'\nconcurrent = -1", "whole number"),
        (f"[ann]\nsha256 = '{'a' * 64}'\nconcurrent = true", "whole number"),
    ],
)
def test_a_broken_file_of_keys_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        Keyring.read(path)
    with pytest.raises(UserError, match="cannot read"):
        Keyring.read(tmp_path / "none")


def limited(**limits: int) -> tuple[Gate, Key]:
    ring = Keyring.of("right")
    ring.keys[0] = Key("ann", ring.keys[0].digest, Limits(**limits))

    async def application(scope: Any, receive: Any, send: Any) -> None:
        scope["puna.cost"] = 100

    return Gate(application, ring), ring.keys[0]


RIGHT = [(b"authorization", b"Bearer right")]


def test_a_key_asks_so_often_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("puna.serve.keyring.time.monotonic", lambda: now)
    gate, _ = limited(requests_per_minute=3)
    assert [status_of(gate, RIGHT) for _ in range(4)] == [None, None, None, 429]
    assert status_of(gate, RIGHT, "GET", "/v1/models") is None
    now += 20.0
    assert [status_of(gate, RIGHT) for _ in range(2)] == [None, 429]


def test_a_key_draws_so_many_tokens_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("puna.serve.keyring.time.monotonic", lambda: now)
    gate, key = limited(tokens_per_minute=150)
    assert [status_of(gate, RIGHT) for _ in range(3)] == [None, None, 429]
    refused = key.enter()
    assert refused is not None
    assert refused[0] == 21  # 50 in debt, and one more, at 2.5 a second
    now += 21.0
    assert status_of(gate, RIGHT) is None


def test_a_key_has_so_many_requests_open() -> None:
    _, key = limited(concurrent=2)
    assert [key.enter() is None for _ in range(3)] == [True, True, False]
    key.leave(10)
    assert key.enter() is None


@pytest.fixture(scope="module")
def shared(clerk: Path, run_app: Callable[..., Any], tmp_path_factory: Any) -> Iterator[str]:
    """A server whose key may ask twice, and to which one other site's pages may talk."""
    from puna.serve.main import catalogue
    from puna.serve.worker import Worker

    digest = Keyring.of(KEY).keys[0].digest
    ring = Keyring([Key("ann", digest, Limits(requests_per_minute=2))])
    app = create_app(Worker(catalogue(clerk)), tmp_path_factory.mktemp("none"), keys=ring,
                     origins=("https://app.example",))  # fmt: skip
    with run_app(app) as address:
        yield address


def test_too_many_requests_are_told_when_to_come_back(shared: str) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    answers = [
        httpx.post(f"{shared}/v1/chat/completions", json=body, timeout=60,
                   headers={"authorization": f"Bearer {KEY}"})
        for _ in range(3)
    ]  # fmt: skip
    assert [a.status_code for a in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30
    assert answers[2].json()["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("stream", [False, True])
def test_what_an_answer_cost_is_charged(
    clerk: Path, run_app: Callable[..., Any], tmp_path: Path, stream: bool
) -> None:
    from puna.serve.main import catalogue
    from puna.serve.worker import Worker

    digest = Keyring.of(KEY).keys[0].digest
    key = Key("ann", digest, Limits(tokens_per_minute=1000))
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9, "temperature": 2}
    asked = body | {"stream": stream, "stream_options": {"include_usage": True}}
    headers = {"authorization": f"Bearer {KEY}"}
    with run_app(create_app(Worker(catalogue(clerk)), tmp_path, keys=Keyring([key]))) as address:
        done = httpx.post(f"{address}/v1/chat/completions", json=asked, headers=headers, timeout=60)
        told = done.text.split("data: ")[-2] if stream else done.text
        until = time.monotonic() + 60
        while key.open:  # a moment after the last of it was sent
            assert time.monotonic() < until
            time.sleep(0.01)
        assert key.tokens.left == 1000 - json.loads(told)["usage"]["total_tokens"]


def test_origins_are_allowed_to_the_letter(shared: str) -> None:
    asked = {"access-control-request-method": "POST"}
    allowed = httpx.options(f"{shared}/v1/responses",
                            headers=asked | {"origin": "https://app.example"})  # fmt: skip
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-credentials" not in allowed.headers
    assert allowed.headers["vary"] == "Origin"
    for origin in ("https://app.example.evil", "http://app.example", "https://xapp.example",
                   "https://app.example:444", "null"):  # fmt: skip
        headers = asked | {"origin": origin, "authorization": f"Bearer {KEY}"}
        for method in ("OPTIONS", "GET", "POST"):
            refused = httpx.request(method, f"{shared}/v1/models", headers=headers)
            assert refused.status_code == 403, origin
            assert "access-control-allow-origin" not in refused.headers
    headers = {"origin": "https://app.example", "sec-fetch-site": "cross-site"}
    assert httpx.get(f"{shared}/v1/models", headers=headers).status_code == 401
    headers["authorization"] = f"Bearer {KEY}"
    found = httpx.get(f"{shared}/v1/models", headers=headers)
    assert found.status_code == 200
    assert found.headers["access-control-allow-origin"] == "https://app.example"


def test_a_link_submits_no_prompt(server: str) -> None:
    """Nothing that a browser fetches by GET makes a model speak."""

    def drawn() -> str:
        lines = httpx.get(f"{server}/metrics").text.splitlines()
        return next(x for x in lines if x.startswith("puna_generated_tokens_total"))

    before = drawn()
    for path in ("/?q=hi", "/?prompt=hi", "/v1/chat/completions?q=hi", "/v1/completions?prompt=x"):
        assert httpx.get(server + path).status_code in (200, 405)
    assert drawn() == before


def test_the_command_serves_and_ends_on_ctrl_c(clerk: Path) -> None:
    command = [sys.executable, "-m", "puna.cli", "serve", str(clerk), "--port", "0"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        lines = [served.stdout.readline() for _ in range(3)]
        address = next(word for line in lines for word in line.split() if word.endswith("/v1"))
        deadline = time.monotonic() + 60
        while True:
            try:
                assert httpx.get(f"{address}/models", timeout=60).status_code == 200
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        served.send_signal(signal.SIGINT)
        assert served.wait(timeout=60) in (0, 130, -signal.SIGINT)


def test_the_command_makes_a_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    command = [sys.executable, "-m", "puna.cli", "serve", "--keys", str(path), "--new-key", "ann"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    found = Keyring.read(path).find(done.stdout.strip())
    assert found is not None
    assert found.name == "ann"
