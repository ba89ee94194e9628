"""Dafny as Debian has it: honest submissions accepted, cheats refused; how Verus files are read."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from proof_kit import SUBMISSIONS

from puna.envs.proofs import programs
from puna.envs.proofs.acceptance import DIALECTS, Fault, accept, examine
from puna.envs.proofs.braces import DAFNY, VERUS
from puna.envs.proofs.dafny import Dafny
from puna.envs.proofs.dialect import Spec
from puna.envs.proofs.prover import Verdict
from puna.envs.proofs.specs import normal

TABLE = tomllib.loads((SUBMISSIONS / "dafny.toml").read_text())
HERE = pytest.mark.skipif(not programs.where("dafny"), reason="dafny is not installed")
SECONDS = 10.0


def spec_of(case: dict[str, Any]) -> Spec:
    return DAFNY.spec(case["spec"], normal(TABLE["specs"][case["spec"]] + "{ }\n"))


def submission(case: dict[str, Any]) -> str:
    spec = spec_of(case)
    return normal(case["text"] if "text" in case else spec.header + case["body"])


def cases(cheats: bool) -> list[dict[str, Any]]:
    return [c for c in TABLE["case"] if ("why" in c) == cheats]


def lexical(case: dict[str, Any]) -> str:
    return DAFNY.refusal(spec_of(case), submission(case))


@pytest.mark.parametrize("case", cases(cheats=False), ids=lambda c: c["spec"])
def test_no_word_of_an_honest_submission_is_refused(case: dict[str, Any]) -> None:
    assert lexical(case) == ""


@pytest.mark.parametrize("case", cases(cheats=True), ids=lambda c: c["why"])
def test_most_cheats_are_refused_before_dafny_is_asked(case: dict[str, Any]) -> None:
    if why := lexical(case):
        assert case["why"] in why
    else:
        assert case["why"] in ("line", "no body")


@HERE
@pytest.mark.slow
@pytest.mark.parametrize("case", cases(cheats=False), ids=lambda c: c["spec"])
def test_an_honest_submission_is_accepted(case: dict[str, Any]) -> None:
    assert accept(spec_of(case), submission(case), Dafny(), SECONDS) == Verdict("valid")


@HERE
@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [c for c in cases(cheats=True) if not lexical(c)], ids=lambda c: c["body"][:30]
)
def test_the_other_cheats_are_refused_by_dafny(case: dict[str, Any]) -> None:
    given = accept(spec_of(case), submission(case), Dafny(), SECONDS)
    assert given.kind == "refuted", given
    assert case["why"] in given.evidence


@HERE
@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [c for c in TABLE["case"] if c.get("hole")], ids=lambda c: c["why"]
)
def test_dafny_alone_would_let_these_pass(case: dict[str, Any]) -> None:
    """But for what has no body: there it warns, and we take the warning for a refusal."""
    given = Dafny().prove(submission(case), SECONDS)
    assert given == Verdict("valid") or "has no body" in given.evidence
    assert ("has no body" in given.evidence) == ("forall k" in case.get("body", ""))


@HERE
@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("method F(x: int) returns (r: int)\n  requires x < 0 && x > 0\n  ensures r == 9\n{ }\n",
         "contradict"),
        ("method F(x: int) returns (r: int)\n  ensures true\n{ }\n", "does nothing"),
        ("method F(x: int) returns (r: int)\n  ensures r == 1\n{ }\n", "returns 1"),
        ("method F(x: int) returns (r: int)\n  ensures r == x\n{ }\n", "returns x"),
    ],
)  # fmt: skip
def test_a_specification_that_asks_for_nothing(text: str, why: str) -> None:
    given = examine(DAFNY.spec("f", text), Dafny(), SECONDS)
    assert isinstance(given, Fault)
    assert why in given.what


@HERE
@pytest.mark.slow
def test_a_specification_that_asks_for_something_and_the_version() -> None:
    spec = spec_of({"spec": "max"})
    assert examine(spec, Dafny(), SECONDS) == Verdict("valid")
    assert Dafny().version().startswith(("2.3", "3.", "4."))
    assert Dafny().prove("method f() {", SECONDS).kind == "refuted"


def test_header_body_and_footer_are_found_whatever_stands_around() -> None:
    helper = "function Twice(x: int): int\n{ 2 * x }\n\nlemma L()\n  ensures true\n{ }\n\n"
    head = "method F(x: int) returns (r: int)\n  requires x in {1, 2} // }{\n"
    head += '  ensures r != "{".Length\n'
    tail = "\n\nmethod Main()\n{\n}\n"
    spec = DAFNY.spec("f", helper + head + "{\n  r := x; // }\n}" + tail)
    assert (spec.header, spec.footer) == (helper + head, tail)
    assert spec.reference.startswith(spec.header)
    assert DAFNY.refusal(spec, spec.reference) == ""
    assert DAFNY.spec("f", helper + head + "{ }" + tail).reference == ""


VERUS_FILE = """use vstd::prelude::*;

verus! {

spec fn twice(x: int) -> int {
    2 * x
}

fn larger(x: u32, y: u32) -> (r: u32)
    ensures
        r >= x && r >= y,
        r == x || r == y,
{
    if x > y { x } else { y }
}

fn main() {
}

} // verus!
"""


def test_verus_files_are_taken_apart_as_well() -> None:
    spec = VERUS.spec("larger", VERUS_FILE)
    assert spec.header.endswith("r == x || r == y,\n")
    assert spec.footer == "\n\nfn main() {\n}\n\n} // verus!\n"
    assert VERUS.refusal(spec, VERUS_FILE) == ""
    assert set(VERUS.stubs(spec)) == {
        "does nothing",
        "returns 0",
        "returns 1",
        "returns x",
        "returns y",
    }
    assert "assert(0int == 1int); 0" in VERUS.contradiction(spec)
    bodies = (
        "{ assume(false); x }", "{ admit(); x }", "#[verifier::external_body]\n{ x }",
        "{ unimplemented!() }", "{ x } fn other() { }", "{ x } /* } */", "{ x", "{ x }}",
        "{ proof { assume(x > y); } x }", '{ "}"; x }', "{ #[verifier(external)] x }", "{ х }",
    )  # fmt: skip
    for body in bodies:
        assert VERUS.refusal(spec, spec.with_body(body)), body
    for body in ("{ y }", "{ let r = if x > y { x } else { y }; assert(r >= x); r }"):
        assert VERUS.refusal(spec, spec.with_body(body)) == ""


def test_every_dialect_refuses_a_changed_header_and_takes_its_own_reference() -> None:
    texts = {
        "micro-python": "def f(x: int) -> int:\n    #@ ensures result > x\n    return x + 1\n",
        "dafny": "method F(x: int) returns (r: int)\n  ensures r > x\n{\n  r := x + 1;\n}\n",
        "verus": VERUS_FILE,
    }
    assert set(texts) == set(DIALECTS)
    for name, text in texts.items():
        spec = DIALECTS[name].spec("f", text)
        assert DIALECTS[name].refusal(spec, text) == ""
        for at in range(0, len(spec.header), 7):
            changed = text[:at] + "~" + text[at + 1 :]
            assert "byte for byte" in DIALECTS[name].refusal(spec, changed)
