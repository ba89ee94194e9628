"""The eval stage: every role has its score and its differences; old weights' episodes are left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from puna.core.journal import read
from puna.core.progress import Progress
from puna.core.stage import Machine, StageContext
from puna.evals.stage import Config, run
from puna.models import ModelConfig, build, save
from puna.text.tokenizer import Tokenizer

ENV = """
from puna.core.messages import Message
from puna.core.outcome import Scored
from puna.gym.environment import Environment, Turn
from puna.gym.task import Task


class Session:
    def __init__(self):
        self.left = ["host", "guest"]

    def next(self):
        return Turn(self.left[0], (Message.user("2+2="),), ()) if self.left else None

    def take(self, turn, message):
        self.left.pop(0)

    def artifacts(self):
        return {}

    def close(self):
        pass


class Two(Environment):
    name = "two"
    roles = ("host", "guest")

    def count(self, split):
        return 4

    def task(self, split, index):
        text = f"{split} {index}"
        kind = {"kind": str(index % 2)}
        return Task(text, (Message.user(text),), text, {}, tags=kind)

    def start(self, task, resources, ctx):
        return Session()

    def judge(self, episodes, hidden, ctx):
        return [{"host": Scored(1.0, True), "guest": Scored(0.0, False)} for _ in episodes]
"""


def make(directory: Path, seed: int) -> None:
    torch.set_num_threads(1)
    tokenizer = Tokenizer.train(["0123456789 + - ="] * 3, 300)
    config = ModelConfig(
        family="llama3", vocab_size=300, hidden_size=32, num_layers=2, num_heads=4,
        num_kv_heads=2, head_dim=8, intermediate_size=64, max_positions=128,
    )  # fmt: skip
    save(build(config, seed), directory / "model")
    tokenizer.save(directory / "model")


@pytest.fixture
def ctx(tmp_path: Path) -> StageContext:
    for seed, name in enumerate(("a", "b")):
        make(tmp_path / name, seed)
    parents = {name: tmp_path / name for name in ("a", "b")}
    return StageContext("eval", tmp_path / "eval", 0, Machine(), parents)


def test_every_role_has_scores_and_differences(ctx: StageContext, tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(ENV)
    found = run(ctx, Config(envs=(str(tmp_path / "two.py"),), n=4, max_tokens=2))
    rows = [(s["stage"], s["role"], s["score"]["value"]["mean"]) for s in found["scores"]]
    assert rows == [("a", "host", 1.0), ("a", "guest", 0.0), ("b", "host", 1.0), ("b", "guest", 0)]
    assert all(set(s["by_tag"]) == {"kind=0", "kind=1"} for s in found["scores"])
    assert [s["by_tag"]["kind=0"]["value"]["mean"] for s in found["scores"]] == [1.0, 0.0] * 2
    assert [(d["from"], d["to"], d["role"], d["mean"]) for d in found["differences"]] == [
        ("a", "b", "host", 0.0), ("a", "b", "guest", 0.0),
    ]  # fmt: skip


def test_episodes_of_other_weights_are_played_again(ctx: StageContext) -> None:
    config = Config(envs=("arithmetic",), n=3, max_tokens=2)
    run(ctx, config)
    journal = ctx.dir / "episodes-a-arithmetic.jsonl"
    run(ctx, config)
    assert len(list(read(journal))) == 3
    make(ctx.parents["a"], 5)
    run(ctx, config)
    assert len({r["policy"] for r in read(journal)}) == 2
    assert len(list(read(journal))) == 6
    assert len(list(read(ctx.dir / "episodes-b-arithmetic.jsonl"))) == 3


def test_more_tasks_than_there_are_are_noted_once(
    ctx: StageContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "two.py").write_text(ENV)
    ctx.progress = Progress("plain")
    found = run(ctx, Config(envs=(str(tmp_path / "two.py"),), n=6, max_tokens=2))
    assert {s["score"]["n_tasks"] for s in found["scores"]} == {4}
    shown = capsys.readouterr().err
    assert shown.count("eval: two has 4 test tasks, not 6: all are played\n") == 1
