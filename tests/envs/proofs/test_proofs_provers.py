"""Provers that are programs: whatever a program of that name does, there is a verdict."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from puna.envs.proofs import dafny, programs, verus, why3
from puna.envs.proofs.dafny import Dafny
from puna.envs.proofs.verus import Verus
from puna.envs.proofs.why3 import Why3
from puna.sandbox import open_sandbox

GOAL = """File "program.py", line 3, characters 4-9:
Sub-goal Postcondition of goal main'vc.
Prover result is: {}.
"""
VERIFIED = "\nDafny program verifier finished with {} verified, {} error{}\n"


@pytest.mark.parametrize(
    ("said", "status", "kind", "why"),
    [
        (GOAL.format("Valid (0.02s, 9 steps)"), 0, "valid", ""),
        ("", 0, "valid", ""),  # nothing was to be proved
        ("noise\n" + GOAL.format("Valid (0.02s)") + "more noise\n", 0, "valid", ""),
        (GOAL.format("Timeout (5.00s)"), 2, "unknown", "line 3: Sub-goal Postcondition"),
        (GOAL.format("Unknown (sat) (0.01s)"), 2, "unknown", "Unknown"),
        (GOAL.format("High failure (0.1s)"), 2, "unknown", "High"),
        (GOAL.format("Timeout (5.00s)"), 0, "failed", "ended with 0"),
        (
            'File "program.py", line 2, characters 3-4:\nsyntax error\n',
            1,
            "refuted",
            "line 2: syntax",
        ),
        ("anything", 1, "failed", "anything"),
        ("Fatal error: out of memory", 2, "failed", "out of memory"),
        ("", -9, "failed", "-9"),
        ("", "memory", "failed", "memory"),
        (GOAL.format("Valid (0.02s)"), "output", "failed", "output"),
    ],
)
def test_what_why3_says(said: str, status: int | str, kind: str, why: str) -> None:
    given = why3._read(said, status)
    assert (given.kind, why in given.evidence) == (kind, True), given


@pytest.mark.parametrize(
    ("said", "status", "kind", "why"),
    [
        (VERIFIED.format(2, 0, "s"), 0, "valid", ""),
        ("unknown parameter model_compress\n" + VERIFIED.format(1, 0, "s"), 0, "valid", ""),
        (VERIFIED.format(0, 0, "s"), 0, "refuted", "nothing was verified"),
        (
            "program.dfy(4,2): Error: A postcondition might not hold" + VERIFIED.format(1, 1, ""),
            4, "refuted", "line 4: A postcondition",
        ),
        ("program.dfy(2,5): Error: rbrace expected\n1 parse errors", 2, "refuted", "line 2"),
        (
            "program.dfy(4,2): Verification of 'f' timed out\n"
            + "Dafny program verifier finished with 0 verified, 0 errors, 1 time out\n",
            4, "unknown", "1 time out",
        ),
        (
            "program.dfy(5,2): Warning: note, this loop has no body" + VERIFIED.format(1, 0, "s"),
            0, "refuted", "has no body",
        ),
        (VERIFIED.format(1, 0, "s"), 3, "failed", "3"),
        (VERIFIED.format(1, 0, "s") * 2, 0, "failed", "ended with 0"),
        ("Segmentation fault", -11, "failed", "Segmentation"),
        ("", 0, "failed", "ended with 0"),
    ],
)  # fmt: skip
def test_what_dafny_says(said: str, status: int, kind: str, why: str) -> None:
    given = dafny._read(said, status, "")
    assert (given.kind, why in given.evidence) == (kind, True), given


RESULTS = "verification results:: {} verified, {} errors\n"


@pytest.mark.parametrize(
    ("said", "status", "kind", "why"),
    [
        (RESULTS.format(2, 0), 0, "valid", ""),
        (RESULTS.format(0, 0), 0, "refuted", "nothing was verified"),
        (
            "error: postcondition not satisfied\n --> program.rs:7:13\n" + RESULTS.format(0, 1),
            1, "refuted", "line 7: postcondition",
        ),
        ("error[E0308]: mismatched types\n --> program.rs:3:1\n", 1, "refuted", "line 3"),
        ("error: Resource limit (rlimit) exceeded\n --> program.rs:7:1\n" + RESULTS.format(0, 1),
         1, "unknown", "line 7"),
        (RESULTS.format(2, 0), 1, "failed", "1"),
        ("", 139, "failed", "139"),
    ],
)  # fmt: skip
def test_what_verus_says_as_documented(said: str, status: int, kind: str, why: str) -> None:
    given = verus._read(said, status, "")
    assert (given.kind, why in given.evidence) == (kind, True), given


@pytest.fixture
def as_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Makes shell text a program of a name; it runs within the same bounds as a prover."""
    monkeypatch.setattr(programs, "_opened", {})

    def make(name: str, text: str) -> str:
        folder = tmp_path / "a folder"
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return str(path)

    return make


