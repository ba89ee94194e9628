"""Random programs that meet their specification, and one-operator mutants of them.

`draw(random.Random(3), "f3")`: a third straight, a third with loops, a third with lists, half of
each mutated (of which some still meet their specification).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from benchmarks.proofs.expressions import Expr, integer, truth


@dataclass(frozen=True)
class Program:
    """A text; `family`, and whether an operator was changed."""

    text: str
    family: str
    mutated: bool


def draw(rng: random.Random, name: str, family: str = "", mutated: bool | None = None) -> Program:
    """A program whose function is called `name`."""
    family = family or rng.choice(("straight", "loop", "list"))
    makers = {"straight": (straight,), "loop": LOOPS, "list": LISTS}[family]
    text = rng.choice(makers)(rng, name)
    if mutated is None:
        mutated = rng.random() < 0.5
    return Program(mutate(rng, text) if mutated else text, family, mutated)


SWAPS = {
    **{"+": "-", "-": "+", "*": "+", "//": "%", "%": "//", "and": "or", "or": "and"},
    **{"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="},
    **{"+=": "-=", "-=": "+="},
}
_OPERATOR = re.compile(r"(?<= )(?:[-+]=|//|[-+*%]|<=|>=|==|!=|[<>]|and|or)(?= )|(?<!\w)\d+(?!\w)")


def mutate(rng: random.Random, text: str) -> str:
    """The text with one operator or number of its body changed, invariants and variants too."""
    lines = text.splitlines(keepends=True)
    head = "".join(x for x in lines if x.startswith("def") or re.match(r" +#@ (req|ens)", x))
    body = text[len(head) :]
    places = list(_OPERATOR.finditer(body))
    if not places:
        return text
    place = rng.choice(places)
    seen = place.group()
    new = SWAPS[seen] if seen in SWAPS else str(int(seen) + 1)
    return head + body[: place.start()] + new + body[place.end() :]


def straight(rng: random.Random, name: str) -> str:
    """Assignments and choices; the promise is the value that they come to."""
    ints, truths = ["x", "y", "z"][: rng.randint(1, 3)], ["p"] if rng.random() < 0.4 else []
    head = [*(f"{n}: int" for n in ints), *(f"{n}: bool" for n in truths)]
    values: dict[str, Expr] = {}
    body: list[str] = []
    early: list[tuple[Expr, Expr]] = []
    names = list(ints)
    boolean = rng.random() < 0.3
    for _ in range(rng.randint(1, 4)):
        kind = rng.random()
        if kind < 0.35:
            new = f"v{len(body)}"
            value = integer(rng, names, truths, 2)
            body.append(f"    {new} = {value.program()}")
            values[new] = value.put(values)
            names.append(new)
        elif kind < 0.55:
            changed, value = rng.choice(names), integer(rng, names, truths, 1)
            body.append(f"    {changed} += {value.program()}")
            values[changed] = Expr("+", (Expr(changed), value)).put(values)
        elif kind < 0.85:
            test = truth(rng, names, truths, 2)
            changed = rng.choice(names)
            yes, no = integer(rng, names, truths, 1), integer(rng, names, truths, 1)
            body.append(f"    if {test.program()}:\n        {changed} = {yes.program()}")
            if rng.random() < 0.5:
                body.append(f"    else:\n        {changed} = {no.program()}")
            else:
                no = Expr(changed)
            values[changed] = Expr("if", (test, yes, no)).put(values)
        else:
            test, value = truth(rng, names, truths, 1), _result(rng, names, truths, boolean, 1)
            body.append(f"    if {test.program()}:\n        return {value.program()}")
            early.append((test.put(values), value.put(values)))
    last = _result(rng, names, truths, boolean, 1)
    total = integer(rng, ints, truths, 1)
    for each in names:  # so that nothing above is without effect
        total = Expr("+", (total, Expr(each)))
    last = Expr("and", (last, Expr(">", (total, Expr("3"))))) if boolean else total
    body.append(f"    return {last.program()}")
    result = last.put(values)
    for test, value in reversed(early):
        result = Expr("if", (test, value, result))
    kind_name, sign = ("bool", "<->") if boolean else ("int", "==")
    promise = f"    #@ ensures result {sign} {result.formula()}"
    return "\n".join([f"def {name}({', '.join(head)}) -> {kind_name}:", promise, *body]) + "\n"


def _result(
    rng: random.Random, names: list[str], truths: list[str], boolean: bool, depth: int
) -> Expr:
    make = truth if boolean else integer
    return make(rng, names, truths, depth)


def counting(rng: random.Random, name: str) -> str:
    """A counter that goes up, and what grows with it."""
    low, start, grow = rng.randint(-3, 3), rng.randint(-5, 5), rng.randint(-4, 4)
    test = rng.choice(("i < n", "n > i", "i != n", "i <= n - 1", "not i >= n"))
    more = "s = s + (i - i) + " if rng.random() < 0.3 else "s += "
    return f"""def {name}(n: int) -> int:
    #@ requires n >= {low}
    #@ ensures result == {start} + {grow} * (n - ({low}))
    i = {low}
    s = {start}
    while {test}:
        #@ invariant {low} <= i <= n
        #@ invariant s == {start} + {grow} * (i - ({low}))
        #@ variant n - i
        i = i + 1
        {more}{grow}
    return s
