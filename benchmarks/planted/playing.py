"""Plays one script in one environment without the library's loop: quick, and nothing is caught."""

from __future__ import annotations

from typing import Any

from puna.core.outcome import Scored
from puna.gym.environment import Environment
from puna.gym.task import Script, Task
from puna.gym.trajectory import Episode


def episode(env: Environment, task: Task, script: Script, resources: Any = None) -> Episode:
    """An episode of one role, played by a script."""
    session = env.start(task, resources, None)
    spoken = [("env", m) for m in task.messages]
    for _ in range(env.limits.turns):
        turn = session.next()
        if turn is None:
            break
        message = script(turn.messages)
        spoken.append(("agent", message))
        session.take(turn, message)
    ended = "done" if session.next() is None else "turns"
    artifacts = dict(session.artifacts())
    session.close()
    return Episode(task.id, tuple(spoken), artifacts, ended)


def outcome(env: Environment, task: Task, script: Script, resources: Any = None) -> Any:
    """What the verifier says of a script's episode, whatever that is."""
    played = episode(env, task, script, resources)
    return env.judge([played], task.hidden, None)[0]["agent"]  # type: ignore[index]


def reward(env: Environment, task: Task, script: Script, resources: Any = None) -> float:
    """The value of a scored outcome; raises TypeError where it is not one."""
    found = outcome(env, task, script, resources)
    if not isinstance(found, Scored):
        raise TypeError(f"not scored: {found!r:.200}")
    return found.value
