"""RL through the command: what changes the weights, what must not, and that all of it resumes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_run import finish, killed, metrics, run, write_recipe, write_stage

TALKER = Path(__file__).parent / "agents" / "programs" / "talker.py"
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stale": {"staleness": 1},
    "staler": {"staleness": 2},
    "two updates": {"updates": 2},
    "clipped": {"updates": 2, "loss": {"clip_low": 1e-6, "clip_high": 1e-6}},
    "kl": {"loss": {"kl": 0.5}},
    "rloo": {"algorithm": "rloo"},
    "raft": {"algorithm": "raft"},
    "held out": {"eval_every": 2, "eval_tasks": 4},
    "few slots": {"slots": 3},
    "small batches": {"micro_tokens": 16},
    "outside": {"agent": f"{sys.executable} {TALKER}", "programs": 8},
    "outside, forgetful": {"agent": f"{sys.executable} {TALKER} forgets", "programs": 8},
}


# Few answers end within four tokens, and one that is cut off would earn 0 whatever it says.
ALL_COUNT = """
    def judge(self, episodes, hidden, ctx):
        from puna.core.outcome import Scored

        values = [self.score(e.said(), hidden["problem"]) for e in episodes]
        return [{"agent": Scored(v, False)} for v in values]
"""


def stage(directory: Path, start: Path, **settings: Any) -> Path:
    """A recipe of one rl stage, whose environment scores what is cut off as well."""
    recipe = write_stage(directory, "rl", start, **settings)
    env = directory / "brief.py"
    if "def judge" not in env.read_text():
        env.write_text(env.read_text() + ALL_COUNT)
    return recipe


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("start")
    recipe = write_recipe(where / "recipe")
    killed(recipe, where / "run", "stage.tidied:2")
    return where / "run" / "sft" / "model"


@pytest.fixture(scope="module")
def trained(start, tmp_path_factory):
    """Variant's name -> its recipe, its run, its weights; each trained once."""
    where, found = tmp_path_factory.mktemp("variants"), {}

    def train(name: str) -> tuple[Path, Path, str]:
        if name not in found:
            recipe = stage(where / name, start, **VARIANTS[name])
            weights = finish(recipe, where / name / "run")["rl"]
            found[name] = (recipe, where / name / "run", weights)
        return found[name]

    return train


# Half of what is said is right, so tasks differ in how often they are solved.
COIN = """
from puna import Problem, SingleTurn
from puna.core.outcome import Scored


class Coin(SingleTurn):
    name = "coin"

    def make(self, rng):
        n = int(rng.integers(1000))
        return Problem(f"{n}?", "", tags={"side": "ab"[n % 2]})

    def judge(self, episodes, hidden, ctx):
        right = [sum(e.said().encode()) % 2 == 0 for e in episodes]
        return [{"agent": Scored(float(r), r)} for r in right]
"""
POOL = {"size": 12, "samples": 4, "every": 2, "k": 2, "by": "side", "low": 0.1, "high": 0.9}
POOLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "pool": {"pool": POOL},
    "stale": {"pool": POOL, "staleness": 1},
    "blocks": {"pool": POOL | {"cycles": 1}},
    "ended": {"pool": POOL | {"episodes": 60}},
}


@pytest.fixture(scope="module")
def pooled(start, tmp_path_factory):
    """As `trained`, with the tasks of a pool."""
    where, found = tmp_path_factory.mktemp("pools"), {}

    def train(name: str) -> tuple[Path, Path, str]:
        if name not in found:
            directory = where / name
            directory.mkdir()
            (directory / "coin.py").write_text(COIN)
            recipe = stage(directory, start, env=str(directory / "coin.py"), **POOLS[name])
            weights = finish(recipe, directory / "run")["rl"]
            found[name] = (recipe, directory / "run", weights)
        return found[name]

    return train


