"""What the environments of this folder share: small splits, worlds behind tools, scripted answers.

`Asked` is a SingleTurn of a few hundred tasks. `Played` adds a `World` whose methods are the
agent's tools; the verifier sees the world's final state as an artifact.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import numpy as np

from puna.core.messages import Message, ToolCall
from puna.core.outcome import Scored
from puna.gym.environment import Limits, Problem, Session, SingleTurn, Turn, Verdicts
from puna.gym.task import Script, Task
from puna.gym.tools import Toolbox, ToolError
from puna.gym.trajectory import Episode

T = TypeVar("T")
STATE = "state.json"


def sized(train: int, test: int) -> Mapping[str, int]:
    """The numbers of tasks."""
    return {"train": train, "test": test}


class Asked(SingleTurn):
    """One question, one answer; a few hundred tasks."""

    sizes: ClassVar[Mapping[str, int]] = sized(2000, 200)


class World:
    """One episode's state; `tools` are the methods the agent may call. `said` is its last word."""

    tools: ClassVar[tuple[Callable[..., Any], ...]] = ()

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.over = False
        self.said = ""

    def state(self) -> Any:
        """What the verifier gets, as JSON."""
        return {"said": self.said}


class Played(Asked):
    """Tools over a world until the agent speaks without a call, or the world is over."""

    World: ClassVar[type[World]]
    limits: ClassVar[Limits] = Limits(turns=12)

    def world(self, problem: Problem, resources: Any) -> World:
        return self.World(problem)

    def toolbox(self, problem: Problem) -> Toolbox:
        return Toolbox(*self.World.tools)

    def schemas(self, problem: Problem) -> tuple[Mapping[str, Any], ...]:
        return self.toolbox(problem).schemas

    def task(self, split: str, index: int) -> Task:
        task = super().task(split, index)
        problem: Problem = task.hidden["problem"]
        files = {path: text.encode() for path, text in problem.hidden.get("files", {}).items()}
        return replace(task, tools=self.schemas(problem), files=files)

    def start(self, task: Task, resources: Any, ctx: Any) -> Session:
        problem: Problem = task.hidden["problem"]
        return Play(task, self.world(problem, resources), self.toolbox(problem))

    def judge(self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: Any) -> Verdicts:
        return [{"agent": self.verdict(e, hidden["problem"])} for e in episodes]

    def verdict(self, episode: Episode, problem: Problem) -> Any:
        if episode.ended != "done":
            return Scored(0.0, False, evidence="cut off")
        value = float(self.grade(json.loads(episode.artifacts[STATE]), problem))
        return Scored(value, value >= 1.0)

    def grade(self, state: Any, problem: Problem) -> float:
        """How good the final state is, 0 to 1."""
        raise NotImplementedError

    def steps(self, problem: Problem) -> list[Message]:
        """The messages of an agent that solves it."""
        raise NotImplementedError

    def oracle(self, task: Task) -> Mapping[str, Script]:
        return {"agent": script(self.steps(task.hidden["problem"]))}


class Play:
    """An episode of a `Played` environment."""

    def __init__(self, task: Task, world: World, toolbox: Toolbox) -> None:
        self.world, self.toolbox = world, toolbox
        self.messages, self.tools = task.messages, task.tools

    def next(self) -> Turn | None:
        return None if self.world.over else Turn("agent", self.messages, self.tools)

    def take(self, turn: Turn, message: Message) -> None:
        self.messages = (*self.messages, message)
        if not message.tool_calls:
            self.world.said, self.world.over = message.text, True
        for one in message.tool_calls:
            result = self.toolbox.dispatch(one, self.world)
            self.messages = (*self.messages, Message("tool", (result,)))
            if self.world.over:
                break

    def artifacts(self) -> Mapping[str, bytes]:
        return {STATE: json.dumps(self.world.state()).encode()}

    def close(self) -> None:
        """Nothing is held."""


