"""Programs judged by running them: Python itself is the interpreter, the promise is evaluated.

`broken(text, random.Random(0))` is an argument list for which the program breaks its promise, or
None where a few hundred drawn ones found none.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from typing import Any

from puna.envs.proofs.language import Function, parse
from puna.envs.proofs.running import value

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
        if all(value(term, given, given) for _, term in function.requires):
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
    bad = [line for line, term in function.ensures if not value(term, after, given)]
    return f"gives {result!r}, against line {bad[0]}" if bad else ""


def _drawn(rng: random.Random, kind: str) -> Any:
    if kind == "bool":
        return rng.random() < 0.5
    if kind == "int":
        return rng.randint(-12, 12)
    return [rng.randint(-6, 6) for _ in range(rng.choice((0, 1, 2, 3, 5)))]