@pytest.mark.parametrize("name", ["pool", "stale", "blocks", "ended"])
def test_with_a_pool_a_killed_stage_ends_with_the_same_weights_and_figures(pooled, tmp_path, name):
    """Killed behind the first checkpoint, then again behind the pool's second test."""
    recipe, directory, weights = pooled(name)
    for point in ("checkpoint.renamed:1", "metrics.appended:1"):
        killed(recipe, tmp_path / "run", point)
    assert finish(recipe, tmp_path / "run")["rl"] == weights
    whole, again = metrics(directory, "rl"), metrics(tmp_path / "run", "rl")
    for figures in (*whole.values(), *again.values()):
        del figures["cpu"]
    assert again == whole


def test_which_tasks_a_pool_gives_changes_what_is_learnt(pooled):
    weights = {name: pooled(name)[2] for name in POOLS}
    assert len(set(weights.values())) == len(weights)


def test_a_stage_says_why_it_ended(pooled):
    _, directory, _ = pooled("ended")
    result = json.loads((directory / "rl" / "stage.json").read_text())["result"]
    assert result["ended"] == f"{result['episodes']} episodes are played"
    assert 60 <= result["episodes"] < 60 + 2 * 3 * 4  # a step more at most
    assert result["steps"] < 4
    assert 0 < result["useful_groups"] <= 1
    plain = json.loads((pooled("plain")[1] / "rl" / "stage.json").read_text())["result"]
    assert "episodes" not in plain
    assert plain["useful_groups"] == pytest.approx(
        sum(m["groups_used"] for m in metrics(pooled("plain")[1], "rl").values())
        / sum(m["groups_seen"] for m in metrics(pooled("plain")[1], "rl").values()),
        abs=1e-4,
    )


@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_workers_changes_nothing(trained, tmp_path, workers):
    """The environment sleeps at random before each verdict."""
    recipe, _, weights = trained("plain")
    assert finish(recipe, tmp_path / "run", f"machine.workers={workers}")["rl"] == weights


def test_the_seed_changes_everything(trained, tmp_path):
    recipe, _, weights = trained("plain")
    assert finish(recipe, tmp_path / "run", "seed=4")["rl"] != weights


@pytest.mark.parametrize(
    "name", ["stale", "staler", "two updates", "kl", "rloo", "raft", "small batches"]
)
def test_settings_that_change_the_weights(trained, name):
    assert trained(name)[2] != trained("plain")[2]


def test_scoring_on_the_way_changes_no_weights(trained):
    assert trained("held out")[2] == trained("plain")[2]
    assert "held_out" in metrics(trained("held out")[1], "rl")[2]


def test_through_an_outside_program_the_same_is_learnt(trained):
    """Its calls are sampled, recorded and learnt from as if the environment had made them."""
    assert trained("outside")[2] == trained("plain")[2]
    figures = metrics(trained("outside, forgetful")[1], "rl").values()
    assert max(m["logprob_gap"] for m in figures) < 1e-5
    plain = metrics(trained("plain")[1], "rl").values()
    assert sum(m["rows"] for m in figures) == 2 * sum(m["rows"] for m in plain)  # it asks twice


@pytest.mark.parametrize("name", ["stale", "staler", "two updates", "kl", "held out", "outside"])
def test_killed_it_ends_with_the_same_weights(trained, tmp_path, name):
    """Killed behind the first checkpoint, then again in the step that follows."""
    recipe, _, weights = trained(name)
    for point in ("checkpoint.renamed:1", "metrics.appended:1"):
        killed(recipe, tmp_path / "run", point)
    assert finish(recipe, tmp_path / "run")["rl"] == weights


def test_staleness_counts_the_updates_between_sampling_and_learning(trained):
    def stale(name: str) -> list[float]:
        return [m["staleness"] for m in metrics(trained(name)[1], "rl").values()]

    assert stale("plain") == [0, 0, 0, 0]
    assert stale("stale") == [0, 1, 1, 1]
    assert stale("staler") == [0, 1, 2, 2]


