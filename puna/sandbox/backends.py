"""Which backend a process uses, and which work on this machine.

`open_sandbox()` takes bubblewrap, else a container engine; never the unsafe one by itself.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable

from puna.core.doctor import Check
from puna.core.errors import UserError, nearest
from puna.sandbox.base import Mounts, Sandbox
from puna.sandbox.job import Job, SandboxError

CHOICE = "PUNA_SANDBOX"  # of this process and of those it starts
_shared: dict[str, Sandbox] = {}
_lock = threading.Lock()


def _bubblewrap(mounts: Mounts, at_once: int) -> Sandbox:
    from puna.sandbox.bubblewrap import Bubblewrap

    return Bubblewrap(mounts, at_once=at_once)


def _container(engine: str) -> Callable[[Mounts, int], Sandbox]:
    def build(mounts: Mounts, at_once: int) -> Sandbox:
        from puna.sandbox.process import Container

        return Container(engine, mounts=mounts, at_once=at_once)

    return build


def _unsafe(mounts: Mounts, at_once: int) -> Sandbox:
    from puna.sandbox.process import Unsafe

    return Unsafe(at_once)


BACKENDS: dict[str, Callable[[Mounts, int], Sandbox]] = {
    "bubblewrap": _bubblewrap,
    "docker": _container("docker"),
    "podman": _container("podman"),
    "unsafe": _unsafe,
}


def problem_with(name: str) -> str:
    """Why a backend does not work here; empty where a job has just run in it."""
    try:
        _tried(name, Mounts(), 1).close()
    except UserError as error:
        return str(error)
    return ""


def _tried(name: str, mounts: Mounts, at_once: int) -> Sandbox:
    """A sandbox in which a job has run. Raises UserError where it does not."""
    sandbox = BACKENDS[name](mounts, at_once)
    try:
        result = sandbox.run_now(Job.python("print(6 * 7)"))
        if result.stdout == b"42\n":
            return sandbox
        problem = f"a trial job ended with {result}"
    except (UserError, SandboxError) as error:
        problem = str(error)
    sandbox.close()
    raise UserError(problem)


def checks() -> list[Check]:
    """For `puna doctor`: a line for each backend, after a trial job in it."""
    out = []
    for name in BACKENDS:
        began = time.perf_counter()
        problem = problem_with(name)
        if problem:
            state, seen = "note", "does not work here"
        else:
            state, seen = "ok", f"a first job took {(time.perf_counter() - began) * 1000:.0f} ms"
            problem = "no walls: only with --unsafe" if name == "unsafe" else ""
        out.append(Check(f"sandbox: {name}", state, seen, problem))
    if not any(c.state == "ok" for c in out if not c.name.endswith("unsafe")):
        out.append(Check("sandbox", "note", "none", "environments of tier jail are refused"))
    return out


def open_sandbox(backend: str = "auto", mounts: Mounts = Mounts(), at_once: int = 0) -> Sandbox:
    """A sandbox of the backend named, or of the first that works here.

    Raises UserError where none works, naming what each one lacks.
    """
    if backend != "auto":
        if backend not in BACKENDS:
            raise UserError(f"no sandbox '{backend}'", nearest(backend, BACKENDS))
        return BACKENDS[backend](mounts, at_once)
    problems = []
    for name in (n for n in BACKENDS if n != "unsafe"):
        try:
            return _tried(name, mounts, at_once)
        except UserError as error:
            problems.append(f"{name}: {error}")
    raise UserError(
        f"no sandbox works here ({'; '.join(problems)})",
        "install bubblewrap, or give --unsafe to run the code without walls",
    )


def _in_a_fork() -> None:
    global _lock
    _lock = threading.Lock()  # the old one may be held by a thread that a fork lacks


os.register_at_fork(after_in_child=_in_a_fork)


def choose(backend: str) -> None:
    """Which backend `shared` gives from now on, in this process and those it starts."""
    if backend == "unsafe":
        print("puna: --unsafe: code that a policy wrote runs without walls", file=sys.stderr)
    os.environ[CHOICE] = backend


def shared() -> Sandbox:
    """The sandbox of this process, opened when first asked for. Raises UserError as above."""
    backend = os.environ.get(CHOICE, "auto")
    with _lock:
        if backend not in _shared:
            _shared[backend] = open_sandbox(backend)
            atexit.register(_shared[backend].close)
        return _shared[backend]
