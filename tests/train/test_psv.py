"""The psv stage on an environment that any model solves half of the time."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from odd_words import write_odd
from safetensors.torch import load_file
from tiny_run import digests, finish, killed, metrics, run

from puna.core.errors import UserError
from puna.core.stage import Machine, StageContext
from puna.evals.propose import propose
from puna.gym.proposer import CLASSES
from puna.models.presets import build, preset
from puna.text.tokenizer import Tokenizer
from puna.train import sft
from puna.train.checkpoint import save_model
from puna.train.optim import OptimConfig
from puna.train.psv import Config
from puna.train.psv import run as play

SHAPE = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1}
SHAPE |= {"intermediate_size": 48, "expert_size": 24}
LEARN = (
    "{steps = 5, batch_tokens = 256, row_length = 64, save_every = 2, "
    "optim = {lr = 1e-2, warmup = 1}}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says short words of any letters, whatever it is asked."""
    torch.set_num_threads(1)
    where = tmp_path_factory.mktemp("base")
    tokenizer = Tokenizer.train(["one and one is two, and so it goes"], 290)
    save_model(build(preset("nano", vocab_size=290, **SHAPE), 0), tokenizer, where / "fresh")
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(1, 4))) for _ in range(96)]
    rows = [{"prompt": f"{rng.choice(('seed', 'easy', 'hard'))}?", "completion": w} for w in words]
    (where / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    learn = {"steps": 80, "batch_tokens": 512, "row_length": 64}
    optim = OptimConfig(lr=1e-2, warmup=5, schedule="constant")
    context = StageContext("base", where, 3, Machine())
    given = {"data": where / "rows.jsonl", "init": where / "fresh", "optim": optim}
    sft.run(context, sft.Config(**given, **learn))  # type: ignore[arg-type]
    return where / "model"


def recipe(directory: Path, base: Path, **changes: Any) -> Path:
    env = write_odd(directory)
    table: dict[str, Any] = {"id": "psv", "kind": "psv", "init": str(base), "env": str(env)}
    table |= {"rounds": 2, "seeds": 4, "samples": 4, "proposals": 20, "shots": 2, "slots": 16}
    table |= {"temperature": 1.0, "max_tokens": 6, "unaudited": True, **changes}
    lines = [f"{k} = {json.dumps(v)}" for k, v in table.items()]
    head = 'name = "one"\nseed = 3\n[machine]\ndtype = "float32"\nthreads = 1\n[[stage]]\n'
    path = directory / "psv.toml"
    path.write_text(head + "\n".join([*lines, f"sft = {LEARN}"]) + "\n")
    return path


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("whole")
    finish(recipe(where, base), where / "run")
    return where


def pool(directory: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((directory / "pool.json").read_text())["pool"]
    return found


def rows(directory: Path) -> list[list[Mapping[str, Any]]]:
    lines = (directory / "rows.jsonl").read_text().splitlines()
    return [json.loads(line)["messages"] for line in lines]


def test_each_round_solves_proposes_and_learns(whole: Path) -> None:
    one, two = (whole / "run" / f"psv.{n}" for n in (1, 2))
    assert len(pool(one)) > 7 + 5  # 3 train tasks, 4 seeds, and what was proposed
    assert len(pool(two)) > len(pool(one))
    curve = metrics(whole / "run", "psv.2")
    assert list(curve) == [1, 2]
    assert curve[1] == metrics(whole / "run", "psv.1")[1]
    for figures in curve.values():
        assert figures["solved"] > 0.5
        assert 0 < figures["unique"] <= 1
        assert sum(figures[name] for name in CLASSES) == figures["pool"]
        assert figures["stub_share"] == 0
    for directory in (one, two):
        said = [row[-1]["content"] for row in rows(directory)]
        assert all(len(text.encode()) % 2 for text in said)
        solved = [item for item in pool(directory) if item["solution"]]
        assert len(said) == len(solved) == len({item["draft"]["key"] for item in solved})
        assert all(item["admission"]["admitted"] for item in solved)
    kept = {item["draft"]["key"]: item["solution"] for item in pool(two)}
    assert all(kept[i["draft"]["key"]] == i["solution"] for i in pool(one) if i["solution"])


def test_a_round_learns_from_the_base_weights_and_not_from_the_round_before(
    whole: Path, base: Path, tmp_path: Path
) -> None:
    two = whole / "run" / "psv.2"
    config = json.loads((two / "stage.json").read_text())["config"]["sft"]
    from puna.core.config import build as read

    def learned(init: Path) -> dict[str, torch.Tensor]:
        torch.set_num_threads(1)
        settings = {k: v for k, v in config.items() if v is not None}
        settings |= {"data": str(two / "rows.jsonl"), "init": str(init)}
        ctx = StageContext("psv.2", tmp_path / init.parent.name, 3, Machine())
        sft.run(ctx, read(sft.Config, settings, "sft"))
        return load_file(ctx.dir / "model" / "model.safetensors")

    is_ = load_file(two / "model" / "model.safetensors")
    same, other = learned(base), learned(whole / "run" / "psv.1" / "model")
    assert all(torch.equal(is_[k], same[k]) for k in is_)
    assert max(float((is_[k] - other[k]).abs().max()) for k in is_) > 1e-3


@pytest.mark.parametrize(
    "point",
    [
        *("play.appended:2", "play.appended:4", "play.appended:9", "checkpoint.renamed:2"),
        *("model.renamed:1", "pool.renamed:1", "stage.written:2", "stage.renamed:1"),
    ],
)
def test_a_killed_round_ends_with_the_very_same_weights(
    point: str, whole: Path, base: Path, tmp_path: Path
) -> None:
    path = recipe(tmp_path, base)
    killed(path, tmp_path / "run", point)
    assert finish(path, tmp_path / "run") == digests(whole / "run")
    assert pool(tmp_path / "run" / "psv.2") == pool(whole / "run" / "psv.2")


def test_a_round_does_not_go_on_with_another_environment(base: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, base)
    killed(path, tmp_path / "run", "play.appended:4")
    env = tmp_path / "odd.py"
    env.write_text(env.read_text() + "\n# changed\n")
    done = run(path, tmp_path / "run")
    assert "psv.1: the weights or the environment changed since it began" in done.error


def ctx(tmp_path: Path) -> StageContext:
    torch.set_num_threads(1)
    return StageContext("psv", tmp_path / "psv", 3, Machine())


def config(base: Path, tmp_path: Path, **changes: Any) -> Config:
    env = str(write_odd(tmp_path))
    learn = sft.Config(steps=2, batch_tokens=128, row_length=64)
    given: dict[str, Any] = {"env": env, "init": base, "seeds": 2, "samples": 4, "proposals": 8}
    given |= {"max_tokens": 6, "slots": 16, "unaudited": True, "sft": learn, "temperature": 1.0}
    return Config(**{**given, **changes})


def test_the_seeds_alone(base: Path, tmp_path: Path) -> None:
    found = play(ctx(tmp_path), config(base, tmp_path, proposals=0))
    assert found["pool"] == 5
    assert "unique" not in found


def test_without_verification_the_first_answer_of_the_right_form_is_learned(
    base: Path, tmp_path: Path
) -> None:
    found = play(ctx(tmp_path), config(base, tmp_path, verify=False))
    sizes = [len(row[-1]["content"].encode()) % 2 for row in rows(tmp_path / "psv")]
    assert found["rows"] == len(sizes) == found["pool"]
    assert 0 < sum(sizes) < len(sizes)


def test_where_nothing_is_solved_the_base_stays(base: Path, tmp_path: Path) -> None:
    write_odd(tmp_path)
    env = tmp_path / "odd.py"
    never = "float(n == 999), bool(n == 999)"
    env.write_text(env.read_text().replace("float(n % 2), bool(n % 2)", never))
    found = play(ctx(tmp_path), config(base, tmp_path / "other", env=str(env)))
    assert (found["rows"], found["solved"]) == (0, 0)
    kept, was = (load_file(d / "model.safetensors") for d in (tmp_path / "psv" / "model", base))
    assert all(torch.equal(kept[k], was[k]) for k in was)


def test_mistakes_are_said_in_one_line(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="arithmetic has no proposer"):
        play(ctx(tmp_path), config(base, tmp_path, env="arithmetic"))
    with pytest.raises(UserError, match="nothing to start from"):
        play(ctx(tmp_path), config(base, tmp_path, init=None))
    (base.parent / "pool.json").write_text("{")
    with pytest.raises(UserError, match=r"pool\.json is broken"):
        play(ctx(tmp_path), config(base, tmp_path, init=base.parent))
    (base.parent / "pool.json").unlink()
    named = {"sft": sft.Config(env="odd")}
    for wrong in ({"samples": 0}, {"seeds": -1}, {"temperature": 0.0}, named):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            config(base, tmp_path, **wrong)


def test_a_run_proposes_and_solves_for_the_command_too(base: Path, tmp_path: Path) -> None:
    env = str(write_odd(tmp_path))
    asked = {"n": 40, "model": str(base), "tries": 4, "shots": 2, "max_tokens": 6}
    found = propose(env, out=tmp_path / "a.jsonl", **asked)  # type: ignore[arg-type]
    again = propose(env, out=tmp_path / "b.jsonl", **asked)  # type: ignore[arg-type]
    assert found.records == again.records
    assert found.admitted > 8
    good = [r["admission"] for r in found.records if r["admission"]["admitted"]]
    assert {r["tried"] for r in good} == {4}
    assert len({r["passed"] for r in good}) > 1


def test_a_recipe_says_so_before_it_begins(base: Path, tmp_path: Path) -> None:
    done = run(recipe(tmp_path, base, samples=0), tmp_path / "run")
    assert "psv: samples is 0, must be at least 1" in done.error
