"""shop: multi-turn customer service by tools over a real database. `puna env try shop`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from puna.core.messages import Message
from puna.core.outcome import Outcome, Scored
from puna.core.rng import stream
from puna.envs.shop import database, oracle, practice
from puna.envs.shop.cheats import cheats
from puna.envs.shop.customer import Customer
from puna.envs.shop.judge import Event, judge_episode
from puna.envs.shop.policy import system_text
from puna.envs.shop.scene import Scene, draw
from puna.envs.shop.tools import TOOLBOX, WRITES, Desk
from puna.gym.environment import Environment, JudgeContext, Limits, Session, Turn
from puna.gym.task import Script, Task
from puna.gym.trajectory import Episode

MAX_CALLS = 8  # of one message; with more the customer leaves
# What the best script earns that copies numbers but reads no words, by `intents`
# (tests/envs/test_shop_fixed.py measures it).
CHANCE = {1: 0.078, 2: 0.049}
LOGGED = 2000  # characters kept of a speech: more than any question needs


@dataclass(frozen=True)
class ShopConfig:
    """What a conversation holds.

    `prompt` "full" states policy and tools, "none" leaves both out (for models that learnt them
    from demonstrations); `intents` is the most requests of a conversation, 1 or 2; `forbidden` is
    the share of requests that the policy forbids; a `small` shop has few numbers and names, so
    that a tiny model learns to copy them in minutes.
    """

    prompt: Literal["full", "none"] = "full"
    intents: int = 2
    forbidden: float = 0.5
    small: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a range without problems."""
        if self.intents not in (1, 2):
            raise ValueError(f"intents is {self.intents}, must be 1 or 2")
        if not 0 <= self.forbidden <= 1:
            raise ValueError(f"forbidden is {self.forbidden}, must be 0 to 1")


class Shop(Environment):
    """Serve a customer by tools over a database, and keep the shop's policy."""

    name: ClassVar[str] = "shop"
    version: ClassVar[str] = "3.0"
    chance: ClassVar[float] = 0.049
    Config: ClassVar[type] = ShopConfig
    sizes: ClassVar[Mapping[str, int]] = {"train": 1_000_000, "test": 2_000}

    def __init__(self, config: ShopConfig | None = None, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.chance = CHANCE[self.config.intents]  # type: ignore[misc]
        # Twice what the reference needs at most: calls that fail could otherwise go on for long.
        self.limits = Limits(turns=12 if self.config.intents == 1 else 18)  # type: ignore[misc]

    def count(self, split: str) -> int:
        """A million train tasks, 2,000 test tasks."""
        return self.sizes[split]

    def task(self, split: str, index: int) -> Task:
        """Conversation `index`: phrasings and pairs of intents belong to one split alone."""
        self._check(split, index)
        rng = stream(self.seed, self.name, split, index)
        config = self.config
        scene = draw(rng, split, config.intents, config.forbidden, config.small)
        full = self.config.prompt == "full"
        opening = Message.user(scene.opening)
        return Task(
            id=f"{self.name}/{split}/{index}",
            messages=(Message.system(system_text()), opening) if full else (opening,),
            key=json.dumps([scene.opening, *(r.opening for r in scene.requests), scene.rows]),
            hidden={"scene": scene},
            tools=TOOLBOX.schemas if full else (),
            tags={
                "requests": str(len(scene.requests)),
                "policy": "forbids" if any(r.reason for r in scene.requests) else "allows",
            },
        )

    def setup(self) -> bytes:
        """The database that every episode copies."""
        return database.template()

    def start(self, task: Task, resources: Any, ctx: Any) -> Session:
        """A conversation over a fresh copy of the database."""
        return Conversation(task, resources)

    def judge(
        self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: JudgeContext
    ) -> Sequence[Mapping[str, Outcome]]:
        """1 where the database ends as the reference's and every rule was kept, else 0."""
        return [{"agent": _judge(episode, hidden["scene"])} for episode in episodes]

    def oracle(self, task: Task) -> Mapping[str, Script]:
        """Verifies, looks, asks, writes or refuses."""
        return {"agent": oracle.script(oracle.actions(task.hidden["scene"]))}

    def practice(self, index: int) -> tuple[Message, ...]:
        """The tools at random, on a database of its own."""
        rng = stream(self.seed, self.name, "practice", index)
        return practice.practice(rng, self.config.small)

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        """The oracle with one rule broken, for each rule that this task can break."""
        found = cheats(task.hidden["scene"])
        return {rule: {"agent": oracle.script(said)} for rule, said in found.items()}


class Conversation:
    """An episode: tool calls are run at once, speech goes to the customer."""

    def __init__(self, task: Task, template: bytes) -> None:
        scene: Scene = task.hidden["scene"]
        self.db = database.open_copy(template, scene.rows)
        self.desk, self.customer = Desk(self.db), Customer(scene)
        self.messages, self.tools = task.messages, task.tools
        self.unstated = () if task.tools else TOOLBOX.schemas
        self.settled: set[int] = set()
        self.log: list[Event] = []
        self.over = False

    def next(self) -> Turn | None:
        """The agent's turn, until the customer has left."""
        if self.over:
            return None
        return Turn("agent", self.messages, self.tools, self.unstated)

    def take(self, turn: Turn, message: Message) -> None:
        """Run the calls, or let the customer answer; the agent speaks for nobody else."""
        said = replace(message, role="assistant") if message.role != "assistant" else message
        self.messages = (*self.messages, said)
        calls = message.tool_calls
        if message.text:
            self.log.append(["said", message.text[:LOGGED], ""])
        if len(calls) > MAX_CALLS:
            self._hear(None, "left")
            return
        for call in calls:
            result = TOOLBOX.dispatch(call, self.desk)
            self.messages = (*self.messages, Message("tool", (result,)))
            if result.is_error:
                if not self.customer.bears():
                    self._hear(None, "left")
                    return
            else:
                self.log.append(["called", call.name, call.arguments])
                if call.name in (*WRITES, "refuse"):
                    self.settled.add(int(json.loads(call.arguments)["id"]))
        if self.customer.sees(self.settled):
            self._hear(*self.customer.next_request())
        elif not calls:
            verified = self.desk.verified is not None
            self._hear(*self.customer.hear(message.text, verified))

    def _hear(self, answer: str | None, kind: str) -> None:
        self.log.append(["heard", answer or "", kind])
        self.over = answer is None
        if answer is not None:
            self.messages = (*self.messages, Message.user(answer))

    def artifacts(self) -> Mapping[str, bytes]:
        """The final database, and what was said and called."""
        return {"shop.db": self.db.serialize(), "log.json": json.dumps(self.log).encode()}

    def close(self) -> None:
        """Let the database go."""
        self.db.close()


def _judge(episode: Episode, scene: Scene) -> Scored:
    if episode.ended != "done":
        return Scored(0.0, False, evidence=f"the conversation was cut off: {episode.ended}")
    return judge_episode(episode.artifacts["shop.db"], episode.artifacts["log.json"], scene)
