"""Held-out sets: HumanEval's functions with specifications of our own, and Why3's own programs."""

from __future__ import annotations

from pathlib import Path

import pytest
from proof_kit import Here

from puna.core.errors import UserError
from puna.envs.proofs import env, specs, why3_examples
from puna.envs.proofs.acceptance import accept, examine
from puna.envs.proofs.dialect import SpecError
from puna.envs.proofs.language import parse
from puna.envs.proofs.micropython import MicroPython
from puna.envs.proofs.prover import Verdict
from puna.envs.proofs.why3_examples import specification, specifications

pytest.importorskip("z3", reason="z3-solver is not installed")

HUMANEVAL = specs.read(env.HELD_OUT["humaneval"])["test"]


def test_there_are_enough_and_none_is_ever_trained_on() -> None:
    assert len(HUMANEVAL) == 19
    made = env.Proofs(env.Proofs.Config(specs="humaneval"))
    assert (made.count("train"), made.count("test")) == (0, 19)
    assert made.has_oracle
    trained = {specs.canonical(s.header) for s in specs.read_folder(env.SEEDS)["train"]}
    assert not trained & {specs.canonical(s.header) for s in HUMANEVAL}


@pytest.mark.parametrize("spec", HUMANEVAL, ids=lambda s: s.name)
def test_a_specification_of_humaneval_is_in_the_language_and_asks_for_something(
    spec: specs.Spec,
) -> None:
    parse(MicroPython().contradiction(spec))
    assert examine(spec, Here(), 0.3) == Verdict("valid")
    assert accept(spec, spec.reference, Here(), 1) == Verdict("valid")


SCRIPT = """
print("sum")

n = int(input("n: "))
#@ assume n >= 0

s = 0
k = 0
while k <= n:
    #@ invariant s == (k - 1) * k // 2
    #@ variant n - k
    s += k
    k += 1

print(s)
#@ assert s == n * (n+1) // 2
"""


def test_a_script_that_reads_numbers_is_a_function_of_them() -> None:
    found = specification("triangular", SCRIPT)
    assert found.header == (
        "def triangular(n: int) -> int:\n    #@ requires n >= 0\n"
        "    #@ ensures result == n * (n+1) // 2\n"
    )
    assert not found.reference


def test_a_function_loses_its_body_and_what_stands_behind_it() -> None:
    text = "def f(l):\n    #@ ensures result == (forall k. l[k] == 0)\n    return True\n\n"
    text += "c = f([])\n#@ assert c\n"
    found = specification("f", text)
    assert found.header == "".join(text.splitlines(keepends=True)[:2])
    assert not found.reference


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "reads no numbers"),
        ("s = 0\n#@ assert s == 0\n", "reads no numbers"),
        ("def f(a):\n    #@ requires a > 0\n    return a\n", "reads no numbers"),
        ("n = int(input())\nprint(n)\n", "does not end in an assertion"),
        ("n = int(input())\n#@ assert n == n\n", "its inputs alone"),
        ("n = int(input())\n#@ assert s == n and t == n\n", "something of s, t"),
    ],
)
def test_a_program_that_asks_for_nothing(text: str, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        specification("f", text)


def test_the_package_is_named_where_it_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no programs of Why3 in .*why3-examples"):
        specifications(tmp_path)


@pytest.mark.skipif(not why3_examples.FOLDER.is_dir(), reason="why3-examples is not installed")
def test_the_programs_that_debian_packages() -> None:
    names = {spec.name for spec in specifications(why3_examples.FOLDER)}
    assert {"isqrt", "isqrt_fun", "mult", "triangular", "check_duplicates", "concat"} <= names
    assert not {"break_continue", "range", "pgcd", "dicho", "sort"} & names
    made = env.Proofs(env.Proofs.Config(specs="why3-examples"))
    assert made.count("train") == 0
    assert made.count("test") == len(names)
