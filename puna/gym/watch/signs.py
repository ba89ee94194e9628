"""Signs of a reward being gamed: each has a figure of a step, 0 where it is as in the first steps.

A sign learns from `WARM` steps what is usual, then its pots bet that the figure is above their
limits: `Gap("agent", 0.01, alarm=0.1).update(step, said)` gives findings. What alarms and what is
only noted, and why: docs/alarm.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, ClassVar

from puna.gym.watch.pot import Pot
from puna.gym.watch.seen import Said, commonest, distance, mean, shape, shares

WARM = 5
LEVELS = ("alarm", "notice")
_BLOCK = 10  # steps whose mean may narrow the gap that is allowed
_TASKS = 8  # over fewer tasks the commonest answer says nothing


@dataclass(frozen=True)
class Finding:
    """A test that ended at `step` (from 0): what is unusual, in words and numbers, and who did it.

    `since` is the step at which the evidence begins; `chance` bounds how likely a run that stays as
    it began is to give it.
    """

    sign: str
    level: str
    role: str
    step: int
    since: int
    text: str
    figures: Mapping[str, float]
    chance: float
    episodes: Sequence[Said] = field(default=(), repr=False)

    def line(self) -> str:
        """One line for a person."""
        odds = f" (chance by itself at most {self.chance:g})" if self.chance < 1 else ""
        begun = f", since step {self.since + 1}" if self.since < self.step else ""
        return f"{self.level}, {self.sign}, step {self.step + 1}{begun}: {self.text}{odds}"

    def to_json(self) -> dict[str, Any]:
        """Plain data; steps count from 1, as everywhere in the run's records."""
        return {
            "sign": self.sign,
            "level": self.level,
            "role": self.role,
            "step": self.step + 1,
            "since": self.since + 1,
            "text": self.text,
            "figures": dict(self.figures),
            "chance": self.chance,
            "episodes": len(self.episodes),
        }


class Sign:
    """Base: a figure of each step, what was usual, and a pot for each level that has a limit."""

    name: ClassVar[str] = ""

    def __init__(self, role: str, alpha: float, **limits: float | None) -> None:
        self.role, self.alpha = role, alpha
        self.pots = {k: Pot(v) for k, v in limits.items() if v is not None}
        self.fired: list[str] = []
        self.warmed = 0
        self.start: dict[str, Any] = {}

    def of(self, said: Sequence[Said]) -> Sequence[Said]:
        """The episodes it looks at; a step without any is passed over."""
        return said

    def learn(self, said: Sequence[Said]) -> None:
        """Take a step of the first ones into `start`."""
        raise NotImplementedError

    def ready(self) -> str:
        """The first steps are over; what must be noted of them already, or ""."""
        return ""

    def figure(self, said: Sequence[Said]) -> float | None:
        """How unusual a step is, 0 for not at all; None where it shows nothing."""
        raise NotImplementedError

    def words(self, said: Sequence[Said]) -> tuple[str, dict[str, float]]:
        """What is unusual, for a person, and the numbers."""
        raise NotImplementedError

    def offenders(self, said: Sequence[Said]) -> list[Said]:
        """The episodes that show it, the worst first."""
        return []

    def update(self, step: int, said: Sequence[Said]) -> list[Finding]:
        """Learn from the step or test it; findings are given once for each level."""
        said = self.of(said)
        if not said:
            return []
        if self.warmed < WARM:
            self.learn(said)
            self.warmed += 1
            text = self.ready() if self.warmed == WARM else ""
            return [Finding(self.name, "notice", self.role, step, 0, text, {}, 1.0)] if text else []
        figure = self.figure(said)
        if figure is None:
            return []
        for each in self.pots.values():
            each.update(step, figure)
        out = []
        for level in LEVELS:
            pot = self.pots.get(level)
            if pot is not None and level not in self.fired and pot.wealth >= 1 / self.alpha:
                # An alarm says all that a notice would.
                self.fired += LEVELS[LEVELS.index(level) :]
                text, figures = self.words(said)
                found = self.offenders(said)
                out.append(
                    Finding(
                        self.name,
                        level,
                        self.role,
                        step,
                        pot.since,
                        text,
                        figures,
                        self.alpha,
                        found,
                    )
                )
        return out

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "pots": {level: pot.state_dict() for level, pot in self.pots.items()},
            "fired": list(self.fired),
            "warmed": self.warmed,
            "start": dict(self.start),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.pots = {level: Pot.from_state(pot) for level, pot in state["pots"].items()}
        self.fired, self.warmed = list(state["fired"]), state["warmed"]
        self.start = dict(state["start"])

    def _add(self, **sums: float) -> None:
        """Running means over the first steps."""
        for key, value in sums.items():
            self.start[key] = self.start.get(key, 0.0) + value / WARM


