"""Programs judged by running them: Python itself is the interpreter, the promise is evaluated.

`broken(text, random.Random(0))` is an argument list for which the program breaks its promise, or
None where a few hundred drawn ones found none.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from typing import Any

from puna.envs.proofs import terms
from puna.envs.proofs.language import Function, parse

STEPS = 20_000


class _TooLong(Exception):
    pass


def broken(text: str, rng: random.Random, tries: int = 200) -> str | None:
    """How a call breaks the promise; the text must be one of `programs.draw`, as it is run."""
    function = parse(text)
    space: dict[str, Any] = {}
    exec(compile(text, "program.py", "exec"), space)
    for _ in range(tries):
        given = {name: _drawn(rng, kind) for name, kind in function.params.items()}
        if all(truth(term, given, given) for _, term in function.requires):
            why = _call(space[function.name], function, given)
            if why:
                return f"{given}: {why}"
    return None


def _call(call: Callable[..., Any], function: Function, given: Mapping[str, Any]) -> str:
    now = {n: list(v) if isinstance(v, list) else v for n, v in given.items()}
    left = STEPS

    def watch(frame: Any, event: str, arg: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise _TooLong
        return watch

    sys.settrace(watch)
    try:
        result = call(*now.values())
    except (_TooLong, IndexError, ZeroDivisionError) as error:
        return type(error).__name__
    finally:
        sys.settrace(None)
    after = {**now, "result": result}
    bad = [line for line, term in function.ensures if not truth(term, after, given)]
    return f"gives {result!r}, against line {bad[0]}" if bad else ""


def _drawn(rng: random.Random, kind: str) -> Any:
    if kind == "bool":
        return rng.random() < 0.5
    if kind == "int":
        return rng.randint(-12, 12)
    return [rng.randint(-6, 6) for _ in range(rng.choice((0, 1, 2, 3, 5)))]


def truth(term: Any, now: Mapping[str, Any], then: Mapping[str, Any]) -> Any:
    """The value of a term of `ensures`, with Python's own arithmetic; quantifiers by trying."""
    match term:
        case terms.Number(value=value) | terms.Truth(value=value):
            return value
        case terms.Name(name=name):
            return now[name]
        case terms.Unary(op=op, of=of):
            value = truth(of, now, then)
            return -value if op == "-" else not value
        case terms.Binary(op=op, left=left, right=right):
            return _binary(op, truth(left, now, then), lambda: truth(right, now, then))
        case terms.Index(name=name, at=at):
            place = truth(at, now, then)
            return now[name][place] if -len(now[name]) <= place < len(now[name]) else 0
        case terms.Length(name=name):
            return len(now[name])
        case terms.Choice(test=test, yes=yes, no=no):
            return truth(yes if truth(test, now, then) else no, now, then)
        case terms.Quantified(kind=kind, names=(name,), body=body):
            tried = (truth(body, {**now, name: k}, then) for k in range(-20, 20))
            return all(tried) if kind == "forall" else any(tried)
        case terms.Then(of=of, label=""):
            lists = {n: v for n, v in then.items() if isinstance(v, list)}
            return truth(of, {**now, **lists}, then)
    raise NotImplementedError(term)


def _binary(op: str, left: Any, right: Callable[[], Any]) -> Any:
    match op:
        case "and":
            return left and right()
        case "or":
            return left or right()
        case "->":
            return not left or right()
    other = right()
    return {
        **{"<->": lambda: left == other, "==": lambda: left == other, "!=": lambda: left != other},
        **{"<": lambda: left < other, "<=": lambda: left <= other},
        **{">": lambda: left > other, ">=": lambda: left >= other},
        **{"+": lambda: left + other, "-": lambda: left - other, "*": lambda: left * other},
        **{"//": lambda: left // other, "%": lambda: left % other},
    }[op]()
