"""Specifications with a solution each, drawn from a grammar: what proposes where no model does.

`draw(stream(0, "mine"))` is a `Drawn`. Its prover decides whether it is one; nothing here does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Rng = np.random.Generator


@dataclass(frozen=True)
class Drawn:
    """A whole program: `header` with its promises, `body` that keeps them."""

    scheme: str
    header: str
    body: str


def draw(rng: Rng, schemes: Sequence[str] = ()) -> Drawn:
    """A program of one of `schemes`, of any if none is named."""
    name = pick(rng, tuple(schemes) or tuple(SCHEMES))
    return Drawn(name, *SCHEMES[name](rng))


def pick(rng: Rng, values: Sequence[T]) -> T:
    """One of them."""
    return values[int(rng.integers(len(values)))]


def _number(rng: Rng, low: int = -6, high: int = 9) -> int:
    return int(rng.integers(low, high + 1))


def _linear(rng: Rng, names: Sequence[str]) -> str:
    """A linear expression in one or two of the names."""
    name, by = pick(rng, names), _number(rng, 2, 5)
    other = pick(rng, [n for n in names if n != name] or ["1"])
    shift = _number(rng, 1, 9)
    return pick(
        rng,
        (name, f"{name} + {shift}", f"{name} - {shift}", f"{by} * {name}", f"-{name}",
         f"{by} * {name} + {shift}", f"{name} + {other}", f"{name} - {other}",
         f"{by} * {name} - {other}", f"{shift} - {name}"),
    )  # fmt: skip


def _test(rng: Rng, value: str, others: Sequence[str] = ()) -> str:
    """A comparison of a value, as programs and specifications both have it."""
    other = pick(rng, (*others, *(str(_number(rng, 0, 9)) for _ in range(2))))
    by = _number(rng, 2, 7)
    low = _number(rng, -3, 3)
    return pick(
        rng,
        (f"{value} > {other}", f"{value} < {other}", f"{value} == {other}", f"{value} != {other}",
         f"{value} >= {other}", f"{value} % {by} == {_number(rng, 0, by - 1)}",
         f"{low} <= {value} and {value} <= {low + by}", f"{value} < {low} or {value} > {low + by}"),
    )  # fmt: skip


def _names(rng: Rng) -> tuple[str, list[str]]:
    """Parameters that are integers: their text, and their names."""
    names = list(pick(rng, (("x",), ("n",), ("x", "y"), ("m", "n"), ("x", "y", "z"))))
    return ", ".join(f"{n}: int" for n in names), names


def _head(signature: str, *lines: str) -> str:
    """A `def` line with its annotations, of which empty ones are left out."""
    return "\n".join([f"def {signature}:", *(f"    #@ {x}" for x in lines if x)]) + "\n"


def _body(text: str) -> str:
    """Lines with `|` between them, indented by four spaces and one more for each that they have."""
    return "".join(f"    {line}\n" for line in text.split("|"))


def quotient(rng: Rng) -> tuple[str, str]:
    """Division with a rest on one side."""
    params, names = _names(rng)
    value, by = _linear(rng, names), _number(rng, 2, 9)
    promise = f"ensures {by} * result <= {value} and {value} < {by} * result + {by}"
    return _head(f"share({params}) -> int", promise), _body(f"return ({value}) // {by}")


def rest(rng: Rng) -> tuple[str, str]:
    """What division leaves."""
    params, names = _names(rng)
    value, by = _linear(rng, names), _number(rng, 2, 9)
    lines = f"ensures 0 <= result < {by}", f"ensures ({value} - result) % {by} == 0"
    return _head(f"rest({params}) -> int", *lines), _body(f"return ({value}) % {by}")


def decision(rng: Rng) -> tuple[str, str]:
    """Whether two tests hold, or one of them."""
    params, names = _names(rng)
    one, two = _test(rng, pick(rng, names), names[1:]), _test(rng, pick(rng, names))
    word = pick(rng, ("and", "or"))
    promise = f"ensures result <-> ({one}) {word} ({two})"
    short = "False" if word == "and" else "True"
    test = f"not ({one})" if word == "and" else one
    return _head(f"holds({params}) -> bool", promise), _body(
        f"if {test}:|    return {short}|return {two}"
    )


def cases(rng: Rng) -> tuple[str, str]:
    """One value where a test holds, another where it does not."""
    params, names = _names(rng)
    test, one, two = _test(rng, names[0], names[1:]), _linear(rng, names), _linear(rng, names)
    lines = f"ensures {test} -> result == {one}", f"ensures not ({test}) -> result == {two}"
    return _head(f"choose({params}) -> int", *lines), _body(
        f"if {test}:|    return {one}|return {two}"
    )


def extreme(rng: Rng) -> tuple[str, str]:
    """The larger or the smaller of two or three values."""
    params, names = _names(rng)
    values = [_linear(rng, names) for _ in range(_number(rng, 2, 3))]
    op = pick(rng, (">", "<"))
    bounds = " and ".join(f"result {op}= {v}" for v in values)
    one = " or ".join(f"result == {v}" for v in values)
    steps = "|".join(f"if {v} {op} best:|    best = {v}" for v in values[1:])
    return _head(f"best({params}) -> int", f"ensures {bounds}", f"ensures {one}"), _body(
        f"best = {values[0]}|{steps}|return best"
    )


def steps(rng: Rng) -> tuple[str, str]:
    """A sum that grows by as much at each step."""
    start, grow, low = _number(rng), _number(rng, 2, 7), _number(rng, 0, 2)
    total = f"{start} + {grow} * (n - {low})"
    return _head(
        "total(n: int) -> int", f"requires n >= {low}", f"ensures result == {total}"
    ), _body(
        f"s = {start}|i = {low}|while i < n:|    #@ invariant {low} <= i <= n|"
        f"    #@ invariant s == {start} + {grow} * (i - {low})|    #@ variant n - i|"
        f"    s = s + {grow}|    i = i + 1|return s"
    )


def series(rng: Rng) -> tuple[str, str]:
    """A sum whose steps grow by as much each time."""
    by, plus = 2 * _number(rng, 1, 4), _number(rng, -4, 6)
    half = by // 2
    return _head(
        "series(n: int) -> int",
        "requires n >= 0",
        f"ensures result == {half} * n * (n + 1) + {plus} * n",
    ), _body(
        f"s = 0|i = 0|while i < n:|    #@ invariant 0 <= i <= n|"
        f"    #@ invariant s == {half} * i * (i + 1) + {plus} * i|    #@ variant n - i|"
        f"    i = i + 1|    s = s + {by} * i + {plus}|return s"
    )


def taken(rng: Rng) -> tuple[str, str]:
    """Division by taking away, or what is left then."""
    by, low, wants = _number(rng, 2, 9), _number(rng, 0, 3), pick(rng, ("q", "r"))
    promise = {
        "q": f"ensures {by} * result <= n - {low} and n - {low} < {by} * result + {by}",
        "r": f"ensures {low} <= result < {low + by} and (n - result) % {by} == 0",
    }[wants]
    known = f"r >= {low} and n == {by} * q + r"
    return _head("take(n: int) -> int", f"requires n >= {low}", promise), _body(
        f"q = 0|r = n|while r >= {low + by}:|    #@ invariant {known}|    #@ variant r - {low}|"
        f"    r = r - {by}|    q = q + 1|#@ assert n == {by} * q + r and (n - r) % {by} == 0|"
        f"return {wants}"
    )


def every(rng: Rng) -> tuple[str, str]:
    """Whether all elements pass a test, or some do."""
    test = _test(rng, "a[k]", ("x",))
    here = test.replace("a[k]", "a[i]")
    if rng.random() < 0.5:
        promise, known, leave, end = f"forall k. 0 <= k < len(a) -> {test}", test, "False", "True"
        stop = f"not ({here})"
    else:
        promise, leave, end = f"exists k. 0 <= k < len(a) and ({test})", "True", "False"
        known, stop = f"not ({test})", here
    return _head("scan(a: list[int], x: int) -> bool", f"ensures result <-> {promise}"), _body(
        "i = 0|while i < len(a):|    #@ invariant 0 <= i <= len(a)|"
        f"    #@ invariant forall k. 0 <= k < i -> {known}|    #@ variant len(a) - i|"
        f"    if {stop}:|        return {leave}|    i = i + 1|return {end}"
    )


def first(rng: Rng) -> tuple[str, str]:
    """The place of the first element that passes a test."""
    test = _test(rng, "a[k]", ("x",))
    found, here = test.replace("a[k]", "a[result]"), test.replace("a[k]", "a[i]")
    none = pick(rng, ("-1", "len(a)"))
    lines = (
        f"ensures result == {none} or (0 <= result < len(a) and ({found}))",
        f"ensures forall k. 0 <= k < len(a) and (k < result or result == {none}) -> not ({test})",
    )
    return _head("place(a: list[int], x: int) -> int", *lines), _body(
        "i = 0|while i < len(a):|    #@ invariant 0 <= i <= len(a)|"
        f"    #@ invariant forall k. 0 <= k < i -> not ({test})|    #@ variant len(a) - i|"
        f"    if {here}:|        return i|    i = i + 1|return {none}"
    )


def peak(rng: Rng) -> tuple[str, str]:
    """A bound of all elements, or where the largest or smallest stands."""
    op, by = pick(rng, (">", "<")), _number(rng, 2, 4)
    of = pick(rng, ("a[{}]", f"{by} * a[{{}}]", f"a[{{}}] + {by}"))
    lines = (
        "requires len(a) > 0",
        f"ensures forall k. 0 <= k < len(a) -> result {op}= {of.format('k')}",
        f"ensures exists k. 0 <= k < len(a) and result == {of.format('k')}",
    )
    return _head("peak(a: list[int]) -> int", *lines), _body(
        f"m = {of.format(0)}|i = 1|while i < len(a):|    #@ invariant 1 <= i <= len(a)|"
        f"    #@ invariant forall k. 0 <= k < i -> m {op}= {of.format('k')}|"
        f"    #@ invariant exists k. 0 <= k < i and m == {of.format('k')}|"
        f"    #@ variant len(a) - i|    if {of.format('i')} {op} m:|        m = {of.format('i')}|"
        "    i = i + 1|return m"
    )


def filled(rng: Rng) -> tuple[str, str]:
    """Every element becomes a function of its place."""
    by, plus = _number(rng, 1, 5), _number(rng, -5, 9)
    of = pick(rng, (f"{by} * {{}} + {plus}", f"{plus} - {{}}", "x + {}", f"{{}} % {by + 1}"))
    keep = f"forall k. 0 <= k < {{}} -> a[k] == {of.format('k')}"
    return _head("lay(a: list[int], x: int)", f"ensures {keep.format('len(a)')}"), _body(
        "i = 0|while i < len(a):|    #@ invariant 0 <= i <= len(a)|"
        f"    #@ invariant {keep.format('i')}|    #@ variant len(a) - i|"
        f"    a[i] = {of.format('i')}|    i = i + 1"
    )


def mapped(rng: Rng) -> tuple[str, str]:
    """Every element becomes a function of what it was."""
    by, plus = _number(rng, 2, 5), _number(rng, -5, 9)
    of = pick(rng, (f"{by} * {{}} + {plus}", f"{plus} - {{}}", "{} + x", "x - {}", f"{by} * {{}}"))
    test = _test(rng, "{}", ("x",)) if rng.random() < 0.4 else ""
    new = f"(if {test} then {of} else {{}})" if test else of
    put = "    a[i] = "
    if test:
        put = f"    if {test.replace('{}', 'a[i]')}:|        a[i] = "
    was, past = new.replace("{}", "old(a[k])"), new.replace("{}", "at(a[k], Start)")
    promise = f"ensures forall k. 0 <= k < len(a) -> a[k] == {was}"
    return _head("change(a: list[int], x: int)", promise), _body(
        "#@ label Start|i = 0|while i < len(a):|    #@ invariant 0 <= i <= len(a)|"
        f"    #@ invariant forall k. 0 <= k < i -> a[k] == {past}|"
        "    #@ invariant forall k. i <= k < len(a) -> a[k] == at(a[k], Start)|"
        f"    #@ variant len(a) - i|{put}{of.replace('{}', 'a[i]')}|    i = i + 1"
    )


def neighbours(rng: Rng) -> tuple[str, str]:
    """Whether each element and the next compare so."""
    by = _number(rng, 0, 6)
    op = pick(rng, ("<=", "<", ">=", ">", "!=", "=="))
    test = f"a[{{}} - 1] + {by} {op} a[{{}}]".replace(" + 0", "")
    at = test.replace("{}", "k")
    return _head(
        "chain(a: list[int]) -> bool",
        f"ensures result <-> forall k. 0 < k < len(a) -> {at}",
    ), _body(
        "i = 1|while i < len(a):|    #@ invariant 1 <= i|"
        f"    #@ invariant forall k. 0 < k < i and k < len(a) -> {at}|    #@ variant len(a) - i|"
        f"    if not ({test.replace('{}', 'i')}):|        return False|    i = i + 1|return True"
    )


def paired(rng: Rng) -> tuple[str, str]:
    """One list becomes a function of another, which stays."""
    by, plus = _number(rng, 2, 5), _number(rng, -5, 9)
    one = (f"{by} * a[{{}}] + {plus}", f"a[{{}}] - {by}", "a[{}] + {}", f"{plus} - a[{{}}]")
    of = pick(rng, one)
    keep = f"forall k. 0 <= k < {{}} -> b[k] == {of.replace('{}', 'k')}"
    return _head(
        "write(a: list[int], b: list[int])",
        "requires len(a) == len(b)",
        f"ensures {keep.replace('{}', 'len(a)', 1)}",
        "ensures forall k. 0 <= k < len(a) -> a[k] == old(a[k])",
    ), _body(
        "i = 0|while i < len(a):|    #@ invariant 0 <= i <= len(a)|"
        f"    #@ invariant {keep.replace('{}', 'i', 1)}|    #@ variant len(a) - i|"
        f"    b[i] = {of.replace('{}', 'i')}|    i = i + 1"
    )


def put(rng: Rng) -> tuple[str, str]:
    """One element becomes a given value; all others stay."""
    value = _linear(rng, ("x", "i"))
    return _head(
        "put(a: list[int], i: int, x: int)",
        "requires 0 <= i < len(a)",
        f"ensures a[i] == {value}",
        "ensures forall k. 0 <= k < len(a) and k != i -> a[k] == old(a[k])",
    ), _body(f"a[i] = {value}")


# The number says how much proof a scheme takes: 0 none, 1 a branch, 2 a loop, 3 a loop over lists.
LEVELS: dict[int, tuple[Callable[[Rng], tuple[str, str]], ...]] = {
    0: (quotient, rest, put),
    1: (decision, cases, extreme),
    2: (steps, series, taken),
    3: (every, first, peak, filled, mapped, neighbours, paired),
}
SCHEMES = {scheme.__name__: scheme for level in LEVELS.values() for scheme in level}
LEVEL = {scheme.__name__: level for level, all_ in LEVELS.items() for scheme in all_}
