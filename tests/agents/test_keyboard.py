"""The file of typed lines: private, bounded, and never a reason to fail."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from puna.agents.keyboard import KEPT, add_history, history_file, read_history


def test_entries_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "history"
    entries = ["2+2=", "two\nlines", '"quoted" \\n', "日本 🦙", "a\u2028b"]
    for entry in entries:
        add_history(path, entry)
    assert read_history(path) == entries
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_others_could_read_is_theirs_no_more(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.touch(0o644)
    path.chmod(0o644)
    add_history(path, "secret")
    assert path.stat().st_mode & 0o777 == 0o600


def test_only_the_last_entries_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "history"
    lines = [json.dumps(str(i)) for i in range(2 * KEPT)]
    path.write_text("\n".join(lines) + "\n")
    wanted = [str(i) for i in range(KEPT, 2 * KEPT)]
    assert read_history(path) == wanted
    assert len(path.read_text().splitlines()) == 2 * KEPT  # not rewritten at every start
    add_history(path, "more")
    assert read_history(path) == [*wanted[1:], "more"]
    assert len(path.read_text().splitlines()) == KEPT
    assert path.stat().st_mode & 0o777 == 0o600


def test_garbage_is_passed_over_and_steers_nothing(tmp_path: Path) -> None:
    path = tmp_path / "history"
    lines = [
        b"\xff\xfe",
        b"plain",
        b"[1]",
        b"3",
        b'"\\ud800"',
        b'"a\\u001b[2Jb\\u0000"',
        b"[" * 9999,
    ]
    path.write_bytes(b"\n".join([*lines, b'"good"', b'"cut o']))
    assert read_history(path) == ["\ufffd", "a\ufffd[2Jb\ufffd", "good"]


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for ever
    mode = os.stat(os.devnull).st_mode
    for path in (
        tmp_path,
        tmp_path / "fifo",
        Path(os.devnull),
        tmp_path / "fifo" / "x",
        tmp_path / ("x" * 999),
    ):
        add_history(path, "2+2=")
        assert read_history(path) == []
    assert os.stat(os.devnull).st_mode == mode


def test_the_place_is_the_user_s_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    usual = Path("/home/ann/.local/state/puna/chat_history")
    assert history_file() == usual
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    assert history_file() == usual
    monkeypatch.setenv("XDG_STATE_HOME", "/var/ann")
    assert history_file() == Path("/var/ann/puna/chat_history")
