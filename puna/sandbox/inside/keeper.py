"""The process that forks jobs; the first process of the outer jail.

`python -s -S -P keeper.py FD`: FD is a sequential-packet socket. Its first message is the
configuration, the answer to it `{"ready": true}` or `{"error": ...}`; then each message is the
limits of a job and carries that job's socket. The jobs that run at once are bounded, the others
wait here. The end of FD is the end of all. No content of a job ever enters this process, since
every later job begins as a copy of its memory: `entry.py` reads the request, and what the job has
left goes to whoever waits for it as open descriptors.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

sys.path.insert(0, os.path.abspath(__file__).removesuffix("/puna/sandbox/inside/keeper.py"))

from puna.sandbox.inside import box, child, entry, linux, usage, wire


@dataclass(eq=False)
class Running:
    """One job: its first process, the socket of whoever waits for it, what it used so far."""

    pid: int
    pidfd: int
    connection: socket.socket
    tie: socket.socket  # to its process, until that becomes the job
    order: dict[str, Any]
    network: int
    began: float = 0.0
    next_look: float = 0.0
    at: usage.Opened | None = None
    used: usage.Usage = field(default_factory=usage.Usage)

    def close(self) -> None:
        """Give every descriptor back."""
        self.connection.close()
        self.tie.close()
        os.close(self.pidfd)
        if self.at:
            self.at.close()


class Keeper:
    """Jobs waiting, jobs running."""

    def __init__(self, control: socket.socket, config: dict[str, Any]) -> None:
        self.control, self.config = control, config
        self.builder = entry.Builder(config, os.open("/proc", os.O_RDONLY))
        self.pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY)
        self.network = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.networks: list[int] = []  # that no job is in; making one costs more than a fork
        self.waiting: deque[tuple[dict[str, Any], int]] = deque()
        self.jobs: list[Running] = []
        self.polled: dict[int, Running] = {}  # by descriptor
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)

    def run(self) -> None:
        """Until the control socket ends."""
        while True:
            for fd, _ in self.poll.poll(usage.TICK_S * 1000 if self.jobs else None):
                if fd == self.control.fileno():
                    data, fds, _, _ = socket.recv_fds(self.control, 1 << 16, 1)
                    if not data:
                        return
                    if fds:  # none where there was no descriptor left for it
                        self.waiting.append((json.loads(data), fds[0]))
                elif fd in self.polled:
                    self.happened(self.polled[fd], fd)
            now = time.monotonic()
            for job in self.jobs:
                if now >= job.next_look:
                    self.look(job, now)
            while self.waiting and len(self.jobs) < self.config["at_once"]:
                self.start(*self.waiting.popleft())

    def free_network(self) -> int:
        """A network namespace without interfaces.

        Jobs without a loopback make no sockets but pairs without a name, so they leave nothing in
        it for the next.
        """
        if self.networks:
            return self.networks.pop()
        linux.unshare(linux.NEW_NET, "a network namespace")
        try:
            return os.open("/proc/self/ns/net", os.O_RDONLY)
        finally:
            linux.setns(self.network, linux.NEW_NET)

    def start(self, order: dict[str, Any], fd: int) -> None:
        """Fork the first process of a job; a failure is told on the job's own socket."""
        self.builder.count += 1
        connection = socket.socket(fileno=fd)
        made: list[socket.socket] = []
        try:
            made += socket.socketpair()
            network = self.free_network()
            linux.unshare(linux.NEW_PID, "a process namespace")
            try:
                pid = os.fork()
                if pid == 0:
                    self.control.close()
                    self.builder.run(connection, made[1], network)
            finally:
                linux.setns(self.pid_namespace, linux.NEW_PID)
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            wire.tell(connection, error)
            for each in (connection, *made):
                each.close()
            return
        made[1].close()
        job = Running(pid, pidfd, connection, made[0], order, network)
        self.poll.register(pidfd, select.POLLIN)
        self.poll.register(job.tie, select.POLLIN)
        self.poll.register(connection, 0)  # its end cancels the job
        self.jobs.append(job)
        self.polled.update(dict.fromkeys((pidfd, job.tie.fileno(), connection.fileno()), job))

    def happened(self, job: Running, fd: int) -> None:
        """One of a job's descriptors has something to say."""
        if fd == job.pidfd:
            self.ended(job)
        elif fd == job.connection.fileno():
            self.forget(job, fd)
            job.used.reason = "cancelled"
            signal.pidfd_send_signal(job.pidfd, signal.SIGKILL)
        else:
            self.tied(job)
            self.forget(job, fd)

    def tied(self, job: Running) -> None:
        """Its process is about to become the job, or ended before."""
        data, fds, _, _ = socket.recv_fds(job.tie, 1, 5)
        if len(fds) == 5:
            job.at = usage.Opened(fds[0], fds[2:], fds[1])
            job.began = time.monotonic()
        elif data:  # there was no descriptor left for them
            for each in fds:
                os.close(each)
            signal.pidfd_send_signal(job.pidfd, signal.SIGKILL)

    def forget(self, job: Running, fd: int) -> None:
        """Do not listen to a descriptor any more."""
        if self.polled.pop(fd, None):
            self.poll.unregister(fd)

    def look(self, job: Running, now: float) -> None:
        """End a job that has met a limit."""
        if job.at is None or job.used.reason or now - job.began < usage.TICK_S:
            return
        usage.look(job.at, 0.0, job.order["limits"], job.used)
        if now - job.began > job.order["limits"]["wall_s"]:
            job.used.reason = "wall"
        cost = time.monotonic() - now
        job.next_look = now + max(usage.TICK_S, 20 * cost)  # others wait meanwhile
        if job.used.reason:
            signal.pidfd_send_signal(job.pidfd, signal.SIGKILL)

    def ended(self, job: Running) -> None:
        """The first process is gone and with it all others: answer."""
        if job.at is None:
            self.tied(job)
        wall_s = time.monotonic() - job.began
        _, status, spent = os.wait4(job.pid, 0)
        for fd in (job.pidfd, job.tie.fileno(), job.connection.fileno()):
            self.forget(job, fd)
        try:
            if job.at is None:
                wire.tell(job.connection, "the job's process ended before it could become the job")
            elif job.used.reason != "cancelled":
                said = job.tie.recv(64) if job.order["command"] else b""
                if said:  # how the command ended, where the first process only waited for it
                    status = int(said)
                header = box.finish(job.used, status, spent, job.order["limits"], job.at)
                header["wall_s"] = wall_s
                job.connection.setblocking(False)  # so few bytes always find room
                fds = [job.at.box, *job.at.streams]
                socket.send_fds(job.connection, [wire.encode(header)], fds)
        except OSError as error:
            wire.tell(job.connection, error)
        self.networks.append(job.network)
        self.jobs.remove(job)
        job.close()


def main() -> None:
    """Configure, say so, keep."""
    control = socket.socket(fileno=int(sys.argv[1]))
    # as the first process it would receive from jobs whatever has a handler
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        config = json.loads(control.recv(1 << 18))
        own = list(sys.path)
        sys.path += config["path"]
        for name in config["preload"]:
            importlib.import_module(name)
        sys.path[:] = own
        child.prepare()
        linux.first_to_go()
        linux.mount("", "/", "", linux.PRIVATE | linux.REC)
        keeper = Keeper(control, config)
    except Exception as error:
        control.send(json.dumps({"error": f"{error}" or repr(error)}).encode())
        return
    control.send(json.dumps({"ready": True}).encode())
    gc.collect()
    gc.freeze()  # a fork copies pages that are written to, and a collection writes to all
    keeper.run()


if __name__ == "__main__":
    main()
