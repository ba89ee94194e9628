"""The default backend on Linux: a keeper under bubblewrap, and fresh namespaces for each job.

`with Bubblewrap() as sandbox: sandbox.run_now(Job.python("print(1)"))`.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from puna.core.errors import UserError
from puna.core.threads import default_threads
from puna.sandbox import seccomp
from puna.sandbox.base import Mounts, Sandbox
from puna.sandbox.inside import wire
from puna.sandbox.job import Job, Result, SandboxError

INSIDE = Path(__file__).parent / "inside"
KEEPER = "/run/puna/puna/sandbox/inside"
PACKAGES, LIBRARY = "/run/packages", "/run/library"
HIDDEN_ROOMS = ("envs", "papers", "recipes")
START_S, QUEUE_S = 30.0, 630.0
# Not `threading`, not `random`: what they do after each fork costs as much as the fork.
PRELOAD = (
    "bisect collections copy enum functools heapq itertools json math operator re string typing"
)
SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")
DEVICES = ("null", "zero", "full", "random", "urandom")
DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "shm": "/box/shm",
    "ptmx": "pts/ptmx",
}
FROM_ETC = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")


class Bubblewrap(Sandbox):
    """Jobs forked from one loaded interpreter, each in namespaces of its own.

    `at_once`: jobs that run at the same time (0: one per core), the others wait their turn.
    `preload`: modules that the interpreter loads (by default those that short programs use most).
    Raises UserError, at the first job, where this machine cannot hold a job in.
    """

    name = "bubblewrap"
    isolates = True

    def __init__(
        self, mounts: Mounts = Mounts(), *, at_once: int = 0, preload: Sequence[str] = ()
    ) -> None:
        self.mounts = mounts
        self.at_once = at_once or default_threads()
        self.preload = list(preload) or PRELOAD.split()
        self.lock = threading.Lock()
        self.keeper: _Keeper | None = None
        self.gates: weakref.WeakKeyDictionary[Any, asyncio.Semaphore] = weakref.WeakKeyDictionary()
        self.path = f"{sys.base_prefix}/bin:/usr/bin:/bin"
        _living.add(self)

    async def run(self, job: Job) -> Result:
        """Run a job in fresh namespaces. Raises SandboxError where the machinery failed."""
        loop = asyncio.get_running_loop()
        if loop not in self.gates:
            self.gates[loop] = asyncio.Semaphore(max(64, 4 * self.at_once))
        async with self.gates[loop]:
            keeper = self.keeper
            if keeper is None or not keeper.usable():
                keeper = await asyncio.to_thread(self._keeper)
            incoming = wire.Incoming(job.room_for_answer())
            with keeper.submit(job) as connection:
                connection.setblocking(False)
                try:
                    async with asyncio.timeout(QUEUE_S + job.limits.wall_s):
                        await loop.sock_sendall(connection, wire.encode(*job.to_wire(self.path)))
                        while not incoming.done:
                            data = await loop.sock_recv(connection, 1 << 20)
                            if not data:
                                break
                            incoming.feed(data)
                except (OSError, ValueError) as error:
                    raise _lost(error, job) from error
                finally:
                    _hang_up(connection)
        return _result(incoming)

    def run_now(self, job: Job) -> Result:
        """`run` for callers without an event loop."""
        incoming = wire.Incoming(job.room_for_answer())
        with self._keeper().submit(job) as connection:
            try:
                connection.settimeout(QUEUE_S + job.limits.wall_s)
                connection.sendall(wire.encode(*job.to_wire(self.path)))
                while not incoming.done:
                    data = connection.recv(1 << 20)
                    if not data:
                        break
                    incoming.feed(data)
            except (OSError, ValueError) as error:
                raise _lost(error, job) from error
            finally:
                _hang_up(connection)
        return _result(incoming)

    def _keeper(self) -> _Keeper:
        with self.lock:
            if self.keeper is None or not self.keeper.usable():
                if self.keeper is not None:
                    self.keeper.close()
                self.keeper = _Keeper(self)
            return self.keeper

    def in_a_fork(self) -> None:
        """A fork of this process starts anew: a lock may be held by a thread that it lacks."""
        self.lock = threading.Lock()
        if self.keeper is not None:
            self.keeper.close()
        self.keeper = None

    def close(self) -> None:
        """End the keeper, and with it every job."""
        with self.lock:
            if self.keeper is not None:
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


def _lost(error: Exception, job: Job) -> SandboxError:
    if isinstance(error, TimeoutError):
        waited = f"{QUEUE_S:g} s for its turn, {job.limits.wall_s:g} s for its end"
        return SandboxError(f"the sandbox did not answer a job in time: waited {waited}")
    return SandboxError(f"the sandbox's keeper went away: {error}")


def _result(incoming: wire.Incoming) -> Result:
    if not incoming.done:
        raise SandboxError("the sandbox's keeper went away before the job ended")
    return Result.from_wire(*incoming.message())


class _Keeper:
    """The process under bubblewrap, and the socket that carries jobs to it."""

    def __init__(self, sandbox: Bubblewrap) -> None:
        _refuse_unless_possible()
        self.owner = os.getpid()
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = os.geteuid() == 0
        config = {
            "at_once": sandbox.at_once,
            "preload": sandbox.preload,
            "root": root,
            "uid": _free_users() if root else 0,
            "gid": 0,
            "filter": seccomp.program(platform.machine()).hex(),
        }
        with theirs, _pipe_of(arguments(sandbox.mounts, root)) as args, _scratch() as errors:
            command = ["bwrap", "--args", str(args.fileno()), "--", _python(), "-s", "-S", "-P"]
            self.process = subprocess.Popen(
                [*command, f"{KEEPER}/keeper.py", str(theirs.fileno())],
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
                raise UserError(f"bubblewrap cannot hold a job here: {problem}", _advice(problem))
            self.control.settimeout(QUEUE_S)

    def usable(self) -> bool:
        """Whether it lives, and belongs to this process (a fork must not share it)."""
        return self.owner == os.getpid() and self.process.poll() is None

    def submit(self, job: Job) -> socket.socket:
        """A connection on which the job's request may be sent."""
        order = {"limits": job.limits.to_wire(), "outputs": list(job.outputs)}
        message = json.dumps({**order, "command": bool(job.command)}).encode()
        ours = None
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                socket.send_fds(self.control, [message], [theirs.fileno()])
        except OSError as error:
            if ours:
                ours.close()
            raise SandboxError(f"the sandbox's keeper went away: {error}") from error
        return ours

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


