"""recipes/soce.toml with all its arms, in small: four kinds of question, models of a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_run import REPOSITORY, run, toml

from puna.core.recipe import plan, read_recipe
from puna.gym.registry import load_environment
from puna.run import resolve
from puna.train.data import env_settings

RECIPE = REPOSITORY / "recipes" / "soce.toml"
MEMBERS = ("adds", "turns", "sorts", "closes", "converts", "counts", "wide", "few")
SEARCHED = ("best", "soce", "experts", "random", "greedy")
ARMS = ("best", "uniform", "experts", "soce", "random", "greedy", "multitask", "strangers")

KINDS = '''
from dataclasses import dataclass

from puna import Problem, SingleTurn

RIGHT = {"a": "yes", "b": "no", "c": "si", "d": "ja"}


@dataclass(frozen=True)
class KindsConfig:
    """Which kinds, with + between."""

    skill: str = "a+b+c+d"


class Kinds(SingleTurn):
    """The first letter of a question says what is right, at two levels."""

    name = "kinds"
    Config = KindsConfig

    def make(self, rng):
        kinds = self.config.skill.split("+")
        kind = kinds[rng.integers(len(kinds))]
        level = 1 + int(rng.integers(2))
        prompt = f"{kind * level}{rng.integers(1000)}?"
        answer = " ".join([RIGHT[kind]] * level)
        return Problem(prompt, answer, {"skill": kind, "level": str(level)})

    def score(self, answer, problem):
        return float(answer.split() == problem.answer.split())
'''
KNOWN = {
    "adds": "a", "turns": "b", "sorts": "c", "closes": "d", "converts": "a+b", "counts": "c+d",
    "far-sorts": "c", "far-counts": "d",
}  # fmt: skip


def small(env: Path) -> list[str]:
    """What makes the shipped recipe small."""
    shape = {"preset": "nano", "hidden_size": 32, "num_layers": 2, "num_experts": 0}
    sets: dict[str, Any] = {"machine.threads": 1, "machine.jobs": 1, "machine.dtype": "float32"}
    for name in ("pretrain", "far-pretrain"):
        sets |= {
            f"{name}.matrix": {"seed": [1]}, f"{name}.max_bytes": 30_000, f"{name}.steps": 2,
            f"{name}.batch_tokens": 256, f"{name}.vocab": 300, f"{name}.eval_bytes": 2000,
            f"{name}.vocab_envs": [{"id": str(env)}], f"{name}.model": shape,
        }  # fmt: skip
    for name in ("base", "far-base", *MEMBERS, "multitask", "far-sorts", "far-counts"):
        sets[f"{name}.env"] = {"id": str(env), "skill": KNOWN.get(name, "a+b+c+d")}
        sets |= {f"{name}.demos": 100, f"{name}.batch_tokens": 512, f"{name}.row_length": 64}
        sets |= {f"{name}.steps": 25, f"{name}.optim.lr": 4e-3, f"{name}.optim.warmup": 2}
    sets |= {"wide.steps": 3, "few.steps": 2, "multitask.steps": 60}
    for name in (*SEARCHED, "strangers"):
        sets |= {f"{name}.env": str(env), f"{name}.eval_tasks": 96, f"{name}.max_tokens": 8}
        sets[f"{name}.tau"] = 0.5
    sets |= {"eval.envs": [str(env)], "eval.n": 96, "eval.max_tokens": 8}
    return [f"{key}={toml(value)}" for key, value in sets.items()]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("soce")
    (root / "kinds.py").write_text(KINDS)
    done = run(RECIPE, root / "run", *small(root / "kinds.py"), kill_after=280.0)
    assert done.code == 0, done.err
    return root / "run"


def result(study: Path, stage: str) -> dict[str, Any]:
    return json.loads((study / f"{stage}@seed=1" / "stage.json").read_text())["result"]


def test_the_plan_of_the_full_study() -> None:
    recipe = read_recipe(RECIPE)
    stages = {s.id: s for s in plan(recipe)}
    assert len(resolve(recipe)) == len(stages)
    assert {s.seed for s in stages.values()} == {0, 1, 2}
    for name in (*SEARCHED, "uniform"):
        assert stages[f"{name}@seed=2"].parents == tuple(f"{m}@seed=2" for m in MEMBERS)
    assert stages["eval@seed=0"].parents == tuple(f"{a}@seed=0" for a in ARMS)
    seen = {n: s.settings["steps"] * s.settings["batch_tokens"] for n, s in stages.items()
            if s.base in (*MEMBERS, "multitask") and s.seed == 0}  # fmt: skip
    assert seen.pop("multitask@seed=0") == sum(seen.values())
    (given,) = stages["eval@seed=0"].settings["envs"]
    env = load_environment(*env_settings(given))
    chose = {s.settings["eval_tasks"] for s in stages.values() if "eval_tasks" in s.settings}
    assert len(chose) == 1
    assert stages["eval@seed=0"].settings["n"] + max(chose) <= env.count("test")
    for name in (*SEARCHED, "strangers"):
        settings = stages[f"{name}@seed=0"].settings
        assert settings["env"] == given
        assert not settings["revert"]


def test_every_arm_is_scored_on_tasks_that_chose_nothing(study: Path) -> None:
    scores = result(study, "eval")["scores"]
    assert [s["stage"] for s in scores] == [f"{arm}@seed=1" for arm in ARMS]
    lines = (study / "eval@seed=1" / "episodes-soce@seed=1-kinds.jsonl").read_text().splitlines()
    played = {json.loads(line)["index"] for line in lines}
    assert played == set(range(96))


def test_experts_are_chosen_and_searched_and_their_controls_are_alike(study: Path) -> None:
    soce, experts, random = (result(study, m) for m in ("soce", "experts", "random"))
    assert soce["search"]["experts"] == experts["search"]["experts"]
    assert len(set(soce["search"]["experts"].values())) > 1
    shares = {m["stage"]: m["weight"] for m in experts["members"] if m["weight"]}
    assert shares.keys() == set(soce["search"]["experts"].values())
    assert len(set(shares.values())) == 1
    assert len(random["search"]["drawn"]) == len(shares)
    assert len(random["search"]["tried"]) == len(soce["search"]["tried"]) > 1
    equal = next(t for t in soce["search"]["tried"] if len(set(t["weights"].values())) == 1)
    assert soce["search"]["dev"] >= equal["score"] == pytest.approx(experts["search"]["dev"])
    assert all(result(study, arm)["kept"] for arm in SEARCHED)


def test_members_of_two_initialisations_are_behind_a_barrier(study: Path) -> None:
    barriers = result(study, "strangers")["search"]["barriers"]
    far, near = [], []
    for pair in barriers:
        kinds = {m.startswith("far-") for m in pair["members"]}
        (far if len(kinds) == 2 else near).append(pair["barrier"])
    assert far
    assert max(far) > max(near, default=0.0) + 0.2


def test_the_report_tells_the_study(study: Path) -> None:
    page = (study / "report.html").read_text()
    for said in (
        "Soups beside each other", "soce minus uniform", "soce minus random",
        "A bound: every category", "as of soce@seed=1", "correlations between",
    ):  # fmt: skip
        assert said in page, said
