"""`puna audit proofs:FILES`: each specification's fault, with the program that shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from proof_kit import Here
from tiny_run import puna

from puna.core.errors import UserError
from puna.envs.proofs import programs
from puna.envs.proofs.acceptance import DAFNY, MICRO_PYTHON, Fault, examine
from puna.envs.proofs.dafny import Dafny
from puna.gym.audit.many import audit_all

pytest.importorskip("z3", reason="z3-solver is not installed")

HEAD = "def f(n: int, a: list[int]) -> int:\n"
FAULTS = {
    "contradictory": "    #@ requires n > 0\n    #@ requires n < 0\n    #@ ensures result > n\n",
    "vacuous": "    #@ ensures result > n or result <= n\n",
    "vacuous, by what is required": "    #@ requires n > 3\n    #@ ensures n > 2\n",
    "stub-passable": "    #@ ensures result >= n\n",
    "stub-passable, unless a list changes": "    #@ ensures a[0] == old(a[0])\n",
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_kind_of_a_fault_and_a_program_that_is_proved(name: str) -> None:
    found = examine(MICRO_PYTHON.spec("f", HEAD + FAULTS[name]), Here(), 1)
    assert isinstance(found, Fault)
    assert found.kind == name.partition(",")[0]
    assert found.program.startswith(HEAD)
    assert Here().prove(found.program, 1).kind == "valid"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("def f(a: list[int]):\n    #@ ensures len(a) >= 0\n", "vacuous"),
        ("def f(a: list[int]):\n    #@ ensures a[0] == old(a[0])\n", "stub-passable"),
        ("def f() -> bool:\n    #@ ensures result or not result\n", "vacuous"),
        ("def f(any0: int) -> int:\n    #@ ensures result == result\n", "stub-passable"),
    ],
)
def test_procedures_truth_values_and_taken_names(text: str, kind: str) -> None:
    found = examine(MICRO_PYTHON.spec("f", text), Here(), 1)
    assert isinstance(found, Fault)
    assert found.kind == kind


@pytest.mark.skipif(not programs.where("dafny"), reason="dafny is not installed")
@pytest.mark.slow
def test_a_vacuous_specification_of_dafny() -> None:
    text = "method f(n: int) returns (r: int)\n  ensures {}\n{{\n}}\n"
    for promise, kind in (("r > n || r <= n", "vacuous"), ("r >= n", "stub-passable")):
        found = examine(DAFNY.spec("f", text.format(promise)), Dafny(), 5)
        assert isinstance(found, Fault)
        assert found.kind == kind


def folder(tmp_path: Path) -> Path:
    root = tmp_path / "my specs"
    root.mkdir()
    for name, lines in FAULTS.items():
        (root / f"{name}.py").write_text(HEAD + lines)
    (root / "fine.py").write_text(HEAD + "    #@ ensures result == 2 * n + 1\n")
    return root


def test_the_command_shows_each_fault_and_the_stub(tmp_path: Path) -> None:
    root = folder(tmp_path)
    done = puna("audit", f"proofs:{root}")
    assert done.code == 1, done.err
    for kind in ("contradictory", "vacuous", "stub-passable"):
        assert f"{kind}: " in done.out
    assert "    #@ ensures result >= n\n    return n\n" in done.out
    assert "FAILED" in done.out
    one = puna("audit", f"proofs:{root / 'fine.py'}")
    assert one.code == 0, one.out + one.err


def test_a_finding_for_each_file_and_no_record_that_training_would_find(tmp_path: Path) -> None:
    (found,) = audit_all(f"proofs:{folder(tmp_path)}")
    assert {f.probe: f.status for f in found.findings} == {
        **dict.fromkeys(FAULTS, "hole"),
        "fine": "ok",
    }
    assert found.env["hash"] == ""


def test_what_is_no_specification_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(UserError, match=r"a\.py: no line starts with `def`"):
        audit_all(f"proofs:{tmp_path / 'a.py'}")
    with pytest.raises(UserError, match=r"no folder, \.py, \.dfy, \.rs or \.jsonl file"):
        audit_all(f"proofs:{tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match="proofs: names no files"):
        audit_all("proofs:")
    with pytest.raises(UserError, match="arithmetic examines no files"):
        audit_all("arithmetic:mine")
