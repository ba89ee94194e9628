"""Writes that leave the old or the new, never a half: by exception, by full disk, by kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from puna.core.errors import UserError
from puna.core.files import (
    NewDirectory,
    remove_leftovers,
    sha256_json,
    write_bytes,
    write_json,
    write_text,
)

KILLED = """
import sys
from pathlib import Path
from puna.core.files import NewDirectory, write_bytes
root = Path(sys.argv[1])
if sys.argv[2] == "file":
    write_bytes(root / "f", b"new" * 100_000)
else:
    with NewDirectory(root / "d") as aside:
        (aside / "a").write_text("new")
        (aside / "b").write_text("new")
"""


def killed(root: Path, what: str, point: str) -> None:
    env = {**os.environ, "PUNA_CRASH_AT": point}
    done = subprocess.run([sys.executable, "-c", KILLED, str(root), what], env=env, check=False)
    assert done.returncode == -signal.SIGKILL


def names(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir())


@pytest.mark.parametrize(("point", "left"), [("written", b"old"), ("renamed", b"new" * 100_000)])
def test_a_killed_write_leaves_the_old_file_or_the_new(
    tmp_path: Path, point: str, left: bytes
) -> None:
    (tmp_path / "f").write_bytes(b"old")
    killed(tmp_path, "file", f"file.{point}")
    assert (tmp_path / "f").read_bytes() == left
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize(("point", "left"), [("written", "old"), ("renamed", "new")])
def test_a_killed_directory_is_the_old_or_the_new(tmp_path: Path, point: str, left: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_text("old")
    killed(tmp_path, "dir", f"dir.{point}")
    assert (tmp_path / "d" / "a").read_text() == left
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["d"]


def test_a_failed_write_keeps_the_old_file_and_no_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "f", "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        write_text(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "old"
    assert names(tmp_path) == ["f"]


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    for write in (
        lambda: write_bytes(tmp_path / "f" / "g", b""),
        lambda: NewDirectory(tmp_path / "f" / "g").__enter__(),
    ):
        with pytest.raises(UserError, match="cannot write"):
            write()


def test_a_new_directory_replaces_the_whole_old_one(tmp_path: Path) -> None:
    for content in ("one", "two"):
        with NewDirectory(tmp_path / "d") as aside:
            assert not (tmp_path / "d" / content).exists()
            (aside / content).write_text(content)
    assert names(tmp_path / "d") == ["two"]
    assert names(tmp_path) == ["d"]


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt()])
def test_an_exception_inside_leaves_the_old_directory(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_text("old")

    def half() -> None:
        with NewDirectory(tmp_path / "d") as aside:
            (aside / "a").write_text("half")
            raise error

    with pytest.raises(type(error)):
        half()
    assert (tmp_path / "d" / "a").read_text() == "old"
    assert names(tmp_path) == ["d"]


def test_a_full_disk_inside_is_one_line_and_leaves_the_old(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="free some space"), NewDirectory(tmp_path / "d"):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


def test_a_rename_that_fails_puts_the_old_directory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_text("old")
    real, calls = os.replace, []

    def second_fails(a: Path, b: Path) -> None:
        calls.append(a)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        real(a, b)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(UserError), NewDirectory(tmp_path / "d") as aside:
        (aside / "a").write_text("new")
    assert (tmp_path / "d" / "a").read_text() == "old"
    assert names(tmp_path) == ["d"]


def test_a_file_where_the_directory_should_be_stays(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("mine")
    with pytest.raises(UserError), NewDirectory(tmp_path / "d"):
        pass
    assert (tmp_path / "d").read_text() == "mine"
    assert names(tmp_path) == ["d"]


def test_lone_surrogates_can_be_written_and_hashed(tmp_path: Path) -> None:
    data = {"said": "é\ud800"}
    write_json(tmp_path / "j", data)
    assert json.loads((tmp_path / "j").read_bytes()) == data
    assert sha256_json(data) != sha256_json({"said": "é"})


def test_the_hash_does_not_depend_on_the_order_of_keys() -> None:
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json({"b": [2], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": "1"})
