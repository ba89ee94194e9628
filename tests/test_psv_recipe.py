"""recipes/psv.toml in small: a base that knows by heart four proposals and their solutions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import REPOSITORY, metrics, run

from puna.core.recipe import plan, read_recipe
from puna.envs.proofs.acceptance import MICRO_PYTHON
from puna.envs.proofs.env import Proofs
from puna.evals.stage import Config as EvalConfig
from puna.gym.proposer import CLASSES, Wanted
from puna.run import resolve, stage_config

pytest.importorskip("z3", reason="z3-solver is not installed")

RECIPE = REPOSITORY / "recipes" / "psv.toml"
HEAD = "def f(x: int) -> int:\n    #@ ensures result == {} * x\n"
SMALL = {
    "machine.threads": 1, "machine.dtype": "float32", "machine.workers": 2,
    "pretrain.steps": 2, "pretrain.max_bytes": 60_000, "pretrain.vocab": 600,
    "pretrain.batch_tokens": 256, "pretrain.row_length": 64, "pretrain.eval_bytes": 2000,
    "pretrain.model.hidden_size": 64, "pretrain.model.num_layers": 3,
    "pretrain.model.num_heads": 4, "pretrain.model.num_kv_heads": 2,
    "pretrain.model.head_dim": 16, "pretrain.model.intermediate_size": 192,
    "base.matrix": "{seed = [0]}", "base.steps": 250, "base.batch_tokens": 1024,
    "base.row_length": 256, "base.optim.lr": 4e-3,
    "psv.rounds": 2, "psv.seeds": 3, "psv.samples": 4, "psv.proposals": 16, "psv.shots": 0,
    "psv.temperature": 0.5, "psv.max_tokens": 80, "psv.slots": 64, "psv.unaudited": True,
    "psv.sft.steps": 6, "psv.sft.batch_tokens": 512, "psv.sft.row_length": 256,
}  # fmt: skip


def by_heart(directory: Path) -> Path:
    """Rows: for each class a proposal, and the program that solves it."""
    env = Proofs()
    rows = []
    for times, name in enumerate(CLASSES, 2):
        header = HEAD.format(times)
        (asked,) = env.proposer().ask(Wanted(name))
        rows.append({"prompt": asked.text, "completion": header})
        (task,) = env.task_of(MICRO_PYTHON.spec("f", header), "t").messages
        rows.append({"prompt": task.text, "completion": f"{header}    return {times} * x\n"})
    path = directory / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_every_arm_can_be_planned_and_what_is_held_out_is_only_scored() -> None:
    recipe = read_recipe(RECIPE)
    stages = plan(recipe)
    assert len(resolve(recipe)) == len(stages)
    rounds = [s.id for s in stages if s.base == "psv" and s.labels == {"seed": 2}]
    assert rounds == [f"psv@seed=2.{n}" for n in range(1, 6)]
    arms = {s.base for s in stages if s.kind == "psv"}
    assert arms == {"psv", "seeds", "unverified", "unlabelled", "fixed", "once"}
    for stage in stages:
        config = stage_config(stage)
        if isinstance(config, EvalConfig):
            assert "humaneval" in str(config.envs)
        else:
            assert "humaneval" not in str(config)


@pytest.mark.slow  # it audits the reward first; tests/train/test_psv.py plays rounds in small
@pytest.mark.timeout(600)
def test_two_rounds_propose_solve_verify_and_learn(tmp_path: Path) -> None:
    sets = [f"{key}={str(value).lower()}" for key, value in SMALL.items()]
    directory = tmp_path / "run"
    sets.append(f"base.data={by_heart(tmp_path)}")
    done = run(RECIPE, directory, *sets, only=["psv"], kill_after=560)
    assert done.code == 0, done.err
    last = directory / "psv@seed=0.2"
    curve = metrics(directory, last.name)
    assert list(curve) == [1, 2]
    assert curve[1]["new"] >= 2  # of the four proposals; all others are duplicates
    assert curve[1]["rows"] >= 1
    assert curve[2]["new"] == 0
    assert curve[1]["unique"] < 0.5
    pool = json.loads((last / "pool.json").read_text())["pool"]
    solved = [item for item in pool if item["solution"]]
    assert len(solved) == curve[2]["rows"] >= 1
    for item in solved:
        assert item["draft"]["text"].startswith("def f(x: int) -> int:\n    #@ ensures result == ")
        assert item["admission"]["admitted"]
        assert item["admission"]["checks"]["mutants"] >= 1
    assert (directory / "report.html").read_text().count("median pass rate") >= 1
