"""What the tests of experiment share: small repositories, and episodes played and judged."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puna.core.outcome import Outcome
from puna.envs.experiment.env import Experiment, ExperimentConfig
from puna.envs.experiment.source import Source, read_source
from puna.gym.loop import Context, play_scripts
from puna.gym.task import Script, Task
from puna.gym.verify import judge_group
from puna.gym.workers import Workers

RUN = """
    import json, sys
    from work import scaled, total
    seed = int(sys.argv[1])
    print("a line of a log")
    print(json.dumps({"total": total([seed, 2, 3]), "scaled": scaled([1, 2], 3.0)}))
"""
WORK = """
    def total(values):
        '''The sum of the values.'''
        result = 0
        for value in values:
            result += value
        return result


    def scaled(values, factor):
        '''Every value times the factor.'''
        return [factor * value for value in values]


    def unused(values):
        '''Nobody calls this.'''
        return sorted(values)[0] + len(values)
"""


def repository(folder: Path, **files: str) -> Path:
    """A folder with run.py and work.py, or others by name: `a__b_py` is a/b.py."""
    for name, text in {"run_py": RUN, "work_py": WORK, **files}.items():
        path = folder / name.replace("__", "/").replace("_py", ".py").replace("_md", ".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))
    return folder


def source_of(folder: Path, **more: str) -> Source:
    """The source with its files; the commands are `run.py 1` and `run.py 5` if not given."""
    given = {"command": "python3 run.py 1", "second": "python3 run.py 5", **more}
    return read_source(Source(repo=str(folder), **given))


def environment(folder: Path, **settings: Any) -> Experiment:
    """An environment whose proposer draws from the folder."""
    given = {"command": "python3 run.py 1", "second": "python3 run.py 5", "seconds": 10.0}
    return Experiment(ExperimentConfig(repo=str(folder), **{**given, **settings}))


def judged(env: Experiment, task: Task, scripts: Mapping[str, Script]) -> Outcome:
    """What an episode by these scripts earns."""

    async def play() -> Outcome:
        workers = Workers(1)
        try:
            episode = await play_scripts(env, task, scripts, Context())
            (found,) = await judge_group(env, task, [episode], Context(), workers)
        finally:
            workers.close()
        return found["agent"]

    return asyncio.run(play())
