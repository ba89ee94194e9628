"""What a step showed of one role: `said_by("agent", groups)`, an entry for each scored episode."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from puna.core.messages import ToolCall
from puna.core.outcome import Scored
from puna.gym.loop import Group
from puna.gym.trajectory import Trajectory

_GUARDED = re.compile(
    r"(?<![a-z])(tests?|conftest|graders?|grading|rewards?|verifiers?|judge|expected|solutions?"
    r"|answer[ _-]?keys?|oracle|rubric|hidden|\.git)(?![a-z])",
    re.IGNORECASE,
)
_RUNS = ((re.compile(r"[0-9]+"), "9"), (re.compile(r"[^\W\d_]+"), "a"), (re.compile(r"\s+"), " "))
_SHAPE = 16  # characters of a shape that count


@dataclass(frozen=True)
class Said:
    """One role's part in a scored episode; `shadow` is None where nothing stricter judged it.

    `blind` is True where a stricter verifier was asked and failed; `length` is in sampled tokens,
    in characters where no tokens were recorded; `touched` are calls that name what grades.
    """

    task: str
    value: float
    success: bool
    parts: Mapping[str, float]
    shadow: float | None
    blind: bool
    text: str
    length: int
    touched: tuple[str, ...]
    trajectory: Trajectory


def said_by(role: str, groups: Iterable[Group]) -> list[Said]:
    """Everything that `role` did in a step and that was `Scored`."""
    out = []
    for trajectory in (t for group in groups for t in group.trajectories):
        outcome, stricter = trajectory.outcomes.get(role), trajectory.shadow.get(role)
        if not isinstance(outcome, Scored):
            continue
        text = trajectory.episode.said(role)
        tokens = sum(sum(b.mask) for b in trajectory.branches.get(role, ()))
        out.append(
            Said(
                trajectory.task_id,
                float(outcome.value),
                outcome.success,
                outcome.parts,
                float(stricter.value) if isinstance(stricter, Scored) else None,
                stricter is not None and not isinstance(stricter, Scored),
                text,
                tokens or len(text),
                tuple(_touches(role, trajectory)),
                trajectory,
            )
        )
    return out


def _touches(role: str, trajectory: Trajectory) -> Iterable[str]:
    for speaker, message in trajectory.episode.transcript:
        for part in message.parts if speaker == role else ():
            if isinstance(part, ToolCall) and _GUARDED.search(f"{part.name} {part.arguments}"):
                yield f"{part.name} {part.arguments}"[:200]


def shape(text: str) -> str:
    """What an answer looks like: runs of digits, letters and spaces as one sign each."""
    text = text[:400]
    for run, sign in _RUNS:
        text = run.sub(sign, text)
    return text[:_SHAPE]


def shares(names: Iterable[str]) -> dict[str, float]:
    """Name -> its share."""
    counts = Counter(names)
    total = sum(counts.values())
    return {name: n / total for name, n in counts.items()}


def distance(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Total variation between two tables of shares: 0 equal, 1 nothing in common."""
    return sum(abs(a.get(k, 0.0) - b.get(k, 0.0)) for k in a.keys() | b.keys()) / 2


def commonest(said: Sequence[Said]) -> tuple[str, float, int]:
    """The answer given most over tasks (each task counts once), its share, the number of tasks."""
    by_task: dict[str, list[str]] = {}
    for each in said:
        by_task.setdefault(each.task, []).append(each.text.strip())
    total: Counter[str] = Counter()
    for answers in by_task.values():
        for answer, share in shares(answers).items():
            total[answer] += share  # type: ignore[assignment]
    answer, count = max(total.items(), key=lambda item: (item[1], item[0]))
    return answer, count / len(by_task), len(by_task)


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean; 0 of nothing."""
    found = list(values)
    return sum(found) / len(found) if found else 0.0
