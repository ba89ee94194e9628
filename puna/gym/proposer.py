"""Proposers: what makes new tasks, each with what shows that its verifier can be trusted.

`load_environment("proofs").proposer().draw(0, seed=0)` is a draft; `gym/admission.py` decides
whether it becomes a task.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from puna.core.messages import Message
from puna.core.rng import stream
from puna.gym.task import Script, Task
from puna.gym.trajectory import Episode

CLASSES = ("easy", "medium", "hard", "impossible")
_LEAST = {"easy": 0.8, "medium": 0.2}


def difficulty(passed: int, tried: int) -> str:
    """The class of a task that `passed` of `tried` answers solved; "" where none was judged.

    Easy from a share of 0.8 on, medium from 0.2 on, hard above 0, else impossible: the classes of
    Propose, Solve, Verify (arXiv 2512.18160).
    """
    if tried < 1:
        return ""
    for name, least in _LEAST.items():
        if passed / tried >= least:
            return name
    return "hard" if passed else "impossible"


@dataclass(frozen=True)
class Draft:
    """A proposed task.

    `task.key` is the problem in its environment's own normal form: equal keys are one problem.
    `reference`: scripts by role that solve it, empty where nobody has yet. `mutants`: variants of
    the reference that are known to be wrong, by name. `provenance`: where it comes from, as JSON.
    """

    task: Task
    reference: Mapping[str, Script] = field(default_factory=dict)
    mutants: Mapping[str, Mapping[str, Script]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What a policy is asked for: a class of difficulty, and examples, each with its class.

    Empty classes are not said.
    """

    target: str = ""
    examples: tuple[tuple[Task, str], ...] = ()


class UnfitError(ValueError):
    """A proposal of which no task can be made: `reason` in few words, for tables, and `detail`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


class Proposer(Protocol):
    """Makes drafts for one environment, of what a policy answers or of a source without one."""

    def known(self) -> Collection[str]:
        """Keys of what is no new task: those that there are, held-out ones above all."""
        ...

    def ask(self, wanted: Wanted) -> tuple[Message, ...]:
        """The prompt for a policy that is to propose a task."""
        ...

    def draft(self, answer: str, number: int) -> Draft:
        """What an answer proposes, cleaned. Raises UnfitError."""
        ...

    def draw(self, number: int, seed: int) -> Draft:
        """Proposal `number` of the source that needs no policy. Raises UnfitError."""
        ...

    def solved(self, draft: Draft, episode: Episode) -> Draft:
        """The draft with what this episode did as its reference, and mutants of that."""
        ...

    def plausible(self, task: Task, episode: Episode) -> bool:
        """Whether what an episode handed in has the form of a solution, right or not."""
        ...

    def to_json(self, draft: Draft) -> Mapping[str, Any]:
        """What a file keeps of a draft; `from_json` makes it again."""
        ...

    def from_json(self, data: Mapping[str, Any]) -> Draft:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError."""
        ...


def wanted(
    pool: Sequence[tuple[Task, str]],
    number: int,
    seed: int,
    *,
    shots: int,
    labels: bool = True,
    fixed: bool = False,
) -> Wanted:
    """Proposal `number` is asked for so: a class at random, and `shots` tasks of the pool.

    The classes take turns among the examples as far as the pool has them. Without `labels` no
    class is said; `fixed`: the examples are the same for every number.
    """
    rng = stream(seed, "wanted", -1 if fixed else number)
    of_class = {name: [p for p in pool if p[1] == name] for name in ("", *CLASSES)}
    shuffled = [[p[i] for i in rng.permutation(len(p))] for p in of_class.values() if p]
    chosen: list[tuple[Task, str]] = []
    while len(chosen) < shots and any(shuffled):
        chosen += [p.pop() for p in shuffled if p][: shots - len(chosen)]
    examples = tuple(chosen[i] for i in rng.permutation(len(chosen)))
    if not labels:
        return Wanted("", tuple((task, "") for task, _ in examples))
    return Wanted(CLASSES[int(stream(seed, "target", number).integers(len(CLASSES)))], examples)
