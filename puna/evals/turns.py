"""What self-correction does, turn by turn: `turn_metrics({"t1": [outcome]}).line()`.

Read from the parts "solution 1", "verdict 1", "solution 2", ... of outcomes (`gym/passes.py`),
whoever gave the answers; only calibration needs the log-probabilities that a Sampler has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from puna.core.outcome import Outcome, Scored
from puna.core.stats import Difference, Estimate, mean_interval, paired_difference
from puna.gym.credit import placed
from puna.gym.trajectory import Trajectory
from puna.text.tokenizer import Tokenizer

BINS = 10

Chances = Mapping[str, float]
"""Turn of an answer -> the probability with which its verdict was yes."""


@dataclass(frozen=True)
class Turn:
    """Turn `turn` of the answers that had one: `solutions` of them, how many right, the verdicts.

    `true_yes` is the share of right solutions that were found right, `true_no` that of wrong ones
    found wrong; a solution without a verdict in form counts as neither. None where there is none.
    """

    turn: int
    solutions: int
    accuracy: float
    true_yes: float | None
    true_no: float | None


@dataclass(frozen=True)
class TurnMetrics:
    """Accuracy of first and of last solutions, and the verdicts (turn 0: of all turns together).

    `fixed` answers began wrong and ended right, `broken` ones the other way round. `unjudged` is
    the share of answers whose last solution has no verdict in form. `calibration` is the expected
    calibration error of P(yes), in ten bins; None where no log-probabilities are known.
    """

    answers: int
    first: Estimate
    final: Estimate
    gain: Difference
    fixed: int
    broken: int
    unjudged: float
    mean_turns: float
    calibration: float | None
    turns: tuple[Turn, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def line(self) -> str:
        """One line for a person."""
        whole = self.turns[0]
        told = [
            f"first {self.first}, final {self.final}, gain {self.gain.mean:+.3f} "
            f"[{self.gain.low:+.3f}, {self.gain.high:+.3f}]",
            f"{self.fixed} fixed, {self.broken} broken",
            f"true yes {_share(whole.true_yes)}, true no {_share(whole.true_no)}",
            f"{self.mean_turns:.2f} turns, {self.unjudged:.1%} unjudged",
        ]
        known = self.calibration is not None
        return "; ".join([*told, *([f"calibration error {self.calibration:.3f}"] if known else [])])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def verdict_chances(trajectory: Trajectory, role: str, tokenizer: Tokenizer) -> dict[str, float]:
    """P(yes) of each verdict in form, read off the word's tokens; the rest counts as P(no)."""
    found, outcome = placed(trajectory, role, tokenizer), trajectory.outcomes.get(role)
    if found is None or not isinstance(outcome, Scored):
        return {}
    out = {}
    for credit, chance in zip(outcome.credits, found.last_words, strict=True):
        turn = credit.name.removeprefix("verifier ")
        said = outcome.parts.get(f"verdict {turn}") if turn != credit.name else None
        if said is not None and not math.isnan(chance):
            out[turn] = chance if said else 1 - chance
    return out


def turn_metrics(
    outcomes: Mapping[str, Sequence[Outcome]],
    chances: Mapping[str, Sequence[Chances]] | None = None,
) -> TurnMetrics | None:
    """Over all Scored answers to all tasks; None where answers are not of several messages.

    `chances` are those of each answer, by task in the same order.
    """
    answers = {
        task: [o for o in found if isinstance(o, Scored) and "solution 1" in o.parts]
        for task, found in outcomes.items()
    }
    answers = {task: found for task, found in answers.items() if found}
    if not answers:
        return None
    every = [o for found in answers.values() for o in found]
    pairs = [(o.parts["solution 1"] > 0, o.value > 0) for o in every]
    first = {t: [o.parts["solution 1"] for o in found] for t, found in answers.items()}
    final = {t: [o.value for o in found] for t, found in answers.items()}
    counts = [_turns(o) for o in every]
    return TurnMetrics(
        len(every),
        mean_interval(list(first.values())),
        mean_interval(list(final.values())),
        paired_difference(_means(final), _means(first)),
        sum(after and not before for before, after in pairs),
        sum(before and not after for before, after in pairs),
        sum(f"verdict {n}" not in o.parts for o, n in zip(every, counts, strict=True)) / len(every),
        sum(counts) / len(counts),
        _calibration(list(_told(outcomes, chances or {}))),
        tuple(turn_of(every, turn) for turn in range(max(counts) + 1)),
    )


def _turns(outcome: Scored) -> int:
    return sum(name.startswith("solution ") for name in outcome.parts)


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {task: sum(found) / len(found) for task, found in values.items()}


def turn_of(answers: Sequence[Scored], turn: int = 0) -> Turn:
    """Turn `turn` of answers that have it; 0 for all their turns."""
    seen = [
        (o.parts[f"solution {n}"] > 0, o.parts.get(f"verdict {n}"))
        for o in answers
        for n in ([turn] if turn else range(1, _turns(o) + 1))
        if f"solution {n}" in o.parts
    ]
    right = [verdict == 1 for fine, verdict in seen if fine]
    wrong = [verdict == 0 for fine, verdict in seen if not fine]
    return Turn(turn, len(seen), len(right) / len(seen), _mean(right), _mean(wrong))


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _told(
    outcomes: Mapping[str, Sequence[Outcome]], chances: Mapping[str, Sequence[Chances]]
) -> Iterator[tuple[float, bool]]:
    """P(yes) of every verdict, and whether its solution was right."""
    for task, known in chances.items():
        for outcome, yes in zip(outcomes[task], known, strict=True):
            if isinstance(outcome, Scored):
                yield from ((p, outcome.parts[f"solution {turn}"] > 0) for turn, p in yes.items())


def _calibration(told: Sequence[tuple[float, bool]]) -> float | None:
    """Expected calibration error (Naeini et al. 2015) in bins of equal width; None of nothing."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for p, right in told:
        bins[min(BINS - 1, int(p * BINS))].append((p, right))
    gaps = (abs(sum(p for p, _ in found) - sum(right for _, right in found)) for found in bins)
    return sum(gaps) / len(told) if told else None
