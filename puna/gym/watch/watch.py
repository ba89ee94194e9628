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
_KEPT, _MOST = 16, 160  # episodes set aside for a sign: of a step, and in all


class Watch:
    """Looks at each step's groups once; deterministic, and resumed from `state_dict`.

    `tolerance` is what the mean reward may rise above the shadow's, as a share of its scale.
    """

    def __init__(self, roles: Sequence[str], shadowed: bool, tolerance: float = 0.1) -> None:
        alpha = ALPHA / _ALARMING / len(roles)
        self.signs: dict[str, list[Sign]] = {}
        self.kept: dict[str, int] = {}
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
        """Sign and episode of what the signs in alarm hold against this step, to set aside.

        Of a sign 16 a step, the worst, and 160 in all: enough to read.
        """
        out: list[tuple[str, Said]] = []
        for role, signs in self.signs.items():
            alarmed = [sign for sign in signs if "alarm" in sign.fired]
            said = said_by(role, groups) if alarmed else []
            for sign in alarmed:
                kept = self.kept.get(sign.name, 0)
                found = sign.offenders(said)[: min(_KEPT, _MOST - kept)]
                self.kept[sign.name] = kept + len(found)
                out += [(sign.name, each) for each in found]
        return out

    def trusted(self) -> int | None:
        """Up to which step no sign that could alarm has evidence; None before there are tests."""
        pots = [s.pots.get("alarm") for signs in self.signs.values() for s in signs]
        return min((pot.since for pot in pots if pot is not None and pot.steps), default=None)

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        signs = {r: {s.name: s.state_dict() for s in signs} for r, signs in self.signs.items()}
        return {"signs": signs, "kept": dict(self.kept)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`, {} for none; a sign it does not know begins anew."""
        self.kept = dict(state.get("kept", {}))
        for role, signs in self.signs.items():
            for sign in signs:
                if (known := state.get("signs", {}).get(role, {}).get(sign.name)) is not None:
                    sign.load_state_dict(known)
