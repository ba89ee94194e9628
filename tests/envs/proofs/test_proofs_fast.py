"""The prover in process: each part of a program asks for what it must, and nothing more."""

from __future__ import annotations

import time

import pytest
from proof_kit import judge, verdict

from puna.envs.proofs import fast
from puna.envs.proofs.fast import Fast

pytest.importorskip("z3", reason="z3-solver is not installed")


def proves(term: str, head: str = "x: int, y: int, a: list[int]", requires: str = "True") -> str:
    """The verdict on a function that asserts `term` and does nothing else."""
    return verdict(
        f"def f({head}):\n    #@ requires {requires}\n    #@ ensures True\n"
        f"    #@ assert {term}\n    done = 0\n"
    ).kind


@pytest.mark.parametrize("x", range(-7, 8, 2))
@pytest.mark.parametrize("y", [-5, -3, -2, -1, 1, 2, 3, 4])
def test_quotients_and_remainders_are_pythons(x: int, y: int) -> None:
    right = f"({x}) // ({y}) == {x // y} and ({x}) % ({y}) == {x % y}"
    assert proves(right) == "valid"
    assert proves(right, requires="x == 3 and y == 4") == "valid"
    given = f"x == {x} and y == {y}"
    assert proves(f"x // y == {x // y} and x % y == {x % y}", requires=given) == "valid"
    assert proves(f"x // y == {x // y + 1}", requires=given) == "refuted"
    assert proves(f"x % y == {x % y - 1}", requires=given) == "refuted"


@pytest.mark.parametrize(
    ("term", "kind"),
    [
        ("x + 1 > x", "valid"),  # whole numbers have no largest one
        ("x * x >= 0", "valid"),
        ("99999999999999999999 + 1 == 100000000000000000000", "valid"),
        ("x // 2 * 2 == x", "refuted"),
        ("x % 2 == 0 or x % 2 == 1", "valid"),
        ("x % -2 == 0 or x % -2 == -1", "valid"),
        ("len(a) >= 0", "valid"),
        ("len(a) > 0", "refuted"),
        ("(forall k. 0 <= k < len(a) -> a[k] > 0) -> len(a) > 2 -> a[2] > 0", "valid"),
        ("len(a) > 0 -> a[-1] == a[len(a) - 1]", "valid"),
        ("len(a) > 1 -> a[-1] == a[0]", "refuted"),
        ("exists k. k > x", "valid"),
        ("forall k. exists j. j < k", "valid"),
        ("exists k. forall j. k <= j", "unknown"),  # false, but out of reach
        ("x < y < x + 2 -> y == x + 1", "valid"),
        ("(if x > y then x else y) >= y", "valid"),
        ("(x == y) == (y == x)", "valid"),
        ("0 == 1 -> x == y", "valid"),
        ("x == y", "refuted"),
    ],
)
def test_terms(term: str, kind: str) -> None:
    assert proves(term) == kind


def program(
    promise: str, *lines: str, head: str = "n: int, a: list[int]", gives: str = "int"
) -> str:
    body = "\n".join(f"    {line}" for line in lines)
    end = f" -> {gives}" if gives else ""
    return f"def f({head}){end}:\n    #@ requires n >= 0\n    #@ ensures {promise}\n{body}\n"


COUNT = (
    "i = 0",
    "while i < n:",
    "    #@ invariant 0 <= i <= n",
    "    #@ variant n - i",
    "    i += 1",
    "return i",
)


def without(*words: str) -> list[str]:
    return [line for line in COUNT if not any(w in line for w in words)]


