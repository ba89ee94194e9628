"""Environments of few tasks, or of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from benchmarks.planted.play import plain
from puna.core.messages import Message
from puna.core.outcome import Scored
from puna.gym.environment import Environment, OneTurn, Session, Verdicts, say
from puna.gym.task import Script, Task
from puna.gym.trajectory import Episode


class Listed(Environment):
    """Questions written by hand, each with one answer."""

    questions: ClassVar[Mapping[str, Sequence[tuple[str, str]]]] = {}

    def count(self, split: str) -> int:
        return len(self.questions[split])

    def task(self, split: str, index: int) -> Task:
        self._check(split, index)
        text, answer = self.questions[split][index]
        id_ = f"{self.name}/{split}/{index}"
        return Task(id_, (Message.user(text),), text, hidden={"answer": answer})

    def start(self, task: Task, resources: Any, ctx: Any) -> Session:
        return OneTurn(task)

    def judge(self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: Any) -> Verdicts:
        good = [e.ended == "done" and plain(e.said()) == hidden["answer"] for e in episodes]
        return [{"agent": Scored(float(g), g)} for g in good]

    def oracle(self, task: Task) -> Mapping[str, Script]:
        return {"agent": say(task.hidden["answer"])}

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        texts = {"nothing": "", "zero": "0", "echo": task.messages[0].text}
        return {name: {"agent": say(text)} for name, text in texts.items()}


class Riddles(Listed):
    """Ten riddles."""

    name = "riddles"
    questions: ClassVar = {
        "train": (
            ("What has hands but cannot clap? One word.", "clock"),
            ("What gets wetter the more it dries? One word.", "towel"),
            ("What has keys but opens no door, and is played? One word.", "piano"),
            ("What has a neck but no head, and holds wine? One word.", "bottle"),
            ("What goes up when rain comes down? One word.", "umbrella"),
            ("What has teeth but cannot bite, and tidies hair? One word.", "comb"),
        ),
        "test": (
            ("What has an eye but cannot see, and a thread? One word.", "needle"),
            ("What has a bed but never sleeps, and a mouth? One word.", "river"),
            ("What has rings but no fingers, and leaves? One word.", "tree"),
            ("What must be broken before it is eaten for breakfast? One word.", "egg"),
        ),
    }


class OneProof(Listed):
    """One long computation to train on, one to test."""

    name = "one-number"
    questions: ClassVar = {
        "train": (("What is the 30th prime number?", "113"),),
        "test": (("What is the 40th prime number?", "173"),),
    }
