"""Time to first token and between tokens under Poisson load, beside transformers' own server.

`python -m benchmarks.serve_load --rates 2 8 20 --seconds 10 --rounds 2` makes a model of 5.5M
parameters, serves it by `puna serve` and by `transformers serve`, and prints a line for each rate
and server; they take turns, and one waits while the other answers. One process of clients asks
both for the same answers at the same moments.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise, product
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import torch

from benchmarks.decode import CONFIG, NEW
from puna.models import build
from puna.models.hf import save
from puna.text.tokenizer import Tokenizer

WORDS = 32  # of a prompt, each a token
WARM = 8  # requests at once before anything is timed
PATIENCE_S = 60.0  # from when a request was due; then it has failed
START_S = 120.0
SYLLABLES = [a + b for a, b in product("bdfgklmnprst", "aeiou")]
HEAD = ("req/s", "server", "done", "failed", "first p50", "p99 ms", "next p50", "p99 ms",
        "tokens/s", "CPU ms/token", "clients")  # fmt: skip
ROW = "{:>5} {:<13} {:>5} {:>6} {:>10} {:>8} {:>9} {:>8} {:>9} {:>13} {:>8}"


def checkpoint(folder: Path) -> list[str]:
    """A model that only ever says whole words, each one token behind a space; the words.

    Greedy answers then run to their full length, and tokens can be counted in any text.
    """
    spoken = [a + b for a, b in product(SYLLABLES, repeat=2)]
    tokenizer = Tokenizer.train([" " + " ".join(spoken)], CONFIG.vocab_size)
    whole = {word: ids[0] for word in spoken if len(ids := tokenizer.encode(f" {word}")) == 1}
    model = build(CONFIG, 0)
    assert model.head is not None
    silent = torch.ones(CONFIG.vocab_size, dtype=torch.bool)
    silent[list(whole.values())] = False
    with torch.no_grad():
        model.head.weight[silent] = 0.0  # some word's score is always above 0
    save(model, folder)
    tokenizer.save(folder)
    return list(whole)


@dataclass(frozen=True)
class Answer:
    """Seconds from when a request was due to each of its tokens, and the text of them.

    `wrong` says why it failed; what had come by then is in it all the same.
    """

    due: float
    times: tuple[float, ...]
    text: str
    wrong: str = ""


async def ask(client: httpx.AsyncClient, prompt: str, due: float) -> Answer:
    """One streamed answer, asked for at the moment `due`."""
    await asyncio.sleep(due - time.perf_counter())
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": NEW,
        "temperature": 0.0,
        "stream": True,
    }
    times, said, wrong = list[float](), list[str](), ""
    try:
        async with (
            asyncio.timeout(PATIENCE_S),
            client.stream("POST", "/v1/chat/completions", json=body) as answer,
        ):
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                for choice in json.loads(line[6:]).get("choices", ()):
                    text = choice["delta"].get("content") or ""
                    times += [time.perf_counter() - due] * text.count(" ")
                    said.append(text)
    except (httpx.HTTPError, TimeoutError) as error:
        wrong = type(error).__name__
    if not wrong and len(times) != NEW:
        wrong = f"{len(times)} tokens"
    return Answer(due, tuple(times), "".join(said), wrong)


async def burst(address: str, asked: Sequence[tuple[float, str]]) -> list[Answer]:
    """The answers to prompts, each asked for so many seconds from now."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=None) as client:
        begun = time.perf_counter()
        return await asyncio.gather(*(ask(client, text, begun + at) for at, text in asked))


def arrivals(
    rate: float, seconds: float, words: Sequence[str], seed: str
) -> list[tuple[float, str]]:
    """Moments of a Poisson process of `rate` a second, and what is asked at each."""
    draw = random.Random(seed)
    found, at = list[tuple[float, str]](), draw.expovariate(rate)
    while at < seconds:
        found.append((at, " ".join(["say", *draw.choices(words, k=WORDS)])))
        at += draw.expovariate(rate)
    return found


@dataclass
class Cell:
    """All answers of a server at a rate, over all rounds."""

    answers: list[Answer] = field(default_factory=list)
    wall: float = 0.0  # from the first request to the last token
    server: float = 0.0  # CPU seconds of the server
    clients: float = 0.0  # and of this process

    def row(self, rate: float, name: str) -> str:
        done = [a for a in self.answers if not a.wrong]
        first = [a.times[0] if a.times else math.inf for a in self.answers]
        gaps = [b - a for one in self.answers for a, b in pairwise(one.times)]
        tokens = sum(len(a.times) for a in self.answers)
        return ROW.format(
            f"{rate:g}", name, len(done), len(self.answers) - len(done),
            milliseconds(first, 0.5), milliseconds(first, 0.99),
            milliseconds(gaps, 0.5), milliseconds(gaps, 0.99),
            f"{tokens / self.wall:,.0f}", f"{self.server / max(1, tokens) * 1e3:.2f}",
            f"{self.clients / self.wall:.2f}",
        )  # fmt: skip


