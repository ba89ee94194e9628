"""The journal: torn anywhere, it gives the whole records and goes on with whole ones."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.core.errors import UserError
from puna.core.journal import Journal, last_by, read

RECORDS = [{"step": 1, "text": "a"}, {"step": 2, "text": "llama é\n"}, {"step": 3, "deep": [1, {}]}]


def plain(path: Path) -> list[dict[str, object]]:
    return [{k: v for k, v in r.items() if k != "schema"} for r in read(path)]


def test_torn_at_every_byte_of_the_last_record(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    for record in RECORDS[:2]:
        journal.append(record)
    before = path.stat().st_size
    journal.append(RECORDS[2])
    whole = path.read_bytes()
    for cut in range(before, len(whole)):
        path.write_bytes(whole[:cut])
        assert plain(path) == RECORDS[:2], cut
        Journal(path).append({"step": 9})
        assert plain(path) == [*RECORDS[:2], {"step": 9}], cut
    path.write_bytes(whole)
    Journal(path).append({"step": 9})
    assert plain(path) == [*RECORDS, {"step": 9}]


def test_what_reading_reports_is_what_the_next_writer_keeps(tmp_path: Path) -> None:
    """A record whose line break is missing is torn for both, or resuming would count a lost one."""
    path = tmp_path / "j"
    path.write_bytes(b'{"step": 1}\n{"step": 2}')
    seen = plain(path)
    Journal(path)
    assert plain(path) == seen == [{"step": 1}]


def test_a_long_torn_line_is_cut_too(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"step": 1}\n{"x": "' + b"y" * 200_000)
    Journal(path).append({"step": 2})
    assert plain(path) == [{"step": 1}, {"step": 2}]
    path.write_bytes(b"z" * 70_000)
    Journal(path).append({"step": 3})
    assert plain(path) == [{"step": 3}]


def test_broken_lines_in_the_middle_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"a": 1}\n\xff\xfe\n[1]\n{"a"\n{"a": 2}\n')
    assert plain(path) == [{"a": 1}, {"a": 2}]
    assert list(read(tmp_path / "gone")) == []


@given(st.text())
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("j") / "j"
    Journal(path).append({"text": text, "more": text + "\ud800"})
    assert plain(path) == [{"text": text, "more": text + "\ud800"}]


def test_the_last_record_of_a_step_wins(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    for step, loss in [(2, 1.0), (1, 5.0), (2, 0.5)]:
        journal.append({"step": step, "loss": loss})
    journal.append({"other": 1})
    assert [(k, v["loss"]) for k, v in last_by(tmp_path / "j", "step").items()] == [
        (1, 5.0),
        (2, 0.5),
    ]


def test_a_disk_that_fills_up_is_one_line_and_leaves_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "j")
    journal.append({"step": 1})
    real = os.write

    def short(fd: int, data: bytes) -> int:
        if len(data) < 10:
            raise OSError(28, "No space left on device")
        return real(fd, data[:5])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short)
        with pytest.raises(UserError, match="free some space"):
            journal.append({"step": 2, "text": "long enough"})
    journal.append({"step": 3})
    assert plain(tmp_path / "j") == [{"step": 1}, {"step": 3}]


def test_no_permission_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Journal(tmp_path / "file" / "j")
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=stat.S_IRUSR)
        with pytest.raises(UserError, match="choose a directory you may write to"):
            Journal(tmp_path / "closed" / "j").append({})
