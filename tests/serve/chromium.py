"""Pages in a real Chromium, and a server that answers what a test tells it to."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, StreamingResponse

from puna.serve.app import PAGES
from puna.serve.keys import Gate
from puna.serve.main import _listen

QUIET = ("--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run")  # fmt: skip
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
# A folder for screenshots to look at: PUNA_SHOTS=DIR pytest tests/serve/test_chat_page.py
SHOTS = os.environ.get("PUNA_SHOTS", "")


@pytest.fixture(scope="module")  # while it is there, asyncio.run is not
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no chromium: apt-get install chromium")
    sandbox = [] if os.getuid() else ["--no-sandbox"]  # root has no sandbox of its own
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=found, args=[*QUIET, *sandbox])
        yield chromium
        chromium.close()


@contextmanager
def a_page(browser: Any, request: pytest.FixtureRequest, **options: Any) -> Iterator[Any]:
    """A page that fails the test for whatever it complains about."""
    context = browser.new_context(**options)
    found, complaints = context.new_page(), list[str]()
    found.set_default_timeout(120_000)
    found.on("pageerror", lambda error: complaints.append(str(error)))

    def listen(said: Any) -> None:
        if said.type in ("error", "warning"):
            complaints.append(said.text)

    found.on("console", listen)
    expected = request.node.get_closest_marker("complains")
    yield found
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        name = request.node.name.replace("[", "-").rstrip("]")
        found.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)
    fits = found.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    context.close()
    wanted = expected.args[0] if expected else ""
    assert not [text for text in complaints if not wanted or wanted not in text]
    assert fits, "the page is wider than its window"


@pytest.fixture(params=[LAPTOP, PHONE], ids=["laptop", "phone"])
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """At the width of a laptop, and at that of a phone in the dark."""
    scheme = "dark" if request.param == PHONE else "light"
    with a_page(browser, request, viewport=request.param, color_scheme=scheme) as found:
        yield found


@pytest.fixture
def laptop(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    with a_page(browser, request, viewport=LAPTOP) as found:
        yield found


Delta = dict[str, Any] | str | float
"""A piece of an answer: text, an OpenAI delta, or seconds to wait."""


class Told:
    """What a scripted server was asked, and what it says: `answers` one after another."""

    def __init__(self) -> None:
        self.address = ""
        self.asked: list[dict[str, Any]] = []
        self.answers: list[Sequence[Delta]] = []
        self.left: list[int] = []  # pieces that were sent before the reader went away

    def answer(self, *pieces: Any) -> None:
        """The next answer, `Delta` by `Delta`."""
        self.answers.append(pieces)


@pytest.fixture
def told() -> Iterator[Told]:
    """A server of the pages whose two models, "one" and "two", say what the test has written."""
    script = Told()
    app = FastAPI()

    @app.get("/")
    async def index() -> FileResponse:
        return FileResponse(PAGES / "index.html")

    @app.get("/static/{name}")
    async def static(name: str) -> FileResponse:
        return FileResponse(PAGES / name)

    @app.get("/api/examples")
    async def examples() -> dict[str, Any]:
        return {"about": "scripted", "prompts": []}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"data": [{"id": "one"}, {"id": "two"}]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> StreamingResponse:
        script.asked.append(await request.json())
        pieces = script.answers.pop(0)

        async def lines() -> AsyncIterator[str]:
            sent = 0
            try:
                for piece in pieces:
                    if isinstance(piece, float):
                        await asyncio.sleep(piece)
                        continue
                    delta = {"content": piece} if isinstance(piece, str) else piece
                    yield _line({"delta": delta, "finish_reason": None})
                    sent += 1
                yield _line({"delta": {}, "finish_reason": "stop"}) + "data: [DONE]\n\n"
            finally:
                script.left.append(sent)

        return StreamingResponse(lines(), media_type="text/event-stream")

    with _running(Gate(app)) as script.address:
        yield script


def _line(choice: dict[str, Any]) -> str:
    return f"data: {json.dumps({'choices': [choice]})}\n\n"


@contextmanager
def _running(app: Callable[..., Any]) -> Iterator[str]:
    listening = _listen("127.0.0.1", 0)
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=10)
