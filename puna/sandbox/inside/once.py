"""One job without namespaces of our own: the first process of a container, or a plain one.

`python3 -s -S -P once.py FOLDER`: the request comes on standard input, the answer goes to standard
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

from puna.sandbox.inside import box, child, linux, usage, wire


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
        child.prepare()
        child.become(request, streams, connection, walls, f"{folder}/work")
    connection.close()
    if walls:
        linux.dumpable(False)
    os.close(streams[0])
    proc = _open("/proc") if os.getpid() == 1 else -1  # then every other process is the job's
    at = usage.Opened(_open(folder), streams[1:], proc)
    limits, used = request["limits"], usage.Usage()
    status = _watch(pid, incoming, at, limits, used, began)
    if data := told.recv(1 << 16):
        return data
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    header = box.finish(used, status, spent, limits, at)
    header["wall_s"] = time.monotonic() - began
    return wire.encode(*box.left(header, at, request["outputs"], limits))


def _open(folder: str) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def _watch(
    pid: int,
    incoming: int,
    at: usage.Opened,
    limits: dict[str, Any],
    used: usage.Usage,
    began: float,
) -> int:
    """Until the job ends or meets a limit; what it started is killed. Its wait status."""
    done = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(done, select.POLLIN)
    poll.register(incoming, select.POLLIN)
    while not used.reason:
        ready = [fd for fd, _ in poll.poll(usage.TICK_S * 1000)]
        if done in ready:
            break
        _reap_others(pid)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        usage.look(at, spent.ru_utime + spent.ru_stime, limits, used)
        if incoming in ready:
            used.reason = "cancelled"
        elif time.monotonic() - began > limits["wall_s"]:
            used.reason = "wall"
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


def _reap_others(pid: int) -> None:
    """Orphans that have ended, but not the job itself."""
    try:
        while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if found.si_pid == pid:
                return
            os.waitpid(found.si_pid, 0)
    except ChildProcessError:
        pass


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
        for each in linux.children_of(todo.pop()):
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
