"""skills: eight small skills, each at levels 1 to 8, judged exactly. `puna env try skills`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from puna.core.errors import nearest
from puna.envs.skills.makers import LEVELS, SKILLS
from puna.gym.environment import Problem, SingleTurn, say
from puna.gym.task import Script, Task
from puna.gym.tools import same_json

ALL = "all"


@dataclass(frozen=True)
class SkillsConfig:
    """Which tasks: `skill` is all, one, or several with + between (one named twice is drawn twice
    as often); `level` is 1 to 8, or 0 for all from 1 to `levels` alike.
    """

    skill: str = ALL
    level: int = 0
    levels: int = 8

    def __post_init__(self) -> None:
        """Raises ValueError for a skill or a level that is not there."""
        for name in self.skills:
            if name not in SKILLS:
                raise ValueError(f"skill is '{name}'; {nearest(name, [ALL, *SKILLS])}")
        if self.level not in (0, *LEVELS):
            raise ValueError(f"level is {self.level}, must be 1 to 8, or 0 for all")
        if self.levels not in LEVELS:
            raise ValueError(f"levels is {self.levels}, must be 1 to 8")

    @property
    def skills(self) -> tuple[str, ...]:
        """The names that are drawn from."""
        return tuple(SKILLS) if self.skill == ALL else tuple(self.skill.split("+"))


class Skills(SingleTurn):
    """Answer a prompt whose first word names the skill. Every prompt has one answer.

    Two prompts of the same words in another order belong to the same split, so that no test task is
    a train task with its numbers swapped.
    """

    name: ClassVar[str] = "skills"
    version: ClassVar[str] = "1.1"
    Config: ClassVar[type] = SkillsConfig
    # A hundred test tasks of each skill at each level.
    sizes: ClassVar[Mapping[str, int]] = {"train": 1_000_000, "test": 6_400}
    test_share: ClassVar[float] = 0.3

    def make(self, rng: np.random.Generator) -> Problem:
        """Draw a skill, a level and a problem of it."""
        names = self.config.skills
        skill = names[int(rng.integers(len(names)))]
        level = self.config.level or int(rng.integers(1, self.config.levels + 1))
        prompt, answer = SKILLS[skill](rng, level)
        return Problem(prompt, answer, tags={"skill": skill, "level": str(level)})

    def belongs(self, prompt: str) -> str:
        """The split of all problems with these words."""
        return super().belongs(" ".join(sorted(prompt.split())))

    def score(self, answer: str, problem: Problem) -> float:
        """1 for exactly the answer, however it is spaced; of calls for the same JSON."""
        if problem.tags["skill"] == "calls":
            return float(same_json(answer, problem.answer))
        return float(answer.split() == problem.answer.split())

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        """The standard ones, and answers that are nearly right, too much, or the prompt's words."""
        problem: Problem = task.hidden["problem"]
        right, given = problem.answer, problem.prompt.partition(": ")[2]
        texts = {
            "what was given": given,
            "what was given, turned round": given[::-1],
            "what was given, sorted": " ".join(sorted(given.split())),
            "the answer twice": f"{right} {right}",
            "the answer and more": f"{right} 1",
            "the answer in a sentence": f"The answer is {right}",
            "the answer without its end": right[:-1],
            "the answer without its beginning": right[1:],
        }
        wrong = {n: t for n, t in texts.items() if not self.score(t, problem)}
        return {**super().cheats(task), **{n: {"agent": say(t)} for n, t in wrong.items()}}
