"""Processes beside each other in the order a graph allows; none outlives the process that began it.

`run_graph({"a": [], "b": ["a"]}, lambda n: [sys.executable, "-c", "..."], jobs=2)`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

PARENT = "PUNA_PARENT"
_PREFIX = "puna: "
_PR_SET_PDEATHSIG = 1


class JobError(RuntimeError):
    """A process failed; `status` is its exit status (negative: the signal that killed it)."""

    def __init__(self, name: str, status: int, message: str) -> None:
        super().__init__(message)
        self.name, self.status = name, status


def run_graph(
    needs: Mapping[str, Sequence[str]],
    command: Callable[[str], Sequence[str]],
    jobs: int,
    pass_fds: Sequence[int] = (),
) -> None:
    """Run a process for every name, at most `jobs` at a time, each after all that it `needs`.

    They inherit the descriptors `pass_fds`. Ctrl-C counts between looks at them, so that none is
    begun and not yet known when it ends them all. Raises JobError for the first that fails, after
    stopping the others; its message is the last line the process wrote to standard error that
    begins with "puna: " (it is not passed on: who catches the error prints it), else the last one.
    """
    waiting = list(needs)
    done: set[str] = set()
    running: dict[str, _Job] = {}
    with _interrupts_held() as check:
        try:
            while waiting or running:
                check()
                for name in [n for n in waiting if set(needs[n]) & set(needs) <= done]:
                    if len(running) >= jobs:
                        break
                    waiting.remove(name)
                    running[name] = _Job(command(name), pass_fds)
                for name, job in list(running.items()):
                    status = job.process.poll()
                    if status is None:
                        continue
                    del running[name]
                    message = job.last_line(status)
                    if status:
                        raise JobError(name, status, message)
                    done.add(name)
                time.sleep(0.05)
        finally:
            for job in running.values():
                job.process.terminate()
            for job in running.values():
                job.end()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[Callable[[], None]]:
    """Ctrl-C raises KeyboardInterrupt at the calls of what this yields, and at the end.

    Only where it would raise it anyway: in the main thread, without another handler.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    pressed: list[int] = []

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield check
        check()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Job:
    """A process whose standard error is passed on, but for a line that says why it ended."""

    def __init__(self, command: Sequence[str], pass_fds: Sequence[int]) -> None:
        self.last = self.verdict = ""
        # A session of its own: Ctrl-C reaches the parent alone, which ends its children.
        self.process = subprocess.Popen(
            list(command),
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, PARENT: str(os.getpid())},
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self._pass_on, daemon=True)
        self.reader.start()

    def _pass_on(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.last = line.strip() or self.last
            line = line.rstrip("\n") + "\n"  # a killed process may end within one
            if line.startswith(_PREFIX):
                line, self.verdict = self.verdict, line
            _tell(line)

    def last_line(self, status: int) -> str:
        """Once the process has ended with `status`: why, in its words."""
        self.reader.join(5)  # not for ever: a child of its own may still hold the pipe
        if not status:
            _tell(self.verdict)
        return self.verdict.strip() if status and self.verdict else self.last

    def end(self) -> None:
        """Wait for it to obey the signal it was sent, then make it."""
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _tell(line: str) -> None:
    if line:
        sys.stderr.write(line)
        sys.stderr.flush()


def die_with_parent() -> None:
    """Called first in such a process: end as soon as the one that began it is gone."""
    parent = os.environ.get(PARENT)
    if parent is None:
        return
    if sys.platform == "linux":  # at once; elsewhere the thread below sees it
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
