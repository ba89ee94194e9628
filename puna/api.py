"""`puna.run(...)` and the run it gives; `puna run` calls the same function.

`puna.run("quickstart", set={"rl.steps": 20}).score("rl").line()`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.core.errors import UserError, nearest

if TYPE_CHECKING:
    from puna.agents.model import Model
    from puna.core.stats import Score
    from puna.report.read import Exam, Stage


class Run:
    """A run's directory as an object, finished or not. Raises UserError where it holds no run.

    >>> import puna
    >>> run = puna.Run("runs/mine")
    >>> [stage.id for stage in run.stages if stage.state == "done"]
    ['pretrain', 'sft', 'rl', 'eval']
    >>> run.stages[1].result["steps"]
    6
    >>> run.model("sft").chat("47+8=", max_tokens=4).role
    'assistant'
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        assert self.stages  # open_run raises for what is no run

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r})"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Its stages in order, as they stand now: `id`, `kind`, `state`, `result`, `metrics`."""
        from puna.report.read import open_run

        return open_run(self.directory).stages

    @property
    def report(self) -> Path:
        """The page about it, to open in a browser."""
        return self.directory / "report.html"

    def model(self, stage: str = "") -> Model:
        """The model of `stage`, of the last trained one if not named; see `puna.load`."""
        from puna.agents.model import load

        return load(self.directory, stage)

    def score(self, stage: str = "", env: str = "") -> Score:
        """What the run's eval stages found of `stage` (the last one scored if not named).

        `env` is needed where there are several. Raises UserError where nothing fits, or more than
        one does.

        >>> import puna
        >>> puna.Run("runs/mine").score("sft").n_tasks
        16
        """
        from puna.report.read import open_run

        exams = open_run(self.directory).exams
        if not exams:
            fix = f"`puna eval {self.directory}` scores it"
            raise UserError(f"{self.directory} has no finished eval stage", fix)
        mine = [e for e in exams if e.stage == (stage or exams[-1].stage)]
        if not mine:
            what = f"no eval stage of {self.directory} scored '{stage}'"
            raise UserError(what, nearest(stage, {e.stage for e in exams}))
        return _score(_only(mine, env).score)


def _only(exams: Sequence[Exam], env: str) -> Exam:
    """The last exam in `env`, which may be left out where there is one environment."""
    names = sorted({e.env for e in exams})
    found = [e for e in exams if env in ("", e.env, e.env.split()[0])]
    if len({e.env for e in found}) == 1:
        return found[-1]
    stage = exams[0].stage
    if not found:
        raise UserError(f"'{stage}' was not scored in '{env}'", nearest(env, names))
    raise UserError(f"'{stage}' was scored in {', '.join(names)}", "name one of them")


def _score(data: Mapping[str, Any]) -> Score:
    """The inverse of `Score.to_json`."""
    from puna.core.stats import Estimate, Score

    plain = dict(data)
    for name in ("value", "success"):
        plain[name] = Estimate(**data[name]) if data[name] else None
    for name in ("pass_at", "pass_hat"):
        plain[name] = {int(j): Estimate(**e) for j, e in data[name].items()}
    return Score(**plain)


def run(
    recipe: str | Path,
    dir: str | Path | None = None,
    set: Mapping[str, Any] | Sequence[str] = (),
    *,
    only: Sequence[str] = (),
    progress: str = "quiet",
    tensorboard: bool = False,
) -> Run:
    """Run a recipe, a file or a shipped one's name, to its end; what is done is not done again.

    `dir` is runs/NAME if not given. `set` changes settings: {"rl.steps": 50}, or ["rl.steps=50"] as
    the command has it. `only` names the stages to run, those they come from included; the same call
    without it does the rest. `progress` is "auto", "plain", "live" or "quiet"; `tensorboard` writes
    the metrics as its events too.

    Raises UserError for whatever the caller can mend, StageError where a stage had to stop.

    >>> import puna
    >>> run = puna.run("mine.toml", set={"rl.steps": 2, "eval.n": 16})
    >>> run
    Run('runs/mine')
    >>> run.report.exists()
    True
    """
    from puna.core.progress import Progress
    from puna.core.recipe import find_recipe, read_recipe
    from puna.run import execute

    path = find_recipe(str(recipe))
    sets = [f"{k}={_toml(v)}" for k, v in set.items()] if isinstance(set, Mapping) else list(set)
    directory = Path("runs") / read_recipe(path, sets).name if dir is None else Path(dir)
    execute(path, directory, sets, Progress(progress), tensorboard, only)
    return Run(directory)


def _toml(value: Any) -> str:
    """A value as `--set` takes it. Raises UserError for what TOML has no word for."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if value is None:
        return "none"
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str | bool | int | float):
        what = f"a setting is {value!r:.60} ({type(value).__name__})"
        raise UserError(what, "give text, a number, true or false, a list or a table")
    # TOML forbids the one control character that JSON lets stand.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
