"""Asking a model for critiques of solutions, as tasks: right is who comes to the verdict due.

`Critiques([Solution(task, "#### 3", "#### 4", False)]).task("train", 0)` is the first question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from puna.core.messages import Message
from puna.core.outcome import Outcome, Scored
from puna.gym.environment import Environment, JudgeContext, OneTurn, Session
from puna.gym.passes import QUESTION, VERIFICATION
from puna.gym.task import Task
from puna.gym.trajectory import Episode

ASKED = """{question}

A right solution:
{reference}

Another solution:
{solution}

Is the other solution right, and if not, where does it first go wrong? Answer in at most two \
sentences between <reflect> and </reflect>, without a word about the first solution. Then end with \
one of these lines:
{ask} Yes
{ask} No"""
MOST_SENTENCES = 2
_SENTENCE = re.compile(r"[.!?](?:\s|</reflect>)")


@dataclass(frozen=True)
class Solution:
    """A solution to judge, a right one of the same task beside it, and whether it is right."""

    task: Task
    text: str
    reference: str
    right: bool


class Critiques(Environment):
    """Judge a solution beside a right one."""

    name: ClassVar[str] = "critiques"

    def __init__(self, solutions: Sequence[Solution]) -> None:
        super().__init__()
        self.solutions = solutions

    def count(self, split: str) -> int:
        """One task a solution, to train on."""
        return len(self.solutions) if split == "train" else 0

    def task(self, split: str, index: int) -> Task:
        """The question with both solutions."""
        self._check(split, index)
        given = self.solutions[index]
        told = ASKED.format(
            question=given.task.messages[-1].text,
            reference=given.reference,
            solution=given.text,
            ask=QUESTION,
        )
        hidden = {"right": given.right}
        return Task(f"{self.name}/{split}/{index}", (Message.user(told),), told, hidden)

    def start(self, task: Task, resources: Any, ctx: Any) -> Session:
        """One turn."""
        return OneTurn(task)

    def judge(
        self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: JudgeContext
    ) -> list[Mapping[str, Outcome]]:
        """1 for the verdict due, in form and after two sentences at most; 0 for anything else."""
        out: list[Mapping[str, Outcome]] = []
        for episode in episodes:
            text = episode.said().strip()
            found = VERIFICATION.fullmatch(text)
            fine = (
                found is not None
                and episode.ended == "done"
                and (found["verdict"] == "Yes") == hidden["right"]
                and len(_SENTENCE.findall(text, 0, found.start("verdict"))) <= MOST_SENTENCES + 1
            )
            out.append({"agent": Scored(float(fine), fine)})
        return out
