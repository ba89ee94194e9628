"""The process that forks a supervisor for each job; the first process of the outer jail.

`python -I -S keeper.py FD`: FD is a stream socket. Its first message is the configuration, the
answer to it `{"ready": true}` or `{"error": ...}`; then each byte on it carries one job's socket.
The jobs that run at once are bounded, the others wait here. The end of FD is the end of all.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import socket
import sys
from collections import deque
from typing import Any

sys.path.insert(0, os.path.abspath(__file__).removesuffix("/puna/sandbox/inside/keeper.py"))

from puna.sandbox.inside import child, linux, supervise, wire

BOX = "/box"  # the job's only writable file system: work, tmp, shm
NAMESPACES = linux.NEW_NS | linux.NEW_IPC | linux.NEW_UTS | linux.NEW_NET
REQUEST_LIMIT = 4 << 30


class Keeper:
    """Jobs waiting, jobs running."""

    def __init__(self, control: socket.socket, config: dict[str, Any], program: bytes) -> None:
        self.control, self.config, self.program = control, config, program
        self.pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY)
        self.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        self.waiting: deque[int] = deque()
        self.running: dict[int, int] = {}  # pidfd: pid
        self.count = 0
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)

    def run(self) -> None:
        """Until the control socket ends."""
        while True:
            for fd, _ in self.poll.poll():
                if fd == self.control.fileno():
                    data, fds, _, _ = socket.recv_fds(self.control, 1, 1)
                    if not data:
                        return
                    self.waiting.extend(fds)
                else:
                    os.waitpid(self.running.pop(fd), 0)
                    self.poll.unregister(fd)
                    os.close(fd)
            while self.waiting and len(self.running) < self.config["at_once"]:
                self.start(self.waiting.popleft())

    def start(self, fd: int) -> None:
        """Fork the supervisor of one job; a failure is told on the job's own socket."""
        self.count += 1
        with socket.socket(fileno=fd) as connection:
            try:
                linux.unshare(linux.NEW_PID, "a process namespace")
                try:
                    pid = os.fork()
                    if pid == 0:
                        self.supervisor(connection)
                finally:
                    linux.setns(self.pid_namespace, linux.NEW_PID)
                pidfd = os.pidfd_open(pid)
            except OSError as error:
                tell(connection, error)
                return
        self.running[pidfd] = pid
        self.poll.register(pidfd, select.POLLIN)

    def supervisor(self, connection: socket.socket) -> None:
        """The first process of a job's process namespace."""
        try:
            self.control.close()
            connection.send(b"s")
            request, blobs = wire.receive(connection.recv, REQUEST_LIMIT)
            place = self.wall(request["limits"])
            connection.sendall(supervise.supervise(request, blobs, place, connection.fileno()))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass  # nobody waits any more
        except BaseException as error:
            tell(connection, error)
        finally:
            os._exit(0)

    def wall(self, limits: dict[str, Any]) -> supervise.Place:
        """The namespaces and mounts of one job."""
        linux.unshare(NAMESPACES, "mount, IPC, host name and network namespaces")
        safe = linux.NO_SUID | linux.NO_DEV
        options = (
            f"size={limits['disk']},nr_inodes={limits['files'] + supervise.SPARE_FILES},mode=755"
        )
        linux.mount("tmpfs", BOX, "tmpfs", safe, options)
        uid, gid = self.config["uid"], self.config["gid"]
        owner = None
        if self.config["root"]:  # each job is somebody else, also to its neighbours
            uid = gid = uid + self.count % 60_000
            owner = (uid, gid)
        for name, mode in (("work", 0o755), ("tmp", 0o755), ("shm", 0o755)):
            os.mkdir(f"{BOX}/{name}", mode)
            if owner:
                os.chown(f"{BOX}/{name}", *owner)
        linux.mount(f"{BOX}/shm", "/dev/shm", "", linux.BIND)
        flags = safe | linux.NO_EXEC | linux.READ_ONLY
        linux.mount("proc", "/proc", "proc", flags, "hidepid=2")  # hides this process from the job
        linux.loopback_up()
        walls = child.Walls(uid, gid, owner, self.program, self.proc)
        return supervise.Place(f"{BOX}/work", walls)


def tell(connection: socket.socket, error: BaseException) -> None:
    """Report that the machinery failed, as far as anybody listens."""
    try:
        connection.sendall(wire.encode({"error": f"{error}" or repr(error)}))
    except OSError:
        pass


def main() -> None:
    """Configure, say so, keep."""
    control = socket.socket(fileno=int(sys.argv[1]))
    config, blobs = wire.receive(control.recv, 1 << 20)
    try:
        for name in config["preload"]:
            importlib.import_module(name)
        linux.mount("", "/", "", linux.PRIVATE | linux.REC)
        keeper = Keeper(control, config, blobs[0])
    except Exception as error:
        tell(control, error)
        return
    control.sendall(wire.encode({"ready": True}))
    gc.collect()
    gc.freeze()  # a fork copies pages that are written to, and a collection writes to all
    keeper.run()


if __name__ == "__main__":
    main()
