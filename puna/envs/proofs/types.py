"""Types of terms: int, bool, and list, which only `len`, an index and a store may touch.

`check(term, "bool", {"n": "int"}, line=3, spec=True)` is "bool", or raises LanguageError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from puna.envs.proofs import terms
from puna.envs.proofs.terms import LanguageError, Term

Type = Literal["int", "bool", "list", "label"]

OLD = "old"  # among the names where it may be said


def check(
    term: Term, wanted: Type | None, names: Mapping[str, Type], line: int, spec: bool = False
) -> Type:
    """The type of a term. Raises LanguageError where it is not `wanted`, or has none.

    In a specification (`spec`) truth values may be compared; in a program integers alone.
    """
    found = _type(term, names, line, spec)
    if wanted is not None and found != wanted:
        raise LanguageError(line, f"{wanted} expected, this is {found}")
    return found


def check_lists(name: str, names: Mapping[str, Type], line: int) -> None:
    """Raises LanguageError where `name` is no list."""
    if names.get(name) != "list":
        raise LanguageError(line, f"{name} is no list here")


def _type(term: Term, names: Mapping[str, Type], line: int, spec: bool) -> Type:
    match term:
        case terms.Number():
            return "int"
        case terms.Truth():
            return "bool"
        case terms.Name(name=name):
            if name not in names:
                raise LanguageError(line, f"{name} has no value here")
            if names[name] in ("list", "label"):
                raise LanguageError(line, f"{name} is a list: only its elements and length count")
            return names[name]
        case terms.Unary(op=op, of=of):
            return check(of, "int" if op == "-" else "bool", names, line, spec)
        case terms.Binary():
            return _binary(term, names, line, spec)
        case terms.Index(name=name, at=at):
            check_lists(name, names, line)
            return check(at, "int", names, line, spec)
        case terms.Length(name=name):
            check_lists(name, names, line)
            return "int"
        case terms.Choice(test=test, yes=yes, no=no):
            check(test, "bool", names, line, spec)
            return check(no, check(yes, None, names, line, spec), names, line, spec)
        case terms.Quantified(names=bound, body=body):
            inner: dict[str, Type] = {**names, **dict.fromkeys(bound, "int")}
            return check(body, "bool", inner, line, spec)
        case terms.Then(of=of, label=label):
            if label and names.get(label) != "label":
                raise LanguageError(line, f"there is no label {label} here")
            if not label and OLD not in names:
                raise LanguageError(line, "old stands in ensures only; use #@ label and at")
            return check(of, None, names, line, spec)


def _binary(term: terms.Binary, names: Mapping[str, Type], line: int, spec: bool) -> Type:
    if term.op in ("and", "or", "->", "<->"):
        both: Type | None = "bool"
    elif term.op in ("==", "!=") and spec:
        both = None
    else:
        both = "int"
    left = check(term.left, both, names, line, spec)
    check(term.right, left, names, line, spec)
    return "int" if term.op in ("+", "-", "*", "//", "%") else "bool"
