"""Why3 as Debian has it: it proves what the prover in process proves, and more than is accepted."""

from __future__ import annotations

import pytest
from proof_kit import seed, submission, table

from benchmarks.proofs.__main__ import why3_all
from puna.envs.proofs import env, programs, specs
from puna.envs.proofs.acceptance import MICRO_PYTHON, accept, examine
from puna.envs.proofs.prover import Verdict
from puna.envs.proofs.why3 import Why3

pytest.importorskip("z3", reason="z3-solver is not installed")
pytestmark = pytest.mark.skipif(
    not (programs.where("why3") and programs.where("z3")), reason="why3 or z3 is not installed"
)

SEEDS = specs.read_folder(env.SEEDS)
HOLES = [c for c in table("cheating.toml") if c.get("hole")]
SECONDS = 2.0


@pytest.mark.parametrize("case", HOLES, ids=lambda c: c["why"])
def test_why3_alone_would_let_these_cheats_pass(case: dict[str, str]) -> None:
    spec, text = submission(case)
    assert Why3().prove(text, SECONDS) == Verdict("valid")
    assert accept(spec, text, Why3(), SECONDS).kind == "refuted"


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_reference_is_proved_by_why3_as_well(split: str) -> None:
    texts = [s.reference for s in SEEDS[split]]
    assert why3_all(texts, SECONDS) == ["valid"] * len(texts)


@pytest.mark.slow
def test_every_honest_solution_is_proved_by_why3_as_well() -> None:
    texts = [submission(case)[1] for case in table("honest.toml")]
    assert why3_all(texts, SECONDS) == ["valid"] * len(texts)


def test_what_why3_does_not_prove_is_unknown_and_what_it_cannot_read_is_refused() -> None:
    spec = seed("train/larger")
    assert Why3().prove(spec.reference, SECONDS) == Verdict("valid")
    wrong = Why3().prove(spec.with_body("    return x\n"), 0.1)
    assert wrong.kind == "unknown"
    assert "line 2" in wrong.evidence
    broken = Why3().prove(spec.with_body("    return z\n"), 0.1)
    assert broken == Verdict("refuted", "line 4: unbound variable z")
    assert Why3().prove(spec.with_body("    return = x\n"), 0.1).kind == "refuted"
    assert Why3().prove("\ud800\0", 0.1).kind == "refuted"
    assert Why3().version().startswith("why3 1.")


def test_specifications_outside_the_small_language_are_examined_by_why3() -> None:
    head = "#@ function g(n: int) -> int\n\ndef f(n: int) -> int:\n"
    empty = MICRO_PYTHON.spec(
        "f", head + "    #@ requires g(n) < g(n)\n    #@ ensures result == g(n)\n"
    )
    assert "contradict" in examine(empty, Why3(), 0.2).evidence
    loose = MICRO_PYTHON.spec("f", head + "    #@ ensures g(result) == g(0)\n")
    assert "returns 0" in examine(loose, Why3(), 0.2).evidence


def test_a_specification_of_a_megabyte_reaches_why3() -> None:
    spec = seed("train/larger")
    comment = "    # " + "x" * 90 + "\n"
    assert (
        Why3().prove(spec.header + comment * 10_700 + "    return x if x > y else y\n", 1).kind
        == "valid"
    )
