"""The job's own process: enters its user namespace, takes its limits on, gives its rights up.

From `become` on there is no way back: it ends in the job's program or in `os._exit`.
"""

from __future__ import annotations

import _sitebuiltins
import atexit
import builtins
import fcntl
import linecache
import os
import resource
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

from puna.sandbox.inside import linux, wire

REPORT = 3  # the descriptor of the report, where the job has one
USER = 1000  # of the job, in its own user namespace
OWN: list[str] = []  # modules of this package, which a job does not find


def prepare() -> None:
    """What every job finds done: `exit` and `quit`, which a start without `site` lacks."""
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D")
    atexit._clear()
    OWN[:] = [name for name in sys.modules if name.split(".")[0] == "puna"]


@dataclass
class Walls:
    """What stands between a job and the machine, beside the namespaces it is already in.

    `uid`, `gid`: who the job is outside its own user namespace; `owner`: the same where its files
    must be given to it; `filter`: a seccomp program; `proc`: a writable /proc, open, for a user
    namespace of its own (-1: it gets none, as in a container).
    """

    uid: int
    gid: int
    owner: tuple[int, int] | None
    filter: bytes
    proc: int = -1

    def enter(self) -> None:
        """The job's side."""
        if self.owner:
            os.setgroups([])
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
            linux.dumpable(True)  # what the kernel took away with the change of user
        if self.proc >= 0:
            linux.own_user(self.proc, self.uid, self.gid, USER)
        linux.drop_capabilities()


def become(
    request: dict[str, Any],
    streams: list[int],
    connection: socket.socket,
    walls: Walls | None,
    work: str,
) -> NoReturn:
    """Turn this process into the job; what fails before that is told on `connection`."""
    try:
        os.setsid()
        if walls:
            walls.enter()
        # above all that is used, so that no dup2 closes one that is still needed
        wanted = streams if request["report"] else streams[:REPORT]
        high = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 100) for each in wanted]
        fd = fcntl.fcntl(connection, fcntl.F_DUPFD_CLOEXEC, 200)
        connection.detach()
        connection = socket.socket(fileno=fd)
        for number, each in enumerate(high):
            os.dup2(each, number)
        os.closerange(len(high), fd)
        os.closerange(fd + 1, 1 << 20)
        os.chdir(work)
        for signum in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(signum, signal.SIG_DFL if request["command"] else signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_DFL if request["command"] else _interrupt)
        _limit(request["limits"], walls is not None and walls.proc >= 0)
        if walls:
            linux.install_filter(walls.filter)
    except BaseException as error:
        wire.tell(connection, error)
        os._exit(1)
    if request["command"]:
        _execute(request)
    connection.close()
    _interpret(request, work)


def _limit(limits: dict[str, Any], own_count: bool) -> None:
    seconds = max(1, -(-limits["cpu_s"] // 1))
    wanted = {
        resource.RLIMIT_AS: limits["memory"],
        resource.RLIMIT_FSIZE: max(limits["file"], limits["output"]),
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_CORE: 1,  # not 0: a core pattern that is a program ignores that
        resource.RLIMIT_MEMLOCK: 1 << 16,
    }
    if hasattr(resource, "RLIMIT_MSGQUEUE"):
        wanted[resource.RLIMIT_MSGQUEUE] = 0
    if own_count:  # in a user namespace of its own only the job's processes count
        wanted[resource.RLIMIT_NPROC] = limits["processes"]
    for what, value in wanted.items():
        resource.setrlimit(what, (int(value), int(value)))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))


def _execute(request: dict[str, Any]) -> NoReturn:
    command = request["command"]
    try:
        os.execvpe(command[0], command, request["env"])
    except (OSError, ValueError) as error:
        os.write(2, f"{command[0]}: {error}\n".encode(errors="replace"))
    os._exit(127)


def _interpret(request: dict[str, Any], work: str) -> NoReturn:
    """Run Python source as `__main__`, much as `python main.py` would."""
    code = 1
    try:
        os.environ.clear()
        os.environ.update(request["env"])
        sys.argv = ["main.py", *request["args"]]
        sys.path[0] = work  # where this package was found; a job has its own
        for name in OWN:
            sys.modules.pop(name, None)
        main = ModuleType("__main__")
        main.__dict__["__file__"] = "main.py"
        sys.modules["__main__"] = main
        source = request["source"]
        try:
            exec(compile(source, "main.py", "exec"), main.__dict__)
            code = 0
        except SystemExit as stop:
            code = _status(stop.code)
        except BaseException:
            lines = source.splitlines(keepends=True)
            linecache.cache["main.py"] = (len(source), None, lines, "main.py")
            traceback.print_exc()
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()
        sys.stderr.flush()
        sys.stdout.flush()
    except BaseException:
        code = code or 1
    finally:
        os._exit(code & 0xFF)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _status(code: Any) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    print(code, file=sys.stderr)
    return 1
