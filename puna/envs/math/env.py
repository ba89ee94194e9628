"""math: word problems, judged by their final answer. `puna env try math`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.outcome import Outcome, Scored
from puna.envs.math.answers import equal, final_answer, number
from puna.envs.math.problems import make, numbers_of
from puna.envs.math.rows import read_problems
from puna.gym.environment import JudgeContext, OneTurn, Problem, Session, SingleTurn, say
from puna.gym.passes import FORM, QUESTION, STOP, judge_pass
from puna.gym.task import Script, Task
from puna.gym.trajectory import Episode

MEASURED = 1000
PROMPT = "Solve the problem step by step. End the solution with a line `#### ` and the answer."


@dataclass(frozen=True)
class MathConfig:
    """Where problems come from, and what an answer is made of.

    `data` is a file of GSM8K's shape, of which a fifth is held out as test; with `test` all of it
    is train and the tests are that file's. Without: stories of at most `steps` changes, numbers of
    at most `digits` digits. `equality` "math" asks math-verify about what is no plain number,
    "number" takes numbers only. `prompt` "none" leaves the instructions out (for models that learnt
    the form from demonstrations). With `turns` above 1 an answer is of that many solutions at most,
    each with a verdict on it, and `reward` says what solutions earn in training (docs/spoc.md).
    """

    data: Path | None = None
    test: Path | None = None
    steps: int = 3
    digits: int = 2
    equality: Literal["math", "number"] = "math"
    prompt: Literal["full", "none"] = "full"
    turns: int = 1
    reward: Literal["corr", "last", "all"] = "corr"

    def __post_init__(self) -> None:
        """Raises ValueError for a range without problems."""
        if not 1 <= self.steps <= 8:
            raise ValueError(f"steps is {self.steps}, must be 1 to 8")
        if not 1 <= self.digits <= 6:
            raise ValueError(f"digits is {self.digits}, must be 1 to 6")
        if not 1 <= self.turns <= 16:
            raise ValueError(f"turns is {self.turns}, must be 1 to 16")
        if self.test is not None and self.data is None:
            raise ValueError("test is given without data to train on")


class Math(SingleTurn):
    """Solve a word problem; the final answer stands behind #### or in \\boxed{}.

    Made-up stories with the same numbers in the same order belong to the same split.
    """

    name: ClassVar[str] = "math"
    version: ClassVar[str] = "1.0"
    Config: ClassVar[type] = MathConfig
    judge_seconds: ClassVar[float] = 120.0  # math-verify: 2 s of processor time an answer

    def __init__(self, config: Any = None, seed: int = 0) -> None:
        """Raises UserError where math-verify is wanted and not installed."""
        super().__init__(config, seed)
        if self.config.equality == "math" and find_spec("math_verify") is None:
            fix = "pip install 'puna[math]', or --set env.equality=number"
            raise UserError("env math compares answers with math-verify", fix)
        self.data_files = tuple(p for p in (self.config.data, self.config.test) if p is not None)

    @cached_property
    def chance(self) -> float:  # type: ignore[override]
        """What always giving the commonest answer earns, on the first thousand train problems."""
        if self.data_files:
            problems = self._rows["train"][:MEASURED]
        else:
            problems = [self._draw(i) for i in range(MEASURED)]
        counts = Counter(number(p.answer) or p.answer for p in problems)
        return counts.most_common(1)[0][1] / len(problems) if problems else 0.0

    def make(self, rng: np.random.Generator) -> Problem:
        """A story of one to `steps` changes."""
        story = make(rng, self.config.steps, self.config.digits)
        tags = {"steps": str(story.steps)}
        return Problem(story.question, story.answer, tags, {"solution": story.solution})

    def belongs(self, prompt: str) -> str:
        """The split of all stories with these numbers; of a file's problems by their text."""
        return super().belongs(prompt if self.data_files else numbers_of(prompt))

    @cached_property
    def _rows(self) -> Mapping[str, Sequence[Problem]]:
        """The problems of the files by split; none that is tested is trained on."""
        config, exact = self.config, self.config.equality == "number"
        rows = read_problems(config.data, exact)
        if config.test is None:
            return {s: [p for p in rows if self.belongs(p.prompt) == s] for s in ("train", "test")}
        held_out = read_problems(config.test, exact)
        tested = {p.prompt for p in held_out}
        return {"train": [p for p in rows if p.prompt not in tested], "test": held_out}

    def count(self, split: str) -> int:
        """Of files as many as there are."""
        return len(self._rows[split]) if self.data_files else super().count(split)

    def task(self, split: str, index: int) -> Task:
        """Problem `index` of `split`. Raises UserError for files that are broken."""
        if self.data_files:
            self._check(split, index)
            return self._as_task(split, index, self._rows[split][index])
        return super().task(split, index)

    def _as_task(self, split: str, index: int, problem: Problem) -> Task:
        task = super()._as_task(split, index, problem)
        if self.config.prompt == "none":
            return task
        told = PROMPT if self.config.turns == 1 else f"{PROMPT} {FORM}"
        return replace(task, messages=(Message.system(told), *task.messages))

    def start(self, task: Task, resources: Any, ctx: Any) -> Session:
        """One turn, over once the solver has found itself right."""
        return OneTurn(task, stop=STOP if self.config.turns > 1 else ())

    def score(self, answer: str, problem: Problem) -> float:
        """1 for a solution with the right final answer."""
        exact = self.config.equality == "number"
        return float(equal(final_answer(answer), problem.answer, exact))

    def judge(
        self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: JudgeContext
    ) -> list[Mapping[str, Outcome]]:
        """Each answer by its last solution. The part "majority" is 1 in all of several episodes
        where the answer that most of them give is right (Wang et al. 2022, self-consistency).
        """
        problem: Problem = hidden["problem"]
        known: dict[str, bool] = {}

        def right(solution: str) -> bool:
            answer = final_answer(solution)
            if answer not in known:
                known[answer] = bool(self.score(solution, problem))
            return known[answer]

        if self.config.turns > 1:
            turns, rewards = self.config.turns, self.config.reward
            passes = [
                judge_pass(
                    e.said(), e.ended != "done", right, _answered, turns=turns, rewards=rewards
                )
                for e in episodes
            ]
            return [{"agent": outcome} for outcome in passes]
        said = [e.said() if e.ended == "done" else "" for e in episodes]
        parts = {} if len(said) == 1 else {"majority": float(right(_majority(said)))}
        cut = ["" if e.ended == "done" else "the answer was cut off" for e in episodes]
        return [
            {"agent": Scored(float(right(s)), right(s), parts, why)}
            for s, why in zip(said, cut, strict=True)
        ]

    def oracle(self, task: Task) -> Mapping[str, Script]:
        """Says the final answer: its value depends on nothing else."""
        return {"agent": say(f"#### {task.hidden['problem'].answer}")}

    def demonstration(self, task: Task) -> Mapping[str, Script]:
        """Says the reference solution, and that it is right where a verdict is wanted."""
        solution = task.hidden["problem"].hidden["solution"]
        verdict = f"\n{QUESTION} Yes" if self.config.turns > 1 else ""
        return {"agent": say(solution + verdict)}

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        """The standard ones, and those that a reader of final answers is prone to."""
        right = task.hidden["problem"].answer
        texts = {
            "no mark": right,
            "a later answer": f"#### {right}\n#### {right}1",
            "a later box": f"#### {right}\n\\boxed{{{right}1}}",
            "a list": f"#### {right}1, {right}2, {right}",
            "a choice": f"\\boxed{{{right}1 \\text{{ or }} {right}}}",
            "unclosed": f"\\boxed{{{right}",
            "too long": f"#### {right}{' ' * 200}{right}",
            "divided by nothing": f"#### {right}/0",
            "huge power": "\\boxed{10^{10^{10^{10}}}}",
            "look-alike digits": "#### " + right.translate(_FULL_WIDTH),
            "verdict alone": f"{QUESTION} Yes",
            "verdict first": f"{QUESTION} Yes\n#### {right}1",
        }
        return {**super().cheats(task), **{n: {"agent": say(t)} for n, t in texts.items()}}


_FULL_WIDTH = str.maketrans("0123456789", "".join(chr(0xFF10 + n) for n in range(10)))


def _answered(solution: str) -> bool:
    return final_answer(solution) != ""


def _majority(solutions: Sequence[str]) -> str:
    """The first solution among those whose answer is the commonest; of equals the earliest."""
    answers = [final_answer(s) for s in solutions]
    keys = [a if (known := number(a)) is None else known for a in answers]
    counts = Counter(k for k, a in zip(keys, answers, strict=True) if a)
    if not counts:
        return ""
    return solutions[keys.index(counts.most_common(1)[0][0])]
