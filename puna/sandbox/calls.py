"""The other side of `limited`: a process that imports the function's module once, and forks.

Started by `limited.py`; each message on its control socket names a function and carries the socket
of one call.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import resource
import select
import signal
import socket
import sys
from functools import reduce
from typing import Any, NoReturn

from puna.sandbox.inside import linux, wire

REQUEST_LIMIT = 256 << 20
OTHER, NO_MEMORY = 1, 2  # exit statuses


def main(fd: int) -> None:
    """Serve until the control socket ends."""
    control = socket.socket(fileno=fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    running: dict[int, tuple[int, int, socket.socket]] = {}  # by the call's process, its socket
    while True:
        for ready, _ in poll.poll():
            if ready == fd:
                data, fds, _, _ = socket.recv_fds(control, 1 << 18, 1)
                if not data:
                    return  # the calls that run end with this process
                connection = socket.socket(fileno=fds[0])
                child = _begin(json.loads(data), connection)
                if child is None:
                    connection.close()
                    continue
                call = child, os.pidfd_open(child), connection
                running.update({call[1]: call, connection.fileno(): call})
                poll.register(call[1], select.POLLIN)
                poll.register(connection, 0)  # its end: nobody waits any more
            elif ready in running:
                child, pidfd, connection = running[ready]
                poll.unregister(ready)
                del running[ready]
                if ready != pidfd:
                    os.kill(child, signal.SIGKILL)
                    continue
                if running.pop(connection.fileno(), None):
                    poll.unregister(connection)
                os.close(pidfd)
                _finish(child, connection)


def _begin(named: dict[str, Any], connection: socket.socket) -> int | None:
    """Fork for a call; None where its function could not be found, which its caller is told."""
    try:
        function = _find(named)
        pid = os.fork()
    except BaseException as error:  # whatever importing the module may raise
        _tell(connection, {"missing": f"{type(error).__name__}: {error}"})
        return None
    if pid == 0:
        _call(function, connection)
    return pid


def _find(named: dict[str, Any]) -> Any:
    name, file = named["module"], named["file"]
    by_file = name == "__main__" or name.startswith("puna_env_")  # loaded from there, not by name
    key = f"limited:{file}" if by_file else name
    module = sys.modules.get(key)
    if module is None and by_file:
        spec = importlib.util.spec_from_file_location(key, file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{file} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[key]
            raise
    elif module is None:
        module = importlib.import_module(name)
    return reduce(getattr, named["name"].split("."), module)


def _call(function: Any, connection: socket.socket) -> NoReturn:
    code = OTHER
    try:
        linux.die_with_parent()
        connection.settimeout(60)
        request, _ = wire.receive(connection.recv, REQUEST_LIMIT)
        with open("/proc/self/statm", "rb") as file:
            now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        limit = now + request["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])  # not to be held off by any lock
        try:
            answer: dict[str, Any] = {"value": function(*request["args"])}
        except MemoryError:
            answer = {"limit": "memory"}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        try:
            data = wire.encode(answer)
        except (TypeError, ValueError, RecursionError) as error:
            data = wire.encode({"error": f"TypeError: the value is not JSON: {error}"})
        if len(data) > request["largest"]:
            data = wire.encode({"limit": f"{request['largest'] >> 20} MB for its value"})
        signal.setitimer(signal.ITIMER_PROF, 0)
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