BEHAVIOURS = {
    "crashes": ("kill -SEGV $$", "failed"),
    "aborts": ("exit 134", "failed"),
    "says nothing": ("exit 0", "failed"),
    "noise": ("head -c 100000 /dev/urandom", "failed"),
    "floods": ("yes", "failed"),
    "fills the disk": ("yes > big; yes > more", "failed"),
    "out of memory": ("exec python3 -c 'x = bytearray(1 << 40)'", "failed"),
    "hangs": ("sleep 1000", "unknown"),
    "spins": ("while :; do :; done", "unknown"),
    "another version": ("echo Dafny 9.9; echo unknown option; exit 1", "failed"),
    "forges": (f"echo '{VERIFIED.format(1, 0, 's').strip()}'; exit 1", "failed"),
    "noisy and right": (
        f"echo hello >&2; cat program.dfy; echo '{VERIFIED.format(1, 0, 's').strip()}'", "valid",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_whatever_a_prover_does_there_is_a_verdict(
    name: str, as_program: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, kind = BEHAVIOURS[name]
    real = programs.run
    monkeypatch.setattr(
        dafny.programs, "run", lambda command, files, seconds, *rest: real(command, files, 2, *rest)
    )
    if name == "hangs":
        monkeypatch.setattr(programs, "WALL", (1, 1))
    assert Dafny(as_program("dafny", text)).prove("method f() {}", 1).kind == kind


@pytest.mark.parametrize(
    ("prover", "install"),
    [(Why3(), "apt-get install"), (Dafny(), "apt-get install"), (Verus(), "verus-lang")],
)
def test_a_prover_that_is_not_there(
    prover: Why3 | Dafny | Verus, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert prover.version() == ""
    given = prover.prove("x", 1)
    assert given.kind == "failed"
    assert install in given.evidence


def test_what_pip_brings_is_no_prover(as_program: Callable[[str, str], str]) -> None:
    """Neither beside this Python nor in an environment that happens to be on the path."""
    folder = Path(as_program("z3", "echo mine")).parent
    assert programs.where("z3") == str(folder / "z3")
    (folder.parent / "pyvenv.cfg").touch()
    assert programs.where("z3") != str(folder / "z3")


def test_versions_are_read_out_of_noise(as_program: Callable[[str, str], str]) -> None:
    path = as_program("verus", "echo Verus; echo '  Version: 0.2025.06.05.abc'; echo x")
    assert Verus(path).version() == "0.2025.06.05.abc"
    assert Dafny(as_program("dafny", "echo noise; echo 'Dafny 4.9.1.0'")).version() == "4.9.1.0"
    assert Dafny(as_program("dafny", "exit 1")).version() == "?"


def test_a_file_of_a_megabyte_reaches_the_program(as_program: Callable[[str, str], str]) -> None:
    text = "// " + "x" * (1 << 20)
    path = as_program("dafny", f"test $(wc -c < program.dfy) -eq {len(text)} || exit 7\n"
                      f"echo '{VERIFIED.format(1, 0, 's').strip()}'")  # fmt: skip
    assert Dafny(path).prove(text, 1).kind == "valid"


def test_nothing_is_left_of_a_run_and_it_begins_in_an_empty_folder(
    as_program: Callable[[str, str], str],
) -> None:
    path = as_program("dafny", "ls; touch left; sleep 300 & exit 3")
    for _ in range(2):
        given = Dafny(path).prove("x", 1)
        assert (given.kind, given.evidence) == ("failed", "dafny ended with 3: program.dfy")


def test_without_a_jail_there_are_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    from puna.core.errors import UserError

    def refuse(backend: str = "auto", **rest: object) -> object:
        if backend == "auto":
            raise UserError("no sandbox works here")
        return open_sandbox(backend)

    monkeypatch.setattr(programs, "_opened", {})
    monkeypatch.setattr(programs, "open_sandbox", refuse)
    done = programs.run(["cat", "a b.txt"], {"a b.txt": b"x"}, seconds=5)
    assert (done.stdout, done.exit) == (b"x", 0)
    (sandbox,) = programs._opened.values()
    assert sandbox.name == "unsafe"
