"""recipes/spoc.toml with all its arms, in small: stories of one step, a model of a minute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_run import REPOSITORY, toml
from tiny_run import run as played

pytestmark = pytest.mark.slow

RECIPE = REPOSITORY / "recipes" / "spoc.toml"
ONE = {"id": "math", "equality": "number", "prompt": "none", "steps": 1, "digits": 1}
MANY = ONE | {"turns": 3}
PAIRS = ("pairs", "pairs-few-wrong", "pairs-many-wrong")
RL = ("spoc-raft", "corr", "last", "all")
ARMS = ("base", "right", "raft", *PAIRS, *RL)


def small() -> list[str]:
    """What makes the shipped recipe small."""
    shape = {"preset": "nano", "hidden_size": 64, "num_layers": 2, "num_experts": 0}
    sets: dict[str, Any] = {
        "machine.threads": 1, "machine.jobs": 1, "machine.dtype": "float32",
        "base.matrix": {"seed": [0]},
        "pretrain.max_bytes": 60_000, "pretrain.steps": 2, "pretrain.batch_tokens": 512,
        "pretrain.vocab": 480, "pretrain.vocab_envs": [MANY], "pretrain.model": shape,
        "base.demos": 3000, "base.steps": 350, "base.batch_tokens": 2048, "base.row_length": 96,
        "base.eval_every": 0, "base.optim": {"lr": 4e-3, "warmup": 20},
        "vote.matrix": {"k": [3]}, "vote.n": 24, "vote.envs": [ONE], "eval.n": 40,
        "eval.envs": [MANY], "eval.max_tokens": 96,
    }  # fmt: skip
    for arm in ("base", "right", "raft"):
        sets[f"{arm}.env"] = ONE
    for arm in (*PAIRS, *RL):
        reward = arm if arm in ("last", "all") else "corr"
        sets[f"{arm}.env"] = MANY | {"reward": reward}
    for arm in ("right", *PAIRS):
        sets |= {f"{arm}.demos": 250, f"{arm}.steps": 200, f"{arm}.batch_tokens": 1024}
        sets |= {f"{arm}.row_length": 128, f"{arm}.draw.samples": 6, f"{arm}.draw.max_tokens": 32}
        sets |= {f"{arm}.draw.most": 100} if arm in PAIRS else {}
        sets |= {f"{arm}.optim": {"lr": 3e-3, "warmup": 20}}
    for arm in ("raft", *RL):
        sets |= {f"{arm}.steps": 2, f"{arm}.prompts": 4, f"{arm}.samples": 4, f"{arm}.refills": 1}
        sets |= {f"{arm}.max_tokens": 96}
    return [f"{key}={toml(value)}" for key, value in sets.items()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("spoc") / "run"
    done = played(RECIPE, directory, *small(), kill_after=280.0)
    assert done.code == 0, done.err
    return directory


def result(run: Path, stage: str) -> dict[str, Any]:
    return json.loads((run / stage / "stage.json").read_text())["result"]


def test_every_arm_is_scored_turn_by_turn(run: Path) -> None:
    scores = result(run, "eval@seed=0")["scores"]
    assert [s["stage"] for s in scores] == [f"{arm}@seed=0" for arm in ARMS]
    for score in scores:
        turns = score["turns"]
        assert turns["answers"] == 40
        assert score["tokens"] > 0
        assert turns["fixed"] - turns["broken"] == pytest.approx(
            40 * (turns["final"]["mean"] - turns["first"]["mean"])
        )
        assert score["score"]["value"]["mean"] == pytest.approx(turns["final"]["mean"])


def test_the_arms_that_learnt_verdicts_give_them(run: Path) -> None:
    scores = {s["stage"].partition("@")[0]: s for s in result(run, "eval@seed=0")["scores"]}
    assert scores["base"]["turns"]["unjudged"] == 1
    assert scores["base"]["turns"]["calibration"] is None
    for arm in ("pairs", *RL):
        turns = scores[arm]["turns"]
        assert turns["unjudged"] < 0.7, arm
        assert 0 <= turns["calibration"] <= 1, arm


def test_pairs_are_as_balanced_as_asked(run: Path) -> None:
    for arm, share in zip(PAIRS, (0.5, 0.2, 0.8), strict=True):
        rows = [
            json.loads(x) for x in (run / f"{arm}@seed=0" / "rows.jsonl").read_text().splitlines()
        ]
        wrong = sum(row["messages"][-1]["content"][0]["weight"] == 0 for row in rows)
        assert len(rows) >= 5
        assert abs(wrong / len(rows) - share) <= 1 / len(rows) + 0.1


def test_each_message_is_paid_in_rl(run: Path) -> None:
    for arm in RL:
        lines = (run / f"{arm}@seed=0" / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line) for line in lines]
        assert all("first" in step for step in steps)
        assert result(run, f"{arm}@seed=0")["audit_passed"]
        kept = (run / f"{arm}@seed=0" / "episodes.jsonl").read_text().splitlines()
        outcome = json.loads(kept[0])["outcomes"]["agent"]
        assert outcome["credits"][0]["name"] == "solver 1"


def test_self_consistency_at_several_answers(run: Path) -> None:
    for score in result(run, "vote@seed=0,k=3")["scores"]:
        assert 0 <= score["majority"]["mean"] <= 1
        assert score["score"]["k"] == 3
