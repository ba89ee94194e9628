"""Finding environments, their identity, and `puna env`."""

from __future__ import annotations

import io
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from puna.core.errors import UserError
from puna.gym import console
from puna.gym.registry import known_environments, load_environment


def test_by_name_with_settings_and_mistakes() -> None:
    env = load_environment("arithmetic", {"terms": 3}, seed=4)
    assert (env.name, env.config.terms, env.seed) == ("arithmetic", 3, 4)
    assert known_environments()["arithmetic"] == "shipped"
    for name, settings, expected in (
        ("arithmetics", {}, "no environment 'arithmetics'; did you mean 'arithmetic'?"),
        ("", {}, "no environment ''"),
        ("arithmetic", {"term": 3}, "env arithmetic: unknown key 'term'; did you mean 'terms'?"),
        ("arithmetic", {"terms": 1}, "env arithmetic: terms is 1, must be 2 to 8"),
        ("./gone.py", {}, "no environment file gone.py"),
    ):
        with pytest.raises(UserError) as caught:
            load_environment(name, settings)
        assert str(caught.value).startswith(expected)


TWO = """
from puna.gym.environment import SingleTurn
class One(SingleTurn):
    name = "one"
class Two(SingleTurn):
    name = "two"
"""


def test_one_of_several_in_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "both.py"
    path.write_text(TWO)
    assert load_environment(f"{path}:Two").name == "two"
    for name, expected in (
        (str(path), f"found: One, Two; name one: {path}:One"),
        (f"{path}:Twoo", f"{path} has no Environment class 'Twoo'; did you mean 'Two'?"),
        (f"{tmp_path}/gone.py:Two", f"no environment file {tmp_path}/gone.py"),
    ):
        with pytest.raises(UserError) as caught:
            load_environment(name)
        assert expected in str(caught.value)


def test_other_libraries_environments_are_found_by_prefix() -> None:
    for name, expected in (
        ("reasoning_gim:x", "no environment 'reasoning_gim:x'; did you mean 'reasoning_gym:...'?"),
        ("trl:Count", "'Count' names no object"),
        ("trl:json:Count", "json has no 'Count'"),
    ):
        with pytest.raises(UserError) as caught:
            load_environment(name, {"rows": "x"})
        assert str(caught.value).startswith(expected)


def test_a_missing_library_names_the_line_that_installs_it(tmp_path: Path) -> None:
    code = """
import sys
import importlib.util
sys.modules["gymnasium"] = None
real = importlib.util.find_spec
util = importlib.util
util.find_spec = lambda n, *a: None if n == "reasoning_gym" else real(n, *a)
from puna.core.errors import UserError
from puna.gym.registry import load_environment
for name in ("gymnasium:FrozenLake-v1", "reasoning_gym:coin_flip"):
    try:
        load_environment(name)
    except UserError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "gymnasium is not installed; pip install 'puna[gyms]'",
        "reasoning-gym is not installed; pip install 'puna[gyms]'",
    ]


def test_a_file_that_is_no_python(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="not a Python file"):
        load_environment(str(tmp_path / "mine.txt"))


def test_the_hash_covers_code_and_settings(tmp_path: Path) -> None:
    def hash_of(settings: dict[str, int] | None = None) -> str:
        return load_environment("arithmetic", settings).content_hash  # type: ignore[attr-defined]

    assert hash_of() == hash_of({"terms": 2}) != hash_of({"terms": 3})
    path = tmp_path / "e.py"
    hashes = set()
    for comment in ("# a", "# b"):
        path.write_text(
            "from puna.gym.environment import SingleTurn\n"
            f"class E(SingleTurn):\n    name = 'e'  {comment}\n"
        )
        hashes.add(load_environment(str(path)).content_hash)  # type: ignore[attr-defined]
    assert len(hashes) == 2


def test_a_new_environment_passes_its_own_test_which_is_the_audit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console.new_environment("letters", tmp_path)
    assert "puna audit ./letters.py" in capsys.readouterr().out
    assert len((tmp_path / "letters.py").read_text().splitlines()) <= 30
    runpy.run_path(str(tmp_path / "test_letters.py"))["test_reward_can_be_trusted"]()
    with pytest.raises(UserError, match="exists"):
        console.new_environment("letters", tmp_path)
    for bad in ("Letters", "a-b", "../x", "1a", ""):
        with pytest.raises(UserError, match="cannot name an environment"):
            console.new_environment(bad, tmp_path)


def test_show_and_list_hide_what_is_hidden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console.show_environment("arithmetic")
    out = capsys.readouterr().out
    assert "1,000,000 train, 1,500 test" in out
    task = load_environment("arithmetic").task("train", 0)
    assert task.messages[0].text in out
    assert "answer" not in out
    console.list_environments()
    assert "arithmetic 2.0  Say the value" in capsys.readouterr().out
    bare = "from puna.gym.environment import *\nclass E(SingleTurn):\n    name = 'bare'\n"
    (tmp_path / "e.py").write_text(
        bare + "    def make(self, rng):\n        return Problem(str(rng.random()), '1')\n"
    )
    console.show_environment(str(tmp_path / "e.py"))
    assert "bare 1.0: no description" in capsys.readouterr().out


@pytest.mark.parametrize(("typed", "value"), [("{right}\n", "1.0"), ("x\n", "0.0"), ("", "0.0")])
def test_a_person_plays_the_agent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, value: str
) -> None:
    right = load_environment("arithmetic").task("test", 3).hidden["problem"].answer
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed.format(right=right)))
    console.try_environment("arithmetic", 3)
    assert f"agent: Scored(value={value}" in capsys.readouterr().out


@pytest.mark.parametrize("index", [-1, 10_000])
def test_a_task_that_is_not_there(index: int) -> None:
    with pytest.raises(UserError, match="1500 test tasks"):
        console.try_environment("arithmetic", index)
