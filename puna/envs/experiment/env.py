"""experiment: write the functions that a repository lacks, so that its numbers come out again.

`puna propose experiment --repo DIR --command "python3 run.py" -n 2` makes tasks of any repository;
`puna eval --model URL --env experiment --set env.tasks=FILE` plays them. docs/research-tasks.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from puna.core.errors import UserError
from puna.core.journal import read
from puna.core.outcome import Invalid, Outcome, Scored
from puna.envs.experiment import acting, prompts
from puna.envs.experiment.lab import FailedError, Lab, lab_of
from puna.envs.experiment.numbers import compare
from puna.envs.experiment.research import Research, read_all, with_bodies
from puna.envs.experiment.source import Source, read_source
from puna.envs.experiment.workspace import TOOLBOX, Bodies, Desk, ToolLoop
from puna.gym.environment import Environment, JudgeContext, Limits, Session, Verdicts
from puna.gym.task import SPLITS, Script, Task
from puna.gym.trajectory import Episode
from puna.sandbox import LimitError
from puna.sandbox.limited import CallError

if TYPE_CHECKING:
    from puna.envs.experiment.propose import MaskProposer

SHIPPED = Path(__file__).parent / "shipped"
MOST_MASKED = 5


@dataclass(frozen=True)
class ExperimentConfig:
    """Which tasks, and how they are played.

    `tasks`: a file that `puna propose experiment` wrote, its admitted tasks being the split
    `split`; none: the small ones that ship. `form`: "tools" gives a workspace with tools, "bodies"
    (AutoExperiment's agentless form) asks for each function once. An episode with tools has
    `messages` messages, `tokens` sampled tokens (0: no limit) and `budget` seconds of processor
    time for what it runs; a run of the command has `seconds`.

    What is proposed: `masked` functions are taken out of `repo`, a folder, measured by `command`
    and, hidden from the agent, by `second`; or of `paper`, one that ships or a folder. The numbers
    stand as JSON in the last line printed, or in the file `results`.
    """

    tasks: str = ""
    split: Literal["train", "test"] = "test"
    form: Literal["tools", "bodies"] = "tools"
    messages: int = 50
    tokens: int = 0
    budget: float = 600.0
    seconds: float = 60.0
    repo: str = ""
    paper: str = ""
    command: str = ""
    second: str = ""
    results: str = ""
    masked: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError for a number out of its range."""
        if not 1 <= self.masked <= MOST_MASKED:
            raise ValueError(f"masked is {self.masked}, must be 1 to {MOST_MASKED}")
        if self.messages < 1:
            raise ValueError(f"messages is {self.messages}, must be at least 1")
        if self.tokens < 0:
            raise ValueError(f"tokens is {self.tokens}, must be 0 or more")
        if not 0.1 <= self.seconds <= 3_600 or not self.seconds <= self.budget <= 86_400:
            raise ValueError("seconds must be 0.1 to 3600, and budget no less and at most 86400")

    @property
    def source(self) -> Source:
        """What is proposed from."""
        repo = str(Path(self.repo).expanduser().resolve()) if self.repo else ""
        a_folder = "/" in self.paper
        paper = str(Path(self.paper).expanduser().resolve()) if a_folder else self.paper
        return Source(repo, paper, self.command, self.second, self.results)


class Experiment(Environment):
    """Write the missing functions of a repository; its command must give its numbers again.

    As AutoExperiment (arXiv 2506.19724), but judged by running the command, and a hidden second
    one, on a workspace that has nothing of the agent but the missing bodies.
    """

    name: ClassVar[str] = "experiment"
    version: ClassVar[str] = "1.0"
    tier: ClassVar[str] = "jail"
    judge_seconds: ClassVar[float] = 1_800.0
    Config: ClassVar[type] = ExperimentConfig

    def __init__(self, config: ExperimentConfig | None = None, seed: int = 0) -> None:
        super().__init__(config, seed)
        # The clock must not decide: processor time is what is bounded, see `budget`.
        config = self.config
        self.limits = Limits(config.messages, config.tokens, 100 * config.budget)  # type: ignore[misc]
        if self.config.tasks:
            self.data_files = (Path(self.config.tasks),)
            _ = self.research  # a file without tasks is told at once

    @cached_property
    def research(self) -> Mapping[str, Sequence[Research]]:
        """The tasks by split. Raises UserError where the file is none of tasks."""
        if not self.config.tasks:
            return {split: _read(SHIPPED / f"{split}.jsonl") for split in SPLITS}
        return {**dict.fromkeys(SPLITS, ()), self.config.split: _read(Path(self.config.tasks))}

    def lab(self, source: Source) -> Lab:
        """Where the commands of a source are run."""
        return lab_of(source, self.config.seconds)

    def count(self, split: str) -> int:
        """As many as were admitted."""
        return len(self.research[split])

    def task(self, split: str, index: int) -> Task:
        """Task `index` of a split, in the order of its file."""
        self._check(split, index)
        return self.task_of(self.research[split][index], f"{self.name}/{split}/{index}")

    def task_of(self, research: Research, name: str) -> Task:
        """The task that these missing functions are. Raises ValueError where they make none."""
        tools = self.config.form == "tools"
        asked = (self.config.messages, self.config.budget)
        shown = prompts.with_tools(research, *asked) if tools else prompts.by_function(research)
        return Task(
            id=name,
            messages=shown[:1],
            key=json.dumps([research.source.contents, research.source.command, research.masked]),
            hidden={"research": research},
            tools=TOOLBOX.schemas if tools else (),
            files=research.given,
            tags={"masked": str(len(research.masked))},
        )

    def start(self, task: Task, resources: Any, ctx: Any) -> Session:
        """A workspace of its own, or a question for each function."""
        research: Research = task.hidden["research"]
        if self.config.form == "bodies":
            return Bodies(research, prompts.by_function(research))
        desk = Desk(research.given, self.lab(research.source), self.config.budget)
        return ToolLoop(research, task.messages, desk)

    def judge(
        self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: JudgeContext
    ) -> Verdicts:
        """1 where every number of every command is right, else 0.

        `correct` is the share of right numbers of the first command that has a wrong one.
        """
        research: Research = hidden["research"]
        lab = self.lab(research.source)
        try:
            gold = lab.gold
        except UserError as error:
            return [{"agent": Invalid(f"the original cannot be measured: {error}")}] * len(episodes)
        return [{"agent": self._outcome(e, research, lab, gold)} for e in episodes]

    def _outcome(
        self, episode: Episode, research: Research, lab: Lab, gold: Sequence[Mapping[str, Any]]
    ) -> Outcome:
        if episode.ended != "done":
            return Scored(0.0, False, evidence=f"nothing was handed in: {episode.ended}")
        try:
            files = with_bodies(research, episode.artifacts)
            for command, right in zip(research.source.commands, gold, strict=True):
                found = compare(right, lab.measure(command, files))
                if not found.right:
                    names = ", ".join(f"{n} ({found.losses[n]:.2f})" for n in found.wrong[:5])
                    return Scored(
                        0.0, False, {"correct": found.share}, f"`{command}`: off: {names}"
                    )
        except (ValueError, LimitError, CallError, FailedError) as error:
            return Scored(0.0, False, {"correct": 0.0}, f"{error}"[:500])
        return Scored(1.0, True, {"correct": 1.0})

    def oracle(self, task: Task) -> Mapping[str, Script]:
        """Writes the original bodies."""
        research: Research = task.hidden["research"]
        bodies = acting.bodies_of(research)
        return {"agent": acting.acted(research, self.config.form, bodies)}

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        """Stubs, constants, and whatever may be changed beside the missing bodies."""
        found = acting.cheats(task.hidden["research"], self.config.form)
        return {name: {"agent": script} for name, script in found.items()}

    def proposer(self) -> MaskProposer:
        """Takes functions out of `repo` or `paper`. Raises UserError where there is neither."""
        from puna.envs.experiment.propose import MaskProposer

        return MaskProposer(self, read_source(self.config.source))


def _read(path: Path) -> list[Research]:
    fix = "`puna propose experiment --out FILE` writes one"
    if not path.is_file():
        raise UserError(f"no file of tasks {path}", fix)
    try:
        records = [r["draft"] for r in read(path) if r.get("admission", {}).get("admitted")]
        found = read_all(records, path.parent)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} holds no tasks of this environment: {error!r}", fix) from None
    if not found:
        raise UserError(f"{path} holds no admitted task", fix)
    return found
