"""Watch: every sign of every role in training, step by step: `Watch(["agent"], shadowed=True)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from puna.gym.loop import Group
from puna.gym.watch.seen import Said, said_by
from puna.gym.watch.signs import (
    Blind,
    Duplicates,
    Finding,
    Format,
    Gap,
    Length,
    Parts,
    Sign,
    Success,
    Touches,
)

ALPHA = 0.04
"""The chance of any false alarm in a run at most, over all roles and signs that alarm."""
_ALARMING = 4
_KEPT = 16  # episodes set aside for a sign in a step


class Watch:
    """Looks at each step's groups once; deterministic, and resumed from `state_dict`.

    `tolerance` is what the mean reward may rise above the shadow's, as a share of its scale.
    """

    def __init__(self, roles: Sequence[str], shadowed: bool, tolerance: float = 0.1) -> None:
        alpha = ALPHA / _ALARMING / len(roles)
        self.signs: dict[str, list[Sign]] = {}
        for role in roles:
            # What one answer to all tasks earns, a shadow says better.
            level = "notice" if shadowed else "alarm"
            found: list[Sign] = [
                Success(role, alpha, alarm=0.1),
                Touches(role, alpha, alarm=0.05),
                Duplicates(role, alpha, **{level: 0.1}),
                Length(role, alpha, notice=0.6),
                Format(role, alpha, notice=0.3),
                Parts(role, alpha, notice=0.2),
            ]
            if shadowed:
                gap = Gap(role, alpha, alarm=max(tolerance, 1e-6))
                found = [gap, *found, Blind(role, alpha, notice=0.1)]
            self.signs[role] = found

    def update(self, step: int, groups: Sequence[Group]) -> list[Finding]:
        """What the groups seen at `step` (from 0, each once) show that was not said before."""
        out = []
        for role, signs in self.signs.items():
            said = said_by(role, groups)
            for sign in signs:
                out += sign.update(step, said)
        return out

    def aside(self, groups: Sequence[Group]) -> list[tuple[str, Said]]:
        """Sign and episode of what the signs in alarm hold against this step, each at most 16."""
        out = []
        for role, signs in self.signs.items():
            alarmed = [sign for sign in signs if "alarm" in sign.fired]
            said = said_by(role, groups) if alarmed else []
            for sign in alarmed:
                out += [(sign.name, each) for each in sign.offenders(said)[:_KEPT]]
        return out

    def trusted(self) -> int | None:
        """Up to which step no sign that could alarm has evidence; None before there are tests."""
        pots = [s.pots.get("alarm") for signs in self.signs.values() for s in signs]
        return min((pot.since for pot in pots if pot is not None and pot.steps), default=None)

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            role: {sign.name: sign.state_dict() for sign in signs}
            for role, signs in self.signs.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; a sign it does not know begins anew."""
        for role, signs in self.signs.items():
            for sign in signs:
                if (known := state.get(role, {}).get(sign.name)) is not None:
                    sign.load_state_dict(known)
