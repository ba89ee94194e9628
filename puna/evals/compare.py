"""`puna.compare(a, b)`, which `puna compare` calls: two results, task by task.

`print(puna.compare("runs/quickstart/sft", "runs/quickstart/rl"))`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from puna.core.errors import UserError, nearest
from puna.core.outcome import Outcome, Scored
from puna.core.printable import printable
from puna.core.stats import (
    Difference,
    Score,
    holm,
    p_text,
    paired_difference,
    summarize,
    task_means,
)
from puna.evals.results import Result, name_of, place_of, results_of

if TYPE_CHECKING:
    from puna.evals.results import Target

BETTER, WORSE, NO_DIFFERENCE = "better", "worse", "no difference shown"
LEVEL = 0.05
SOLVERS = ("both", "A alone", "B alone", "neither")


@dataclass(frozen=True)
class Pair:
    """One task's mean value on each side, and who solves it: one of `SOLVERS`.

    A side solves a task if any of its episodes of it is a success.
    """

    task: str
    a: float
    b: float
    solved: str

    @property
    def difference(self) -> float:
        """`b` minus `a`."""
        return self.b - self.a


@dataclass(frozen=True)
class Suite:
    """Two scores of one role over `tasks` common tasks, and `difference`, `b` minus `a`.

    `p_holm` is the p-value adjusted for the number of suites compared at once; `pairs` are the
    tasks that were scored on both sides.
    """

    env: Mapping[str, str]
    role: str
    a: Score
    b: Score
    difference: Difference
    tasks: int
    pairs: tuple[Pair, ...]
    p_holm: float

    @property
    def verdict(self) -> str:
        """What may be said of B: "better", "worse", "no difference shown".

        A winner is named where the adjusted p-value is at most 0.05 and the interval agrees.
        """
        if self.p_holm > LEVEL or self.difference.low <= 0 <= self.difference.high:
            return NO_DIFFERENCE
        return BETTER if self.difference.low > 0 else WORSE

    @cached_property
    def solved(self) -> dict[str, int]:
        """How many tasks each of `SOLVERS` solves."""
        found = Counter(pair.solved for pair in self.pairs)
        return {who: found[who] for who in SOLVERS}

    @cached_property
    def wins(self) -> list[Pair]:
        """Tasks on which B scores more, the largest difference first."""
        return sorted((p for p in self.pairs if p.b > p.a), key=lambda p: p.a - p.b)

    @cached_property
    def losses(self) -> list[Pair]:
        """Tasks on which A scores more, the largest difference first."""
        return sorted((p for p in self.pairs if p.b < p.a), key=lambda p: p.b - p.a)

    def to_json(self, rows: int = 0) -> dict[str, Any]:
        """A plain dictionary, with `rows` wins and losses at most."""
        return {
            "env": dict(self.env),
            "role": self.role,
            "tasks": self.tasks,
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "difference": self.difference.to_json(),
            "p_holm": self.p_holm,
            "verdict": self.verdict,
            "solved": self.solved,
            "n_wins": len(self.wins),
            "n_losses": len(self.losses),
            "wins": [vars(pair) for pair in self.wins[:rows]],
            "losses": [vars(pair) for pair in self.losses[:rows]],
        }


@dataclass(frozen=True)
class Comparison:
    """B against A on every environment that both have played; `left_out` says why others are not.

    `names` is what to call A and B, `places` their directories. `print` shows what the verb prints.
    """

    names: tuple[str, str]
    places: tuple[str, str]
    suites: tuple[Suite, ...]
    left_out: tuple[str, ...] = ()

    def title(self, suite: Suite) -> str:
        """The environment's name, with version and hash where several suites share the name."""
        name = suite.env["name"]
        alike = sum(s.env["name"] == name for s in self.suites)
        return f"{name} {suite.env['version']}" + (f" ({suite.env['hash'][:8]})" * (alike > 1))

    def to_json(self, rows: int = 0) -> dict[str, Any]:
        """A plain dictionary; `rows` wins and losses at most of each suite."""
        return {
            "schema": 1,
            "names": list(self.names),
            "places": list(self.places),
            "suites": [suite.to_json(rows) for suite in self.suites],
            "left_out": list(self.left_out),
        }

    def text(self, rows: int = 0) -> str:
        """Who A and B are, then suite by suite with up to `rows` wins and losses, then the rest."""
        lines = [f"{letter}: {name}" for letter, name in zip("AB", self.names, strict=True)]
        for suite in self.suites:
            lines += [*self._head(suite), *_listed(suite, rows)]
        if len(self.suites) > 1:
            named = Counter(suite.verdict for suite in self.suites)
            told = ", ".join(f"{v} on {named[v]}" for v in (BETTER, WORSE, NO_DIFFERENCE))
            lines.append(f"B on {len(self.suites)} environments: {told} (Holm's p at most {LEVEL})")
        lines += [f"left out: {why}" for why in self.left_out]
        return "\n".join(printable(line) for line in lines)

    def __str__(self) -> str:
        return self.text()

    def _head(self, suite: Suite) -> list[str]:
        env = f"{suite.env['name']} {suite.env['version']} ({suite.env['hash']})"
        several = f", Holm's p{p_text(suite.p_holm)}" if len(self.suites) > 1 else ""
        return [
            f"{env}, {suite.role}, {suite.tasks:,} tasks in common",
            f"  A          {suite.a.line()}",
            f"  B          {suite.b.line()}",
            f"  B minus A  {suite.difference}{several}: {suite.verdict}",
            f"  tasks      {counted(suite)}",
        ]