"""


def countdown(rng: random.Random, name: str) -> str:
    """A parameter counted down by steps, with a break or without."""
    step = rng.randint(1, 3)
    stop = (
        f"        if n == {rng.randint(1, 5)}:\n            break\n" if rng.random() < 0.5 else ""
    )
    promise = f"-{step} < result" if stop else f"-{step} < result <= 0"
    return f"""def {name}(n: int) -> int:
    #@ requires n >= 0
    #@ ensures {promise}
    while n > 0:
        #@ invariant n > -{step}
        #@ variant n + {step}
{stop}        n -= {step}
    return n
"""


def odd_ones(rng: random.Random, name: str) -> str:
    """Counts every m-th number, with `continue`."""
    m = rng.randint(2, 4)
    return f"""def {name}(n: int) -> int:
    #@ requires n >= 0
    #@ ensures result == n // {m}
    s = 0
    i = 0
    while i < n:
        #@ invariant 0 <= i <= n and s == i // {m}
        #@ variant n - i
        i += 1
        if i % {m} != 0:
            continue
        s += 1
    return s
"""


def bounded(rng: random.Random, name: str) -> str:
    """A sum of one or the other, so a value between."""
    low, high = sorted(rng.sample(range(-3, 6), 2))
    test = rng.choice(("x > i", "i % 2 == 0", "i % 3 == x % 3", "x == i or x < 0 - i"))
    return f"""def {name}(n: int, x: int) -> int:
    #@ requires n >= 0
    #@ ensures {low} * n <= result <= {high} * n
    s = 0
    i = 0
    while i < n:
        #@ invariant 0 <= i <= n
        #@ invariant {low} * i <= s <= {high} * i
        #@ variant n - i
        if {test}:
            s = s + {high}
        else:
            s = s + {low}
        i = i + 1
    return s
"""


def nested(rng: random.Random, name: str) -> str:
    """A loop in a loop."""
    m = rng.randint(2, 5)
    return f"""def {name}(n: int) -> int:
    #@ requires n >= 0
    #@ ensures result == {m} * n
    s = 0
    i = 0
    while i < n:
        #@ invariant 0 <= i <= n and s == {m} * i
        #@ variant n - i
        j = 0
        while j < {m}:
            #@ invariant 0 <= j <= {m} and s == {m} * i + j
            #@ variant {m} - j
            s += 1
            j += 1
        i += 1
    return s
"""


def two_counters(rng: random.Random, name: str) -> str:
    """Ends because a pair goes down."""
    again = rng.randint(1, 6)
    return f"""def {name}(x: int, y: int) -> int:
    #@ requires x >= 0 and y >= 0
    #@ ensures result == 0
    while x > 0 or y > 0:
        #@ invariant x >= 0 and y >= 0
        #@ variant x, y
        if y > 0:
            y -= 1
        else:
            x -= 1
            y = {again}
    return x + y
"""


def divided(rng: random.Random, name: str) -> str:
    """Division by taking away."""
    by = rng.randint(2, 7)
    return f"""def {name}(x: int) -> int:
    #@ requires x >= 0
    #@ ensures result == x // {by}
    q = 0
    rest = x
    while rest >= {by}:
        #@ invariant rest >= 0 and x == {by} * q + rest
        #@ variant rest
        rest = rest - {by}
        q = q + 1
    return q
"""


def stopped(rng: random.Random, name: str) -> str:
    """A loop without an end of its own, left in its middle."""
    step = rng.randint(1, 3)
    return f"""def {name}(n: int, x: int) -> int:
    #@ requires n >= 0
    #@ ensures n <= result < n + {step} or result == x
    i = 0
    while True:
        #@ invariant 0 <= i < n + {step}
        #@ variant n + {step} - i
        if i >= n or i == x:
            break
        i += {step}
    return i
"""


LOOPS = (counting, countdown, odd_ones, bounded, nested, two_counters, divided, stopped)


def filled(rng: random.Random, name: str) -> str:
    """Every element becomes a function of its place."""
    m, c = rng.randint(-3, 3), rng.randint(-5, 5)
    return f"""def {name}(a: list[int]):
    #@ ensures forall k. 0 <= k < len(a) -> a[k] == {m} * k + {c}
    i = 0
    while i < len(a):
        #@ invariant 0 <= i <= len(a)
        #@ invariant forall k. 0 <= k < i -> a[k] == {m} * k + {c}
        #@ variant len(a) - i
        a[i] = {m} * i + {c}
        i = i + 1