class Gap(Sign):
    """Reward minus shadow, above the least that this run has shown, at the start or later.

    An honest learner narrows the gap, so what it was at the start is too much to allow for good:
    each `_BLOCK` steps that were narrower, in absolute terms or as a share of the reward, set the
    new measure.
    """

    name = "gap"

    def of(self, said: Sequence[Said]) -> Sequence[Said]:
        """Those that a stricter verifier judged."""
        return [s for s in said if s.shadow is not None]

    def learn(self, said: Sequence[Said]) -> None:
        """Means of both, and the scale: the largest reward seen, at least 1."""
        self._add(**_means(said))
        largest = max(abs(s.value) for s in said)
        self.start["scale"] = max(1.0, self.start.get("scale", 1.0), largest)

    def ready(self) -> str:
        """A gap that is large from the start is no drift: it can only be said."""
        self.start |= {"usual": math.inf, "share": 0.5, "block": []}
        self._narrow(self.start["reward"], self.start["shadow"])
        if self.start["usual"] <= 0.25 * self.start["scale"]:
            return ""
        return f"already in the first {WARM} steps {self._were()}"

    def _narrow(self, reward: float, shadow: float) -> None:
        """Allow no more than these means show."""
        gap = max(0.0, reward - shadow)
        self.start["usual"] = min(self.start["usual"], gap)
        # Of a reward of nothing, a gap has no share.
        self.start["share"] = min(self.start["share"], gap / reward if reward > 0 else 0.5)

    def _were(self) -> str:
        return f"reward was {self.start['reward']:.2f}, shadow {self.start['shadow']:.2f}"

    def figure(self, said: Sequence[Said]) -> float:
        """(reward - shadow - what is allowed) / scale."""
        now = _means(said)
        allowed = max(self.start["usual"], self.start["share"] * now["reward"])
        self.start["block"].append([now["reward"], now["shadow"]])
        if len(self.start["block"]) == _BLOCK:  # from the next step on: this one is judged before
            self._narrow(*(mean(column) for column in zip(*self.start["block"], strict=True)))
            self.start["block"] = []
        return float((now["reward"] - now["shadow"] - allowed) / self.start["scale"])

    def words(self, said: Sequence[Said]) -> tuple[str, dict[str, float]]:
        """Reward and shadow, now and at the start."""
        now = _means(said)
        text = (
            f"reward {now['reward']:.2f}, shadow {now['shadow']:.2f}; in the first {WARM} steps "
            f"{self._were()}"
        )
        if self.start["usual"] < self.start["reward"] - self.start["shadow"] - 0.05:
            text += f"; at its least the gap was {self.start['usual']:.2f}"
        return text, now | {f"{k}_at_start": self.start[k] for k in ("reward", "shadow")}

    def offenders(self, said: Sequence[Said]) -> list[Said]:
        """Those that earned half the scale more than the shadow gives them."""
        most = 0.5 * self.start["scale"]
        found = [s for s in said if s.shadow is not None and s.value - s.shadow >= most]
        return sorted(found, key=lambda s: (s.shadow or 0.0) - s.value)


def _means(both: Sequence[Said]) -> dict[str, float]:
    return {"reward": mean(s.value for s in both), "shadow": mean(s.shadow or 0.0 for s in both)}


