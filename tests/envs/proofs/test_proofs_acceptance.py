"""Acceptance: each cheat of the table is refused for its reason, each honest solution accepted."""

from __future__ import annotations

import pytest
from proof_kit import SUBMISSIONS, Here, seed, submission, table

from puna.envs.proofs import env, specs
from puna.envs.proofs.acceptance import MICRO_PYTHON, Fault, accept, examine
from puna.envs.proofs.prover import Verdict

pytest.importorskip("z3", reason="z3-solver is not installed")

SEEDS = specs.read_folder(env.SEEDS)


def test_the_tables_are_as_large_as_they_should_be() -> None:
    """With those of Dafny in test_proofs_dafny.py."""
    assert len(table("cheating.toml")) >= 80
    assert len(table("honest.toml")) + sum(map(len, SEEDS.values())) >= 80
    assert {p.name for p in SUBMISSIONS.iterdir()} >= {"cheating.toml", "honest.toml"}


@pytest.mark.parametrize("case", table("cheating.toml"), ids=lambda c: c["why"])
def test_a_cheat_is_refused_for_its_reason(case: dict[str, str]) -> None:
    given = accept(*submission(case), Here(), 1)
    assert given.kind == "refuted"
    assert case["why"] in given.evidence, given


@pytest.mark.parametrize("case", table("honest.toml"), ids=lambda c: c["spec"])
def test_an_honest_solution_is_accepted(case: dict[str, str]) -> None:
    assert accept(*submission(case), Here(), 1) == Verdict("valid")


@pytest.mark.parametrize("spec", [s for part in SEEDS.values() for s in part], ids=lambda s: s.name)
def test_a_reference_is_accepted_and_its_specification_asks_for_something(spec: specs.Spec) -> None:
    assert accept(spec, spec.reference, Here(), 1) == Verdict("valid")
    assert examine(spec, Here(), 1) == Verdict("valid")


HEAD = "def f(n: int, a: list[int]) -> int:\n"
EMPTY = {
    "contradictory": ("    #@ requires n > 0\n    #@ requires n < 0\n    #@ ensures result > n\n",
                      "contradict"),
    "contradictory lists": ("    #@ requires len(a) < 0\n    #@ ensures result > n\n",
                            "contradict"),
    "always true": ("    #@ ensures True\n", "returns 0"),
    "nothing new": ("    #@ requires n > 3\n    #@ ensures n > 2\n", "returns 0"),
    "a constant": ("    #@ ensures result == -1\n", "returns -1"),
    "handed back": ("    #@ ensures result == n\n", "returns n"),
    "a length": ("    #@ ensures result == len(a)\n", "returns len(a)"),
    "loose": ("    #@ ensures result > n or result <= n\n", "returns 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", EMPTY)
def test_a_specification_that_asks_for_nothing_is_refused_with_the_stub(name: str) -> None:
    lines, why = EMPTY[name]
    given = examine(MICRO_PYTHON.spec("f", HEAD + lines), Here(), 1)
    assert isinstance(given, Fault)
    assert why in given.what


def test_a_procedure_that_may_do_nothing_asks_for_nothing() -> None:
    text = "def f(a: list[int]):\n    #@ ensures len(a) >= 0\n"
    given = examine(MICRO_PYTHON.spec("f", text), Here(), 1)
    assert isinstance(given, Fault)
    assert "does nothing" in given.what


class Unsure:
    """Says `unknown` as often as it is told to, then something else."""

    name = "unsure"

    def __init__(self, times: int, then: Verdict) -> None:
        self.left, self.then, self.asked = times, then, []

    def version(self) -> str:
        return "1"

    def prove(self, source: str, deadline: float) -> Verdict:
        self.asked.append(deadline)
        self.left -= 1
        return Verdict("unknown", "cannot say") if self.left >= 0 else self.then


@pytest.mark.parametrize(("times", "kind"), [(0, "valid"), (1, "valid"), (2, "unknown")])
def test_unknown_is_asked_once_more_with_three_times_as_long(times: int, kind: str) -> None:
    spec, prover = seed("train/larger"), Unsure(times, Verdict("valid"))
    assert accept(spec, spec.reference, prover, 2).kind == kind
    assert prover.asked == [2, 6][: times + 1]


def test_a_refusal_asks_no_prover() -> None:
    spec, prover = seed("train/larger"), Unsure(0, Verdict("valid"))
    assert accept(spec, spec.reference + "    #@ assume False\n", prover, 1).kind == "refuted"
    assert prover.asked == []


def test_an_unsure_prover_does_not_speak_against_a_specification_and_a_dead_one_says_so() -> None:
    spec = seed("train/larger")
    assert examine(spec, Unsure(99, Verdict("valid")), 1) == Verdict("valid")
    died = Verdict("failed", "died")
    assert examine(spec, Unsure(0, died), 1) == examine(spec, Unsure(2, died), 1) == died


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x = 1\n", "no line starts with `def`"),
        ("def f(x: int) -> int:\n    return x\n", "nothing is promised"),
        ("def f(x: int) -> int:\n    return x\n    #@ ensures True\n", "nothing is promised"),
        ("def f(x: int,\n      y: int):\n    #@ ensures True\n", "on one line"),
    ],
)
def test_a_text_without_a_specification(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        MICRO_PYTHON.spec("f", text)


def test_the_header_ends_with_the_last_promise_below_the_last_def() -> None:
    before = "def g(x: int) -> int:\n    #@ ensures result == x\n    return x\n\n"
    header = (
        before
        + "def f(x: int) -> int:\n    #@ requires x > 0\n    # a word\n    #@ ensures result > x\n"
    )
    body = "    y = x\n    #@ assert y == x\n    return y + 1\n"
    spec = MICRO_PYTHON.spec("f", header + body)
    assert (spec.header, spec.footer, spec.reference) == (header, "", header + body)
    assert MICRO_PYTHON.spec("f", header) == specs.Spec("f", "micro-python", header)
