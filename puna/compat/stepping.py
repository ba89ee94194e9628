"""An episode step by step, for libraries that ask for each step: the one episode loop, held still.

`player = Stepper(env); player.begin("train", 0); player.say(Message.assistant("7"))`.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

from puna.core.errors import UserError
from puna.core.messages import Message, Text, ToolResult
from puna.gym.environment import Environment, Turn, say
from puna.gym.loop import Job, Rollout, unseen
from puna.gym.seat import ContextFullError, Scripted
from puna.gym.trajectory import Trajectory

_PATIENCE = 60.0  # seconds on top of what the environment's own limits allow


class Stepper:
    """Plays an environment of one role; between two calls the episode waits.

    `new` holds the messages that the last turn was the first to show, `tools` what may be called;
    `trajectory` is the judged record once the episode is over. `resources` of an earlier
    `env.setup()` may be lent. Raises UserError where several roles act.
    """

    def __init__(self, env: Environment, resources: Any = None) -> None:
        if len(env.roles) != 1:
            what = f"{env.name} has the roles {', '.join(env.roles)}"
            raise UserError(what, "step by step only one can be played")
        role = env.roles[0]
        self.env = env
        self._rollout = Rollout(
            env,
            {role: Scripted(say(""))},  # never asked: this object speaks
            agents={role: self},
            workers=1,
            resources=resources,
        )
        self._playing: Any = None
        self._reset()

    def _reset(self) -> None:
        self._told: queue.SimpleQueue[Turn | Trajectory | BaseException] = queue.SimpleQueue()
        self._answers: asyncio.Queue[Message | None] = asyncio.Queue()
        self._heard: list[Message] = []
        self.new: list[Message] = []
        self.tools: Sequence[Any] = ()
        self.trajectory: Trajectory | None = None

    def begin(self, split: str, index: int) -> bool:
        """Start task `index` of `split`, leaving an unfinished episode; False where it is over."""
        self._abandon()
        self._reset()
        told, answers = self._told, self._answers
        play = self._play(Job(split, index), told, answers)
        self._playing = asyncio.run_coroutine_threadsafe(play, _loop(os.getpid()))
        return self._wait()

    def say(self, message: Message) -> bool:
        """Speak in the turn that is open; False where the episode is over then."""
        if self.trajectory is not None or self._playing is None:
            raise RuntimeError("the episode is over")
        self._heard.append(message)
        return self._answer(message)

    def stop(self) -> None:
        """End an episode that waits: it is judged as one whose messages no longer fit the model."""
        if self.trajectory is None and self._playing is not None:
            self._answer(None)

    def close(self) -> None:
        """Leave the episode and let the workers go."""
        self._abandon()
        self._rollout.close()

    async def act(self, turn: Turn, ctx: Any) -> Message:
        """What the loop asks an agent for."""
        told, answers = self._told, self._answers
        told.put(turn)
        message = await answers.get()
        if message is None:
            raise ContextFullError("stopped")
        return message

    def _answer(self, message: Message | None) -> bool:
        _loop(os.getpid()).call_soon_threadsafe(self._answers.put_nowait, message)
        return self._wait()

    async def _play(self, job: Job, told: Any, answers: Any) -> None:
        try:
            async for group in self._rollout.run([job]):
                told.put(group.trajectories[0])
        except BaseException as error:
            told.put(error)

    def _wait(self) -> bool:
        patience = self.env.limits.seconds + 3 * self.env.judge_seconds + _PATIENCE
        try:
            told = self._told.get(timeout=patience)
        except queue.Empty:
            raise TimeoutError(f"{self.env.name} did nothing for {patience:g} s") from None
        if isinstance(told, BaseException):
            self._playing = None
            raise told
        if isinstance(told, Trajectory):
            self.trajectory, self.new, self.tools = told, [], ()
            return False
        self.new, self.tools = unseen(told.messages, self._heard), told.tools
        self._heard += self.new
        return True

    def _abandon(self) -> None:
        if self._playing is not None and not self._playing.done():
            self._playing.cancel()


@cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own, one a process: the caller may have a loop running."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="puna-steps").start()
    return loop


def shown(messages: Sequence[Message]) -> str:
    """Messages as one text: a single one as it stands, several with who spoke before each."""
    texts = [_text(m) for m in messages]
    if len(messages) == 1:
        return texts[0]
    return "\n\n".join(f"{m.role}: {t}" for m, t in zip(messages, texts, strict=True))


def _text(message: Message) -> str:
    results = [p for p in message.parts if isinstance(p, ToolResult)]
    answers = [x.text for r in results for x in r.parts if isinstance(x, Text)]
    return "\n".join([*answers, message.text] if message.text else answers)