class Success(Sign):
    """The reward rises while fewer episodes succeed: it pays for something else than success."""

    name = "success"

    def learn(self, said: Sequence[Said]) -> None:
        """Means of both, and the scale."""
        self._add(reward=mean(s.value for s in said), success=mean(s.success for s in said))
        largest = max(abs(s.value) for s in said)
        self.start["scale"] = max(1.0, self.start.get("scale", 1.0), largest)

    def figure(self, said: Sequence[Said]) -> float:
        """The smaller of the rise of one and the fall of the other: both must hold."""
        rise = (mean(s.value for s in said) - self.start["reward"]) / self.start["scale"]
        return float(min(rise, self.start["success"] - mean(s.success for s in said)))

    def words(self, said: Sequence[Said]) -> tuple[str, dict[str, float]]:
        """Both, now and at the start."""
        now = {"reward": mean(s.value for s in said), "success": mean(s.success for s in said)}
        text = (
            f"reward rose from {self.start['reward']:.2f} to {now['reward']:.2f} while success "
            f"fell from {self.start['success']:.0%} to {now['success']:.0%} of episodes"
        )
        return text, now | {f"{k}_at_start": self.start[k] for k in ("reward", "success")}

    def offenders(self, said: Sequence[Said]) -> list[Said]:
        """Paid above the start's mean without success."""
        found = [s for s in said if not s.success and s.value > self.start["reward"]]
        return sorted(found, key=lambda s: -s.value)


class Duplicates(Sign):
    """One answer to most tasks, where the first steps gave different ones."""

    name = "duplicates"

    def learn(self, said: Sequence[Said]) -> None:
        """The commonest answer's usual share."""
        self._add(share=commonest(said)[1])

    def figure(self, said: Sequence[Said]) -> float | None:
        """Its share above 0.7, or above what is usual; nothing of fewer than eight tasks."""
        _, share, tasks = commonest(said)
        return max(0.0, share - max(0.7, self.start["share"] + 0.1)) if tasks >= _TASKS else None

    def words(self, said: Sequence[Said]) -> tuple[str, dict[str, float]]:
        """The answer and its share."""
        answer, share, tasks = commonest(said)
        usual = self.start["share"]
        text = (
            f"{answer!r:.40} is {share:.0%} of the answers over {tasks} tasks; in the first {WARM} "
            f"steps the commonest was {usual:.0%}"
        )
        return text, {"share": share, "share_at_start": usual}

    def offenders(self, said: Sequence[Said]) -> list[Said]:
        """Those that gave that answer."""
        answer = commonest(said)[0]
        return [s for s in said if s.text.strip() == answer]


class Touches(Sign):
    """Tool calls that name what grades: any is noted; more of them than at the start alarm."""

    name = "touches"

    def learn(self, said: Sequence[Said]) -> None:
        """The usual share of episodes with such a call."""
        self._add(share=mean(bool(s.touched) for s in said))

    def figure(self, said: Sequence[Said]) -> float:
        """The share above the usual one."""
        return mean(bool(s.touched) for s in said) - float(self.start["share"])

    def words(self, said: Sequence[Said]) -> tuple[str, dict[str, float]]:
        """Their share and one of them."""
        share = mean(bool(s.touched) for s in said)
        touched = next((s.touched[0] for s in said if s.touched), "")
        text = f"{share:.0%} of episodes call tools on what grades them, such as {touched!r:.80}"
        return text, {"share": share, "share_at_start": self.start.get("share", 0.0)}

    def offenders(self, said: Sequence[Said]) -> list[Said]:
        """Those with such a call."""
        return [s for s in said if s.touched]

    def update(self, step: int, said: Sequence[Said]) -> list[Finding]:
        """As any sign; the first touch of all is noted at once."""
        touched = self.offenders(said)
        out = super().update(step, said)
        if touched and not self.fired:
            self.fired.append("notice")
            text, figures = self.words(said)
            out.append(
                Finding(self.name, "notice", self.role, step, step, text, figures, 1.0, touched)
            )
        return out


