"""Processes in the order of a graph, what they say when they fail, and the lock they share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from puna.core.errors import UserError
from puna.core.files import locked
from puna.core.jobs import JobError, run_graph


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_each_runs_after_all_that_it_needs(tmp_path: Path) -> None:
    needs = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c", "gone"]}
    log = tmp_path / "log"
    run_graph(needs, lambda n: python(f"open({str(log)!r}, 'a').write({n!r})"), jobs=2)
    assert log.read_text() in ("abcd", "acbd")


@pytest.mark.parametrize(
    ("code", "message", "passed_on"),
    [
        ("print('one\\npuna: two\\nthree', file=e); exit(2)", "puna: two", "one\nthree\n"),
        ("print('one\\ntwo', file=e); exit(2)", "two", "one\ntwo\n"),
        ("print('puna: one\\npuna: two', file=e); exit(2)", "puna: two", "puna: one\n"),
        ("exit(2)", "", ""),
    ],
)
def test_why_it_failed_is_its_last_own_line_said_once(
    code: str, message: str, passed_on: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(JobError) as caught:
        run_graph({"a": []}, lambda n: python(f"from sys import stderr as e, exit; {code}"), 1)
    assert (caught.value.status, str(caught.value)) == (2, message)
    assert capsys.readouterr().err == passed_on


def test_nothing_is_withheld_where_it_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    run_graph({"a": []}, lambda n: python("import sys; print('puna: hm', file=sys.stderr)"), 1)
    assert capsys.readouterr().err == "puna: hm\n"


def test_one_failure_ends_the_others() -> None:
    codes = {"a": "import time; time.sleep(600)", "b": "raise SystemExit(3)"}
    with pytest.raises(JobError):
        run_graph({"a": [], "b": []}, lambda n: python(codes[n]), 2)


def test_ctrl_c_leaves_none_that_was_just_begun(tmp_path: Path) -> None:
    """Each child presses it at once, while its parent still writes down that there is one."""
    begun = tmp_path / "begun"
    command = ["sh", "-c", f"echo $$ >> {begun}; kill -INT $PPID; exec sleep 60"]
    for _ in range(30):
        with pytest.raises(KeyboardInterrupt):
            run_graph({"a": []}, lambda n: command, 1)
    pids = [int(line) for line in begun.read_text().split()]
    assert len(pids) == 30
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_lock_lasts_as_long_as_whoever_inherited_it(tmp_path: Path) -> None:
    with locked(tmp_path) as lock:
        child = subprocess.Popen(python("import time; time.sleep(60)"), pass_fds=[lock])
    try:
        with pytest.raises(UserError, match="is in use by process"), locked(tmp_path, 0.2):
            pass
    finally:
        child.kill()
    with locked(tmp_path, 60.0):  # it goes a moment after the signal
        pass
    child.wait()
