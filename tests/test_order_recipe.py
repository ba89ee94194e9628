"""recipes/order.toml: what is planned of it, and all its kinds of stages in small."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from tiny_run import REPOSITORY, toml
from tiny_run import run as played

from puna.core.claims import SHOWN
from puna.core.recipe import Planned, plan, read_recipe
from puna.report.effects import figures, main_effects, numbers, verdicts
from puna.report.read import open_run
from puna.run import resolve, stage_config

RECIPE = REPOSITORY / "recipes" / "order.toml"
AXES = ("seed", "sft", "order", "filter", "batches")


@pytest.fixture(scope="module")
def stages() -> list[Planned]:
    return plan(read_recipe(RECIPE))


def of(stages: list[Planned], base: str) -> list[Planned]:
    return [stage for stage in stages if stage.base == base]


def test_half_of_all_combinations_and_shared_parents_once(stages: list[Planned]) -> None:
    assert len(resolve(read_recipe(RECIPE))) == len(stages)
    wanted = {"pretrain": 1, "base": 1, "sft": 9, "first": 9, "start": 18, "rl": 72, "last": 36}
    wanted |= {"kept": 9, "right": 9, "final": 72, "easy": 9, "control": 9}
    assert Counter(s.base for s in stages) == wanted
    for a, b in combinations(AXES, 2):
        counts = Counter((s.labels[a], s.labels[b]) for s in of(stages, "final"))
        assert len(set(counts.values())) == 1, (a, b)


def test_all_arms_play_as_many_episodes_and_end_where_they_should(stages: list[Planned]) -> None:
    arms = [stage_config(s) for s in (*of(stages, "rl"), *of(stages, "kept"))]
    assert {(c.pool.episodes, c.pool.size, c.prompts, c.samples) for c in arms} == {
        (65536, 1024, 64, 8)
    }
    right = stage_config(of(stages, "right")[0])
    assert right.demos * right.draw.samples == 65536
    for stage in of(stages, "final"):
        (parent,) = stage.parents
        assert parent.startswith("last@" if stage.labels["order"] == "after" else "rl@")
    for stage in of(stages, "easy"):
        rl, kept = stage.parents
        assert rl.removeprefix("rl") == kept.removeprefix("kept")


def test_every_claim_names_what_will_be_measured(stages: list[Planned]) -> None:
    known = set()
    for stage in stages:
        config = stage_config(stage)
        measures = ["useful groups"] if stage.kind == "rl" else []
        for env in getattr(config, "envs", ()):
            name = env if isinstance(env, str) else f"{env['id']} (level {env['level']})"
            measures += [name, f"{name}, pass@{config.k}", f"{name}, surprisal"]
        labels = [f"{k}={v}" for k, v in stage.labels.items()]
        labels += [f"stage={parent.partition('@')[0]}" for parent in stage.parents]
        known |= {f"{stage.base} / {m} / {label}" for m in measures for label in labels}
    claims = read_recipe(RECIPE).claims
    assert Counter(claim.id[0] for claim in claims) == {"a": 3, "b": 2, "c": 2, "d": 1}
    for claim in claims:
        assert {claim.metric, claim.against} <= known, claim.id
        assert claim.least == 3


TWO = {"id": "skills", "skill": "brackets+reversal", "level": 1}
POOL = {"size": 12, "by": "skill", "episodes": 120}


def small() -> list[str]:
    """What makes the shipped recipe small: one seed, two values of every axis."""
    shape = {"preset": "nano", "hidden_size": 64, "num_layers": 2, "num_experts": 0}
    moving = {"refills": 2, "pool": {"samples": 4, "every": 2, "k": 2}}
    order = {"after": {"from": ["sft"]}, "before": {"from": ["first"]}}
    few = {"above": 0.2, "drop": 0.95, "samples": 4, "max_tokens": 16}
    rl = {
        "order": order,
        "filter": {"none": {"refills": 0, "pool": {"samples": 0}}, "moving": moving},
        "batches": {"mixed": {}, "blocks": {"pool": {"cycles": 1}}},
    }
    sets: dict[str, Any] = {
        "machine.threads": 1, "machine.jobs": 1, "machine.dtype": "float32",
        "pretrain.max_bytes": 60_000, "pretrain.steps": 2, "pretrain.batch_tokens": 512,
        "pretrain.vocab": 400, "pretrain.vocab_envs": [TWO], "pretrain.model": shape,
        "base.demos": 3000, "base.steps": 300, "base.batch_tokens": 2048, "base.row_length": 64,
        "base.optim": {"lr": 4e-3, "warmup": 20},
        "sft.matrix": {"seed": [1], "sft": {"all": {}, "few": {"prune": few}}},
        "sft.demos": 120, "sft.batch_tokens": 256, "sft.row_length": 64,
        "rl.matrix": rl, "rl.pool": POOL, "kept.pool": POOL | {"easy": 0.3},
        "right.demos": 90, "right.draw": {"samples": 4, "max_tokens": 16},
        "right.batch_tokens": 256, "right.row_length": 64,
        "start.n": 20, "start.k": 4,
    }  # fmt: skip
    sets["kept.matrix"] = {"order": {"after": {"from": ["sft"]}}, "filter": {"moving": moving}}
    sets["kept.matrix"]["batches"] = {"mixed": {}}
    for stage in ("rl", "kept"):
        sets |= {f"{stage}.prompts": 4, f"{stage}.samples": 4, f"{stage}.steps": 20}
    for stage in ("first", "last"):
        sets |= {f"{stage}.prompts": 32, f"{stage}.samples": 6, f"{stage}.row_length": 64}
    for stage in ("base", "sft", "first", "rl", "last", "kept", "right"):
        sets[f"{stage}.env"] = TWO
    for stage in ("first", "start", "rl", "last", "kept", "final", "easy", "control"):
        sets[f"{stage}.max_tokens"] = 16
    sets["start.envs"] = [TWO]
    for stage in ("final", "easy", "control"):
        sets |= {f"{stage}.envs": [TWO, TWO | {"level": 2}], f"{stage}.n": 20}
    return [f"{key}={toml(value)}" for key, value in sets.items()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("order") / "run"
    done = played(RECIPE, directory, *small(), kill_after=280.0)
    assert done.code == 0, done.err
    return directory


def results(run: Path, base: str) -> dict[str, dict[str, Any]]:
    records = [json.loads(p.read_text()) for p in sorted(run.glob(f"{base}@*/stage.json"))]
    return {r["id"]: r["result"] for r in records}


@pytest.mark.slow
def test_light_sft_learns_the_same_rows_without_most_easy_ones(run: Path) -> None:
    found = results(run, "sft")
    every, few = found["sft@seed=1,sft=all"], found["sft@seed=1,sft=few"]
    assert few["easy_tasks"] >= 10
    assert every["rows"] == 120
    assert "easy_tasks" not in every  # nothing is measured for it
    assert few["rows"] == 120 - few["pruned_tasks"] <= 120 - 0.7 * few["easy_tasks"]
    assert few["steps"] < every["steps"]  # both once through all


@pytest.mark.slow
def test_each_arm_ends_at_its_budget_or_says_why_before(run: Path) -> None:
    arms = results(run, "rl") | results(run, "kept")
    assert len(arms) == 8 + 1
    for name, arm in arms.items():
        if arm["ended"].endswith("episodes are played"):
            assert 120 <= arm["episodes"] < 120 + 4 * 4 * 3 + 12 * 4, name
        else:
            assert arm["episodes"] < 120, name
            assert "solved" in arm["ended"] or "signal" in arm["ended"], name
    assert any(arm["ended"].endswith("episodes are played") for arm in arms.values())


@pytest.mark.slow
def test_head_room_and_entropy_are_measured_where_rl_begins(run: Path) -> None:
    for result in results(run, "start").values():
        (score,) = result["scores"]
        assert 0 < score["surprisal"] < 7
        assert score["score"]["pass_at"]["4"]["mean"] >= score["score"]["pass_at"]["1"]["mean"]


@pytest.mark.slow
def test_main_effects_and_claims_are_reported(run: Path) -> None:
    found = open_run(run)
    effects = main_effects(figures(found))
    axes = {(e.stage, e.axis) for e in effects}
    assert axes >= {("final", axis) for axis in ("sft", "order", "filter", "batches")}
    assert ("start", "sft") in axes
    assert {e.measure for e in effects if e.stage == "rl"} == {"useful groups"}
    row = numbers(figures(found))[1]
    assert any(name.startswith("easy / ") and name.endswith("stage=kept") for name in row)
    claims = {v.claim.id: v for v in verdicts(found)}
    assert len(claims) == 8
    assert not any(v.verdict == SHOWN for v in claims.values())  # of one seed
    assert "1 seeds; a verdict takes 3" in claims["b, useful groups"].measured()
    page = (run / "report.html").read_text()
    assert "Main effects" in page
    assert "Lighter SFT ends higher on hard tasks." in page