def counted(suite: Suite) -> str:
    """Who is ahead on how many tasks, and who solves how many."""
    level = len(suite.pairs) - len(suite.wins) - len(suite.losses)
    ahead = f"B ahead on {len(suite.wins):,}, A on {len(suite.losses):,}, level on {level:,}"
    solved = ", ".join(f"{who} {n:,}" for who, n in suite.solved.items())
    return f"{ahead}; solved by {solved}"


def _listed(suite: Suite, rows: int) -> list[str]:
    out = []
    for head, pairs in (("B ahead", suite.wins), ("A ahead", suite.losses)):
        told = [f"    {p.difference:+.3f}  {p.a:.3f} -> {p.b:.3f}  {p.task}" for p in pairs[:rows]]
        if told:
            out += [f"  {head}, {len(told)} of {len(pairs):,} tasks:", *told]
    return out


def compare(a: Target, b: Target, *, env: str = "", role: str = "") -> Comparison:
    """`b` minus `a`, paired over the tasks that both have played, on every common environment.

    Each is what `puna.eval` gave or the directory where it put it, a folder of such directories, a
    stage's directory in a run, or a run (then the last of its stages that was scored). Of a run's
    results those of its eval stages come first, then those that `puna eval` left in it. `env` keeps
    to one environment (its name or the beginning of its hash); `role` is each environment's first
    if not given. Over several the p-values are adjusted (Holm 1979).
    Raises UserError where nothing can be compared: environments or settings differ.

    >>> import puna
    >>> found = puna.compare("runs/mine/sft", "runs/mine/rl")
    >>> for suite in found.suites:
    ...     d = suite.difference
    ...     suite.env["name"], suite.tasks, d.low <= d.mean <= d.high
    ('arithmetic', 16, True)
    """
    pairs, left_out = _pairs(results_of(a), results_of(b), env)
    suites, errors = [], []
    for one, two in pairs:
        try:
            suites.append(compare_results(one, two, role))
        except UserError as error:
            errors.append(error)
    if not suites:
        raise errors[0]
    adjusted = holm([suite.difference.p_value for suite in suites])
    suites = [replace(s, p_holm=p) for s, p in zip(suites, adjusted, strict=True)]
    names, places = (name_of(a), name_of(b)), (str(place_of(a)), str(place_of(b)))
    told = names if names[0] != names[1] else places
    return Comparison(told, places, tuple(suites), (*left_out, *map(str, errors)))


