"""The papers that ship, and a package of somebody else's, as research tasks.

Of the choices of up to three functions a fixed sample is judged: `SAMPLE` of each number, since all
of them would be hundreds to ten thousands.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from experiment_kit import judged

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
# Numbers of a package that makes tables of text: lengths of what it prints.
TABLES = """
import json, random, sys
from tabulate import tabulate

rng = random.Random(int(sys.argv[1]))
words = [rng.choice("abc") * rng.randrange(1, 9) for _ in range(9)]
rows = [[word, rng.random() * 100, rng.randrange(99)] for word in words]
found = {}
for form in ("plain", "grid", "github", "html", "latex"):
    text = tabulate(rows, headers=["word", "share", "count"], tablefmt=form, floatfmt=".2f")
    lines = text.splitlines()
    found[form] = [len(text), len(lines), sum(map(ord, text)) / len(text), text.count("|")]
print(json.dumps(found))
"""


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
    tabulate = pytest.importorskip("tabulate", reason="tabulate is not installed")
    place = Path(tabulate.__file__).parent
    shutil.copytree(place, tmp_path / "tabulate", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "run.py").write_text(TABLES)
    settings = {
        "repo": str(tmp_path),
        "command": "python3 run.py 0",
        "second": "python3 run.py 1",
    }
    assert judge_sample(settings) == 3 * SAMPLE
