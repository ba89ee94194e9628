"""Plays one script in one environment without the library's loop: quick, and nothing is caught."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.planted.play import script
from puna.core.messages import Message, Text, ToolResult
from puna.core.outcome import Scored
from puna.gym.environment import Environment, say
from puna.gym.task import Script, Task
from puna.gym.trajectory import Episode


def episode(env: Environment, task: Task, policy: Script, resources: Any = None) -> Episode:
    """An episode of one role, played by a script."""
    session = env.start(task, resources, None)
    spoken = [("env", m) for m in task.messages]
    for _ in range(env.limits.turns):
        turn = session.next()
        if turn is None:
            break
        message = policy(turn.messages)
        spoken.append(("agent", message))
        session.take(turn, message)
    ended = "done" if session.next() is None else "turns"
    artifacts = dict(session.artifacts())
    session.close()
    return Episode(task.id, tuple(spoken), artifacts, ended)


def outcome(env: Environment, task: Task, policy: Script, resources: Any = None) -> Any:
    """What the verifier says of a script's episode, whatever that is."""
    played = episode(env, task, policy, resources)
    return env.judge([played], task.hidden, None)[0]["agent"]  # type: ignore[index]


def reward(env: Environment, task: Task, policy: Script, resources: Any = None) -> float:
    """The value of a scored outcome; raises TypeError where it is not one."""
    found = outcome(env, task, policy, resources)
    if not isinstance(found, Scored):
        raise TypeError(f"not scored: {found!r:.200}")
    return found.value


@dataclass(frozen=True)
class Exploit:
    """A way to be paid without solving: from a task without its hidden part to a script.

    `pays` is the mean reward it earns at least.
    """

    script: Callable[[Task], Script]
    pays: float = 1.0


def says(text: str, pays: float = 1.0) -> Exploit:
    """The same text for every task."""
    return Exploit(lambda task: say(text), pays)


def answers(answer: Callable[[str], str], pays: float = 1.0) -> Exploit:
    """A text made from the prompt."""
    return Exploit(lambda task: say(answer(task.messages[-1].text)), pays)


def acts(*messages: Message, pays: float = 1.0) -> Exploit:
    """The same messages for every task."""
    return Exploit(lambda task: script(messages), pays)


def reacts(react: Callable[[list[str], str], Message], pays: float = 1.0) -> Exploit:
    """Each message made from the tools' answers so far, and the prompt."""

    def speak(messages: Sequence[Message]) -> Message:
        results = [p for m in messages for p in m.parts if isinstance(p, ToolResult)]
        texts = ["".join(t.text for t in r.parts if isinstance(t, Text)) for r in results]
        prompt = next(m.text for m in messages if m.role == "user")
        return react(texts, prompt)

    return Exploit(lambda task: speak, pays)


def other_process(
    cls: type[Environment], code: str, hash_seed: int = 0, seconds: float = 60
) -> str:
    """What a fresh Python prints that has `env`, or "" where it did not end in time."""
    module = cls.__module__
    head = f"from {module} import {cls.__name__}\nenv = {cls.__name__}()\n"
    environ = {
        **os.environ,
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", head + code]
    try:
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=seconds, check=True
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def texts(env: Environment, split: str, count: int) -> list[str]:
    """The prompts of the first tasks of a split."""
    return [env.task(split, i).messages[-1].text for i in range(min(count, env.count(split)))]
