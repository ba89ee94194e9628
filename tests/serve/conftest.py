"""A real server in a thread, with a model that knows one customer of the shop by heart."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from chromium import browser, laptop, page, told  # noqa: F401 - fixtures
from clerk import clerk  # noqa: F401 - a fixture

from puna.serve.app import create_app
from puna.serve.keyring import Keyring
from puna.serve.keys import Gate
from puna.serve.main import _listen, catalogue
from puna.serve.worker import Worker

SHOP = {"prompt": "none", "intents": 1}


@contextmanager
def running(app: Gate) -> Iterator[str]:
    """The address of a server that ends with the block."""
    listening = _listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        at = sys._current_frames().get(thread.ident or 0)
        assert not thread.is_alive(), "".join(traceback.format_stack(at))


@contextmanager
def serving(target: Path, runs: Path, key: str = "", home: Path | None = None) -> Iterator[str]:
    """A server of a model."""
    keys = Keyring.of(key) if key else None
    worker = Worker(catalogue(target))
    with running(create_app(worker, runs, keys=keys, home=home)) as address:
        yield address


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real run, and one whose file is broken."""
    from tiny_run import write_recipe

    from puna.run import execute

    there = tmp_path_factory.mktemp("served")
    recipe = write_recipe(there / "recipe")
    execute(recipe, there / "runs" / "tiny")
    broken = there / "runs" / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    return there / "runs"


@pytest.fixture(scope="session")
def server(clerk: Path, runs: Path) -> Iterator[str]:  # noqa: F811
    with serving(clerk, runs, home=runs / "tiny") as address:
        yield address


@pytest.fixture(scope="session")
def start() -> Callable[..., object]:
    return serving


@pytest.fixture(scope="session")
def run_app() -> Callable[..., object]:
    return running


os.environ.setdefault("NO_PROXY", "127.0.0.1,localhost")
