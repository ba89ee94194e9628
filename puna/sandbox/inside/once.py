"""One job without namespaces of our own: the first process of a container, or a plain one.

`python3 -I -S once.py FOLDER`: the request comes on standard input, the answer goes to standard
output. The end of standard input cancels the job. A request with `user` runs as that user.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any

sys.path.insert(0, os.path.abspath(__file__).removesuffix("/puna/sandbox/inside/once.py"))

from puna.sandbox.inside import box, child, linux, wire

TICK_S = 0.02


def main(folder: str) -> bytes:
    """Read, run; the encoded answer."""
    incoming = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    request, blobs = wire.receive(lambda n: os.read(incoming, n), 4 << 30)
    walls, owner = None, None
    if user := request.get("user"):
        owner = (user, user)
        walls = child.Walls(user, user, owner, blobs.pop())
    else:
        linux.adopt_orphans()
    for name in box.FOLDERS:
        os.mkdir(f"{folder}/{name}", 0o755)
    streams = box.fill(folder, request, blobs, owner)
    told, connection = socket.socketpair()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        child.become(request, streams, connection, walls, f"{folder}/work")
    connection.close()
    if walls:
        linux.dumpable(False)
    for fd in streams.values():
        os.close(fd)
    proc = _open("/proc") if os.getpid() == 1 else -1  # then every other process is the job's
    at = box.Opened(_open(folder), _open(f"{folder}/out"), proc)
    limits, usage = request["limits"], box.Usage()
    status = _watch(pid, incoming, at, limits, usage, began)
    if data := told.recv(1 << 16):
        return data
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    header = box.finish(usage, status, used, limits, at)
    header["wall_s"] = time.monotonic() - began
    return box.answer(header, at, request["outputs"], limits)


def _open(folder: str) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def _watch(
    pid: int, incoming: int, at: box.Opened, limits: dict[str, Any], usage: box.Usage, began: float
) -> int:
    """Until the job ends or meets a limit; what it started is killed. Its wait status."""
    done = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(done, select.POLLIN)
    poll.register(incoming, select.POLLIN)
    while not usage.reason:
        ready = [fd for fd, _ in poll.poll(TICK_S * 1000)]
        if done in ready:
            break
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        box.look(at, used.ru_utime + used.ru_stime, limits, usage)
        if incoming in ready:
            usage.reason = "cancelled"
        elif time.monotonic() - began > limits["wall_s"]:
            usage.reason = "wall"
    if os.getpid() == 1:
        _kill(-1)
    else:
        for each in _family(os.getpid()):
            _kill(each)
    status = 0
    while True:
        try:
            ended, how = os.waitpid(-1, 0)
        except ChildProcessError:
            return status
        if ended == pid:
            status = how


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _family(root: int) -> list[int]:
    """The descendants of a process as /proc shows them; stopped first, so that none is missed."""
    found: list[int] = []
    todo = [root]
    while todo:
        parent = todo.pop()
        try:
            with open(f"/proc/{parent}/task/{parent}/children") as file:
                children = [int(p) for p in file.read().split()]
        except OSError:
            continue
        for each in children:
            try:
                os.kill(each, signal.SIGSTOP)
            except OSError:
                continue
            found.append(each)
            todo.append(each)
    return found


if __name__ == "__main__":
    outgoing = os.dup(1)
    os.dup2(2, 1)
    try:
        message = main(sys.argv[1])
    except Exception as error:
        message = wire.encode({"error": f"{error}" or repr(error)})
    with os.fdopen(outgoing, "wb") as file:
        file.write(message)
