"""A recipe that raises a model in three seconds, and the real command on it in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent

RECIPE = """
name = "tiny"
seed = 3

[machine]
dtype = "float32"
threads = 1

[[stage]]
id = "pretrain"
kind = "pretrain"
data = "{data}"
vocab = 300
steps = 4
batch_tokens = 256
row_length = 64
eval_bytes = 2000
sample_every = 0
save_every = 2
with_baselines = false
held_out = 20.0

[stage.model]
preset = "nano"
hidden_size = 32
num_layers = 2
num_heads = 2
num_kv_heads = 1
intermediate_size = 48
expert_size = 24

[[stage]]
id = "sft"
kind = "sft"
from = ["pretrain"]
env = "arithmetic"
demos = 24
steps = 6
batch_tokens = 256
row_length = 64
eval_every = 3
eval_tasks = 4
max_tokens = 4
save_every = 2
optim = {{ lr = 2e-3, warmup = 1 }}

[[stage]]
id = "rl"
kind = "rl"
from = ["sft"]
env = {{ id = "{env}" }}
steps = 4
prompts = 2
samples = 4
refills = 1
max_tokens = 4
save_every = 2
optim = {{ lr = 2e-3, warmup = 1, schedule = "constant", weight_decay = 0.0 }}

[[stage]]
id = "eval"
kind = "eval"
from = ["pretrain", "sft", "rl"]
envs = ["arithmetic"]
n = 16
max_tokens = 4
"""

# A small model never solves arithmetic, and groups without signal would leave RL nothing to do.
SHORTEST = '''
from puna import Problem, SingleTurn


class Brief(SingleTurn):
    """Every answer is scored by its length, so that any model gets a signal."""

    name = "brief"

    def make(self, rng):
        return Problem(f"{rng.integers(1000)}?", "")

    def score(self, answer, problem):
        return 1 / (1 + len(answer.encode()))
'''


def write_recipe(directory: Path, *changes: tuple[str, str]) -> Path:
    """The recipe with its text and its environment in `directory`; `changes` replace its lines."""
    text = directory / "text"
    text.mkdir(parents=True)
    for number in range(8):
        lines = [f"word{i * i % (17 + number)} is {i} and {number}" for i in range(70)]
        (text / f"{number}.txt").write_text("\n".join(lines))
    (directory / "brief.py").write_text(SHORTEST)
    recipe = RECIPE.format(data=text, env=directory / "brief.py")
    for old, new in changes:
        assert old in recipe, f"{old!r} is not in the recipe"
        recipe = recipe.replace(old, new, 1)
    path = directory / "tiny.toml"
    path.write_text(recipe)
    return path


def command(*args: str | Path) -> list[str]:
    """`puna ...` with the Python that runs the tests."""
    return [sys.executable, "-m", "puna.cli", *map(str, args)]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child: this package, one thread, no crash asked for."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PUNA_")}
    return {
        **inherited,
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **(extra or {}),
    }


def puna(
    *args: str | Path, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        command(*args),
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def finish(recipe: Path, run: Path, *sets: str) -> dict[str, str]:
    """Run a recipe that must succeed; the digests of its weights."""
    done = puna("run", recipe, "--dir", run, *_sets(sets))
    assert done.returncode == 0, done.stderr
    return digests(run)


def killed_at(point: str, recipe: Path, run: Path, *sets: str) -> None:
    """Run a recipe into `kill -9` at a crash point."""
    done = puna("run", recipe, "--dir", run, *_sets(sets), env={"PUNA_CRASH_AT": point})
    assert done.returncode == -signal.SIGKILL, f"{point}: {done.returncode} {done.stderr}"


def _sets(sets: Sequence[str]) -> list[str]:
    return [part for text in sets for part in ("--set", text)]


def digests(run: Path) -> dict[str, str]:
    """Stage -> hash of its weights, for every finished stage that has some."""
    records = [json.loads(p.read_text()) for p in sorted(run.glob("*/stage.json"))]
    return {r["id"]: r["weights"] for r in records if "weights" in r}


def metrics(run: Path, stage: str) -> dict[int, dict[str, Any]]:
    """Step -> the last figures of it."""
    lines = (run / stage / "metrics.jsonl").read_text().splitlines()
    return {r["step"]: r for r in map(json.loads, lines)}