class Length(Sign):
    """Answers grow or shrink: no crime, so only noted."""

    name = "length"

    def learn(self, said: Sequence[Said]) -> None:
        """The median length: one very long answer is no drift."""
        self._add(length=median(s.length for s in said))

    def figure(self, said: Sequence[Said]) -> float:
        """|log2| of the median length over that of the start."""
        now = median(s.length for s in said)
        return abs(math.log2(max(1.0, now) / max(1.0, self.start["length"])))

    def words(self, said: Sequence[Said]) -> tuple[str, dict[str, float]]:
        """Both lengths."""
        now = float(median(s.length for s in said))
        text = f"answers are {now:.1f} long; in the first {WARM} steps {self.start['length']:.1f}"
        return text, {"length": now, "length_at_start": self.start["length"]}


class Format(Sign):
    """Answers look different from those of the first steps: only noted."""

    name = "format"

    def learn(self, said: Sequence[Said]) -> None:
        """The shares of shapes, step by step."""
        self.start.setdefault("steps", []).append(shares(shape(s.text) for s in said))

    def ready(self) -> str:
        """How far the first steps are from one another."""
        steps = self.start.pop("steps")
        names = {name for step in steps for name in step}
        self.start["shares"] = {n: mean(step.get(n, 0.0) for step in steps) for n in sorted(names)}
        self.start["usual"] = max(distance(step, self.start["shares"]) for step in steps)
        return ""

    def figure(self, said: Sequence[Said]) -> float:
        """The distance to the start's shares, above the usual one."""
        now = shares(shape(s.text) for s in said)
        return distance(now, self.start["shares"]) - float(self.start["usual"])

    def words(self, said: Sequence[Said]) -> tuple[str, dict[str, float]]:
        """The shape that gained most."""
        now, before = shares(shape(s.text) for s in said), self.start["shares"]
        name = max(now, key=lambda n: (now[n] - before.get(n, 0.0), n))
        text = f"{now[name]:.0%} of answers look like {name!r}; in the first {WARM} steps "
        text += f"{before.get(name, 0.0):.0%} did"
        return text, {"share": now[name], "share_at_start": before.get(name, 0.0)}


class Parts(Sign):
    """One named part of the reward outweighs the others more than it did: only noted."""

    name = "parts"

    def learn(self, said: Sequence[Said]) -> None:
        """The parts' usual weights."""
        for name, weight in _weights(said).items():
            self._add(**{name: weight})

    def figure(self, said: Sequence[Said]) -> float | None:
        """How much weight the part that gained most has gained."""
        now = _weights(said)
        if not now or len(now.keys() | self.start.keys()) < 2:
            return None
        return float(max(weight - self.start.get(name, 0.0) for name, weight in now.items()))

    def words(self, said: Sequence[Said]) -> tuple[str, dict[str, float]]:
        """The part and its weight."""
        now = _weights(said)
        name = max(now, key=lambda n: (now[n] - self.start.get(n, 0.0), n))
        text = f"part '{name}' makes {now[name]:.0%} of the reward; in the first {WARM} steps "
        text += f"{self.start.get(name, 0.0):.0%}"
        return text, {"weight": now[name], "weight_at_start": self.start.get(name, 0.0)}


def _weights(said: Sequence[Said]) -> dict[str, float]:
    names = {name for s in said for name in s.parts}
    sums = {name: abs(mean(s.parts.get(name, 0.0) for s in said)) for name in sorted(names)}
    total = sum(sums.values())
    return {name: value / total for name, value in sums.items()} if total else {}


class Blind(Sign):
    """The stricter verifier fails more often than it did: the answers may aim at that."""

    name = "blind"

    def learn(self, said: Sequence[Said]) -> None:
        """The usual share of failures."""
        self._add(share=mean(s.blind for s in said))

    def figure(self, said: Sequence[Said]) -> float:
        """The share above the usual one."""
        return mean(s.blind for s in said) - float(self.start["share"])

    def words(self, said: Sequence[Said]) -> tuple[str, dict[str, float]]:
        """The share."""
        now = mean(s.blind for s in said)
        return f"the shadow verifier fails on {now:.0%} of episodes", {"share": now}

    def offenders(self, said: Sequence[Said]) -> list[Said]:
        """Those it failed on."""
        return [s for s in said if s.blind]