CHECKED = {
    "right": (program("result == n", *COUNT), "valid", ""),
    "no invariant": (program("result == n", *without("invariant")), "refuted", "postcondition"),
    "no variant": (program("result == n", *without("variant n")), "refuted", "no variant"),
    "not at the start": (
        program("True", *(x.replace("0 <= i", "1 <= i") for x in COUNT)),
        "refuted",
        "line 6: invariant at the start",
    ),
    "not after a turn": (
        program("True", *(x.replace("i <= n", "i < n") for x in COUNT)),
        "refuted",
        "invariant",
    ),
    "stays": (program("True", *(x.replace("+= 1", "+= 0") for x in COUNT)), "refuted", "variant"),
    "below zero": (
        program("True", "while True:", "    #@ variant n", "    n -= 1", "return 0"),
        "refuted",
        "variant",
    ),
    "continue skips the step": (
        program(
            "True",
            "i = 0",
            "while i < n:",
            "    #@ variant n - i",
            "    if i == 2:",
            "        continue",
            "    i += 1",
            "return i",
        ),
        "refuted",
        "variant",
    ),
    "a pair": (
        program(
            "result == 0",
            "m = n",
            "while n > 0 or m > 0:",
            "    #@ invariant n >= 0 and m >= 0",
            "    #@ variant n, m",
            "    if m > 0:",
            "        m -= 1",
            "    else:",
            "        n -= 1",
            "        m = 5",
            "return n",
        ),
        "valid",
        "",
    ),
    "a pair the wrong way": (
        program(
            "result == 0",
            "m = n",
            "while n > 0 or m > 0:",
            "    #@ invariant n >= 0 and m >= 0",
            "    #@ variant m, n",
            "    if m > 0:",
            "        m -= 1",
            "    else:",
            "        n -= 1",
            "        m = 5",
            "return n",
        ),
        "refuted",
        "variant",
    ),
    "broken out of": (
        program(
            "result == 3 or result == n",
            "i = 0",
            "while i < n:",
            "    #@ invariant 0 <= i <= n",
            "    #@ variant n - i",
            "    if i == 3:",
            "        break",
            "    i += 1",
            "return i",
        ),
        "valid",
        "",
    ),
    "broken out of, forgotten": (
        program(
            "result == n",
            "i = 0",
            "while i < n:",
            "    #@ invariant 0 <= i <= n",
            "    #@ variant n - i",
            "    if i == 3:",
            "        break",
            "    i += 1",
            "return i",
        ),
        "refuted",
        "postcondition",
    ),
    "a late break": (
        program(
            "result == n + 1 or result == 1",
            "i = 0",
            "j = 1",
            "while i < n:",
            "    #@ invariant 0 <= i <= n and j == i + 1",
            "    #@ variant n - i",
            "    j += 1",
            "    i += 1",
            "    if i == 5:",
            "        j = 1",
            "        break",
            "return j",
        ),
        "valid",
        "",
    ),
    "first index": (program("True", "return a[0]"), "refuted", "index of a"),
    "last index": (program("True", "if n < len(a):", "    return a[n]", "return 0"), "valid", ""),
    "one too far": (
        program("True", "if n <= len(a):", "    return a[n]", "return 0"),
        "refuted",
        "index of a",
    ),
    "from the end": (
        program("True", "if 0 < n and n <= len(a):", "    return a[-n]", "return 0"),
        "valid",
        "",
    ),
    "too far from the end": (
        program("True", "if n <= len(a):", "    return a[-n - 1]", "return 0"),
        "refuted",
        "index of a",
    ),
    "looked at first": (
        program("True", "if a[n] > 0 and n < len(a):", "    return 1", "return 0"),
        "refuted",
        "index of a",
    ),
    "or stops": (
        program("True", "if n >= len(a) or a[n] > 0:", "    return 1", "return 0"),
        "valid",
        "",
    ),
    "a choice guards": (program("True", "return a[n] if n < len(a) else 0"), "valid", ""),
    "division": (program("True", "return 7 // n"), "refuted", "division by zero"),
    "division guarded": (program("True", "return 7 // n if n != 0 else 0"), "valid", ""),
    "remainder": (program("True", "return 7 % (n - 1)"), "refuted", "division by zero"),
    "a store": (
        program("a[0] == 5", "if len(a) > 0:", "    a[0] = 5", "    return 0", "return 1"),
        "refuted",
        "postcondition",
    ),
    "two lists are two": (
        program(
            "True",
            "if len(a) > 0 and len(b) > 0:",
            "    a[0] = 1",
            "    b[0] = 2",
            "    #@ assert a[0] == 1",
            "return 0",
            head="n: int, a: list[int], b: list[int]",
        ),
        "valid",
        "",
    ),
    "a parameter at the end": (program("result == n + 1", "n += 1", "return n"), "valid", ""),
    "a quantifier takes a name": (
        program(
            "True",
            "k = 0",
            "#@ label L",
            "k = 1",
            "#@ assert (forall k. at(k, L) == 0)",
            "return 0",
        ),
        "refuted",
        "assertion",
    ),
    "a label": (
        program("True", "#@ label L", "n += 2", "#@ assert at(n, L) == n - 2", "return 0"),
        "valid",
        "",
    ),
    "nothing below a return": (program("result == 0", "return 0", "return 1"), "valid", ""),
    "no way out": (
        program("result == 7", "if n < 0:", "    return 1", "return 7"),
        "valid",
        "",
    ),
}


@pytest.mark.parametrize("name", CHECKED)
def test_what_is_asked_for(name: str) -> None:
    text, kind, why = CHECKED[name]
    given = verdict(text)
    assert (given.kind, why in given.evidence) == (kind, True), (given, text)


def test_many_choices_one_after_another_stay_cheap() -> None:
    lines = [f"if n > {i}:\n        s += {i}" for i in range(60)]
    text = program("result >= 0", "s = 0", *lines, "return s")
    began = time.process_time()
    assert verdict(text).kind == "valid"
    assert time.process_time() - began < 5  # 2^60 ways lead through it


def hard(n: int) -> str:
    """A sum of three cubes: true or not, z3 will not find out."""
    return (
        "def f(x: int, y: int, z: int):\n    #@ ensures True\n"
        f"    #@ assert x * x * x + y * y * y + z * z * z != {n}\n    done = 0\n"
    )


def test_what_cannot_be_decided_is_unknown_and_the_same_each_time() -> None:
    given = [judge(hard(114), 400_000) for _ in range(3)]
    assert given[0][0] == "unknown"
    assert given == [given[0]] * 3


def test_something_false_is_found_behind_what_is_not_decided() -> None:
    text = hard(114).replace("    done = 0", "    #@ assert x == 0\n    done = 0")
    assert judge(text, 4_000_000)[0] in ("refuted", "unknown")
    text = hard(114).replace("    #@ assert", "    #@ assert x == 0\n    #@ assert")
    assert judge(text, 400_000)[0] == "refuted"


def test_in_its_own_process_it_survives_what_it_is_given() -> None:
    prover = Fast()
    assert prover.version().split(".")[0].isdigit()
    assert prover.prove(program("result == n", "return n"), 1).kind == "valid"
    assert prover.prove(program("result == n", "return 0"), 1).kind == "refuted"
    sums = program("result == n", "return " + " + ".join(["n"] * 20_000))
    for text in (sums, sums.replace("+", "*"), "\ud800", "\0", "(" * 10**6, "x" * (1 << 21)):
        assert prover.prove(text, 1).kind in ("refuted", "unknown")  # not "failed", as after a wait


def test_without_z3_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast.importlib.util, "find_spec", lambda name: None)
    assert Fast().version() == ""
    given = Fast().prove("x", 1)
    assert given.kind == "failed"
    assert "pip install 'puna[proofs]'" in given.evidence
