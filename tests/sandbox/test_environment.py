"""An environment whose agent writes code: judged behind walls, refused without them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from puna.gym.audit import audit

LINES = """
from puna.gym.environment import Problem, SingleTurn
from puna.sandbox import shared


class Lines(SingleTurn):
    name = "lines"
    tier = "jail"

    def make(self, rng):
        a = int(rng.integers(2, 10_000))
        return Problem(f"Write f(x) = {a} x.", f"def f(x):\\n    return {a} * x")

    def score(self, answer, problem):
        cases = [(1,), (7,)]
        given = shared().call_now(answer, "f", cases)
        right = shared().call_now(problem.answer, "f", cases)
        return float(all(g.value == r.value and not g.error for g, r in zip(given, right)))
"""


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.py"
    path.write_text(LINES)
    return path


def puna(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "puna.cli", *args],
        cwd=cwd, capture_output=True, text=True, timeout=120,
        env={**os.environ, **env},
    )  # fmt: skip


@pytest.mark.usefixtures("_bubblewrap_works")
def test_it_passes_the_audit(lines: Path) -> None:
    found = audit(str(lines), n=3)
    assert found.passed, found


def test_without_walls_it_is_refused_unless_they_are_waived(lines: Path) -> None:
    python = str(Path(sys.executable).parent)
    refused = puna("audit", "lines.py", "-n", "2", cwd=lines.parent, PATH=python)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "no sandbox works here (bubblewrap: bubblewrap (the program bwrap)" in refused.stderr
    assert "--unsafe" in refused.stderr
    few = ("-n", "2", "--probe", "oracle", "--probe", "idle", "--probe", "stub programs")
    waived = puna("audit", "lines.py", *few, "--unsafe", cwd=lines.parent, PATH=f"{python}:/bin")
    assert waived.returncode == 0, waived.stderr
    assert "runs without walls" in waived.stderr
