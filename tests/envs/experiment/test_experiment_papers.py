"""The papers that ship, and a package of somebody else's, as research tasks.

Of the choices of up to three functions a fixed sample is judged: `SAMPLE` of each number. All of
them, hundreds to ten thousands, are followed from runs of each function in `benchmarks/masks.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from experiment_kit import judged

from benchmarks.masks import settings_of
from puna.core.outcome import Scored
from puna.envs.experiment import acting
from puna.envs.experiment.env import Experiment, ExperimentConfig
from puna.envs.experiment.research import Research
from puna.gym.environment import say
from puna.gym.proposer import UnfitError
from puna.gym.task import Task
from puna.sandbox.backends import problem_with

pytestmark = [
    pytest.mark.skipif(bool(problem_with("bubblewrap")), reason="bubblewrap does not work"),
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]
SAMPLE = 2


def value(env: Experiment, task: Task, script: object) -> float:
    outcome = judged(env, task, {"agent": script})  # type: ignore[dict-item]
    assert isinstance(outcome, Scored), outcome
    return outcome.value


def judge_sample(settings: dict[str, object]) -> int:
    """Oracle 1, nothing done 0, on `SAMPLE` choices of one, two and three functions."""
    judged_ones = 0
    for masked in (1, 2, 3):
        env = Experiment(ExperimentConfig(**settings, masked=masked))  # type: ignore[arg-type]
        proposer = env.proposer()
        done = 0
        for number in range(proposer.count):
            try:
                draft = proposer.draw(number, 0)
            except UnfitError:
                continue  # one function lies within another
            research: Research = draft.task.hidden["research"]
            right = acting.acted(research, "tools", acting.bodies_of(research))
            assert value(env, draft.task, right) == 1.0, research.masked
            assert value(env, draft.task, say("")) == 0.0, research.masked
            done += 1
            if done == SAMPLE:
                break
        judged_ones += done
    return judged_ones


@pytest.mark.parametrize("paper", ["use", "uniprompt", "user_model"])
def test_papers(paper: str) -> None:
    if paper == "uniprompt":
        pytest.importorskip("torch_geometric", reason="torch-geometric is not installed")
    assert judge_sample({"paper": paper}) == 3 * SAMPLE


def test_a_package_of_somebody_elses(tmp_path: Path) -> None:
    pytest.importorskip("tabulate", reason="tabulate is not installed")
    assert judge_sample(settings_of("tabulate", tmp_path)) == 3 * SAMPLE
