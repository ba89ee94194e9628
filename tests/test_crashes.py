"""`kill -9` anywhere, the same command again: the weights are those of a run left alone."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import safetensors.torch
from tiny_run import digests, finish, killed, run, write_recipe

from puna.core.files import sha256_file


class Reference:
    """The run that nobody interrupts: its weights, its passages of crash points, its seconds."""

    def __init__(self, directory: Path) -> None:
        self.recipe = write_recipe(directory / "recipe")
        trace = directory / "trace"
        done = run(self.recipe, directory / "run", trace=trace)
        assert done.code == 0, done.err
        self.weights, self.seconds = digests(directory / "run"), done.seconds
        self.passages = trace.read_text().split()
        self.names = list(dict.fromkeys(p.split(":")[0] for p in self.passages))


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Reference:
    return Reference(tmp_path_factory.mktemp("reference"))


def test_the_reference_passes_every_kind_of_write(reference):
    assert set(reference.weights) == {"pretrain", "sft", "rl"}
    assert len(set(reference.weights.values())) == 3
    wanted = {"run", "tokenizer", "metrics", "checkpoint", "stage", "model", "episodes", "report"}
    wanted |= {"audit"}
    assert {name.split(".")[0] for name in reference.names} == wanted


def test_killed_at_every_crash_point_one_after_the_other(reference, tmp_path):
    """Each point at its first passage after the kill before; the last command goes to the end."""
    points = list(reference.names)
    # A model that a killed run had put in place is put aside when it is written again.
    points.insert(points.index("model.renamed") + 1, "model.cleared")
    for point in points:
        killed(reference.recipe, tmp_path / "run", point)
    assert finish(reference.recipe, tmp_path / "run") == reference.weights
    left = [p.name for p in (tmp_path / "run").rglob("*") if p.name.endswith(".tmp")]
    assert not left
    assert not list((tmp_path / "run").rglob("checkpoints"))


def test_killed_late_and_run_again_when_finished(reference, tmp_path):
    """In the last steps of the last trained stage, with everything before it finished."""
    for point in ("metrics.appended:14", "checkpoint.renamed:1", "stage.tidied:3"):
        killed(reference.recipe, tmp_path / "run", point)
    assert finish(reference.recipe, tmp_path / "run") == reference.weights
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*.safetensors")}
    assert finish(reference.recipe, tmp_path / "run") == reference.weights
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*.safetensors")}


def test_killed_at_random_moments(reference, tmp_path):
    rng = random.Random(0)
    for _ in range(3):
        run(reference.recipe, tmp_path / "run", kill_after=rng.uniform(0, reference.seconds))
    assert finish(reference.recipe, tmp_path / "run") == reference.weights


def test_equal_digests_are_not_a_matter_of_course(reference, tmp_path):
    """With the moments of the optimiser lost, the very same continuation ends elsewhere."""
    killed(reference.recipe, tmp_path / "run", "checkpoint.renamed:1")
    (step,) = (tmp_path / "run" / "pretrain" / "checkpoints").iterdir()
    path = step / "optimizer.safetensors"
    lost = {
        name: value if name.endswith(":step") else value * 0
        for name, value in safetensors.torch.load_file(path).items()
    }
    safetensors.torch.save_file(lost, path)
    record = json.loads((step / "checkpoint.json").read_text())
    record["files"][path.name] = sha256_file(path)
    (step / "checkpoint.json").write_text(json.dumps(record))
    weights = finish(reference.recipe, tmp_path / "run")
    assert all(weights[stage] != reference.weights[stage] for stage in weights)


def test_killed_between_checkpoints_going_and_the_stages_end(reference, tmp_path):
    """Checkpoints go only when the stage's record is in place, whatever is left of them then."""
    killed(reference.recipe, tmp_path / "run", "stage.renamed:1")
    checkpoints = tmp_path / "run" / "pretrain" / "checkpoints"
    assert checkpoints.exists()
    for path in checkpoints.rglob("optimizer.safetensors"):
        path.unlink()  # as if killed while they were being removed
    assert finish(reference.recipe, tmp_path / "run") == reference.weights


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_the_first_and_last_passage_of_every_crash_point(reference, tmp_path):
    for name in reference.names:
        last = [p for p in reference.passages if p.startswith(f"{name}:")][-1]
        for point in dict.fromkeys((f"{name}:1", last)):
            directory = tmp_path / "run"
            killed(reference.recipe, directory, point)
            assert finish(reference.recipe, directory) == reference.weights, point
            shutil.rmtree(directory)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_twenty_random_moments(reference, tmp_path):
    rng, directory = random.Random(1), tmp_path / "run"
    for number in range(20):
        moment = reference.seconds * (number + rng.random()) / 20
        run(reference.recipe, directory, kill_after=moment)
        assert finish(reference.recipe, directory) == reference.weights, moment
        shutil.rmtree(directory)
