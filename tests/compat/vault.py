"""A small environment with a tool: look into the box that is asked for, say what is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from puna.core.messages import Message, ToolCall
from puna.core.outcome import Outcome, Scored
from puna.core.rng import stream
from puna.gym.environment import Environment, JudgeContext, Limits, Session, Turn
from puna.gym.task import Script, Task
from puna.gym.tools import Toolbox, ToolError
from puna.gym.trajectory import Episode


def look(boxes: Sequence[int], box: Annotated[int, "which one, from 0 to 2"]) -> str:
    """Look into a box."""
    if not 0 <= box < len(boxes):
        raise ToolError(f"there is no box {box}")
    return str(boxes[box])


class Look(Toolbox):
    """`look` without the boxes, which the session gives it."""

    def __init__(self) -> None:
        def shape(box: Annotated[int, "which one, from 0 to 2"]) -> str:
            """Look into a box."""
            return ""

        shape.__name__ = "look"
        super().__init__(shape)
        self.functions["look"] = look


TOOLS = Look()


class Vault(Environment):
    """Say what is in the box that is asked for."""

    name = "vault"
    limits = Limits(turns=4)

    def count(self, split: str) -> int:
        """Plenty."""
        return 1000

    def task(self, split: str, index: int) -> Task:
        """Three boxes, one asked for."""
        self._check(split, index)
        rng = stream(self.seed, self.name, split, index)
        boxes, asked = [int(x) for x in rng.integers(0, 3, 3)], int(rng.integers(3))
        return Task(
            id=f"vault/{split}/{index}",
            messages=(Message.user(f"box {asked}?"),),
            key=f"{split}{index}",
            hidden={"boxes": boxes, "asked": asked},
            tools=TOOLS.schemas,
        )

    def start(self, task: Task, resources: Any, ctx: Any) -> Session:
        """Calls are answered, and the first message without one is the answer."""
        return Visit(task)

    def judge(
        self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: JudgeContext
    ) -> Sequence[Mapping[str, Outcome]]:
        """1 for the number in the box."""
        right = str(hidden["boxes"][hidden["asked"]])
        fine = [e.ended == "done" and e.said() == right for e in episodes]
        return [{"agent": Scored(float(f), f)} for f in fine]

    def oracle(self, task: Task) -> Mapping[str, Script]:
        """Looks, then says."""

        def script(messages: Sequence[Message]) -> Message:
            if messages[-1].role == "user":
                call = ToolCall("c", "look", f'{{"box": {task.hidden["asked"]}}}')
                return Message("assistant", (call,))
            return Message.assistant(messages[-1].parts[0].parts[0].text)  # type: ignore[union-attr]

        return {"agent": script}


class Visit:
    """One episode."""

    def __init__(self, task: Task) -> None:
        self.boxes, self.messages, self.over = task.hidden["boxes"], task.messages, False

    def next(self) -> Turn | None:
        """Until something was said."""
        return None if self.over else Turn("agent", self.messages, TOOLS.schemas)

    def take(self, turn: Turn, message: Message) -> None:
        """Answer the calls."""
        results = [Message("tool", (TOOLS.dispatch(c, self.boxes),)) for c in message.tool_calls]
        self.messages = (*self.messages, replace(message, role="assistant"), *results)
        self.over = not results

    def artifacts(self) -> Mapping[str, bytes]:
        """None."""
        return {}

    def close(self) -> None:
        """Nothing."""
