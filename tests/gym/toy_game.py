"""A two-role game: the proposer picks a number, the guesser finds it by "higher" and "lower"."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from puna.core.messages import Message
from puna.core.outcome import Outcome, Scored
from puna.core.rng import Key
from puna.engine.policy import Completion, SamplingParams
from puna.gym.environment import Environment, Limits, Turn, say
from puna.gym.loop import Group, Job, Rollout
from puna.gym.task import Script, Task
from puna.gym.trajectory import Episode
from puna.text.images import Picture
from puna.text.tokenizer import Tokenizer

SECRET = "password-of-the-grader"


def number(text: str) -> int | None:
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 4 else None


class Game:
    """One episode: pick, then guess until right."""

    def __init__(self, task: Task) -> None:
        self.picked: int | None = None
        self.guesses: list[int | None] = []
        self.talk = {
            "proposer": [*task.messages, Message.user("Pick a number.")],
            "guesser": [*task.messages, Message.user("Guess it.")],
        }
        self.closed = 0

    def next(self) -> Turn | None:
        if self.picked is not None and self.guesses[-1:] == [self.picked]:
            return None
        role = "proposer" if self.picked is None else "guesser"
        return Turn(role, tuple(self.talk[role]))

    def take(self, turn: Turn, message: Message) -> None:
        self.talk[turn.role].append(message)
        value = number(message.text)
        if turn.role == "proposer":
            self.picked = 1 if value is None else value
            return
        self.guesses.append(value)
        hint = "?" if value is None else "higher" if value < self.picked else "lower"  # type: ignore[operator]
        self.talk["guesser"].append(Message.user(hint))

    def artifacts(self) -> Mapping[str, bytes]:
        return {"log": json.dumps([self.picked, self.guesses]).encode()}

    def close(self) -> None:
        self.closed += 1
        assert self.closed == 1


class Guess(Environment):
    """The fastest guesser of a group earns 1; the proposer a tenth for each guess it cost."""

    name = "guess"
    version = "1.0"
    roles = ("proposer", "guesser")
    limits = Limits(turns=12)

    def count(self, split: str) -> int:
        return 5

    def task(self, split: str, index: int) -> Task:
        self._check(split, index)
        ask = (Message.system(f"Numbers from 1 to {15 + index}, {split}."),)
        return Task(f"guess/{split}/{index}", ask, f"{split}{index}", {"secret": SECRET})

    def start(self, task: Task, resources: Any, ctx: Any) -> Game:
        return Game(task)

    def judge(
        self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: Any
    ) -> Sequence[Mapping[str, Outcome]]:
        assert hidden["secret"] == SECRET
        logs = [json.loads(e.artifacts["log"]) for e in episodes]
        costs = [len(g) if g[-1:] == [p] else 99 for p, g in logs]
        best = min(costs)
        return [
            {
                "proposer": Scored(min(c, 10) / 10, c > 3, {"guesses": float(c)}),
                "guesser": Scored(float(c == best < 99), c < 99),
            }
            for c in costs
        ]

    def oracle(self, task: Task) -> Mapping[str, Script]:
        return {"proposer": say("7"), "guesser": bisect}


def bisect(messages: Sequence[Message]) -> Message:
    """Halves what is left of 0..15."""
    low, high = 0, 15
    for said, hint in zip(messages[2::2], messages[3::2], strict=False):
        if hint.text == "higher":
            low = int(said.text) + 1
        else:
            high = int(said.text) - 1
    return Message.assistant(str((low + high) // 2))


def upwards(messages: Sequence[Message]) -> Message:
    """1, 2, 3, ..."""
    return Message.assistant(str(1 + len(messages) // 2 - 1))


TOKENIZER = Tokenizer.train(["Pick a number. Guess it. higher lower 1 2 3"] * 3, 300)


class Speaker:
    """A Sampler that says what `script(prompt text, key)` says, one token at a time."""

    max_context = 10_000

    def __init__(self, script: Callable[[str, tuple[Key, ...]], str], finish: str = "stop") -> None:
        self.tokenizer, self.script, self.finish = TOKENIZER, script, finish
        self.calls: list[tuple[tuple[int, ...], tuple[Key, ...], SamplingParams]] = []

    async def sample(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        key: tuple[Key, ...],
        pictures: Sequence[Picture] = (),
    ) -> Completion:
        self.calls.append((tuple(prompt_ids), key, params))
        await asyncio.sleep(0)
        said = self.script(TOKENIZER.decode(prompt_ids), key)
        ids = TOKENIZER.encode(said)
        if self.finish == "stop":
            ids = [*ids, TOKENIZER.special("eot")]
        logprobs = tuple(-0.5 - i / 64 for i in range(len(ids)))
        return Completion(tuple(ids), logprobs, len(self.calls), self.finish)


def play(
    env: Environment, policies: Mapping[str, Any], jobs: Sequence[Job], **kw: Any
) -> list[Group]:
    """All groups of these jobs."""

    async def all_of() -> list[Group]:
        rollout = Rollout(env, policies, **kw)
        try:
            return [group async for group in rollout.run(jobs)]
        finally:
            rollout.close()

    return asyncio.run(all_of())
