"""An environment of one file with a proposer: a word of an odd number of bytes is right.

Any model gets it right half of the time, so self-play on it has something to learn from at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from puna.core.messages import Message
from puna.core.outcome import Scored
from puna.gym.environment import Environment, OneTurn, say
from puna.gym.proposer import Draft, UnfitError, Wanted
from puna.gym.task import Task
from puna.gym.trajectory import Episode


class Odd(Environment):
    """Say a word with an odd number of bytes."""

    name = "odd"
    version = "1.0"
    limit = 1_000_000  # bytes of a word that counts

    def count(self, split: str) -> int:
        return 3

    def task(self, split: str, index: int) -> Task:
        self._check(split, index)
        return self.made(f"{split} {index}", f"odd/{split}/{index}")

    def made(self, key: str, name: str) -> Task:
        return Task(name, (Message.user(f"{key[:8]}?"),), key, hidden={"key": key})

    def start(self, task: Task, resources: Any, ctx: Any) -> OneTurn:
        return OneTurn(task)

    def judge(
        self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: Any
    ) -> list[dict[str, Scored]]:
        sizes = [len(e.said().encode(errors="replace")) for e in episodes]
        return [{"agent": Scored(float(n % 2), bool(n % 2))} for n in sizes]

    def oracle(self, task: Task) -> dict[str, Any]:
        return {"agent": say("a")}

    def cheats(self, task: Task) -> dict[str, Any]:
        return {"two": {"agent": say("ab")}}

    def proposer(self) -> OddProposer:
        return OddProposer(self)


class OddProposer:
    """Whatever a policy says names a new task."""

    def __init__(self, env: Odd) -> None:
        self.env = env

    def known(self) -> set[str]:
        return {self.env.task(s, i).key for s in ("train", "test") for i in range(3)}

    def ask(self, wanted: Wanted) -> tuple[Message, ...]:
        shown = " ".join(f"{label}:{task.key[-1]}" for task, label in wanted.examples)
        return (Message.user(f"{wanted.target[:4]} {shown}"[:40]),)

    def draft(self, answer: str, number: int) -> Draft:
        if not answer.strip():
            raise UnfitError("not well-formed", "nothing is said")
        return Draft(self.env.made(answer, f"odd/new/{number}"), provenance={"source": "policy"})

    def draw(self, number: int, seed: int) -> Draft:
        draft = Draft(self.env.made(f"seed {number}", f"odd/drawn/{number}"))
        return self._with(draft, "abc")

    def solved(self, draft: Draft, episode: Episode) -> Draft:
        return self._with(draft, episode.said())

    def plausible(self, task: Task, episode: Episode) -> bool:
        return bool(episode.said())

    def to_json(self, draft: Draft) -> dict[str, Any]:
        said = draft.reference["agent"]([]).text if draft.reference else ""
        return {"key": draft.task.key, "id": draft.task.id, "said": said}

    def from_json(self, data: Mapping[str, Any]) -> Draft:
        draft = Draft(self.env.made(data["key"], data["id"]))
        return self._with(draft, data["said"]) if data["said"] else draft

    def _with(self, draft: Draft, text: str) -> Draft:
        wrong = {"longer": {"agent": say(text + "x")}}
        return Draft(draft.task, {"agent": say(text)}, wrong, draft.provenance)


def write_odd(directory: Path) -> Path:
    """This file as an environment of the user's own."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "odd.py"
    path.write_text(Path(__file__).read_text())
    return path
