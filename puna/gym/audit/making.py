"""Tasks as an audit makes them: each once, announced beforehand, and with what making one costs.

`tasks = Tasks(env); tasks("train", 0)` makes one, `tasks.seconds` is what it takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from puna.gym.environment import Environment
from puna.gym.task import Task

SLOW_S = 0.03  # CPU-seconds to make a task: then few are made, and fewer made again
FEW = 4  # of each split

Note = Callable[[str], None]


def silent(text: str) -> None:
    """A note to nobody."""


class Tasks:
    """The tasks of an environment, each made once; `note` is told of each that is about to be."""

    def __init__(self, env: Environment, note: Note = silent) -> None:
        self.env, self.note = env, note
        self.known: dict[tuple[str, int], Task] = {}
        self.spent: list[float] = []  # CPU-seconds

    def __call__(self, split: str, index: int) -> Task:
        """A task. Raises what the environment raises."""
        if (split, index) not in self.known:
            began = time.process_time()
            self.known[split, index] = self.again(split, index)
            self.spent.append(time.process_time() - began)
        return self.known[split, index]

    def again(self, split: str, index: int) -> Task:
        """The same task, made by the environment once more."""
        self.note(f"making task {split}/{index}")
        return self.env.task(split, index)

    @property
    def seconds(self) -> float:
        """CPU-seconds to make one, without the dearest two: the first of a split may make many."""
        usual = sorted(self.spent)[:-2] or self.spent
        return sum(usual) / max(1, len(usual))

    @property
    def slow(self) -> bool:
        """Whether making them is what an audit has to spare."""
        return self.seconds > SLOW_S
