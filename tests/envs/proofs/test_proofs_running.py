"""Running programs of the small language: hand-worked values, mutants, and what never ends."""

from __future__ import annotations

import random

import pytest
from proof_kit import seed

from puna.envs.proofs.dialect import body_of
from puna.envs.proofs.language import parse
from puna.envs.proofs.running import broken, mutations, value
from puna.envs.proofs.terms import read

HEAD = "def f(x: int, a: list[int]) -> int:\n    #@ ensures {}\n"


@pytest.mark.parametrize(
    ("term", "given"),
    [
        ("-7 // 2", -4), ("-7 % 2", 1), ("7 % -2", -1), ("7 // -2", -4), ("2 - 3 * 4", -10),
        ("if x > 2 then a[0] else a[-1]", 5), ("a[9]", 0), ("len(a)", 3), ("not x == 3", False),
        ("forall k. 0 <= k < len(a) -> a[k] >= 5", True),
        ("exists i, j. i < j and a[i] == a[j]", True),
        ("x == 1 -> a[7] == 0", True), ("x == 3 <-> True", True), ("old(x) + old(a[1])", 107),
        ("forall x. old(x) == x", True), ("1 == 1 or 1 // 0 == 2", True),
    ],
)  # fmt: skip
def test_the_value_of_a_term(term: str, given: object) -> None:
    now = {"x": 3, "a": [5, 7, 5]}
    assert value(read(term, 1), now, {"x": 7, "a": [5, 100, 5]}) == given


@pytest.mark.parametrize(
    ("promise", "body", "why"),
    [
        ("result == x + 1", "return x + 1", ""),
        ("result == x + 1", "return x", "gives"),
        ("result == x", "return a[5] - a[5] + x", "index 5"),
        ("result == x", "return x // (x - x)", "division by zero"),
        ("result == x", "while True:|    x = x|return x", "too long"),
        ("result >= 0", "y = x * x + 2|while y < 0 - 1:|    y = y * y|return y", ""),
        ("result == x", "y = 3|while y != 0:|    y = y * y * y|return x", "too large"),
        ("a[0] == 4 or len(a) < 1", "if len(a) > 0:|    a[0] = 4|return x", ""),
        ("a[0] == 4", "return x", "gives"),
        ("old(a[0]) == a[0] or len(a) < 1", "if len(a) > 0:|    a[0] = a[0] + 1|return x", "gives"),
        ("result == 1",
         "i = 0|while i < 9:|    i += 1|    if i < 4:|        continue|    break|return i - 3", ""),
        ("x // 0 == 5", "return x", ""),
    ],
)  # fmt: skip
def test_how_a_promise_is_seen_to_break(promise: str, body: str, why: str) -> None:
    lines = "".join(f"    {line}\n" for line in body.split("|"))
    found = broken(parse(HEAD.format(promise) + lines), random.Random(0))
    assert bool(found) == bool(why), found
    assert why in (found or "")


def test_mutations_change_one_operator_of_the_code_and_no_annotation() -> None:
    spec = seed("train/find")
    body = body_of(spec, spec.reference)
    assert body is not None
    changed = list(mutations(body))
    assert len(changed) == 6
    for text in changed:
        pairs = list(zip(body.splitlines(), text.splitlines(), strict=True))
        (line,) = [a for a, b in pairs if a != b]
        assert not line.lstrip().startswith("#@")
    breaking = [t for t in changed if broken(parse(spec.with_body(t)), random.Random(0))]
    assert len(breaking) > len(changed) / 2
    assert broken(parse(spec.reference), random.Random(0)) is None
