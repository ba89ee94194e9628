"""A call of trusted code on untrusted input, bounded in time and memory; not a wall.

`limited(re.fullmatch, pattern, text, seconds=1)`: a verifier's regular expression, parser or
algebra may take for ever on what a policy wrote, and hold the interpreter's lock while it does.
"""

from __future__ import annotations

import atexit
import inspect
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from puna.sandbox.inside import wire

ANSWER_LIMIT = 64 << 20
START_S, WALL_FACTOR, WALL_S = 60.0, 20.0, 30.0


class LimitError(Exception):
    """The call met its limit of processor time or memory: the input's doing, so a score of 0."""


class CallError(Exception):
    """The function raised; the message is its error's type and text."""


class _Server:
    """A single-threaded process that forks for each call, so that nothing is locked in a fork."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.control, theirs = socket.socketpair()
        code = "import sys; from puna.sandbox import calls; calls.main(int(sys.argv[1]))"
        root = str(Path(__file__).resolve().parents[2])
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])},
                start_new_session=True,
            )

    def usable(self) -> bool:
        return self.owner == os.getpid() and self.process.poll() is None

    def close(self) -> None:
        self.control.close()
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()


_server: _Server | None = None
_lock = threading.Lock()


def _connect() -> socket.socket:
    global _server
    with _lock:
        if _server is None or not _server.usable():
            _server = _Server()
            atexit.register(_server.close)
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(_server.control, [b"c"], [theirs.fileno()])
        return ours


def limited(
    function: Callable[..., Any], *args: Any, seconds: float = 1.0, memory_mb: int = 512
) -> Any:
    """`function(*args)` within `seconds` of processor time and `memory_mb` of further memory.

    The function must be importable by name (module level); arguments and value travel as JSON.
    Blocks: call it where a verifier runs, on a worker. Raises LimitError, CallError where the
    function raised, TimeoutError where the machine, not the call, was too slow.
    """
    request = {
        "module": function.__module__,
        "name": function.__qualname__,
        "file": _file(function),
        "args": args,
        "seconds": seconds,
        "memory": memory_mb << 20,
    }
    if "<" in function.__qualname__:
        raise TypeError(f"{function.__qualname__} must stand at the top of its module")
    wall = START_S + seconds * WALL_FACTOR + WALL_S
    with _connect() as connection:
        connection.settimeout(wall)
        try:
            connection.sendall(wire.encode(request))
            header, _ = wire.receive(connection.recv, ANSWER_LIMIT)
        except TimeoutError:
            raise TimeoutError(f"waited {wall:g} s for {function.__qualname__}") from None
        except (OSError, EOFError) as error:
            raise ConnectionError(f"the server of limited calls went away: {error}") from error
    if "lost" in header:
        raise ConnectionError(f"the limited call of {function.__qualname__} {header['lost']}")
    if "limit" in header:
        raise LimitError(f"{function.__qualname__} met its limit of {header['limit']}")
    if "error" in header:
        raise CallError(header["error"])
    return header["value"]


def _file(function: Callable[..., Any]) -> str:
    try:
        return os.path.abspath(inspect.getfile(function))
    except TypeError:  # built in
        return ""
