"""The small language: what it reads, how terms bind, and what it refuses for which reason."""

from __future__ import annotations

import pytest

from puna.envs.proofs.language import LARGEST, Function, parse
from puna.envs.proofs.terms import (
    Binary,
    Choice,
    Index,
    LanguageError,
    Name,
    Number,
    Quantified,
    Term,
    Then,
    Unary,
    read,
)


def flat(term: Term) -> str:
    """The term with all its parentheses."""
    match term:
        case Number(value=value):
            return str(value)
        case Name(name=name):
            return name
        case Unary(op=op, of=of):
            return f"({op} {flat(of)})"
        case Binary(op=op, left=left, right=right):
            return f"({flat(left)} {op} {flat(right)})"
        case Index(name=name, at=at):
            return f"{name}[{flat(at)}]"
        case Choice(test=test, yes=yes, no=no):
            return f"(if {flat(test)} then {flat(yes)} else {flat(no)})"
        case Quantified(kind=kind, names=names, body=body):
            return f"({kind} {','.join(names)}. {flat(body)})"
        case Then(of=of, label=label):
            return f"{label or 'old'}({flat(of)})"
    return repr(term)


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("a - b - c", "((a - b) - c)"),
        ("a + b * c % d", "(a + ((b * c) % d))"),
        ("-a * b", "((- a) * b)"),
        ("- - a", "a"),
        ("not a == b", "(not (a == b))"),
        ("not not a and b", "(a and b)"),
        ("a or b and c", "(a or (b and c))"),
        ("a -> b -> c", "(a -> (b -> c))"),
        ("a <-> b -> c or d", "(a <-> (b -> (c or d)))"),
        ("0 <= i < j <= n", "((0 <= i) and ((i < j) and (j <= n)))"),
        ("forall k. a[k] > 0 -> b", "(forall k. ((a[k] > 0) -> b))"),
        ("p and forall i, j. q -> r", "(p and (forall i,j. (q -> r)))"),
        ("if p then a else b -> c", "(if p then a else (b -> c))"),
        ("old(a[i]) + at(a[i + 1], L)", "(old(a[i]) + L(a[(i + 1)]))"),
        ("(a -> b) -> c", "((a -> b) -> c)"),
    ],
)
def test_terms_bind_as_in_why3(text: str, bound: str) -> None:
    assert flat(read(text, 1)) == bound


def body(*lines: str, head: str = "def f(x: int, p: bool, a: list[int]) -> int:") -> str:
    return (
        "\n".join([head, "    #@ ensures result == x", *(f"    {line}" for line in lines)]) + "\n"
    )


