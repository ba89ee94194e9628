"""What the server adds to a model: many clients stream at once, and no model computes anything.

`python benchmarks/serve_streams.py --streams 1000 --tokens 100 --every 0.1` prints one JSON line:
the server's CPU microseconds a token, how long after it was drawn a token reached its client, and
memory. The clients are a process of their own. `--protocol` takes chat, completions, responses or
messages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import string
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from puna.serve.tickets import Done, Ticket, Token, hand_over
from puna.serve.worker import Worker
from puna.text.template import stop_ids

if TYPE_CHECKING:
    from puna.engine.local import Request

PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
LETTERS = string.ascii_letters + string.digits  # each a token, which says of which step it is


class ListWorker(Worker):
    """A worker whose tokens come from `script`, one every `every` s, and from no engine.

    `script(request)` are the ids of an answer, with the stop token if it ends by itself. `steps`
    are the times of its steps [ns], `asked` all requests.
    """

    def __init__(
        self,
        tokenizer: Any,
        script: Callable[[Request], Sequence[int]],
        *,
        every: float = 0.0,
        max_context: int = 100_000,
    ) -> None:
        engine = SimpleNamespace(tokenizer=tokenizer, max_context=max_context)
        self.served: Any = SimpleNamespace(engine=engine)
        self.script, self.every = script, every
        self.asked: list[Request] = []
        self.steps: list[int] = []
        self.playing: list[tuple[Ticket, int, Iterator[int], int]] = []
        self.stops = stop_ids(tokenizer)
        super().__init__({"list": lambda: self.served})
        self.loaded["list"] = self.served

    def _work(self) -> None:
        while True:
            with self.arrived:
                self.arrived.wait_for(lambda: self.closing or self.waiting or self.playing)
                if self.closing:
                    return
                new, self.waiting = self.waiting, []
            for ticket in new:
                ticket.begun = True
                self.asked += ticket.requests
                for i, request in enumerate(ticket.requests):
                    ids = self.script(request)[: request.params.max_tokens]
                    self.playing.append((ticket, i, iter(ids), request.params.top_logprobs))
            begun = time.monotonic()
            self._play()
            if self.every:
                time.sleep(max(0.0, begun + self.every - time.monotonic()))

    def _play(self) -> None:
        """A token of every row, handed over at once."""
        events: list[Any] = []
        live = []
        for row in self.playing:
            ticket, i, ids, likeliest = row
            token = None if i in ticket.dropped else next(ids, None)
            if token is None:
                events.append((ticket, Done(i, "stop" if i in ticket.dropped else "length")))
                continue
            self.generated += 1
            top = tuple((token + n, -0.5 - n) for n in range(likeliest))
            events.append((ticket, Token(i, token, -0.5, top)))
            if token in self.stops:
                events.append((ticket, Done(i, "stop")))
            else:
                live.append(row)
        self.playing = live
        self.steps.append(time.monotonic_ns())
        hand_over(events)


def serve(given: argparse.Namespace) -> dict[str, Any]:
    """The server in this process, the clients in another; what was measured."""
    import uvicorn

    from puna.serve.app import create_app
    from puna.serve.main import _listen
    from puna.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.train(["the quick brown fox"], 300)
    ids = [tokenizer.encode(letter)[0] for letter in LETTERS]
    worker = ListWorker(tokenizer, lambda request: [], every=given.every)

    def script(request: Request) -> list[int]:
        at = len(worker.steps)
        return [ids[(at + i) % len(ids)] for i in range(given.tokens)]

    worker.script = script
    listening = _listen("127.0.0.1", 0)
    app = create_app(worker, Path(tempfile.gettempdir()) / "none")  # type: ignore[arg-type]
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    command = [sys.executable, __file__, "--client", str(listening.getsockname()[1])]
    command += ["--streams", str(given.streams), "--tokens", str(given.tokens)]
    before = resource.getrusage(resource.RUSAGE_SELF)
    done = subprocess.run(
        [*command, "--protocol", given.protocol], stdout=subprocess.PIPE, check=True
    )
    after = resource.getrusage(resource.RUSAGE_SELF)
    server.should_exit = True
    thread.join(timeout=10)
    told = json.loads(done.stdout)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    waits = sorted(_waits(told["arrivals"], worker.steps))
    tokens = given.streams * given.tokens
    return {
        "protocol": given.protocol,
        "streams": given.streams,
        "tokens": tokens,
        "arrived": len(waits),
        "errors": told["errors"],
        "server_cpu_us_a_token": round(spent / tokens * 1e6, 1),
        "added_ms": {
            name: round(waits[int(share * (len(waits) - 1))], 2)
            for name, share in (("median", 0.5), ("p99", 0.99), ("most", 1.0))
        },
        "peak_rss_mb": after.ru_maxrss // 1024,
        "loop": "uvloop" if "uvloop" in sys.modules else "asyncio",
    }


def _waits(arrivals: Sequence[tuple[str, int]], steps: Sequence[int]) -> Iterator[float]:
    """Milliseconds from each token's step to its arrival; it was the last step of its letter."""
    places: dict[str, list[int]] = {}
    for at, when in enumerate(steps):
        places.setdefault(LETTERS[at % len(LETTERS)], []).append(when)
    for letter, came in arrivals:
        drawn = max((w for w in places.get(letter, ()) if w <= came), default=None)
        if drawn is not None:
            yield (came - drawn) / 1e6


class Client(asyncio.Protocol):
    """One stream: notes when each letter arrives."""

    pattern = re.compile(rb'"(?:content|text|delta)":"([A-Za-z0-9]+)"')

    def __init__(self, request: bytes, arrivals: list[tuple[str, int]]) -> None:
        self.request, self.arrivals = request, arrivals
        self.over = asyncio.get_running_loop().create_future()
        self.rest, self.status = b"", b""

    def connection_made(self, transport: Any) -> None:
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self.status = self.status or data[:12]
        data = self.rest + data
        end = data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
        whole, self.rest = data[:end], data[end:]
        for found in self.pattern.finditer(whole):
            self.arrivals += [(letter, now) for letter in found[1].decode()]

    def connection_lost(self, error: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(error)


async def clients(given: argparse.Namespace) -> dict[str, Any]:
    """All clients at once."""
    asked: dict[str, Any] = {"stream": True, "max_tokens": given.tokens}
    asked |= {
        "chat": {"messages": [{"role": "user", "content": "go"}]},
        "completions": {"prompt": "go"},
        "responses": {"input": "go", "max_output_tokens": given.tokens},
        "messages": {"messages": [{"role": "user", "content": "go"}]},
    }[given.protocol]
    body = json.dumps(asked).encode()
    head = (
        f"POST {PATHS[given.protocol]} HTTP/1.1\r\nhost: 127.0.0.1:{given.client}\r\n"
        f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    loop, arrivals = asyncio.get_running_loop(), list[tuple[str, int]]()
    made = []
    for _ in range(given.streams):
        made.append(
            await loop.create_connection(
                lambda: Client(head.encode() + body, arrivals), "127.0.0.1", given.client
            )
        )
    await asyncio.gather(*(client.over for _, client in made))
    wrong = [c.status.decode() for _, c in made if not c.status.endswith(b" 200")]
    return {"arrivals": arrivals, "errors": wrong}


def main() -> None:
    """Measure, or be the clients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--every", type=float, default=0.1, help="seconds from token to token")
    parser.add_argument("--protocol", choices=list(PATHS), default="chat")
    parser.add_argument("--client", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        print(json.dumps(asyncio.run(clients(given))))
    else:
        print(json.dumps(serve(given)))


if __name__ == "__main__":
    main()
