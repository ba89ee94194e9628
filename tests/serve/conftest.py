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
import torch
import uvicorn
from chromium import browser, laptop, page, told  # noqa: F401 - fixtures

from puna.gym.registry import load_environment
from puna.models import hf
from puna.models.presets import build, preset
from puna.serve.app import create_app
from puna.serve.keyring import Keyring
from puna.serve.keys import Gate
from puna.serve.main import _listen, catalogue
from puna.serve.worker import Worker
from puna.text.template import render
from puna.text.tokenizer import Tokenizer
from puna.train.data import demonstrations
from puna.train.loss import IGNORE, cross_entropy

SHOP = {"prompt": "none", "intents": 1}


@pytest.fixture(scope="session")
def clerk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny model trained on the demonstration of the shop's last train task."""
    torch.set_num_threads(1)
    chat = demonstrations(load_environment("shop", SHOP, 0), 1)[0]
    tokenizer = Tokenizer.train([m.text for m in chat.messages] * 3 + ["the quick brown fox"], 300)
    model = build(preset("nano", vocab_size=tokenizer.vocab_size, hidden_size=48), seed=1)
    shown = render(tokenizer, chat.messages, tools=chat.tools)
    ids, mask = torch.tensor([shown.ids]), torch.tensor([shown.mask])
    want = torch.where(mask, ids, IGNORE)[0, 1:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        loss = cross_entropy(model.logits(model(ids[:, :-1]))[0], want) / int(mask.sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if float(loss.detach()) < 2e-3:
            break
    assert float(loss.detach()) < 0.05
    there = tmp_path_factory.mktemp("clerk") / "model"
    hf.save(model, there)
    tokenizer.save(there)
    return there


@contextmanager
def running(app: Gate) -> Iterator[str]:
    """The address of a server that ends with the block."""
    listening = _listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
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
def server(clerk: Path, runs: Path) -> Iterator[str]:
    with serving(clerk, runs, home=runs / "tiny") as address:
        yield address


@pytest.fixture(scope="session")
def start() -> Callable[..., object]:
    return serving


@pytest.fixture(scope="session")
def run_app() -> Callable[..., object]:
    return running


os.environ.setdefault("NO_PROXY", "127.0.0.1,localhost")