REFUSED = {
    "a string": ['s = "x"', "return x"],
    "a backslash": ["x = \\", "0", "return x"],
    "two statements on a line": ["x = 0; x = 1", "return x"],
    "a bracket left open": ["x = (1 +", "2)", "return x"],
    "an annotation behind code": ["x = 1  #@ assert x == 1", "return x"],
    "an unknown annotation": ["#@ hint x", "return x"],
    "assume": ["#@ assume 0 == 1", "return x"],
    "a late precondition": ["x = 0", "#@ requires x == 0", "return x"],
    "a stray invariant": ["#@ invariant x == 0", "return x"],
    "a name never assigned": ["return y"],
    "a name of one branch only": ["if p:", "    y = 1", "return y"],
    "a name of the loop only": ["while p:", "    y = 1", "return y"],
    "bool for int": ["return p"],
    "int for bool": ["if x:", "    return 0", "return x"],
    "comparing truth values": ["if p == True:", "    return 0", "return x"],
    "a changed type": ["y = 1", "y = True", "return x"],
    "a list as a value": ["b = a", "return x"],
    "an assigned list": ["a = x", "return x"],
    "two sides of a chain": ["if 0 < x < 5:", "    return 0", "return x"],
    "pass": ["pass", "return x"],
    "Python's assert": ["assert x == x", "return x"],
    "for": ["for i in range(x):", "    x = i", "return x"],
    "a call": ["return f(x, p, a)"],
    "a slice": ["return a[0:1]"],
    "division": ["return x / 1"],
    "power": ["return x ** 2"],
    "hexadecimal": ["return 0x10"],
    "underscores": ["return 1_000"],
    "a float": ["return 1.0"],
    "many digits": ["return " + "9" * 31],
    "a leading underscore": ["_note = 1", "return x"],
    "a reserved name": ["result = 1", "return x"],
    "a capital": ["X = 1", "return x"],
    "unicode": ["ｘ = 1", "return x"],
    "no last return": ["if p:", "    return x"],
    "a last loop": ["while True:", "    return x"],
    "break outside": ["break", "return x"],
    "old outside ensures": ["#@ assert old(x) == x", "return x"],
    "an unknown label": ["#@ assert at(x, L) == x", "return x"],
    "a label twice": ["#@ label L", "#@ label L", "return x"],
    "two variants": ["while p:", "    #@ variant x", "    #@ variant x", "    x = 0", "return x"],
    "an annotated loop without a body": ["while p:", "    #@ variant x", "return x"],
    "an empty comment": ["#", "return x"],
    "a sign without a space": ["if x <-1:", "    return 0", "return x"],
    "else of a loop": ["while p:", "    x = 0", "else:", "    x = 1", "return x"],
    "a tab": ["if p:\n\t\treturn x", "return x"],
    "a form feed": ["\x0creturn x"],
    "a null": ["return x\0"],
    "a walrus": ["return (y := x)"],
    "a multiple assignment": ["y = z = x", "return x"],
    "a tuple": ["y, z = x, x", "return x"],
    "a deep term": ["#@ assert " + "(" * 100 + "x == x" + ")" * 100, "return x"],
    "a deep expression": ["return " + "(" * 300 + "x" + ")" * 300],
    "half a term": ["#@ assert x ==", "return x"],
    "too much of a term": ["#@ assert x == x x", "return x"],
    "a list in a term": ["#@ assert a == a", "return x"],
    "adding truth values": ["#@ assert p + p == p", "return x"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_others_could_read_differently_is_refused(name: str) -> None:
    with pytest.raises(LanguageError, match="line "):
        parse(body(*REFUSED[name]))


@pytest.mark.parametrize(
    "head",
    [
        "def f(x) -> int:",
        "def f(x: str) -> int:",
        "def f(x: int = 0) -> int:",
        "def f(*x: int) -> int:",
        "def f(x: int, x: int) -> int:",
        "def f(x: int) -> list[int]:",
        "async def f(x: int) -> int:",
        "@g\ndef f(x: int) -> int:",
        "y = 1\ndef f(x: int) -> int:",
        "def f(len: int, x: int) -> int:",
    ],
)
def test_heads_that_are_refused(head: str) -> None:
    with pytest.raises(LanguageError):
        parse(body("return x", head=head))


@pytest.mark.parametrize("text", ["", "\n", "x", "def", "\0", "\ud800", "(" * 10**5, "#@ x\n" * 9])
def test_any_text_gets_an_answer(text: str) -> None:
    with pytest.raises(LanguageError):
        parse(text)


def test_a_megabyte_is_read_and_more_is_not() -> None:
    comment = "    # " + "x" * 90 + "\n"
    text = body("return x").replace("    return", comment * (10**6 // len(comment)) + "    return")
    assert 0.99e6 < len(text) < LARGEST
    assert isinstance(parse(text), Function)
    with pytest.raises(LanguageError, match="longer"):
        parse(text + comment * 1000)


def test_an_annotation_in_a_string_is_no_annotation() -> None:
    text = body('s = "', "#@ assert 0 == 1", '"', "return x")
    with pytest.raises(LanguageError, match="quotes"):
        parse(text)