def _python() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def _free_users() -> int:
    """The first of 60,000 user ids that belong to nobody; fewer are mapped in some containers."""
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= 1_000_000 and first + count >= 1_060_000:
            return 1_000_000
    return 4_000


def arguments(mounts: Mounts, root: bool) -> list[str]:
    """The arguments of bubblewrap for the outer jail."""
    out = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    out += ["--unshare-cgroup-try", "--as-pid-1", "--cap-add", "ALL", "--hostname", "jail"]
    if not root:
        out += ["--unshare-user", "--uid", "0", "--gid", "0"]
    shown: dict[str, Path] = {"/usr": Path("/usr")}
    for name in SYSTEM:
        path = Path(name)
        if path.is_symlink():
            out += ["--symlink", os.readlink(path), name]
        elif path.is_dir():
            shown[name] = path
    out += ["--dir", "/etc"]
    for name in FROM_ETC:
        out += ["--ro-bind-try", name, name]
    for path in sorted((INSIDE / "etc").iterdir()):
        out += ["--ro-bind", str(path), f"/etc/{path.name}"]
    prefix = Path(sys.base_prefix)
    if not prefix.is_relative_to("/usr") or prefix.is_relative_to("/usr/local"):
        shown[str(prefix)] = prefix
    if not Path(_python()).is_relative_to(prefix):
        shown[str(Path(_python()).parent)] = Path(_python()).parent
    if mounts.packages:
        import numpy

        shown[PACKAGES] = Path(numpy.__file__).parent.parent
    for name, folder in mounts.folders.items():
        if not Path(folder).exists():
            raise UserError(f"no {folder} to show as {name}", "name a folder that exists")
        shown[name] = Path(folder).resolve()
    library = Path(__file__).resolve().parent.parent
    empty = []
    installed = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    for name, path in shown.items():
        if root:
            _refuse_unreadable(path)
        out += [*_parents(name), "--ro-bind", str(path), name]
        if name == "/usr" and Path("/usr/local").is_dir():
            empty.append("/usr/local")
            out += ["--tmpfs", "/usr/local"]
        if path == prefix and (prefix / installed).is_dir():
            empty.append(f"{name}/{installed}")
            out += ["--tmpfs", empty[-1]]
        elif library.is_relative_to(path):  # also where a folder above it is shown
            empty.append(f"{name}/{library.relative_to(path)}")
            out += ["--tmpfs", empty[-1]]
    if mounts.library:
        for path in sorted(library.iterdir()):
            if path.name not in (*HIDDEN_ROOMS, "__pycache__"):
                inside = f"{LIBRARY}/puna/{path.name}"
                out += [*_parents(inside), "--ro-bind", str(path), inside]
    out += [*_parents(KEEPER), "--ro-bind", str(INSIDE), KEEPER]
    out += ["--dir", "/box", "--symlink", "box/tmp", "/tmp", "--proc", "/proc"]
    out += ["--dir", "/dev"]
    for name in DEVICES:
        out += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name, target in DEVICE_LINKS.items():
        out += ["--symlink", target, f"/dev/{name}"]
    out += ["--dir", "/dev/pts"]
    for name in (*empty, "/"):
        out += ["--remount-ro", name]
    return out


