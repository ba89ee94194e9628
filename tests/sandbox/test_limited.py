"""A call of trusted code on untrusted input, bounded in time and memory."""

from __future__ import annotations

import asyncio
import json
import math
import operator
import os
import re
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from puna.gym.workers import Workers
from puna.sandbox import LimitError, limited
from puna.sandbox.limited import CallError


def swallow(megabytes: int) -> int:
    return len(bytearray(b"1" * (megabytes << 20)))


def recurse_in_c(depth: int) -> str:
    text: object = []
    for _ in range(depth):
        text = [text]
    return repr(text)


def odd(kind: str) -> object:
    if kind == "set":
        return {1}
    if kind == "exit":
        raise SystemExit(3)
    if kind == "leave":
        os._exit(7)
    if kind == "catch":
        try:
            while True:
                pass
        except BaseException:
            return "caught"
    return kind


def where() -> int:
    return os.getpid()


def test_values_and_errors_come_back() -> None:
    assert limited(math.gcd, 12, 18) == 6
    assert limited(json.loads, '{"a": [1, null]}') == {"a": [1, None]}
    assert limited(odd, "plain") == "plain"
    with pytest.raises(CallError, match="ValueError: math domain error"):
        limited(math.sqrt, -1)
    with pytest.raises(CallError, match="not JSON"):
        limited(odd, "set")
    with pytest.raises(CallError, match="SystemExit: 3"):
        limited(odd, "exit")
    with pytest.raises(ConnectionError, match="odd ended with status 7"):
        limited(odd, "leave")
    with pytest.raises(TypeError, match="top of its module"):
        limited(lambda: 1)
    with pytest.raises(TypeError, match="JSON"):
        limited(odd, {1})
    assert limited(where) != os.getpid()
    assert limited(where) != limited(where)


def test_time_is_bounded_even_while_the_interpreter_is_held() -> None:
    """A pattern of exponential cost holds the interpreter's lock: a thread could not be stopped."""
    with pytest.raises(LimitError, match="processor time"):
        limited(re.fullmatch, "(a+)+b", "a" * 40, seconds=0.3)
    with pytest.raises(LimitError, match="processor time"):
        limited(odd, "catch", seconds=0.3)
    assert limited(re.escape, "a.b") == "a\\.b"


def test_memory_is_bounded() -> None:
    assert limited(swallow, 50, memory_mb=200) == 50 << 20
    with pytest.raises(LimitError, match=r"memory|200 MB"):
        limited(swallow, 300, memory_mb=200)


def test_a_crash_is_the_inputs_doing() -> None:
    with pytest.raises((LimitError, CallError), match=r"SIGSEGV|RecursionError"):
        limited(recurse_in_c, 10_000_000, seconds=20, memory_mb=4000)
    assert limited(math.gcd, 4, 6) == 2


def test_others_go_on_while_a_verifier_is_stuck() -> None:
    """On a worker of the gym: the event loop turns, a second call is answered beside the first."""

    async def both() -> None:
        workers, begun = Workers(2), threading.Event()

        def stuck_call() -> object:
            begun.set()
            return limited(re.fullmatch, "(a+)+b", "a" * 40, seconds=3)

        stuck = asyncio.create_task(workers.run(stuck_call, deadline_s=200, what="the verifier"))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        value = await workers.run(lambda: limited(math.gcd, 12, 18), deadline_s=200, what="it")
        assert value == 6
        assert not stuck.done()
        with pytest.raises(LimitError):
            await stuck
        workers.close()

    assert limited(math.gcd, 12, 18) == 6  # the server of calls is there
    asyncio.run(both())


def test_many_threads_share_the_server() -> None:
    values: dict[int, int] = {}

    def ask(i: int) -> None:
        values[i] = limited(math.gcd, i, 60)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(1, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == {i: math.gcd(i, 60) for i in range(1, 20)}


def test_a_large_value_and_a_function_that_is_not_there() -> None:
    with pytest.raises(LimitError, match="32 MB for its value"):
        limited(operator.mul, "x", 40_000_000)
    gone = types.FunctionType(where.__code__, {}, "gone")
    gone.__module__, gone.__qualname__ = "no.such.module", "gone"
    with pytest.raises(ImportError, match="cannot be found"):
        limited(gone)


MAIN = """
import os, sys, threading, time
from puna.sandbox import limited
from puna.sandbox.limited import _lock

def mine(x):
    return x + 1

def sleep():
    open("asleep", "w").close()
    time.sleep(100)

if __name__ == "__main__":
    print(limited(mine, 1))
    held, free = threading.Event(), threading.Event()
    def hold():
        with _lock:
            held.set()
            free.wait()
    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    pid = os.fork()  # while another thread holds the lock
    if pid == 0:
        print(limited(mine, 2), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    free.set()
    threading.Thread(target=limited, args=(sleep,), daemon=True).start()
    while not os.path.exists("asleep"):
        time.sleep(0.01)
    print("end", flush=True)
"""


def test_a_programs_own_function_a_fork_and_an_end_in_the_middle(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(MAIN)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.stdout.split() == ["2", "3", "end"], done.stderr
    deadline = time.monotonic() + 60
    while (left := _running_in(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def _running_in(folder: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").readlink() == folder:
                found.append(path.name)
        except OSError:
            pass
    return found


def test_a_function_of_a_file_that_is_no_module(tmp_path) -> None:
    from puna.gym.registry import _import_file

    path = tmp_path / "mine.py"
    path.write_text(
        "from puna.gym.environment import SingleTurn\n"
        "def longest(text):\n    return max(map(len, text.split()))\n"
    )
    assert limited(_import_file(path).longest, "one three five") == 5
