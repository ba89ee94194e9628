"""The default backend on Linux: a keeper under bubblewrap, and fresh namespaces for each job.

`with Bubblewrap() as sandbox: sandbox.run_now(Job.python("print(1)"))`.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import resource
import signal
import socket
import subprocess
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from puna.core.errors import UserError
from puna.core.threads import default_threads
from puna.sandbox import outer, seccomp
from puna.sandbox.base import Mounts, Sandbox
from puna.sandbox.inside import box, wire
from puna.sandbox.inside.usage import Opened
from puna.sandbox.job import Job, Result, SandboxError

START_S, SUBMIT_S, QUEUE_S = 30.0, 30.0, 600.0
ANSWER_BYTES = 1 << 16
# Not `threading`, not `random`: what they do after each fork costs as much as the fork.
PRELOAD = (
    "bisect collections copy enum functools heapq itertools json math operator re string typing"
)


class Bubblewrap(Sandbox):
    """Jobs forked from one loaded interpreter, each in namespaces of its own.

    `at_once`: jobs that run at the same time (0: one per core), the others wait their turn.
    Raises UserError, at the first job, where this machine cannot hold a job in.
    """

    name = "bubblewrap"

    def __init__(self, mounts: Mounts = Mounts(), *, at_once: int = 0) -> None:
        self.mounts = mounts
        self.at_once = at_once or default_threads()
        self.lock = threading.Lock()
        self.keeper: _Keeper | None = None
        self.ahead_s = 0.0
        self.gates: weakref.WeakKeyDictionary[Any, asyncio.Semaphore] = weakref.WeakKeyDictionary()
        _living.add(self)

    async def run(self, job: Job) -> Result:
        """Run a job in fresh namespaces, once more where the keeper died meanwhile.

        Raises SandboxError where the machinery failed.
        """
        loop = asyncio.get_running_loop()
        if loop not in self.gates:
            self.gates[loop] = asyncio.Semaphore(max(64, 4 * self.at_once))
        async with self.gates[loop]:
            for last in (False, True):
                if self.keeper is None or not self.keeper.usable():
                    await asyncio.to_thread(self._keeper)
                keeper = self._keeper()
                try:
                    return await self._answer(job, keeper.submit(job))
                except _KeeperLostError:
                    keeper.ended = True
                    if last or keeper.dismissed:
                        raise
        raise AssertionError

    async def _answer(self, job: Job, connection: socket.socket) -> Result:
        loop = asyncio.get_running_loop()
        with connection, self._deadline(job) as seconds:
            connection.setblocking(False)
            try:
                async with asyncio.timeout(seconds):
                    await loop.sock_sendall(connection, wire.encode(*job.to_wire(outer.PATH)))
                    await _readable(connection)
                answered = _Answered(connection)
            except OSError as error:
                raise _lost(error, seconds) from error
            finally:
                _hang_up(connection)
        if not job.outputs:
            return answered.result(job)
        try:
            return await asyncio.to_thread(answered.result, job)  # many files may take a while
        except asyncio.CancelledError:
            answered.abandon()
            raise

    def run_now(self, job: Job) -> Result:
        """`run` for callers without an event loop."""
        for last in (False, True):
            keeper = self._keeper()
            try:
                return self._answer_now(job, keeper.submit(job))
            except _KeeperLostError:
                keeper.ended = True
                if last or keeper.dismissed:
                    raise
        raise AssertionError

    def _answer_now(self, job: Job, connection: socket.socket) -> Result:
        with connection, self._deadline(job) as seconds:
            try:
                connection.settimeout(seconds)
                connection.sendall(wire.encode(*job.to_wire(outer.PATH)))
                answered = _Answered(connection)
            except OSError as error:
                raise _lost(error, seconds) from error
            finally:
                _hang_up(connection)
        return answered.result(job)

    @contextmanager
    def _deadline(self, job: Job) -> Iterator[float]:
        """Seconds to wait for a job: its own, and those of the jobs before it."""
        with self.lock:
            seconds = QUEUE_S + job.limits.wall_s + self.ahead_s / self.at_once
            self.ahead_s += job.limits.wall_s
        try:
            yield seconds
        finally:
            with self.lock:
                self.ahead_s -= job.limits.wall_s

    def _keeper(self) -> _Keeper:
        with self.lock:
            if self.keeper is None or not self.keeper.usable():
                if self.keeper is not None:
                    self.keeper.close()
                self.keeper = _Keeper(self)
            return self.keeper

    def in_a_fork(self) -> None:
        """A fork of this process starts anew: a lock may be held by a thread that it lacks."""
        self.lock, self.ahead_s = threading.Lock(), 0.0
        if self.keeper is not None:
            self.keeper.close()
        self.keeper = None

    def close(self) -> None:
        """End the keeper, and with it every job."""
        with self.lock:
            if self.keeper is not None:
                self.keeper.dismissed = True
                self.keeper.close()
            self.keeper = None


_living: weakref.WeakSet[Bubblewrap] = weakref.WeakSet()


def _in_a_fork() -> None:
    for each in list(_living):
        each.in_a_fork()


os.register_at_fork(after_in_child=_in_a_fork)


def _hang_up(connection: socket.socket) -> None:
    """End the connection itself: a fork of this process may hold another descriptor of it."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class _KeeperLostError(SandboxError):
    """The keeper ended before the job: nothing of the job is left, it may run again."""


