"""What goes in and comes out, before anything runs."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.core.errors import UserError
from puna.sandbox import Job, Limits, Result, SandboxError
from puna.sandbox.inside import wire

BLOBS = st.lists(st.binary(max_size=300), max_size=5)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", ".", "a//b", "./a", "a/"])
def test_a_path_that_is_not_plain_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="plain and relative"):
        Job(["true"], files={path: b""})


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"a" * 256: b""}, "is too long"),
        ({"/".join(["b" * 100] * 21): b""}, "is too long"),
        ({"/".join(["c"] * 101): b""}, "is too long"),
        ({"\ud800": b""}, "cannot be written"),
        ({"a": b"", "a/b": b""}, "a is a file and a folder"),
        ({str(i): b"x" for i in range(300)}, "1,228,800 bytes, the limit is 1 MB"),
    ],
)
def test_files_that_no_disk_takes_are_refused(files: dict[str, bytes], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Job(["true"], files=files, limits=Limits(disk_mb=1))


def test_a_job_is_a_list_of_words_or_source() -> None:
    with pytest.raises(ValueError, match="list of words"):
        Job("rm -rf /")
    with pytest.raises(ValueError, match="either a command or"):
        Job()
    with pytest.raises(ValueError, match="either a command or"):
        Job(["true"], source="1")
    with pytest.raises(ValueError, match="list of patterns"):
        Job(["true"], outputs="out.txt")
    with pytest.raises(ValueError, match="zero byte"):
        Job(["a\0b"])


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_limit_is_positive(value: float) -> None:
    for name in ("wall_s", "cpu_s", "memory_mb", "files"):
        with pytest.raises(ValueError, match=f"{name} must be positive and finite"):
            Limits(**{name: value})
    assert Limits(memory_mb=1.5).to_wire()["memory"] == 3 << 19


def test_more_than_the_limits_allow_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="11 files and folders, the limit is 10"):
        Job(["true"], files={f"d/{i}": b"" for i in range(10)}, limits=Limits(files=10))
    with pytest.raises(ValueError, match="2,002,944 bytes, the limit is 1 MB"):
        Job(["true"], files={"a": bytes(2_000_000)}, limits=Limits(disk_mb=1))


def result(**files: bytes) -> Result:
    named = {name.replace("__", "/").replace("up", ".."): data for name, data in files.items()}
    return Result(0, "", b"", b"", b"", named, dict.fromkeys(named, 0o755), 0.0, 0.0, 0.0)


def test_saved_files_stay_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists; name a folder that does not"):
        result().save(tmp_path / "out")
    result(a__b=b"1", up__evil=b"2").save(tmp_path / "new")
    assert (tmp_path / "new/a/b").read_bytes() == b"1"
    assert not (tmp_path / "evil").exists()


@given(st.dictionaries(st.text(), st.integers() | st.text()), BLOBS, st.integers(1, 50))
def test_a_message_arrives_however_it_is_cut(header: dict, blobs: list[bytes], step: int) -> None:
    data = wire.encode(header, blobs)
    incoming = wire.Incoming(1 << 20)
    for at in range(0, len(data), step):
        assert not incoming.done or not data[at:]
        incoming.feed(data[at : at + step])
    got, parts = incoming.message()
    assert {**header, "blobs": [len(b) for b in blobs]} == got
    assert parts == blobs


@given(BLOBS)
def test_a_message_that_ends_early_is_an_end(blobs: list[bytes]) -> None:
    data = wire.encode({"x": 1}, blobs)[:-1]
    chunks = iter([data, b""])
    with pytest.raises(EOFError):
        wire.receive(lambda n: next(chunks), 1 << 20)


def test_a_message_that_claims_to_be_huge_is_refused_before_it_is_read() -> None:
    incoming = wire.Incoming(1000)
    with pytest.raises(ValueError, match="allowed are 1,000"):
        incoming.feed(struct.pack(">I", 60 << 20))
    with pytest.raises(ValueError, match="a header of 4,294,967,295 bytes"):
        wire.Incoming(1 << 40).feed(struct.pack(">I", 0xFFFFFFFF))
    with pytest.raises(ValueError, match="allowed are 1,000"):
        wire.Incoming(1000).feed(wire.encode({}, [b"x" * 2000]))


def test_an_error_of_the_machinery_is_no_result() -> None:
    with pytest.raises(SandboxError, match="could not run the job: mount tmpfs: no"):
        Result.from_wire({"error": "mount tmpfs: no", "blobs": []}, [])
