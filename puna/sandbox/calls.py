"""The other side of `limited`: a process that imports the function's module once, and forks.

Started by `limited.py`; each byte on its control socket carries the socket of one call.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import resource
import select
import signal
import socket
import sys
from functools import reduce
from typing import Any, NoReturn

from puna.sandbox.inside import wire

REQUEST_LIMIT = 256 << 20
OTHER, NO_MEMORY = 1, 2  # exit statuses


def main(fd: int) -> None:
    """Serve until the control socket ends."""
    control = socket.socket(fileno=fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for ready, _ in poll.poll():
            if ready == fd:
                data, fds, _, _ = socket.recv_fds(control, 1, 1)
                if not data:
                    for pid, _ in running.values():
                        os.kill(pid, signal.SIGKILL)
                    return
                connection = socket.socket(fileno=fds[0])
                child = _begin(connection)
                if child is None:
                    connection.close()
                    continue
                pidfd = os.pidfd_open(child)
                running[pidfd] = child, connection
                poll.register(pidfd, select.POLLIN)
            else:
                pid, connection = running.pop(ready)
                _finish(pid, connection)
                poll.unregister(ready)
                os.close(ready)


def _begin(connection: socket.socket) -> int | None:
    """Fork for a call; None where it could not be read or found, which its caller is told."""
    try:
        connection.settimeout(30)
        request, _ = wire.receive(connection.recv, REQUEST_LIMIT)
        function = _find(request)
        pid = os.fork()
    except Exception as error:  # whatever importing the module may raise
        _tell(connection, {"error": f"{type(error).__name__}: {error}"})
        return None
    if pid == 0:
        _call(function, request, connection)
    return pid


def _find(request: dict[str, Any]) -> Any:
    name, file = request["module"], request["file"]
    module = sys.modules.get(name)
    if module is None:
        if name == "__main__" or name.startswith("puna_env_"):  # loaded from a file, not by name
            spec = importlib.util.spec_from_file_location(name.strip("_"), file)
            if spec is None or spec.loader is None:
                raise ImportError(f"{file} is not a Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            sys.modules[name] = module
        else:
            module = importlib.import_module(name)
    return reduce(getattr, request["name"].split("."), module)


def _call(function: Any, request: dict[str, Any], connection: socket.socket) -> NoReturn:
    code = OTHER
    try:
        with open("/proc/self/statm", "rb") as file:
            now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        limit = now + request["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])  # not to be held off by any lock
        try:
            value = function(*request["args"])
        except MemoryError:
            answer: dict[str, Any] = {"limit": f"{request['memory'] >> 20} MB"}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        else:
            answer = {"value": value}
        try:
            data = wire.encode(answer)
        except (TypeError, ValueError, RecursionError) as error:
            data = wire.encode({"error": f"TypeError: the value is not JSON: {error}"})
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.settimeout(30)
        connection.sendall(data)
        code = 0
    except MemoryError:
        code = NO_MEMORY
    finally:
        os._exit(code)


def _finish(pid: int, connection: socket.socket) -> None:
    """Say how a call ended that could not say so itself."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == -signal.SIGPROF:
        _tell(connection, {"limit": "processor time"})
    elif status == NO_MEMORY:
        _tell(connection, {"limit": "memory"})
    elif status in (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT):  # recursion in C
        _tell(connection, {"limit": f"what it can stand: {signal.Signals(-status).name}"})
    elif status and status != OTHER:
        _tell(connection, {"lost": f"ended with status {status}"})
    connection.close()


def _tell(connection: socket.socket, header: dict[str, Any]) -> None:
    try:
        connection.sendall(wire.encode(header))
    except OSError:
        pass
