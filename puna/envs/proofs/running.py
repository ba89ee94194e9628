"""Programs of the small language run on drawn arguments, in bounds: a promise is seen to be broken.

`broken(parse(text), random.Random(0))` is how, or None. It knows nothing of the provers, so it can
stand as a witness against one.
"""

from __future__ import annotations

import itertools
import operator
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from puna.envs.proofs import terms
from puna.envs.proofs.language import (
    Assign,
    Function,
    If,
    Jump,
    Return,
    Statement,
    Store,
    While,
)
from puna.envs.proofs.terms import Term

STEPS = 4_000  # statements of one call
LARGEST = 10**40  # no number of a run may be larger
TRIED = range(-12, 13)  # what a quantifier's variable may be: places of short lists, small numbers

Values = Mapping[str, Any]


class WrongError(Exception):
    """An index outside of its list, or a division by zero."""


class TooLongError(Exception):
    """The run took too many steps, or its numbers grew too large."""


def broken(function: Function, rng: random.Random, tries: int = 60) -> str | None:
    """How a call breaks the promise; None where `tries` drawn ones did not.

    A call that takes too long counts as broken: a proved program ends, and these are small.
    """
    for _ in range(tries):
        given = {name: _drawn(rng, kind) for name, kind in function.params.items()}
        try:
            meant = all(value(t, given, given) for _, t in function.requires)
        except (WrongError, TooLongError):
            continue
        if meant and (why := _call(function, given)):
            return f"{given}: {why}"
    return None


def _drawn(rng: random.Random, kind: str) -> Any:
    if kind == "bool":
        return rng.random() < 0.5
    if kind == "int":
        return rng.randint(-9, 9)
    return [rng.randint(-6, 6) for _ in range(rng.choice((0, 1, 2, 3, 5)))]


def _call(function: Function, given: Values) -> str:
    run = _Run(given)
    try:
        how = run.block(function.body)
        result = how[1] if isinstance(how, tuple) else None
    except (WrongError, TooLongError) as error:
        return str(error)
    after = {**run.lists(), **{n: v for n, v in given.items() if not isinstance(v, list)}}
    after["result"] = result
    for line, term in function.ensures:
        try:
            if not value(term, after, given):
                return f"gives {result!r}, against line {line}"
        except (WrongError, TooLongError):
            continue  # what a promise divides by nought is some number
    return ""


class _Run:
    """One call in progress."""

    def __init__(self, given: Values) -> None:
        self.now = {n: list(v) if isinstance(v, list) else v for n, v in given.items()}
        self.then, self.left = given, STEPS

    def lists(self) -> dict[str, Any]:
        """The lists as they are now."""
        return {n: v for n, v in self.now.items() if isinstance(v, list)}

    def block(self, body: Sequence[Statement]) -> Any:
        """None at its end, "break", "continue", or ("return", value)."""
        for statement in body:
            self.left -= 1
            if self.left < 0:
                raise TooLongError("took too long")
            how = self.step(statement)
            if how is not None:
                return how
        return None

    def step(self, statement: Statement) -> Any:
        match statement:
            case Assign(name=name, value=term):
                self.now[name] = self.value(term)
            case Store(name=name, at=at, value=term):
                place, new = self.value(at), self.value(term)
                self.now[name][_place(self.now[name], place)] = new
            case If(test=test, yes=yes, no=no):
                return self.block(yes if self.value(test) else no)
            case While(test=test, body=inner):
                while self.value(test):
                    how = self.block(inner)
                    if how == "break":
                        break
                    if isinstance(how, tuple):
                        return how
                    self.left -= 1
            case Return(value=term):
                return "return", self.value(term)
            case Jump(kind=kind):
                return kind
        return None  # what is only said, `assert` and `label`, does nothing

    def value(self, term: Term) -> Any:
        return value(term, self.now, self.then, strict=True)


def _place(elements: Sequence[int], at: int) -> int:
    if not -len(elements) <= at < len(elements):
        raise WrongError(f"index {at} of {len(elements)}")
    return at


def value(term: Term, now: Values, then: Values, strict: bool = False) -> Any:
    """The value of a term of a program or a promise with Python's own arithmetic.

    `then` is what `old` speaks of; what a quantifier's variable may be is tried. `strict`: as a
    program has it, where an index outside of its list is an error; in a specification the element
    there is merely some number (here 0).
    """

    def of(inner: Term) -> Any:
        return value(inner, now, then, strict)

    match term:
        case terms.Number(value=known) | terms.Truth(value=known):
            return known
        case terms.Name(name=name):
            return now[name]
        case terms.Unary(op=op, of=inner):
            return -of(inner) if op == "-" else not of(inner)
        case terms.Binary(op=op, left=left, right=right):
            return _binary(op, of(left), lambda: of(right))
        case terms.Index(name=name, at=at):
            place, elements = of(at), now[name]
            if strict:
                return elements[_place(elements, place)]
            return elements[place] if -len(elements) <= place < len(elements) else 0
        case terms.Length(name=name):
            return len(now[name])
        case terms.Choice(test=test, yes=yes, no=no):
            return of(yes if of(test) else no)
        case terms.Quantified(kind=kind, names=names, body=body):
            tried = _tried(names, body, now, then)
            return all(tried) if kind == "forall" else any(tried)
        case terms.Then(of=inner):
            return value(inner, {**now, **then}, then, strict)


def _tried(names: Sequence[str], body: Term, now: Values, then: Values) -> Iterator[bool]:
    free = {name: known for name, known in then.items() if name not in names}
    for values in itertools.product(TRIED, repeat=len(names)):
        yield bool(value(body, {**now, **dict(zip(names, values, strict=True))}, free))


_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    **{"+": operator.add, "-": operator.sub, "*": operator.mul},
    **{"//": operator.floordiv, "%": operator.mod},
    **{"<->": operator.eq, "==": operator.eq, "!=": operator.ne},
    **{"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge},
}


def _binary(op: str, left: Any, right: Callable[[], Any]) -> Any:
    if op in ("and", "or", "->"):
        decided = {"and": not left, "or": left, "->": not left}[op]
        return op != "and" if decided else right()
    other = right()
    if op in ("//", "%") and other == 0:
        raise WrongError("a division by zero")
    found = _OPERATORS[op](left, other)
    if abs(found) > LARGEST:
        raise TooLongError("a number grew too large")
    return found


_SWAPS = {
    **{"+": "-", "-": "+", "*": "+", "//": "%", "%": "//", "and": "or", "or": "and"},
    **{"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="},
    **{"+=": "-=", "-=": "+=", "True": "False", "False": "True"},
}
_OPERATOR = re.compile(
    r"(?<= )(?:[-+]=|//|[-+*%]|<=|>=|==|!=|[<>]|and|or|True|False)(?= |\n)|(?<!\w)\d+(?!\w)"
)


def mutations(body: str) -> Iterator[str]:
    """The body with one operator or number of its code changed; annotations stay."""
    start = 0
    for line in body.splitlines(keepends=True):
        if not line.lstrip().startswith("#@"):
            for found in _OPERATOR.finditer(line):
                seen = found.group()
                new = _SWAPS.get(seen) or str(int(seen) + 1)
                yield body[: start + found.start()] + new + body[start + found.end() :]
        start += len(line)
