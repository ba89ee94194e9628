"""Environments of one turn as verifiers taskset packages, whose scores come from here.

`write("arithmetic", Path("out"), {}, 0)`; what it writes uses `Source` of this file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from puna.core.errors import UserError
from puna.core.files import write_text
from puna.core.messages import Message
from puna.core.outcome import Outcome, Scored
from puna.gym.environment import Environment
from puna.gym.loop import Context, play_scripts, refuse_less_isolation
from puna.gym.registry import load_environment
from puna.gym.task import Script, Task
from puna.gym.verify import judge_group
from puna.gym.workers import Workers

_PYPROJECT = """\
[project]
name = "{dashed}"
version = "{version}"
description = "{name} of Puna as a verifiers taskset."
requires-python = ">=3.11"
dependencies = ["verifiers>=0.4", "puna"]

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.hatch.build.targets.wheel]
packages = ["{package}"]
"""

_INIT = '''\
"""{name} of Puna as a verifiers taskset; its scores come from Puna."""

from {package}.taskset import {prefix}Taskset

__all__ = ["{prefix}Taskset"]
'''

_TASKSET = '''\
"""{name} {version} of Puna as a verifiers taskset: vf-eval {dashed}."""

from collections.abc import Iterator
from typing import Literal

import verifiers.v1 as vf
from puna.compat.verifiers_export import Source

SOURCE = Source({env!r}, {settings!r}, {seed!r})


class {prefix}Data(vf.TaskData):
    """Which task of Puna it is; what only the verifier sees stays there."""

    split: str
    index: int


class {prefix}Task(vf.Task[{prefix}Data]):
    """Judged by Puna's verifier."""

    @vf.reward(weight=1.0)
    async def puna(self, trace: vf.Trace) -> float:
        """The value of the last answer; a failure of the machinery is an error, not a 0."""
        said = "".join(m.content or "" for m in trace.assistant_messages[-1:])
        row = self.data
        found = await SOURCE.score(row.split, row.index, said, trace.is_truncated)
        trace.info["puna"] = {{"success": found.success, "evidence": found.evidence}}
        return found.value

    async def validate(self, runtime) -> bool:
        """Whether the reference solution succeeds."""
        return (await SOURCE.reference(self.data.split, self.data.index)).success


class {prefix}Config(vf.TasksetConfig):
    """Which tasks are loaded."""

    split: Literal["train", "test"] = "test"
    count: int = 100


class {prefix}Taskset(vf.Taskset[{prefix}Task, {prefix}Config]):
    """The first `count` tasks of a split."""

    def load(self) -> Iterator[{prefix}Task]:
        """Yield them."""
        for row in SOURCE.rows(self.config.split, self.config.count):
            yield {prefix}Task({prefix}Data(**row), self.config.task)
'''


def write(env_name: str, directory: Path, settings: Mapping[str, Any], seed: int) -> Path:
    """Write the package into `directory`; its folder. Raises UserError where it has more turns."""
    file = Path(env_name)
    name = str(file.resolve()) if env_name.endswith(".py") and file.is_file() else env_name
    source = Source(name, settings, seed)
    env = source.env
    _refuse_more_than_one_turn(env)
    slug = re.sub(r"[^a-z0-9]+", "_", env.name.lower()).strip("_")
    package = f"puna_{slug}"
    words = {
        "name": env.name,
        "version": env.version,
        "env": name,
        "settings": dict(settings),
        "seed": seed,
        "package": package,
        "dashed": package.replace("_", "-"),
        "prefix": "".join(w.capitalize() for w in package.split("_")),
    }
    folder = directory / package
    folder.mkdir(parents=True, exist_ok=True)
    write_text(directory / "pyproject.toml", _PYPROJECT.format(**words))
    write_text(folder / "__init__.py", _INIT.format(**words))
    write_text(folder / "taskset.py", _TASKSET.format(**words))
    return folder


def _refuse_more_than_one_turn(env: Environment) -> None:
    """Raises UserError where one answer in text is not a whole episode."""
    task, resources = env.task("test", 0), env.setup()
    why = f"has roles {', '.join(env.roles)}" if len(env.roles) > 1 else ""
    why = "has tools" if task.tools else why
    if not why:
        session = env.start(task, resources, Context())
        try:
            turn = session.next()
            if turn is not None:
                session.take(turn, Message.assistant(""))
            why = "" if session.next() is None else "has more than one turn"
        finally:
            session.close()
    env.teardown(resources)
    if why:
        fix = "serve it by puna.compat.openenv.app, and play that by verifiers' taskset openenv"
        raise UserError(f"{env.name} {why}, so it is no taskset", fix)


class Source:
    """The environment behind an exported package, loaded when it is first asked for."""

    def __init__(self, env_name: str, settings: Mapping[str, Any], seed: int) -> None:
        self.env_name, self.settings, self.seed = env_name, settings, seed

    @cached_property
    def env(self) -> Environment:
        """The environment. Raises UserError where it cannot be loaded or isolated."""
        env = load_environment(self.env_name, self.settings, self.seed)
        refuse_less_isolation(env)
        return env

    @cached_property
    def _shared(self) -> tuple[Workers, Any]:
        return Workers(2), self.env.setup()

    def rows(self, split: str, count: int) -> Iterator[dict[str, Any]]:
        """The fields of the first `count` tasks of `split` as verifiers' data."""
        for index in range(min(count, self.env.count(split))):
            task = self.env.task(split, index)
            yield {"name": task.id, "split": split, "index": index, **_prompt(task)}

    async def score(self, split: str, index: int, said: str, cut_off: bool) -> Scored:
        """What answer `said` earns. Raises RuntimeError where it cannot be judged."""
        task = self.env.task(split, index)
        return await self._play(
            task, {self.env.roles[0]: lambda _: Message.assistant(said)}, cut_off
        )

    async def reference(self, split: str, index: int) -> Scored:
        """What the reference solution earns. Raises RuntimeError where it cannot be judged."""
        task = self.env.task(split, index)
        return await self._play(task, self.env.oracle(task), False)

    async def _play(self, task: Task, scripts: Mapping[str, Script], cut_off: bool) -> Scored:
        workers, resources = self._shared
        episode = await play_scripts(self.env, task, scripts, Context(), resources)
        episode = replace(episode, ended="tokens") if cut_off else episode
        verdicts = await judge_group(self.env, task, [episode], Context(), workers, resources)
        outcome: Outcome = verdicts[0][self.env.roles[0]]
        if not isinstance(outcome, Scored):
            raise RuntimeError(f"{task.id} has no score: {outcome}")
        return outcome


def _prompt(task: Task) -> dict[str, Any]:
    """The task's messages as verifiers has them: a system prompt apart, one question as text."""
    shown = list(task.messages)
    out: dict[str, Any] = {}
    if shown and shown[0].role == "system":
        out["system_prompt"] = shown.pop(0).text
    plain = len(shown) == 1 and shown[0] == Message.user(shown[0].text)
    return {**out, "prompt": shown[0].text if plain else [m.to_openai() for m in shown]}
