"""Processes beside each other in the order a graph allows; none outlives the process that began it.

`run_graph({"a": [], "b": ["a"]}, lambda n: [sys.executable, "-c", "..."], jobs=2)`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

_PARENT = "PUNA_PARENT"


class JobError(RuntimeError):
    """A process failed; `status` is its exit status (negative: the signal that killed it)."""

    def __init__(self, name: str, status: int, message: str) -> None:
        super().__init__(message)
        self.name, self.status = name, status


def run_graph(
    needs: Mapping[str, Sequence[str]],
    command: Callable[[str], Sequence[str]],
    jobs: int,
    started: Callable[[str], None] = lambda name: None,
    finished: Callable[[str], None] = lambda name: None,
) -> None:
    """Run a process for every name, at most `jobs` at a time, each after all that it `needs`.

    Raises JobError for the first that fails, after stopping the others; its message is the last
    line the process wrote to standard error.
    """
    waiting = list(needs)
    done: set[str] = set()
    running: dict[str, subprocess.Popen[str]] = {}
    last: dict[str, str] = {}
    try:
        while waiting or running:
            for name in [n for n in waiting if set(needs[n]) & set(needs) <= done]:
                if len(running) >= jobs:
                    break
                waiting.remove(name)
                started(name)
                running[name] = _start(name, command(name), last)
            for name, process in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                del running[name]
                if status:
                    raise JobError(name, status, last.get(name, ""))
                done.add(name)
                finished(name)
            time.sleep(0.05)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _start(name: str, command: Sequence[str], last: dict[str, str]) -> subprocess.Popen[str]:
    """Start one; its standard error is passed on, and its last line remembered."""
    process = subprocess.Popen(
        list(command),
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, _PARENT: str(os.getpid())},
    )

    def pass_on() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            last[name] = line.strip() or last.get(name, "")
            sys.stderr.write(line)
            sys.stderr.flush()

    threading.Thread(target=pass_on, daemon=True).start()
    return process


def die_with_parent() -> None:
    """Called first in such a process: end as soon as the one that began it is gone."""
    parent = os.environ.get(_PARENT)
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