def _parents(name: str) -> list[str]:
    """Folders above a mount, as everybody may enter them: bubblewrap's own are for root alone."""
    above = [str(p) for p in reversed(Path(name).parents) if p != Path("/")]
    return [word for folder in above for word in ("--dir", folder)]


def _refuse_unreadable(path: Path) -> None:
    mode = path.stat().st_mode
    if mode & 0o004 == 0 or (path.is_dir() and mode & 0o001 == 0):
        raise UserError(
            f"{path} is closed to other users, and started by root a job is one of them",
            f"chmod o+rX {path}",
        )


def _refuse_unless_possible() -> None:
    """Raises UserError naming the first thing that is missing."""
    if sys.platform != "linux":
        raise UserError(
            f"bubblewrap needs Linux, this is {sys.platform}",
            "use a container backend (docker or podman)",
        )
    if not shutil.which("bwrap"):
        raise UserError("bubblewrap (the program bwrap) is not installed", "apt install bubblewrap")
    if platform.machine() not in seccomp.ARCHITECTURES:
        known = ", ".join(seccomp.ARCHITECTURES)
        raise UserError(
            f"no system call filter is known for {platform.machine()}", f"known are {known}"
        )


SWITCHES = {
    "kernel.unprivileged_userns_clone": "0",
    "user.max_user_namespaces": "0",
    "kernel.apparmor_restrict_unprivileged_userns": "1",
}


def _advice(problem: str) -> str:
    """What to do about a wall that could not be built."""
    for name, bad in SWITCHES.items():
        try:
            value = Path("/proc/sys", *name.split(".")).read_text().strip()
        except OSError:
            continue
        if value == bad:
            return f"the setting {name} is {bad}, which forbids user namespaces (sysctl changes it)"
    if "permission" in problem.lower() or "not permitted" in problem.lower():
        return "inside a container? it must allow namespaces (docker: --privileged)"
    return "`puna doctor` tells which backends work here"