def _lost(error: Exception, seconds: float) -> SandboxError:
    if isinstance(error, TimeoutError):
        return SandboxError(f"waited {seconds:g} s for the sandbox's answer to a job")
    if isinstance(error, ConnectionError):
        return _KeeperLostError(f"the sandbox's keeper went away: {error}")
    return SandboxError(f"the sandbox's answer to a job cannot be read: {error}")


async def _readable(connection: socket.socket) -> None:
    """Until there is something to read, or the other side is gone."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connection, tell)
    try:
        await ready
    finally:
        loop.remove_reader(connection)


class _Answered:
    """The keeper's answer: how the job ended, and what it left, as open descriptors."""

    def __init__(self, connection: socket.socket) -> None:
        # not to be inherited by what this process starts
        got = socket.recv_fds(connection, ANSWER_BYTES, 4, socket.MSG_CMSG_CLOEXEC)
        data, fds = got[:2]
        self.at = Opened(fds[0], fds[1:]) if len(fds) == 4 else None
        self.begun = threading.Lock()
        incoming = wire.Incoming(ANSWER_BYTES)
        try:
            incoming.feed(data)
        except ValueError as error:
            raise SandboxError(f"the sandbox's answer to a job cannot be read: {error}") from error
        if not incoming.done:
            raise _KeeperLostError("the sandbox's keeper went away before the job ended")
        self.header, _ = incoming.message()
        if self.at is None and "error" not in self.header:
            for fd in fds:
                os.close(fd)
            raise SandboxError("no descriptors left to take a job's files: Too many open files")

    def result(self, job: Job) -> Result:
        """Read what was left, and give it back."""
        if self.at is None:
            return Result.from_wire(self.header, [])
        self.begun.acquire()
        try:
            whole = box.left(self.header, self.at, job.outputs, job.limits.to_wire())
        finally:
            self.at.close()
        return Result.from_wire(*whole)

    def abandon(self) -> None:
        """Give back what nobody will read; a thread that reads already does so itself."""
        if self.at is not None and self.begun.acquire(blocking=False):
            self.at.close()


class _Keeper:
    """The process under bubblewrap, and the socket that carries jobs to it."""

    def __init__(self, sandbox: Bubblewrap) -> None:
        outer.refuse_unless_possible()
        self.owner, self.ended, self.dismissed = os.getpid(), False, False
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = os.geteuid() == 0
        config = {
            "at_once": sandbox.at_once,
            "preload": [*PRELOAD.split(), *sandbox.mounts.loaded],
            "path": [outer.PACKAGES] * sandbox.mounts.packages + list(sandbox.mounts.folders),
            "root": root,
            "uid": outer.free_users() if root else 0,
            "gid": 0,
            "filter": seccomp.program(platform.machine(), sockets=False).hex(),
            "filter with sockets": seccomp.program(platform.machine(), sockets=True).hex(),
        }
        words = outer.arguments(sandbox.mounts, root)
        keeper = [outer.python(), "-s", "-S", "-P", f"{outer.KEEPER}/keeper.py"]
        with theirs, _pipe_of(words) as args, _scratch() as errors:
            self.process = subprocess.Popen(
                ["bwrap", "--args", str(args.fileno()), "--", *keeper, str(theirs.fileno())],
                pass_fds=(args.fileno(), theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
                cwd="/",
                start_new_session=True,
            )
            theirs.close()
            try:
                self.control.settimeout(START_S)
                self.control.send(json.dumps(config).encode())
                problem = json.loads(self.control.recv(1 << 16)).get("error", "")
            except (OSError, ValueError) as error:
                errors.seek(0)
                problem = errors.read().decode(errors="replace").strip() or str(error)
            if problem:
                self.close()
                raise UserError(
                    f"bubblewrap cannot hold a job here: {problem}", outer.advice(problem)
                )
            self.control.settimeout(SUBMIT_S)

    def usable(self) -> bool:
        """Whether it lives, and belongs to this process (a fork must not share it)."""
        return self.owner == os.getpid() and not self.ended and self.process.poll() is None

    def submit(self, job: Job) -> socket.socket:
        """A connection on which the job's request may be sent.

        Raises SandboxError where the keeper has ended, or takes no job.
        """
        _refuse_descriptors(job)
        order = {"limits": job.limits.to_wire(), "command": bool(job.command)}
        ours = None
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                socket.send_fds(self.control, [json.dumps(order).encode()], [theirs.fileno()])
            return ours
        except OSError as error:
            if ours:
                ours.close()
            if isinstance(error, ConnectionError):
                raise _KeeperLostError(f"the sandbox's keeper went away: {error}") from error
            raise SandboxError(f"the sandbox's keeper takes no job: {error}") from error

    def close(self) -> None:
        """End it: it ends when the socket does."""
        if self.owner != os.getpid():
            self.control.close()  # only this process's descriptor of it
            return
        _hang_up(self.control)
        self.control.close()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)  # bwrap and the keeper
            self.process.wait(5)


def _scratch() -> IO[bytes]:
    return os.fdopen(os.memfd_create("puna-errors"), "w+b")


def _pipe_of(words: list[str]) -> IO[bytes]:
    """Arguments as a file, so that no process list shows them."""
    file = os.fdopen(os.memfd_create("puna-arguments"), "w+b")
    file.write(b"".join(os.fsencode(word) + b"\0" for word in words))
    file.seek(0)
    return file


def _refuse_descriptors(job: Job) -> None:
    """Started by an ordinary user, jobs share what that user may have in flight between sockets."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
    if os.geteuid() != 0 and job.limits.open_files > most:
        raise UserError(
            f"limit open_files is {job.limits.open_files}, a job of this user may have {most}",
            "raise `ulimit -n`",
        )