"""


def mapped(rng: random.Random, name: str) -> str:
    """Every element becomes a function of what it was."""
    m, c = rng.randint(-3, 3), rng.randint(-5, 5)
    return f"""def {name}(a: list[int]):
    #@ ensures forall k. 0 <= k < len(a) -> a[k] == {m} * old(a[k]) + {c}
    #@ label Start
    i = len(a)
    while i > 0:
        #@ invariant 0 <= i <= len(a)
        #@ invariant forall k. i <= k < len(a) -> a[k] == {m} * at(a[k], Start) + {c}
        #@ invariant forall k. 0 <= k < i -> a[k] == at(a[k], Start)
        #@ variant i
        i = i - 1
        a[i] = {m} * a[i] + {c}
"""


def sought(rng: random.Random, name: str) -> str:
    """The first element that compares so."""
    op, other = rng.choice((("==", "!="), ("<", ">="), (">", "<="), ("<=", ">"), ("!=", "==")))
    return f"""def {name}(a: list[int], x: int) -> int:
    #@ ensures -1 <= result < len(a)
    #@ ensures result >= 0 -> a[result] {op} x
    #@ ensures result == -1 -> forall k. 0 <= k < len(a) -> a[k] {other} x
    i = 0
    while i < len(a):
        #@ invariant 0 <= i <= len(a)
        #@ invariant forall k. 0 <= k < i -> a[k] {other} x
        #@ variant len(a) - i
        if a[i] {op} x:
            return i
        i = i + 1
    return -1
"""


def extreme(rng: random.Random, name: str) -> str:
    """The largest or the smallest, in place or in value."""
    op = rng.choice((">", "<", ">=", "<="))
    bound = op[0] + "="
    return f"""def {name}(a: list[int]) -> int:
    #@ requires len(a) > 0
    #@ ensures 0 <= result < len(a)
    #@ ensures forall k. 0 <= k < len(a) -> a[result] {bound} a[k]
    best = 0
    i = 1
    while i < len(a):
        #@ invariant 1 <= i <= len(a) and 0 <= best < i
        #@ invariant forall k. 0 <= k < i -> a[best] {bound} a[k]
        #@ variant len(a) - i
        if a[i] {op} a[best]:
            best = i
        i = i + 1
    return best
"""


def stored(rng: random.Random, name: str) -> str:
    """Two stores, of which the second counts where they meet; indices from either end."""
    low = rng.choice(("0", "-len(a)"))
    c, d = rng.sample(range(-5, 6), 2)
    return f"""def {name}(a: list[int], i: int, j: int) -> int:
    #@ requires {low} <= i < len(a) and 0 <= j < len(a)
    #@ ensures a[j] == {d}
    #@ ensures i != j and i != j - len(a) -> a[i] == {c} and result == {c} + {d}
    #@ ensures forall k. 0 <= k < len(a) -> k == j or k == i or k == i + len(a) or a[k] == old(a[k])
    a[i] = {c}
    a[j] = {d}
    return a[i] + a[j]
"""


def ends(rng: random.Random, name: str) -> str:
    """Constant places, from the front and from behind."""
    need = rng.randint(1, 4)
    first, last = rng.randint(0, need - 1), rng.randint(1, need)
    return f"""def {name}(a: list[int]) -> int:
    #@ requires len(a) >= {need}
    #@ ensures result == a[{first}] + a[len(a) - {last}]
    return a[{first}] + a[-{last}]
"""


def guarded(rng: random.Random, name: str) -> str:
    """A place that is looked at only where it is one."""
    c = rng.randint(-3, 3)
    return f"""def {name}(a: list[int], i: int) -> bool:
    #@ ensures result <-> 0 <= i < len(a) and a[i] > {c}
    return 0 <= i and i < len(a) and a[i] > {c}
"""


def shifted(rng: random.Random, name: str) -> str:
    """Each element moves one place on, or all places compare with the next."""
    op, other = rng.choice((("<=", ">"), ("<", ">="), ("==", "!=")))
    return f"""def {name}(a: list[int]) -> bool:
    #@ ensures result <-> forall k. 0 < k < len(a) -> a[k - 1] {op} a[k]
    i = 1
    while i < len(a):
        #@ invariant 1 <= i
        #@ invariant forall k. 0 < k < i and k < len(a) -> a[k - 1] {op} a[k]
        #@ variant len(a) - i
        if a[i - 1] {other} a[i]:
            return False
        i = i + 1
    return True
"""


LISTS = (filled, mapped, sought, extreme, stored, ends, guarded, shifted)
