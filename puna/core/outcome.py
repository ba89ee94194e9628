"""What a verifier may say: Scored, Invalid (the task is at fault) or Infra (the machinery is).

Only `Scored` reaches training. `from_json(to_json(Scored(1.0, True)))` gives the same value back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Credit:
    """What one message within an answer earned: the characters `start` to `end` of its text.

    Compared with those of the same `name` ("solver 1") in other answers to the task, and no others.
    """

    name: str
    start: int
    end: int
    reward: float

    def __post_init__(self) -> None:
        """Raises ValueError for a place that is none, or a reward that is not finite."""
        if not 0 <= self.start <= self.end:
            raise ValueError(f"credit {self.name!r} is of characters {self.start} to {self.end}")
        if not _finite(self.reward):
            raise ValueError(f"credit {self.name!r} must be finite, not {self.reward!r:.40}")


@dataclass(frozen=True)
class Scored:
    """A judged episode: any finite `value`, success yes or no, named parts, evidence for people.

    `credits`, where there are any, are what training learns from in place of the value: one for
    each message that the last answer is made of, in order.
    """

    value: float
    success: bool
    parts: Mapping[str, float] = field(default_factory=dict)
    evidence: str = ""
    credits: tuple[Credit, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError where the value is not a finite number."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise ValueError(f"a score must be a number, not {type(self.value).__name__}")
        if not _finite(self.value):
            raise ValueError(f"a score must be finite, not {self.value!r:.40}")
        if not isinstance(self.success, bool):
            raise ValueError(f"success must be True or False, not {type(self.success).__name__}")
        for name, part in self.parts.items():
            if not isinstance(name, str) or not isinstance(part, int | float) or not _finite(part):
                raise ValueError(f"part {name!r} must be a finite number, not {part!r:.40}")
        if not isinstance(self.evidence, str):
            raise ValueError(f"evidence must be text, not {type(self.evidence).__name__}")


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float holds
        return False


@dataclass(frozen=True)
class Invalid:
    """The task itself is at fault (no correct answer exists, its files are broken)."""

    reason: str

    def __post_init__(self) -> None:
        """Raises ValueError where the reason is not text."""
        if not isinstance(self.reason, str):
            raise ValueError(f"a reason must be text, not {type(self.reason).__name__}")


@dataclass(frozen=True)
class Infra:
    """The machinery failed (endpoint down, verifier bug, disk full): never counted as 0."""

    error: str

    def __post_init__(self) -> None:
        """Raises ValueError where the error is not text."""
        if not isinstance(self.error, str):
            raise ValueError(f"an error must be text, not {type(self.error).__name__}")


Outcome = Scored | Invalid | Infra


def to_json(outcome: Outcome) -> dict[str, Any]:
    """A plain dictionary with its kind."""
    fields = dict(outcome.__dict__)
    if isinstance(outcome, Scored):
        fields["parts"] = dict(outcome.parts)
        del fields["credits"]
        if outcome.credits:
            fields["credits"] = [asdict(credit) for credit in outcome.credits]
    return {"kind": type(outcome).__name__.lower(), **fields}


def from_json(data: Mapping[str, Any]) -> Outcome:
    """The inverse of `to_json`. Raises ValueError on an unknown kind."""
    fields = {k: v for k, v in data.items() if k != "kind"}
    match data.get("kind"):
        case "scored":
            fields["credits"] = tuple(Credit(**c) for c in fields.get("credits", ()))
            return Scored(**fields)
        case "invalid":
            return Invalid(**fields)
        case "infra":
            return Infra(**fields)
    raise ValueError(f"outcome kind is {data.get('kind')!r}")
