"""The claims of a paper or a study, and what the numbers of several seeds say of each.

`judge(read_claims(folder / "claims.toml"), {0: {"auc": 0.8, "trivial": 0.6}, ...})` -> verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from puna.core.config import build, read_toml, to_dict
from puna.core.errors import UserError, nearest
from puna.core.stats import Difference, paired_difference

LEAST_SEEDS = 5
SHOWN, NOT_SHOWN, NOT_TESTABLE = "shown", "not shown", "not testable here"
Rows = Mapping[int, Mapping[str, float]]  # seed -> number by name


@dataclass(frozen=True)
class Claim:
    """What a paper says, as a comparison of two numbers that were measured.

    `metric - against` must be above `margin`, below `-margin`, or within -margin..margin; a
    negative margin is a tolerance. `against` is another number's name or a constant. A verdict
    takes `least` seeds.
    """

    id: str
    statement: str
    source: str
    command: str = ""
    metric: str = ""
    against: str | float = ""
    direction: Literal["above", "below", "within"] = "above"
    margin: float = 0.0
    least: int = LEAST_SEEDS
    testable: bool = True
    why: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError where a claim cannot be judged, or says not why it cannot."""
        if not self.testable:
            if not self.why:
                raise ValueError("it is not testable and has no `why`")
            return
        if not self.metric or self.against == "" or not self.command:
            raise ValueError("it needs `metric`, `against` and `command`, or `testable = false`")
        if self.direction == "within" and not self.margin > 0:
            raise ValueError("`within` needs a margin above 0")
        if not math.isfinite(self.margin):
            raise ValueError("margin is not a finite number")
        if self.least < 2:
            raise ValueError(f"least is {self.least}, and an interval takes 2 seeds")

    @property
    def unit(self) -> float:
        """The size of a large difference: the constant compared with, else the margin, else 1."""
        constant = 0.0 if isinstance(self.against, str) else abs(self.against)
        return constant or abs(self.margin) or 1.0


@dataclass(frozen=True)
class Verdict:
    """A claim with the means of its two numbers, their paired difference, and the word for it."""

    claim: Claim
    verdict: str
    metric: float | None = None
    against: float | None = None
    difference: Difference | None = None

    def text(self) -> str:
        """Two lines: the verdict with the statement, and what was measured."""
        first = f"{self.verdict:<20}{self.claim.id}: {self.claim.statement} ({self.claim.source})"
        return f"{first}\n{'':<20}{self.measured()}"

    def measured(self) -> str:
        """What was measured, with the interval of the difference; or why nothing was."""
        claim, found = self.claim, self.difference
        if found is None:
            return claim.why or "not measured yet"
        other = f"{claim.against} " if isinstance(claim.against, str) else ""
        asked = f"{claim.direction} {other}{self.against:.4g}"
        if claim.direction == "within":
            asked = f"within {claim.margin:g} of {other}{self.against:.4g}"
        elif claim.margin:
            asked += f" by {claim.margin:g}"
        few = f"; a verdict takes {claim.least}" if found.n < claim.least else ""
        return (
            f"{claim.metric} {self.metric:.4g} {asked}: difference {found.mean:+.3g} "
            f"[{found.low:+.3g}, {found.high:+.3g}], {found.n} seeds{few}"
        )

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary: the claim's fields, and what was found."""
        return {
            **to_dict(self.claim),
            "verdict": self.verdict,
            "measured": self.metric,
            "compared": self.against,
            "difference": self.difference.to_json() if self.difference else None,
        }


def read_claims(path: Path) -> tuple[Claim, ...]:
    """The claims in a file, in its order. Raises UserError naming file and claim."""
    if not path.is_file():
        raise UserError(f"no file {path}", "write the paper's claims there, a [[claim]] each")
    data = read_toml(path)
    for key in data:
        if key != "claim":
            raise UserError(f"{path}: unknown key '{key}'", "each claim is a [[claim]]")
    found = claims_of(data.get("claim", []), str(path))
    if not found:
        raise UserError(f"{path} has no claim", "add a [[claim]]")
    return found


def claims_of(tables: Any, where: str, command: str = "") -> tuple[Claim, ...]:
    """The claims in the tables of a file; `command` is that of those which name none.

    Raises UserError naming `where` and the claim.
    """
    found: dict[str, Claim] = {}
    for number, table in enumerate(tables if isinstance(tables, list) else [tables], 1):
        name = str(table.get("id", f"number {number}")) if isinstance(table, dict) else ""
        if not name:
            raise UserError(f"{where}: claim {number} is no table", "each claim is a [[claim]]")
        if name in found:
            raise UserError(f"{where}: two claims are called '{name}'", "rename one")
        given = {"command": command, **table} if command else table
        found[name] = build(Claim, given, f"{where} claim {name}")
    return tuple(found.values())


def judge(claims: Sequence[Claim], rows: Rows) -> list[Verdict]:
    """A verdict for each claim from the numbers of each seed.

    Shown: the 95 % t interval of the paired difference over `least` seeds or more lies wholly on
    the claim's side of its margin. Differences that are equal in all seeds have the interval of
    `paired_difference`, in the claim's `unit`. Raises UserError for a number that is not there.
    """
    return [_judge(claim, rows) for claim in claims]


def _judge(claim: Claim, rows: Rows) -> Verdict:
    if not claim.testable:
        return Verdict(claim, NOT_TESTABLE)
    if not rows:
        return Verdict(claim, NOT_SHOWN)
    metric = {seed: _number(claim, claim.metric, row) for seed, row in rows.items()}
    against = {seed: _number(claim, claim.against, row) for seed, row in rows.items()}
    found = _difference(metric, against, claim.unit)
    sides = {
        "above": found.low > claim.margin,
        "below": found.high < -claim.margin,
        "within": -claim.margin < found.low and found.high < claim.margin,
    }
    shown = found.n >= claim.least and sides[claim.direction]
    means = fmean(metric.values()), fmean(against.values())
    return Verdict(claim, SHOWN if shown else NOT_SHOWN, *means, found)


def _difference(metric: Mapping[int, float], against: Mapping[int, float], u: float) -> Difference:
    """The paired difference, taken in units of `u` and given in the numbers' own."""
    a, b = ({str(seed): x / u for seed, x in side.items()} for side in (metric, against))
    d = paired_difference(a, b)
    return Difference(d.mean * u, d.low * u, d.high * u, d.n, d.p_value, d.detectable * u)


def _number(claim: Claim, name: str | float, row: Mapping[str, float]) -> float:
    if not isinstance(name, str):
        return name
    if name not in row:
        what = f"claim '{claim.id}' compares '{name}', which was not measured"
        raise UserError(what, nearest(name, row))
    return row[name]


def claims_text(title: str, verdicts: Sequence[Verdict], rows: Rows) -> str:
    """The claims with their verdicts, then every number as mean and deviation over the seeds."""
    parts = [title, "", *(v.text() for v in verdicts)]
    if rows:
        parts += ["", f"mean and standard deviation over {len(rows)} seeds:", *_numbers(rows)]
    return "\n".join(parts)


def _numbers(rows: Rows) -> list[str]:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    width = max(map(len, names), default=0)
    lines = []
    for name in names:
        values = [row[name] for row in rows.values() if name in row]
        spread = f"{stdev(values):.2g}" if len(values) > 1 else "-"
        lines.append(f"  {name:<{width}}  {fmean(values):>10.4g}  {spread}")
    return lines
