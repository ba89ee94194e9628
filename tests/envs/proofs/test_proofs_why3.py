"""Why3 as Debian has it: it proves what the prover in process proves, and more than is accepted."""

from __future__ import annotations

import random

import pytest
from proof_kit import judge, seed, submission, table

from benchmarks.proofs.agreement import why3_all
from benchmarks.proofs.running import broken
from puna.envs.proofs import env, programs, specs
from puna.envs.proofs.acceptance import MICRO_PYTHON, accept, examine
from puna.envs.proofs.fast import STEPS
from puna.envs.proofs.prover import Verdict
from puna.envs.proofs.why3 import Why3

pytest.importorskip("z3", reason="z3-solver is not installed")
pytestmark = pytest.mark.skipif(
    not (programs.where("why3") and programs.where("z3")), reason="why3 or z3 is not installed"
)

SEEDS = specs.read_folder(env.SEEDS)
HOLES = [c for c in table("cheating.toml") if c.get("hole")]
SECONDS = 0.4


def patiently(text: str) -> Verdict:
    """What Why3 says of it, asked again for ten times as long where it does not prove it."""
    first = Why3().prove(text, SECONDS)
    return Why3().prove(text, 10 * SECONDS) if first.kind == "unknown" else first


@pytest.mark.parametrize("case", HOLES, ids=lambda c: c["why"])
def test_why3_alone_would_let_these_cheats_pass(case: dict[str, str]) -> None:
    spec, text = submission(case)
    assert patiently(text) == Verdict("valid")
    assert accept(spec, text, Why3(), SECONDS).kind == "refuted"


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_reference_is_proved_by_why3_as_well(split: str) -> None:
    texts = [s.reference for s in SEEDS[split]]
    assert _proved(texts) == ["valid"] * len(texts)


@pytest.mark.slow
def test_every_honest_solution_is_proved_by_why3_as_well() -> None:
    texts = [submission(case)[1] for case in table("honest.toml")]
    assert _proved(texts) == ["valid"] * len(texts)


def _proved(texts: list[str]) -> list[str]:
    """Together, and those that are not proved so again alone."""
    kinds = why3_all(texts, SECONDS)
    pairs = zip(kinds, texts, strict=True)
    return [k if k == "valid" else patiently(t).kind for k, t in pairs]


def test_what_why3_does_not_prove_is_unknown_and_what_it_cannot_read_is_refused() -> None:
    spec = seed("train/larger")
    assert patiently(spec.reference) == Verdict("valid")
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
    assert "contradict" in getattr(examine(empty, Why3(), SECONDS), "what", "")
    loose = MICRO_PYTHON.spec("f", head + "    #@ ensures g(result) == g(0)\n")
    assert "returns 0" in getattr(examine(loose, Why3(), SECONDS), "what", "")


def test_a_result_without_a_type_may_be_any_constant() -> None:
    spec = MICRO_PYTHON.spec("f", "def f(n):\n    #@ ensures result >= 1\n")
    assert "returns 1" in getattr(examine(spec, Why3(), SECONDS), "what", "")


def test_a_specification_of_a_megabyte_reaches_why3() -> None:
    spec = seed("train/larger")
    comment = "    # " + "x" * 90 + "\n"
    text = spec.header + comment * 10_700 + "    return x if x > y else y\n"
    assert patiently(text) == Verdict("valid")


BINDS = (
    ("int", "result == (if c then 1 + x else 5)", "1 + x if c else 5"),
    ("int", "result == (if c then 1 else 5 + x)", "1 if c else 5 + x"),
    ("int", "result == (if c then 1 else (if d then 2 else 3))", "1 if c else 2 if d else 3"),
    ("bool", "result <-> (if c then (not d) else d)", "not d if c else d"),
    ("bool", "result <-> (if c then (c and d) else (d or c))", "c and d if c else d or c"),
    ("int", "result == (-x) // 2", "-x // 2"),
    ("int", "result == ((x * y) % 3) // 2", "x * y % 3 // 2"),
    ("bool", "result <-> ((not c) and d)", "not c and d"),
    ("bool", "result <-> (c or (d and c))", "c or d and c"),
    ("bool", "result <-> (not (x == y))", "not x == y"),
)


def test_expressions_bind_alike_in_python_here_and_in_why3() -> None:
    texts = [
        f"def f{i}(x: int, y: int, c: bool, d: bool) -> {kind}:\n"
        f"    #@ ensures {promise}\n    return {said}\n"
        for i, (kind, promise, said) in enumerate(BINDS)
    ]
    assert _proved(texts) == ["valid"] * len(texts)
    for text in texts:
        assert judge(text, STEPS) == ("valid", "")
        assert broken(text, random.Random(0)) is None


def test_a_goal_that_needs_another_cut_is_still_found() -> None:
    """z3 4.8.12 does not find this one where goals are cut in the usual way."""
    text = seed("train/find").reference
    assert patiently(text) == Verdict("valid")