def compare_results(one: Result, two: Result, role: str = "") -> Suite:
    """Two results of one environment, played alike; `p_holm` is the plain p-value.

    Raises UserError where there is no such role, or no task was scored on both sides.
    """
    roles = list(one.outcomes)
    if role and role not in roles:
        raise UserError(f"{one.env['name']} has no role '{role}'", nearest(role, roles))
    role = role or roles[0]
    mine, theirs = one.outcomes[role], two.outcomes[role]
    common = [task for task in mine if task in theirs]
    where = f"on {one.env['name']}"
    if not common:
        what = f"{one.name} and {two.name} have no task in common {where}"
        raise UserError(what, "evaluate both anew")
    left, right = ({t: side[t] for t in common} for side in (mine, theirs))
    before, after = task_means(left), task_means(right)
    if not before.keys() & after.keys():
        what = f"no task was scored on both sides {where}"
        raise UserError(what, "mend what failed, then eval again")
    found = paired_difference(after, before)
    k = int(one.settings["k"])
    return Suite(
        env=one.env,
        role=role,
        a=summarize(left, k),
        b=summarize(right, k),
        difference=found,
        tasks=len(common),
        pairs=tuple(
            Pair(t, before[t], after[t], _solver(left[t], right[t]))
            for t in common
            if t in before and t in after
        ),
        p_holm=found.p_value,
    )


def _solver(a: Sequence[Outcome], b: Sequence[Outcome]) -> str:
    one, two = (any(isinstance(o, Scored) and o.success for o in side) for side in (a, b))
    return SOLVERS[0 if one and two else 1 if one else 2 if two else 3]


def _pairs(
    a: Sequence[Result], b: Sequence[Result], env: str
) -> tuple[list[tuple[Result, Result]], list[str]]:
    """The first pair of one kind of each environment, and why others have none.

    Raises UserError where no environment has a pair.
    """
    sides = [[r for r in side if not env or _is(r, env)] for side in (a, b)]
    for all_, kept in zip((a, b), sides, strict=True):
        if not kept:
            known = nearest(env, {r.env["name"] for r in all_})
            raise UserError(f"{all_[0].name} was not evaluated on '{env}'", known)
    found: dict[str, tuple[Result, Result]] = {}
    for x, y in ((x, y) for x in sides[0] for y in sides[1] if not x.differs(y)):
        found.setdefault(x.env["hash"], (x, y))
    if not found:
        x, y = next(
            ((x, y) for x in sides[0] for y in sides[1] if x.env["name"] == y.env["name"]),
            (sides[0][0], sides[1][0]),
        )
        what = f"{x.name} and {y.name} cannot be compared: {x.differs(y)}"
        raise UserError(what, "evaluate both in the same way")
    return list(found.values()), list(_unpaired(sides[0], sides[1], found))


def _unpaired(
    a: Sequence[Result], b: Sequence[Result], found: Mapping[str, object]
) -> dict[str, None]:
    """A line for each environment that has no pair."""
    out: dict[str, None] = {}
    for mine, theirs, letter in ((a, b, "A"), (b, a, "B")):
        for result in (r for r in mine if r.env["hash"] not in found):
            name = f"{result.env['name']} ({result.env['hash'][:8]})"
            same = [r for r in theirs if r.env["hash"] == result.env["hash"]]
            if not same:
                out[f"{name}: only {letter} was evaluated on it"] = None
            elif letter == "A":
                out[f"{name}: {result.differs(same[0])}"] = None
    return out


def _is(result: Result, env: str) -> bool:
    return result.env["name"] == env or result.env["hash"].startswith(env)
