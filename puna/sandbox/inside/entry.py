"""From a fork of the keeper to the job: read the request, build its namespaces, become it.

Python source runs in this very process, the first of its namespace. A command runs as its child,
which this process waits for and whose end ends every other.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any, NoReturn

from puna.sandbox.inside import box, child, linux, usage, wire

BOX = "/box"  # the job's only writable file system
NAMESPACES = linux.NEW_NS | linux.NEW_IPC | linux.NEW_UTS
REQUEST_LIMIT = 4 << 30
TERMINALS = "newinstance,ptmxmode=0666,mode=620,max=16"  # of the machine's few thousand


@dataclass
class Builder:
    """What every job's walls are made of; `proc`: a writable /proc, open."""

    config: dict[str, Any]
    proc: int
    count: int = 0

    def run(self, connection: socket.socket, tie: socket.socket, network: int) -> NoReturn:
        """In the fork: `connection` goes to whoever waits for the job, `tie` to the keeper.

        `network`: a network namespace, open, that no other job is in.
        """
        try:
            request, blobs = wire.receive(connection.recv, REQUEST_LIMIT)
            walls = self.walls(request["loopback"])
            self.mount(request["limits"])
            if request["command"]:
                safe = linux.NO_SUID | linux.NO_EXEC
                linux.mount("devpts", "/dev/pts", "devpts", safe, TERMINALS)
            if request["loopback"]:  # with an interface it has a state, so nobody uses it again
                linux.unshare(linux.NEW_NET, "a network namespace")
                linux.loopback_up()
            else:
                linux.setns(network, linux.NEW_NET)
            streams = box.fill(BOX, request, blobs, walls.owner)
            del blobs
            box_fd, proc_fd = (os.open(p, os.O_RDONLY | os.O_DIRECTORY) for p in (BOX, "/proc"))
            socket.send_fds(tie, [b"r"], [box_fd, proc_fd, *streams[1:]])
            if request["command"]:
                wait_for_child(tie)
            child.become(request, streams, connection, walls, f"{BOX}/work")
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass  # nobody waits any more
        except BaseException as error:
            wire.tell(connection, error)
        finally:
            os._exit(1)

    def walls(self, sockets: bool) -> child.Walls:
        """Who the job is; started by root, each is somebody else, also to its neighbours."""
        uid, gid, owner = self.config["uid"], self.config["gid"], None
        if self.config["root"]:
            uid = gid = uid + self.count % 60_000
            owner = (uid, gid)
        program = bytes.fromhex(self.config["filter with sockets" if sockets else "filter"])
        return child.Walls(uid, gid, owner, program, self.proc)

    def mount(self, limits: dict[str, Any]) -> None:
        """The namespaces and mounts of one job."""
        linux.unshare(NAMESPACES, "mount, IPC and host name namespaces")
        safe = linux.NO_SUID | linux.NO_DEV
        inodes = limits["files"] + usage.SPARE_FILES
        options = f"size={limits['disk']},nr_inodes={inodes},mode=755"
        linux.mount("tmpfs", BOX, "tmpfs", safe, options)
        for name in box.FOLDERS:
            os.mkdir(f"{BOX}/{name}")
        flags = safe | linux.NO_EXEC | linux.READ_ONLY
        linux.mount("proc", "/proc", "proc", flags, "hidepid=2")  # a job sees its own processes


def wait_for_child(tie: socket.socket) -> None:
    """Fork; the parent waits, reports the wait status and ends, and every process with it."""
    pid = os.fork()
    if pid == 0:
        return
    linux.dumpable(False)  # nobody looks into this process
    kept = tie.fileno()
    os.closerange(0, kept)
    os.closerange(kept + 1, 1 << 20)
    while True:
        ended, status = os.wait()
        if ended == pid:
            tie.send(str(status).encode())
            os._exit(0)
