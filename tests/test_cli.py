"""The command: light to start, one line for a mistake, and settings that mean what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import environment, puna, write_recipe

from puna import cli
from puna.core.errors import UserError
from puna.core.recipe import plan, read_recipe
from puna.run import resolve

HEAVY = ("torch", "numpy", "tokenizers", "safetensors", "matplotlib", "rich", "httpx", "tyro")
BUDGET_CPU_S = 0.3


def cpu_seconds(*args: str) -> float:
    """User and system seconds of `python ...`, the least of five tries."""
    spent = []
    for _ in range(5):
        argv = [sys.executable, *args]
        child = subprocess.Popen(argv, env=environment(), stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        spent.append(usage.ru_utime + usage.ru_stime)
    return min(spent)


@pytest.mark.parametrize(
    "args", [("-m", "puna.cli", "--help"), ("-m", "puna.cli", "--version"), ("-c", "import puna")]
)
def test_starting_is_cheap(args):
    assert cpu_seconds(*args) < BUDGET_CPU_S


@pytest.mark.parametrize(
    "code",
    [
        "import puna",
        "import puna.cli",
        "import puna.cli; puna.cli.main(['--help'])",
        "import puna.cli; puna.cli.main(['nonsense'])",
    ],
)
def test_nothing_heavy_is_imported(code):
    ask = f"{code}; import sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", ask], env=environment(), capture_output=True)
    assert done.stdout.endswith(b"[]\n"), done


def test_the_public_names_are_there():
    import puna as package

    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'evil'"):
        package.evil  # noqa: B018


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_verb(args, capsys):
    assert cli.main(args) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {verb} " in text for verb in cli.VERBS)


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_helps(verb):
    done = puna(verb, "--help")
    assert done.code == 0
    assert f"puna {verb}" in done.out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["rnu"], "no verb 'rnu'; did you mean 'run'?"),
        (["run"], "puna run"),
        (["run", "quickstart", "--nope"], "`puna run --help` lists them"),
        (["run", "quickstart", "--dry-rum"], "options: --dry-rum; did you mean --dry-run?"),
        (["eval", "a", "--temprature", "0"], "--temprature, 0; did you mean --temperature?"),
        (["chat", "a", "--max-token"], "did you mean --max-tokens?"),
        (["audit"], "puna audit: name an environment or a judge"),
        (["run", "quikstart"], "no recipe 'quikstart'; did you mean 'quickstart'?"),
        (["eval"], "name a run or a model"),
        (["eval", "a", "--model", "http://b"], "name a run or a model"),
        (["eval", "a", "--set", "rl.steps=3"], "only the environment has settings here"),
        (["eval", "a", "-n", "none"], "invalid literal for int() with base 10: 'none'"),
        (["eval", "nowhere"], "no run or model at nowhere"),
        (["chat", "nowhere"], "no run or model at nowhere"),
        (["compare", "nowhere", "nowhere"], "no result or run at nowhere"),
        (["audit", "arithmatic"], "did you mean 'arithmetic'?"),
        (["env", "shwo"], "no action 'shwo'; did you mean 'show'?"),
        (["env", "show"], "which one?"),
        (["env", "try", "arithmetic", "--index", "x"], "not a task number"),
        (["env", "try", "arithmetic", "--index", "²"], "not a task number"),
        (["doctor", "who"], "takes no 'who'"),
    ],
)
def test_mistakes_are_one_line(args, said):
    assert said in puna(*args).error


def test_a_reader_that_has_gone_is_no_error():
    code = "import puna.cli, sys; sys.exit(puna.cli.main(['--help']))"
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    child.stdout.close()
    assert child.stderr.read() == b""
    assert child.wait() == 0


@pytest.fixture
def recipe(tmp_path) -> Path:
    return write_recipe(tmp_path / "recipe")


def test_dry_run_prints_every_setting_and_writes_nothing(recipe, tmp_path):
    done = puna("run", recipe, "--dir", tmp_path / "run", "--dry-run", "--set", "rl.steps=50")
    stages = {s["id"]: s for s in json.loads(done.out)}
    assert list(stages) == ["pretrain", "sft", "rl", "eval"]
    assert stages["rl"]["steps"] == 50
    assert stages["rl"]["loss"]["clip_high"] == 0.28  # a default
    assert stages["rl"]["from"] == ["sft"]
    assert stages["rl"]["optim"]["lr"] == 2e-3
    assert not (tmp_path / "run").exists()


def settings(recipe, *sets):
    return {s["id"]: s for s in resolve(read_recipe(recipe, sets))}


def test_set_in_every_form(recipe):
    found = settings(
        recipe,
        "seed=9",
        "sft.steps=7",
        "sft.optim.lr=3e-4",
        "sft.optim.schedule=linear",
        'pretrain.prompts=["a", "b"]',
        "sft.env.terms=4",  # the recipe says env = "arithmetic"
        "pretrain.model.num_layers=3",
        "pretrain.with_baselines=true",
        "sft.data=some file.jsonl",
        'rl.env="arithmetic"',
        "eval.envs=[{id = 'arithmetic', terms = 3}]",
        "rl.steps = 5",
        "rl.steps=6",  # the last one counts
    )
    assert {s["seed"] for s in found.values()} == {9}
    sft, pretrain = found["sft"], found["pretrain"]
    assert (sft["steps"], sft["optim"]["lr"], sft["optim"]["schedule"]) == (7, 3e-4, "linear")
    assert sft["optim"]["warmup"] == 1  # of the recipe's own table
    assert sft["env"] == {"id": "arithmetic", "terms": 4}
    assert sft["data"] == "some file.jsonl"
    assert pretrain["prompts"] == ["a", "b"]
    assert pretrain["model"]["num_layers"] == 3
    assert pretrain["with_baselines"] is True
    assert found["rl"]["env"] == "arithmetic"
    assert found["rl"]["steps"] == 6
    assert found["eval"]["envs"] == [{"id": "arithmetic", "terms": 3}]


def test_set_name_and_machine(recipe):
    found = read_recipe(recipe, ["name=other", "machine.threads=3", 'title="A title"'])
    assert (found.name, found.title, found.machine["threads"]) == ("other", "A title", 3)


def test_matrix_and_rounds_make_stages_of_their_own(recipe):
    sets = ["sft.matrix.seed=[0, 1]", "rl.rounds=2", 'rl.matrix.algorithm=["grpo", "raft"]']
    stages = plan(read_recipe(recipe, sets))
    names = [s.id for s in stages if s.base == "rl"]
    assert len(names) == 8
    assert names[:2] == ["rl@seed=0,algorithm=grpo.1", "rl@seed=0,algorithm=grpo.2"]
    second = next(s for s in stages if s.id == names[1])
    assert second.parents == (names[0],)
    assert second.seed == 0
    with pytest.raises(UserError, match="did you mean 'grpo'"):
        settings(recipe, 'rl.matrix.algorithm=["gppo"]')
