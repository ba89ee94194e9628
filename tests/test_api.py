"""The Python API: its doctests, its names, a run as an object, a model to talk to."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cli import cpu_seconds
from tiny_run import environment, write_recipe

import puna
from puna.api import _toml
from puna.core.config import parse_set
from puna.core.stats import Score

SETS = {"rl.steps": 2, "eval.n": 16}
DOCUMENTED = (
    "puna",
    "puna.api",
    "puna.agents.model",
    "puna.evals.compare",
    "puna.evals.propose",
    "puna.export.plan",
    "puna.export.convert",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the examples take for granted: a folder with `mine.toml` and its run."""
    there = tmp_path_factory.mktemp("api")
    recipe = write_recipe(there / "recipe").read_text().replace('name = "tiny"', 'name = "mine"')
    (there / "mine.toml").write_text(recipe)
    before = Path.cwd()
    os.chdir(there)
    try:
        assert puna.run("mine.toml", set=SETS).directory == Path("runs/mine")
        yield there
    finally:
        os.chdir(before)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_examples_in_docstrings_are_true(name: str, place: Path) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


def test_an_example_that_is_wrong_would_be_noticed() -> None:
    broken = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "x", None, 0)
    assert doctest.DocTestRunner(verbose=False).run(broken, out=lambda _: None).failed == 1


def test_every_public_function_has_an_example_or_stands_in_the_tour() -> None:
    tour = puna.__doc__ or ""
    for name in puna.__all__:
        value = getattr(puna, name)
        own = inspect.getdoc(value) or ""
        if inspect.isfunction(value) and name != "load_environment":
            assert ">>> " in own or f"puna.{name}(" in tour, name


def test_importing_costs_nothing() -> None:
    bare = cpu_seconds("-c", "pass")
    assert cpu_seconds("-c", "import puna") - bare < 0.03


def test_what_type_checkers_see_is_what_there_is() -> None:
    tree = ast.parse(Path(inspect.getfile(puna)).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and "TYPE" in ast.unparse(n.test))
    seen = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("puna")
        for alias in node.names
    }
    assert seen == puna._PUBLIC
    assert set(puna.__all__) <= set(dir(puna))


def test_run_is_the_function_whatever_was_imported_before() -> None:
    code = "import puna.run, puna; from puna.run import execute; from puna import run; "
    code += "import sys, inspect; assert inspect.isfunction(puna.run) and run is puna.run; "
    code += "assert sys.modules['puna.run'].execute is execute"
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)


@pytest.mark.slow
def test_mypy_sees_types_and_missing_names(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import puna\n"
        "reveal_type(puna.run('x').score('sft'))\n"
        "reveal_type(puna.load('x').chat('hello'))\n"
        "puna.nonsense\n"
    )
    root = Path(puna.__file__).parent.parent
    command = [sys.executable, "-m", "mypy", "--strict", str(program)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert 'Revealed type is "puna.core.stats.Score"' in done.stdout
    assert 'Revealed type is "puna.core.messages.Message"' in done.stdout
    assert 'has no attribute "nonsense"' in done.stdout


def test_a_run_as_an_object(place: Path) -> None:
    run = puna.Run("runs/mine")
    assert [s.kind for s in run.stages] == ["pretrain", "sft", "rl", "eval"]
    assert run.report.read_text().startswith("<!doctype html>")
    stored = json.loads((run.directory / "eval" / "stage.json").read_text())["result"]["scores"]
    for row in stored:
        score = run.score(row["stage"])
        assert isinstance(score, Score)
        assert json.loads(json.dumps(score.to_json())) == row["score"]
        assert f"(n={score.n_tasks} tasks" in score.line()
    assert run.score() == run.score("rl", "arithmetic")
    assert run.model().name == "rl"


def test_a_run_goes_on_and_refuses_other_settings(place: Path) -> None:
    def written(run: puna.Run) -> list[int]:
        return [(s.dir / "stage.json").stat().st_mtime_ns for s in run.stages]

    before = written(puna.Run("runs/mine"))
    assert written(puna.run("mine.toml", "runs/mine", ["rl.steps=2", "eval.n=16"])) == before
    with pytest.raises(puna.UserError, match="holds another recipe's run"):
        puna.run("mine.toml", set={"rl.steps": 3, "eval.n": 16})


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda: puna.Run("nowhere"), "no run in nowhere"),
        (lambda: puna.run("quikstart"), "did you mean 'quickstart'"),
        (lambda: puna.run("mine.toml", set={"rl.stpes": 3}), "did you mean 'steps'"),
        (lambda: puna.run("mine.toml", set={"rl.steps": object()}), "a setting is <object"),
        (lambda: puna.Run("runs/mine").score("slf"), "did you mean 'sft'"),
        (lambda: puna.Run("runs/mine").score("sft", "shop"), "was not scored in 'shop'"),
        (lambda: puna.load("runs/mine", "eval"), "no finished stage 'eval'"),
        (lambda: puna.load("runs/mine").chat("1" * 5000), "say less"),
        (lambda: puna.load("runs/mine").chat([{"role": "robot"}]), "role is 'robot'"),
        (lambda: puna.load("runs/mine").chat(["hello"]), "that is no conversation"),
        (lambda: puna.load("runs/mine").chat("1", max_tokens=0), "max_tokens is 0"),
        (lambda: puna.load("runs/mine").sample([]), "has 0 tokens"),
    ],
)
def test_mistakes_are_one_line(place: Path, work, said: str) -> None:
    with pytest.raises(puna.UserError, match=said) as caught:
        work()
    assert "\n" not in str(caught.value)


def test_a_model_answers_as_the_run_scored_it(place: Path) -> None:
    """Greedy answers of `chat` are those in the eval stage's journal."""
    model = puna.load("runs/mine", "sft")
    journal = Path("runs/mine/eval/episodes-sft-arithmetic.jsonl").read_text().splitlines()
    for record in map(json.loads, journal):
        asked, said = (puna.Message.from_json(m) for m in record["transcripts"][0])
        assert model.chat(asked.text, max_tokens=4) == said
        assert model.chat([asked.to_openai()], max_tokens=4) == said


def test_seeds_and_temperature_decide_the_draws(place: Path) -> None:
    model = puna.load("runs/mine", "pretrain")
    drawn = [model.sample("def ", max_tokens=12, seed=s) for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    greedy = [model.sample("def ", max_tokens=12, temperature=0, seed=s) for s in (0, 1)]
    assert greedy[0] == greedy[1]
    ids = [model.engine.tokenizer.special("begin_of_text"), *model.engine.tokenizer.encode("def ")]
    assert model.sample(ids, max_tokens=12) == drawn[0]
    assert drawn[0].finish == "stop" or len(drawn[0].ids) == 12


SETTING = st.recursive(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.integers(-(2**60), 2**60)
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc.= ", max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(SETTING)
def test_any_setting_survives_the_way_to_the_recipe(value) -> None:
    assert parse_set(f"a.b={_toml(value)}") == (["a", "b"], value)