class FileWorld(World):
    """A folder kept as a dictionary of paths to texts."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.files: dict[str, str] = dict(problem.hidden["files"])

    def read_file(self, path: str) -> str:
        """Read a file."""
        if path not in self.files:
            raise ToolError(f"no such file: {path:.200}")
        return self.files[path]

    def write_file(self, path: str, content: str) -> str:
        """Write a file, replacing what it held."""
        if not path or len(self.files) > 100:
            raise ToolError("cannot write there")
        self.files[path] = content
        return "ok"

    def list_files(self, path: str = ".") -> str:
        """List the files under a folder."""
        inside = [p for p in sorted(self.files) if path in (".", "", "/") or p.startswith(path)]
        return "\n".join(inside) or "(empty)"

    tools = (read_file, write_file, list_files)

    def state(self) -> Any:
        return {"said": self.said, "files": self.files}


class Shell(FileWorld):
    """The same folder behind `run`: ls, cat, echo, cp, mv, rm, grep, and more in subclasses."""

    def run(self, command: str) -> str:
        """Run a shell command (simple commands, `;`, `&&`, `>` and `>>`)."""
        out = []
        for line in command.replace("&&", ";").replace("\n", ";").split(";"):
            if line.strip():
                out.append(self._one(line))
        return "\n".join(out)[:20_000]

    tools = (run,)

    def _one(self, line: str) -> str:
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise ToolError(f"sh: {error}") from None
        target, append = None, ">>" in words
        for sign in (">>", ">"):
            if sign in words[1:-1]:
                target, words = words[words.index(sign) + 1], words[: words.index(sign)]
        command = getattr(self, f"do_{words[0].replace('-', '_')}", None) if words else None
        if command is None:
            raise ToolError(f"sh: {line.strip():.60}: command not found")
        try:
            text = str(command(*words[1:]))
        except (KeyError, TypeError, IndexError):
            raise ToolError(f"{words[0]}: bad arguments") from None
        if target is None:
            return text
        self.write_file(target, (self.files.get(target, "") if append else "") + text + "\n")
        return ""

    def do_ls(self, *args: str) -> str:
        paths = [a for a in args if not a.startswith("-")] or ["."]
        return "\n".join(self.list_files(p.removeprefix("./")) for p in paths)

    do_find = do_ls

    def do_cat(self, *paths: str) -> str:
        return "\n".join(self.read_file(p.removeprefix("./")).rstrip("\n") for p in paths)

    def do_echo(self, *words: str) -> str:
        return " ".join(words)

    def do_cp(self, source: str, target: str) -> str:
        self.files[target] = self.files[source]
        return ""

    def do_mv(self, source: str, target: str) -> str:
        self.files[target] = self.files.pop(source)
        return ""

    def do_rm(self, *paths: str) -> str:
        for path in paths:
            self.files.pop(path, None)
        return ""

    def do_grep(self, pattern: str, *paths: str) -> str:
        found = [(p, t) for p, t in sorted(self.files.items()) if p in paths or not paths]
        return "\n".join(
            f"{p}:{line}" for p, t in found for line in t.splitlines() if pattern in line
        )


def call(tool: str, **arguments: Any) -> Message:
    """A message that calls one tool."""
    return Message("assistant", (ToolCall("call_0", tool, json.dumps(arguments)),))


def script(messages: Sequence[Message]) -> Script:
    """Says these messages in order, the last one for ever."""

    def speak(heard: Sequence[Message]) -> Message:
        said = sum(m.role == "assistant" for m in heard)
        return messages[min(said, len(messages) - 1)]

    return speak


def done(text: str = "Done.") -> Message:
    """The last word of an agent."""
    return Message.assistant(text)


def pick(rng: np.random.Generator, values: Sequence[T]) -> T:
    """One of `values`."""
    return values[int(rng.integers(len(values)))]


def some(rng: np.random.Generator, values: Sequence[T], count: int) -> list[T]:
    """`count` different ones of `values`, in random order."""
    return [values[int(i)] for i in rng.permutation(len(values))[:count]]


def number(rng: np.random.Generator, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return int(rng.integers(low, high + 1))


def whole(text: str) -> int | None:
    """The whole number that a text is, in ASCII digits and nothing else, or None."""
    text = text.strip(" \n\t")
    return int(text) if re.fullmatch(r"-?[0-9]{1,15}", text) else None


def plain(text: str) -> str:
    """A text in lower case without white space around it; "" where it is not ASCII."""
    text = text.strip(" \n\t")
    return text.lower() if text.isascii() else ""
