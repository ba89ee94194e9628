"""Regular fractions of a factorial plan that keep main effects apart: orthogonal arrays.

`fraction([3, 4, 2, 2], 2)` -> 24 of the 48 combinations, in which of any two axes every pair of
levels is equally frequent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from itertools import permutations, product
from math import prod

Vector = tuple[int, ...]

_MOST = 4_096  # runs of an array that is looked for


def fraction(sizes: Sequence[int], parts: int) -> list[Vector] | None:
    """The combinations of levels (axis i has `sizes[i]`) that one in `parts` keeps, in order.

    For each prime the digits of the levels are linear functions of a few free ones, and those of
    two axes are independent (Hedayat, Sloane and Stufken 1999, ch. 3): strength 2, so no main
    effect is aliased with another one, only with interactions. None where there is no such array.
    """
    every = list(product(*map(range, sizes)))
    for prime, count in _factors(parts).items():
        depths = [_factors(size).get(prime, 0) for size in sizes]
        code = _code(depths, prime, sum(depths) - count)
        if code is None:
            return None
        every = [row for row in every if _digits(row, depths, prime) in code]
    return every


def most_parts(sizes: Sequence[int]) -> int:
    """The largest `parts` for which `fraction` finds an array."""
    total = prod(sizes)
    found = (n for n in range(total, 0, -1) if total % n == 0 and fraction(sizes, n) is not None)
    return next(found)


def _factors(number: int) -> dict[int, int]:
    """12 -> {2: 2, 3: 1}."""
    out: dict[int, int] = {}
    prime = 2
    while number > 1:
        while number % prime == 0:
            out[prime] = out.get(prime, 0) + 1
            number //= prime
        prime += 1
    return out


def _digits(levels: Vector, depths: Sequence[int], prime: int) -> Vector:
    """The lowest digits of each level, as many as `prime` divides the axis: all alike frequent."""
    pairs = zip(levels, depths, strict=True)
    return tuple(level // prime**i % prime for level, depth in pairs for i in range(depth))


def _code(depths: Sequence[int], prime: int, free: int) -> Set[Vector] | None:
    """The digits that are kept, prime**free of them; None where two axes would hang together."""
    if free < 1 or prime**free > _MOST:
        return None
    if sum(prime**depth - 1 for depth in depths) > prime**free - 1:
        return None  # each axis needs functions of its own, and there are no more than these
    points = [p for p in product(range(prime), repeat=free) if any(p)]
    # Single digits first, so that all are used; then sums of many: words over many axes.
    points.sort(key=lambda p: (sum(p) > 1, -sum(map(bool, p))))
    order = sorted(filter(depths.__getitem__, range(len(depths))), key=lambda axis: -depths[axis])
    spans = next(_apart([depths[axis] for axis in order], points, prime, frozenset()), None)
    if spans is None:
        return None
    mine = dict(zip(order, spans, strict=True))
    columns = [column for axis in sorted(mine) for column in mine[axis]]
    inputs = product(range(prime), repeat=free)
    code = {tuple(_dot(x, column) % prime for column in columns) for x in inputs}
    return code if len(code) == prime**free else None


def _apart(
    depths: Sequence[int], points: Sequence[Vector], prime: int, used: Set[Vector]
) -> Iterator[list[tuple[Vector, ...]]]:
    """For each axis as many functions as it has digits, no combination of them being another's."""
    if not depths:
        yield []
        return
    left = [p for p in points if p not in used]
    if depths[0] == 1:
        left = left[:1]  # any other would do as well
    for chosen in permutations(left, depths[0]):
        mine = _span(chosen, prime)
        if len(mine) == prime ** depths[0] - 1 and not mine & used:
            for rest in _apart(depths[1:], points, prime, used | mine):
                yield [chosen, *rest]


def _span(vectors: Sequence[Vector], prime: int) -> Set[Vector]:
    """All combinations of the vectors that are not 0."""
    rows = list(zip(*vectors, strict=True))
    times = product(range(prime), repeat=len(vectors))
    sums = (tuple(_dot(each, row) % prime for row in rows) for each in times)
    return {s for s in sums if any(s)}


def _dot(a: Vector, b: Vector) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))