def milliseconds(seconds: Sequence[float], share: float) -> str:
    """A quantile; what never came counts as later than all."""
    if not seconds:
        return "-"
    found = sorted(seconds)[math.ceil(share * len(seconds)) - 1]
    return "never" if found == math.inf else f"{found * 1e3:.1f}"


@dataclass(frozen=True)
class Server:
    """A process that answers at `address`."""

    address: str
    process: psutil.Process

    def cpu(self) -> float:
        """Its CPU seconds until now."""
        spent = self.process.cpu_times()
        return float(spent.user + spent.system)


def load(server: Server, asked: Sequence[tuple[float, str]], to: Cell) -> None:
    """Ask, and add what came to a cell."""
    before, own, begun = server.cpu(), time.process_time(), time.perf_counter()
    answers = asyncio.run(burst(server.address, asked))
    to.wall += max((a.due + a.times[-1] for a in answers if a.times), default=begun) - begun
    to.clients += time.process_time() - own
    to.server += server.cpu() - before
    to.answers += answers


def commands(folder: Path, given: argparse.Namespace) -> dict[str, list[str]]:
    """How each server is started: transformers' with pages for 256 requests at once."""
    ours = ["-m", "puna.cli", "serve", str(folder)]
    theirs = ["-c", "from transformers.cli.transformers import app; app()", "serve", str(folder)]
    theirs += ["--host", "127.0.0.1", "--log-level", "error"]
    if not given.no_batching:
        theirs += ["--continuous-batching", "--cb-num-blocks", "256"]
        theirs += ["--cb-max-batch-tokens", "512"]
    if given.dtype:
        theirs += ["--dtype", given.dtype]
    return {"puna": ours, "transformers": theirs}


@contextmanager
def serving(command: Sequence[str], threads: int) -> Iterator[Server]:
    """The server, ready; ended with the block. Its threads sleep while they wait."""
    port = free_port()
    quiet = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    started = subprocess.Popen(
        [sys.executable, *command, "--port", str(port)],
        env=os.environ | quiet,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert started.poll() is None, f"{command} ended with {started.returncode}"
                assert time.monotonic() < deadline, f"{command} does not listen"
                time.sleep(0.1)
        yield Server(f"http://127.0.0.1:{port}", psutil.Process(started.pid))
    finally:
        started.terminate()
        try:
            started.wait(timeout=10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def said(cells: dict[tuple[float, str], Cell], rates: Sequence[float]) -> str:
    """How many answers were the same from both servers."""
    both = [
        (a.text, b.text)
        for rate in rates
        for a, b in zip(
            cells[rate, "puna"].answers, cells[rate, "transformers"].answers, strict=True
        )
        if not a.wrong and not b.wrong
    ]
    return f"{sum(a == b for a, b in both)} of {len(both)} answers are the same from both"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=float, nargs="+", default=[2, 8, 20])
    parser.add_argument("--seconds", type=float, default=10, help="of arrivals, each time")
    parser.add_argument("--rounds", type=int, default=2, help="each server's turns at every rate")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of transformers")
    parser.add_argument("--dtype", default="", help="of transformers, as its server takes it")
    parser.add_argument("--no-batching", action="store_true", help="transformers one by one")
    given = parser.parse_args()
    cells = {at: Cell() for at in product(given.rates, ("puna", "transformers"))}
    with tempfile.TemporaryDirectory() as place, ExitStack() as running:
        folder = Path(place) / "model"
        words = checkpoint(folder)
        print(f"{WORDS} words asked, {NEW} tokens answered, transformers {version('transformers')}")
        print(f"load of the machine before: {os.getloadavg()[0]:.2f}", flush=True)
        servers = {
            name: running.enter_context(serving(command, given.threads))
            for name, command in commands(folder, given).items()
        }
        for server in servers.values():
            for n in (1, WARM):
                load(server, [(0.0, f"say {words[0]}")] * n, Cell())
        for turn, rate in product(range(given.rounds), given.rates):
            asked = arrivals(rate, given.seconds, words, f"{turn} {rate}")
            for name, server in servers.items():
                load(server, asked, cells[rate, name])
    print(f"load of the machine after: {os.getloadavg()[0]:.2f}")
    print(ROW.format(*HEAD))
    for (rate, name), cell in cells.items():
        print(cell.row(rate, name))
    wrong = sorted({a.wrong for cell in cells.values() for a in cell.answers if a.wrong})
    print(f"failed: {', '.join(wrong) or 'none'}; {said(cells, given.rates)}")


if __name__ == "__main__":
    main()
