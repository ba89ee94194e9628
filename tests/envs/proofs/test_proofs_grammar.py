"""The grammar: what it draws is proved, asks for something, and is seldom the same twice."""

from __future__ import annotations

import random

import pytest
from proof_kit import Here, judge

from puna.core.rng import stream
from puna.envs.proofs import grammar, specs
from puna.envs.proofs.acceptance import MICRO_PYTHON, examine
from puna.envs.proofs.fast import STEPS
from puna.envs.proofs.language import parse
from puna.envs.proofs.prover import Verdict
from puna.envs.proofs.running import broken

pytest.importorskip("z3", reason="z3-solver is not installed")


@pytest.mark.parametrize("scheme", grammar.SCHEMES)
def test_what_is_drawn_is_proved_and_is_not_seen_to_break(scheme: str) -> None:
    proved = asks = 0
    for number in range(6):
        drawn = grammar.draw(stream(number, scheme), [scheme])
        text = drawn.header + drawn.body
        kind, why = judge(text, STEPS)
        assert kind != "refuted", (text, why)
        assert broken(parse(text), random.Random(number)) is None
        spec = MICRO_PYTHON.spec(scheme, text)
        assert (spec.header, spec.reference) == (drawn.header, text)
        proved += kind == "valid"
        asks += examine(MICRO_PYTHON.spec(scheme, drawn.header), Here(), 0.3) == Verdict("valid")
    assert proved >= 5
    assert asks >= 4


def test_draws_differ_and_depend_on_their_stream_alone() -> None:
    drawn = [grammar.draw(stream(0, "some", n)) for n in range(300)]
    again = [grammar.draw(stream(0, "some", n)) for n in range(300)]
    assert drawn == again
    assert len({specs.canonical(d.header) for d in drawn}) > 240
    assert {d.scheme for d in drawn} == set(grammar.SCHEMES)
    assert set(grammar.LEVEL.values()) == {0, 1, 2, 3}
