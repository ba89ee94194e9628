"""A small run end to end: every claim has its numbers, controls fall where they must."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path

import numpy as np
import pytest

from puna.core.errors import UserError
from puna.papers.user_model import experiment
from puna.papers.user_model.experiment import Config, measure, plots, report
from puna.papers.user_model.measures import chance_mrr
from puna.papers.user_model.tables import Table, write_table

TINY = Config(users=100, length=16, width=16, steps=60, batch=16)


@pytest.fixture(scope="module")
def numbers() -> dict[str, float]:
    return measure(TINY, 0)


def claimed() -> set[str]:
    file = Path(experiment.__file__).with_name("claims.toml")
    claims = [c for c in tomllib.loads(file.read_text())["claim"] if c.get("testable", True)]
    names = {c[side] for c in claims for side in ("metric", "against")}
    return {name for name in names if isinstance(name, str)}


def test_every_claim_has_its_numbers(numbers: dict[str, float]) -> None:
    assert claimed() <= numbers.keys()
    assert all(math.isfinite(value) for value in numbers.values())


def test_controls_fall_where_they_must(numbers: dict[str, float]) -> None:
    chance = chance_mrr(50)
    assert numbers["noise_reid_mrr"] < 2.5 * chance < numbers["ceiling"]
    assert numbers["reid_mrr"] < numbers["ceiling"]
    assert numbers["pca_reid_mrr"] > 2 * chance
    assert numbers["noise_split_half"] < 0.4 < numbers["pca_split_half"]
    assert numbers["counts_nuisance_length"] > 0.5
    assert numbers["noise_nuisance_length"] < 0.1
    assert numbers["reid_mrr"] != numbers["mbp_reid_mrr"] != numbers["learned_reid_mrr"]


def test_a_seed_repeats_itself(numbers: dict[str, float]) -> None:
    assert measure(TINY, 0) == numbers


def test_a_real_log_has_the_same_claims(tmp_path: Path) -> None:
    """Files as MovieLens 100K has them, of made users who like one genre each."""
    random = np.random.default_rng(0)
    items = [f"{i}\tFilm\t1990\t{'ABCD'[i % 4]}" for i in range(200)]
    users = [f"{u}\t{20 + u % 30}\t{'MF'[u % 2]}\t{'student' if u % 3 else 'cook'}\t1"
             for u in range(60)]  # fmt: skip
    ratings = []
    for user in range(60):
        for time, item in enumerate(random.permutation(200)[: random.integers(90, 160)]):
            liked = item % 4 == user % 4 or random.random() < 0.2
            ratings.append(f"{user}\t{item}\t{5 if liked else 2}\t{time}")
    files = {
        "inter": ["user_id:token\titem_id:token\trating:float\ttimestamp:float", *ratings],
        "item": ["item_id:token\tmovie_title:seq\trelease_year:token\tclass:seq", *items],
        "user": ["user_id:token\tage:token\tgender:token\toccupation:token\tzip:token", *users],
    }
    for name, lines in files.items():
        (tmp_path / f"ml-100k.{name}").write_text("\n".join(lines) + "\n")
    found = measure(Config(data=str(tmp_path), width=16, steps=10, batch=8), 0)
    assert claimed() <= found.keys()
    assert "ceiling" not in found
    assert all(math.isfinite(value) for value in found.values())


def test_quick_sizes_give_way_to_the_users_own() -> None:
    assert Config(quick=True).sized().steps == 150
    assert Config(quick=True, steps=64).sized().steps == 64
    assert Config(quick=True, data="ml").sized().length == 32
    assert Config().sized() == Config()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 0}, "steps and batch"),
        ({"length": 4}, "length must be 8 or more"),
        ({"width": 30}, "width 30 is no multiple of heads 4"),
        ({"users": 99}, "users 100 or more"),
        ({"heads": 0}, "width, layers and heads"),
        ({"learning_rate": float("nan")}, "learning_rate above 0"),
    ],
)
def test_a_wrong_size_is_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Config(**settings)  # type: ignore[arg-type]


def test_the_report_on_a_table(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    owner = np.repeat(np.arange(50), 2)
    trait = random.normal(size=(50, 6))
    table = Table(
        np.array([f"{u:02d}" for u in range(50)]), owner, trait[owner],
        labels_N={"paid": (trait[:, 0] > 0).astype(float)},
    )  # fmt: skip
    file = tmp_path / "vectors.npz"
    write_table(file, table)
    text = report(Config(table=str(file)), tmp_path)
    assert text.startswith(f"{file}: 50 users, 100 windows, 6 dimensions")
    kept = json.loads((tmp_path / "measurement.json").read_text())
    figures = {f["name"]: f["value"] for f in kept["figures"]}
    assert figures["icc"] == pytest.approx(1)
    assert figures["reid_mrr"] == 1
    assert figures["auc_paid"] > 0.9
    assert "auc_paid" in text
    both = report(Config(table=str(file), other=str(file)), tmp_path)
    assert "cka" in both
    assert "cka" not in text
    assert report(Config(), tmp_path) == ""
    with pytest.raises(UserError, match="without table="):
        report(Config(other=str(file)), tmp_path)


def test_plots_are_written(tmp_path: Path, numbers: dict[str, float]) -> None:
    pytest.importorskip("matplotlib")
    plots([numbers, numbers], tmp_path)
    for name in ("reid_mrr", "predict_auc"):
        text = (tmp_path / f"{name}.svg").read_text()
        assert "<svg" in text