def test_sampler_and_trainer_agree_at_the_same_weights_and_only_there(trained):
    fresh = [m["logprob_gap"] for m in metrics(trained("plain")[1], "rl").values()]
    stale = [m["logprob_gap"] for m in metrics(trained("stale")[1], "rl").values()]
    assert max(fresh) < 1e-5
    assert min(stale[1:]) > 1e-3


def test_the_second_update_is_clipped_against_the_first(trained):
    """Ratios are taken to the step's first weights: at a second update they have left 1."""
    tight, once = (metrics(trained(n)[1], "rl").values() for n in ("clipped", "plain"))
    assert all(m["clipped"] > 0.1 for m in tight)
    assert all(m["clipped"] == 0 for m in once)
    loose = metrics(trained("two updates")[1], "rl").values()
    assert all(m["logprob_gap"] < 1e-5 for m in loose)  # of the step's first weights


def test_the_distance_to_the_start_is_measured_from_the_start(trained):
    figures = metrics(trained("kl")[1], "rl")
    assert figures[1]["kl"] == pytest.approx(0, abs=1e-9)
    assert figures[2]["kl"] > 1e-6
    assert all(m["kl"] == 0 for m in metrics(trained("plain")[1], "rl").values())


def test_a_role_nobody_has(start, tmp_path):
    recipe = stage(tmp_path, start, roles={"agnet": 0.5})
    assert "has no role 'agnet'; did you mean 'agent'?" in run(recipe, tmp_path / "run").error
    recipe = stage(tmp_path, start, frozen={"agent": str(start)})
    assert "names every role" in run(recipe, tmp_path / "run").error


def test_an_environment_that_changed_on_the_way(start, tmp_path):
    recipe = stage(tmp_path, start)
    killed(recipe, tmp_path / "run", "checkpoint.renamed:1")
    env = tmp_path / "brief.py"
    before = env.read_text()
    env.write_text(before.replace("return 1 /", "return 2 /"))
    error = run(recipe, tmp_path / "run").error
    assert "data of stage rl changed since it began (environment " in error
    assert error.endswith("; choose another --dir or restore it")
    env.write_text(before)
    finish(recipe, tmp_path / "run")


DULL = """
from puna import Problem, SingleTurn


class Dull(SingleTurn):
    name = "dull"
    sizes = {"train": 3, "test": 1}

    def make(self, rng):
        return Problem(f"{rng.integers(1000)}?", "")

    def score(self, answer, problem):
        return 0.25
"""


def test_no_signal_teaches_nothing_and_ends_well(start, tmp_path):
    (tmp_path / "dull.py").write_text(DULL + ALL_COUNT)
    recipe = stage(tmp_path, start, env=str(tmp_path / "dull.py"), prompts=5, refills=2)
    killed(recipe, tmp_path / "run", "checkpoint.renamed:1")
    finish(recipe, tmp_path / "run")
    for figures in metrics(tmp_path / "run", "rl").values():
        assert figures["groups_seen"] == 15
        assert figures["zero_signal"] == 1
        assert figures["grad_norm"] == 0
    before = (start / "model.safetensors").read_bytes()
    assert (tmp_path / "run" / "rl" / "model" / "model.safetensors").read_bytes() == before


FEW = DULL.replace("Dull", "Few").replace("0.25", "1 / (1 + len(answer.encode()))")


def test_fewer_tasks_than_prompts(start, tmp_path):
    """The same task again in a step is another group with draws of its own."""
    (tmp_path / "few.py").write_text(FEW + ALL_COUNT)
    recipe = stage(tmp_path, start, env=str(tmp_path / "few.py"), prompts=7, steps=2)
    weights = finish(recipe, tmp_path / "run")
    figures = metrics(tmp_path / "run", "rl")[1]
    assert figures["groups_used"] == 7
    assert figures["rows"] == 28
    assert finish(recipe, tmp_path / "four", "machine.workers=4") == weights
