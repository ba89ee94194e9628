"""A call of trusted code on untrusted input, bounded in time and memory; not a wall.

`limited(re.fullmatch, pattern, text, seconds=1)`: a verifier's regular expression, parser or
algebra may take for ever on what a policy wrote, and hold the interpreter's lock while it does.
"""

from __future__ import annotations

import atexit
import inspect
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from puna.sandbox.inside import wire

ANSWER_LIMIT = 32 << 20  # bytes
START_S, WALL_FACTOR, WALL_S = 60.0, 20.0, 30.0


class LimitError(Exception):
    """The call met its limit of processor time or memory: the input's doing, so a score of 0."""


class CallError(Exception):
    """The function raised; the message is its error's type and text."""


class _Server:
    """A single-threaded process that forks for each call, so that nothing is locked in a fork."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(30)
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

    def close(self) -> None:
        """End it; the kernel ends the calls that run with it."""
        self.control.close()
        self.process.kill()
        self.process.wait()


_server: _Server | None = None
_lock = threading.Lock()


def _close() -> None:
    if _server is not None:
        _server.close()


def _in_a_fork() -> None:
    """A fork of this process has a server of its own, and no lock that another thread held."""
    global _server, _lock
    if _server is not None:
        _server.control.close()
    _server, _lock = None, threading.Lock()


atexit.register(_close)
os.register_at_fork(after_in_child=_in_a_fork)


def _connect(named: dict[str, str]) -> socket.socket:
    global _server
    with _lock:
        if _server is None or _server.process.poll() is not None:
            _server = _Server()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                message = json.dumps(named).encode()
                socket.send_fds(_server.control, [message], [theirs.fileno()])
        except OSError as error:
            ours.close()
            raise ConnectionError(f"the server of limited calls went away: {error}") from error
        return ours


def limited(
    function: Callable[..., Any], *args: Any, seconds: float = 1.0, memory_mb: int = 512
) -> Any:
    """`function(*args)` within `seconds` of processor time and `memory_mb` of further memory.

    The function must be importable by name (module level); arguments and value travel as JSON.
    Blocks: call it where a verifier runs, on a worker. Raises LimitError; CallError where the
    function raised, ImportError where it cannot be found by name; TimeoutError, ConnectionError
    where the machine, not the call, is at fault.
    """
    name, module = function.__qualname__, function.__module__
    if "<" in name:
        raise TypeError(f"{name} must stand at the top of its module")
    request = wire.encode(
        {
            "args": args,
            "seconds": seconds,
            "memory": int(memory_mb * 2**20),
            "largest": ANSWER_LIMIT,
        }
    )
    wall = START_S + seconds * WALL_FACTOR + WALL_S
    with _connect({"module": module, "name": name, "file": _file(function)}) as connection:
        connection.settimeout(wall)
        try:
            with suppress(ConnectionError):  # the answer may be there: no such function
                connection.sendall(request)
            header, _ = wire.receive(connection.recv, 2 * ANSWER_LIMIT)
        except TimeoutError:
            raise TimeoutError(f"waited {wall:g} s for {name}") from None
        except (OSError, EOFError) as error:
            raise ConnectionError(f"the server of limited calls went away: {error}") from error
    if "lost" in header:
        raise ConnectionError(f"the limited call of {name} {header['lost']}")
    if "limit" in header:
        raise LimitError(f"{name} met its limit of {header['limit']}")
    if "missing" in header:
        raise ImportError(f"{name} of {module} cannot be found: {header['missing']}")
    if "error" in header:
        raise CallError(header["error"])
    return header["value"]


def _file(function: Callable[..., Any]) -> str:
    try:
        return os.path.abspath(inspect.getfile(function))
    except TypeError:  # built in
        return ""
