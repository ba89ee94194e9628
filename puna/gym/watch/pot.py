"""Pot: a sequential test by betting that may look after every step and stop whenever it likes.

`pot = Pot(limit=0.1)`, then `pot.update(step, figure)`; alarm once `pot.wealth >= 1 / alpha`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

_WINDOW = 8
_STAKES = (0.0, 0.25, 0.5, 0.75)


@dataclass
class Pot:
    """The wealth of one who bets on every step that a figure of 0 or more is above `limit`.

    As long as the figure's expectation, given all before, is at most `limit`, bets do not win on
    average: the chance that a run's wealth ever reaches 1/alpha is at most alpha (Ville's
    inequality; betting as in Waudby-Smith and Ramdas 2024, section 4). The stake is the one that
    would have won most in the last steps. Of the starting money 1, a share 1/(t (t + 1)) joins at
    step t, so that what was lost long ago does not hide a later change.
    """

    limit: float
    invested: float = 0.0
    steps: int = 0
    recent: list[float] = field(default_factory=list)
    since: int = 0
    """The last step at which nothing was staked: where the evidence, if there is any, begins."""

    def __post_init__(self) -> None:
        assert self.limit > 0

    def update(self, step: int, figure: float) -> None:
        """Bet, see the `figure` (what is below 0 counts as 0), take or pay."""
        figure, bet = max(figure, 0.0), self._bet()
        if not bet:
            self.since = step
        factor = 1 + bet * (figure - self.limit)
        self.steps += 1
        self.invested = (self.invested + 1 / (self.steps * (self.steps + 1))) * factor
        self.invested = min(self.invested, 1e300)
        self.recent = [*self.recent, figure][-_WINDOW:]

    @property
    def wealth(self) -> float:
        """What the starting money 1 has become."""
        return self.invested + 1 / (self.steps + 1)

    def _bet(self) -> float:
        """How much to gain for each unit above the limit: what would have been best lately."""
        bets = [stake / self.limit for stake in _STAKES]
        return max(bets, key=lambda b: sum(math.log1p(b * (x - self.limit)) for x in self.recent))

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @staticmethod
    def from_state(state: dict[str, Any]) -> Pot:
        """The inverse of `state_dict`."""
        return Pot(**state)
