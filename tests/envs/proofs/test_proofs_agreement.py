"""Random programs: the prover in process against Python itself, and against Why3."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from proof_kit import judge

from benchmarks.proofs.agreement import differences
from benchmarks.proofs.programs import Program, draw
from benchmarks.proofs.running import broken
from puna.envs.proofs import programs
from puna.envs.proofs.fast import STEPS

pytest.importorskip("z3", reason="z3-solver is not installed")
WHY3 = pytest.mark.skipif(
    not (programs.where("why3") and programs.where("z3")), reason="why3 or z3 is not installed"
)


def drawn(first: int, count: int) -> list[Program]:
    return [draw(random.Random(s), f"f{s}") for s in range(first, first + count)]


@pytest.mark.parametrize("count", [120, pytest.param(1200, marks=pytest.mark.slow)])
def test_what_is_proved_is_never_seen_to_break_and_what_breaks_is_refuted(count: int) -> None:
    seen: Counter[str] = Counter()
    for i, each in enumerate(drawn(100_000, count)):
        kind, why = judge(each.text, STEPS)
        breaks = broken(each.text, random.Random(i), tries=60)
        assert not (breaks and kind == "valid"), (each.text, breaks)
        assert each.mutated or kind == "valid", (each.text, why)
        seen[f"{each.family} {each.mutated}"] += 1
        seen[kind] += 1
        seen["breaks"] += bool(breaks)
    kinds = [seen[f"{f} {m}"] for f in ("straight", "loop", "list") for m in (True, False)]
    assert min(kinds) > count / 10
    assert seen["refuted"] > count / 5  # mutants are mostly wrong
    assert seen["breaks"] > count / 7  # and running sees it, so it could see an unsound proof
    assert seen["unknown"] <= count / 100


def test_running_sees_what_is_wrong() -> None:
    """A prover that took `//` for rounding to zero, or `%` for never negative, would be found."""
    head = "def f(x: int) -> int:\n    #@ ensures result == {}\n    return {}\n"
    for promise, body in (
        ("if x < 0 then -((-x) // 2) else x // 2", "x // 2"),
        ("if x % -3 < 0 then x % -3 + 3 else x % -3", "x % -3"),
        ("x + 1", "x"),
    ):
        assert broken(head.format(promise, body), random.Random(0))
        assert judge(head.format(promise, body), STEPS)[0] == "refuted"
    assert "IndexError" in str(
        broken(
            "def f(a: list[int]) -> int:\n    #@ ensures True\n    return a[0]\n", random.Random(0)
        )
    )
    down = "    while x != 0:\n        x -= 1\n    return"
    endless = head.format("0", "x").replace("    return", down)
    assert "_TooLong" in str(broken(endless, random.Random(0)))


@WHY3
def test_no_difference_with_why3_on_a_few() -> None:
    _, found = differences(drawn(200_000, 9), seed=200_000)
    assert found == []


@WHY3
def test_the_benchmark_goes_on_with_its_journal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.proofs", "--journal", str(tmp_path / "done.jsonl")]
    there = {"cwd": Path(__file__).parents[3], "capture_output": True, "text": True}
    first = subprocess.run([*command, "-n", "3", "--jobs", "2"], **there)  # type: ignore[call-overload]
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["programs"] == 3
    nowhere = {**os.environ, "PATH": "/nowhere"}  # nothing is left for Why3 to do
    again = subprocess.run([*command, "-n", "3"], env=nowhere, **there)  # type: ignore[call-overload]
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["verdicts"] == json.loads(first.stdout)["verdicts"]


@WHY3
@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_no_difference_with_why3_on_many() -> None:
    """`python -m benchmarks.proofs -n 10000` takes more."""
    for first in range(300_000, 300_600, 20):
        _, found = differences(drawn(first, 20), seed=first)
        assert found == []


@WHY3
def test_a_difference_would_be_told() -> None:
    odd = Program(
        "def f(x: int) -> int:\n    #@ ensures result == x\n    return y\n", "straight", True
    )
    _, found = differences([*drawn(0, 2), odd])
    assert len(found) == 1
    assert "outside the language" in found[0]
