"""reasoning-gym's datasets as environments: their tasks, their judge, their holes."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from puna.compat.alone import import_alone
from puna.core.errors import UserError
from puna.core.outcome import Infra, Outcome, Scored
from puna.gym.audit import audit
from puna.gym.environment import Environment, say
from puna.gym.loop import Context, play_scripts
from puna.gym.registry import load_environment
from puna.gym.verify import judge_group
from puna.gym.workers import Workers
from puna.sandbox import shared

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")

from puna.compat import reasoning_gym
from puna.compat.reasoning_gym_jail import FORGERY, harmless


def outcome(env: Environment, index: int, text: str) -> Outcome:
    async def play() -> Outcome:
        task, workers = env.task("test", index), Workers(1)
        episode = await play_scripts(env, task, {"agent": say(text)}, Context())
        verdicts = await judge_group(env, task, [episode], Context(), workers)
        workers.close()
        return verdicts[0]["agent"]

    return asyncio.run(play())


def walls() -> None:
    try:
        shared()
    except UserError as error:
        pytest.skip(f"no sandbox: {error}")


def test_a_dataset_is_an_environment_judged_by_its_own_score_answer() -> None:
    env = load_environment("reasoning_gym:spell_backward", {"min_word_len": 4}, seed=3)
    assert (env.count("train"), env.count("test")) == (500, 500)
    task = env.task("test", 7)
    problem = task.hidden["problem"]
    assert [m.text for m in task.messages] == [problem.hidden["entry"]["question"]]
    assert outcome(env, 7, problem.answer) == Scored(1.0, True)
    dataset = env._dataset("test")  # type: ignore[attr-defined]
    for text in ("", "x", problem.answer[::-1], problem.answer + "."):
        value = dataset.score_answer(text, problem.hidden["entry"])
        assert outcome(env, 7, text) == Scored(value, value >= 1)


@pytest.mark.parametrize("name", ["coin_flip", "tower_of_hanoi", "aiw", "word_ladder", "acre"])
def test_train_and_test_share_no_question(name: str) -> None:
    env = load_environment(f"reasoning_gym:{name}", {"size": 40})
    keys = {s: {env.task(s, i).key for i in range(40)} for s in ("train", "test")}
    assert keys["train"]
    assert keys["test"]
    assert not keys["train"] & keys["test"]
    # The same draws without the split by hash do share some, where there are few questions.
    if name in ("coin_flip", "tower_of_hanoi"):
        dataset = {s: env._dataset(s) for s in keys}  # type: ignore[attr-defined]
        raw = {s: {d[i]["question"] for i in range(300)} for s, d in dataset.items()}
        assert raw["train"] & raw["test"]


def test_tasks_depend_on_seed_and_settings_alone() -> None:
    def digest(seed: int = 0, **settings: Any) -> str:
        return load_environment("reasoning_gym:chain_sum", settings, seed).task("train", 5).digest

    assert digest() == digest()
    assert len({digest(), digest(seed=1), digest(min_terms=4)}) == 3


def test_the_hash_names_dataset_version_and_settings() -> None:
    def of(name: str, **settings: Any) -> str:
        env = load_environment(f"reasoning_gym:{name}", settings)
        return env.content_hash  # type: ignore[attr-defined,no-any-return]

    assert of("chain_sum") == of("chain_sum")
    assert len({of("chain_sum"), of("lcm"), of("chain_sum", min_terms=4)}) == 3


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("coin_flop", {}, "reasoning-gym has no dataset 'coin_flop'; did you mean 'coin_flip'?"),
        ("composite", {}, "reasoning-gym has no dataset 'composite'"),
        ("coin_flip", {"min_trial": 3}, "env reasoning_gym:coin_flip: unknown key 'min_trial'"),
        ("coin_flip", {"min_trials": 0}, "env reasoning_gym:coin_flip: min_trials must be"),
        ("coin_flip", {"min_trials": "x"}, "env reasoning_gym:coin_flip.min_trials is 'x' (str)"),
        ("coin_flip", {"seed": 3}, "env reasoning_gym:coin_flip: 'seed' comes from"),
    ],
)
def test_mistakes_are_one_line(name: str, settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        load_environment(f"reasoning_gym:{name}", settings)
    assert str(caught.value).startswith(expected)


def test_an_answer_that_is_none_and_settings_that_no_table_holds() -> None:
    env = load_environment("reasoning_gym:rush_hour", {"size": 3})
    assert env.task("train", 0).hidden["problem"].answer == ""
    env = load_environment("reasoning_gym:string_manipulation", {"size": 3})
    assert env.task("train", 0).messages
    env = load_environment("reasoning_gym:caesar_cipher", {"size": 3, "delimiter": ","})
    assert env.config.delimiter == ","


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200
    )
    return done.stdout.strip()


def test_loading_one_dataset_imports_no_other_and_is_quick() -> None:
    code = """
import sys, time
from puna.gym.registry import load_environment
import puna.compat.reasoning_gym
began = time.process_time()
env = load_environment("reasoning_gym:coin_flip")
problems = [env.task("train", i).hidden["problem"] for i in range(50)]
for problem in problems:
    for text in ("", "0", "0.5", problem.answer):
        env.score(text, problem)
print(time.process_time() - began, "sympy" in sys.modules, "reasoning_gym.games" in sys.modules)
"""
    seconds, *heavy = python(code).split()
    assert float(seconds) < 1.0
    assert heavy == ["False", "False"]


def test_a_package_whose_import_was_put_off_is_whole_when_asked() -> None:
    code = """
import sys
from puna.compat.reasoning_gym import load, names
one = load("coin_flip", {}, 0)
assert "reasoning_gym.games" not in sys.modules
import reasoning_gym
from reasoning_gym.factory import DATASETS
sudoku = reasoning_gym.create_dataset("sudoku", seed=1)
assert type(reasoning_gym.create_dataset("coin_flip")) is one._cls
assert type(reasoning_gym.factory).__name__ == "module" == type(reasoning_gym).__name__
assert sorted(set(DATASETS) - {"composite"}) == names()
print(len(names()))
"""
    assert int(python(code)) > 100


def test_import_alone_refuses_what_is_not_there() -> None:
    with pytest.raises(ModuleNotFoundError, match="no package nothing_here"):
        import_alone("nothing_here.x")


def test_every_dataset_says_its_name_where_it_is_read_from() -> None:
    import reasoning_gym as library
    from reasoning_gym.factory import DATASETS

    assert library.create_dataset
    assert reasoning_gym.names() == sorted(set(DATASETS) - {"composite"})


@pytest.mark.parametrize("name", ["ab", "knights_knaves"])
def test_the_audit_passes_a_sound_dataset_and_not_another(name: str) -> None:
    found = audit(f"reasoning_gym:{name}", n=5, settings={"size": 50})
    failed = {f.probe for f in found.findings if not f.passed}
    assert not {"oracle", "idle", "forged verdict", "same verdict"} & failed
    assert ("own cheats" in failed) is (name != "ab")


def test_the_audit_finds_known_holes() -> None:
    def failed(name: str) -> dict[str, str]:
        found = audit(f"reasoning_gym:{name}", n=20, settings={"size": 50})
        return {f.probe: f.seen for f in found.findings if not f.passed}

    assert "'0'" in failed("coin_flip")["constant answer"]  # pays for digits in common
    assert "earned 1" in failed("game_of_life_halting")["own cheats"]  # pays for any text
    assert "oracle" in failed("graph_color")  # its answer is None


@dataclass
class Config:
    size: int = 20
    seed: int | None = None
    gives: Any = None


class Nonsense:
    """A dataset whose scorer gives what its config says for every answer but the right one."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"question": f"{index}?", "answer": str(index), "metadata": {}}

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> Any:
        return 1.0 if answer == entry["answer"] else self.config.gives


@pytest.mark.parametrize("gives", [math.nan, math.inf, None, "much"])
def test_a_score_that_is_no_number_pays_nothing(gives: Any) -> None:
    env = reasoning_gym.ReasoningGym("nonsense", Nonsense, Config(gives=gives))
    found = outcome(env, 0, "wrong")
    assert isinstance(found, Infra) or found == Scored(0.0, False, evidence=found.evidence)
    assert "verifier" in str(found)
    beyond = reasoning_gym.ReasoningGym("nonsense", Nonsense, Config(gives=2.5))
    assert outcome(beyond, 0, "wrong") == Scored(2.5, True)


@dataclass
class FewConfig(Config):
    size: int = 3


class Few(Nonsense):
    """One question over and over."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"question": "again?", "answer": "yes", "metadata": {}}


def test_a_dataset_of_one_question_has_only_one_split() -> None:
    env = reasoning_gym.ReasoningGym("few", Few, FewConfig())
    there = env.belongs("again?")
    assert env.task(there, 0).key == "again?"
    with pytest.raises(UserError, match="32 draws gave no problem of split"):
        env.task("train" if there == "test" else "test", 0)


def test_scorers_that_evaluate_answers_are_known_and_need_a_jail() -> None:
    jailed = {
        name for name in ("binary_matrix", "n_queens", "countdown", "simple_integration",
                          "spiral_matrix", "string_insertion", "puzzle24", "chain_sum",
                          "propositional_logic", "number_sorting", "coin_flip")
        if load_environment(f"reasoning_gym:{name}").tier == "jail"
    }  # fmt: skip
    assert jailed == {
        "binary_matrix", "n_queens", "countdown", "simple_integration", "spiral_matrix",
        "string_insertion", "puzzle24",
    }  # fmt: skip


def test_what_can_be_evaluated_without_a_jail() -> None:
    for text in ("", "1 2\n0 1", "[[1, 0], [0, 1]]", "_ Q _", "3/4", "x - 1", "before, forty"):
        assert harmless(text), text
    long = ("9**9**9", "99999999!", "1e999999999", "1_0E99", "1<<9", "x" * 10_001)
    loops = (
        "[0 for a in 'aaaaaaaaa' for b in 'aaaaaaaaa']",
        "[1jfor a in'aa']",
        "['a'for\na in b]",
    )
    for text in (FORGERY, "exit()", "a.b", "f'{x}'", *long, *loops):
        assert not harmless(text), text


def test_an_answer_that_is_code_cannot_touch_this_process(tmp_path: Path) -> None:
    walls()
    env = load_environment("reasoning_gym:binary_matrix")
    right = env.task("test", 0).hidden["problem"].answer
    as_list = str([[int(x) for x in row.split()] for row in right.splitlines()])
    assert outcome(env, 0, right) == Scored(1.0, True)
    assert outcome(env, 0, as_list) == Scored(0.1, False)
    as_code = f"list({as_list})"  # what the scorer says of code is what it says at home
    assert outcome(env, 0, as_code) == Scored(0.1, False)
    touched = tmp_path / "touched"
    attacks = (
        f"__import__('pathlib').Path({str(touched)!r}).touch()",
        "__import__('os')._exit(0)",
        "__import__('sys').exit(3)",
        "9**9**9**9",
    )
    for attack in attacks:
        assert outcome(env, 0, attack) == Scored(0.0, False), attack
    assert not touched.exists()


def test_the_audit_shows_that_evaluated_code_names_its_own_score() -> None:
    walls()
    asked = ["own cheats"]
    found = audit("reasoning_gym:binary_matrix", n=1, settings={"size": 50}, only=asked)
    failed = {f.probe: f.seen for f in found.findings if not f.passed}
    assert "'forges the score'" in failed["own cheats"]


def test_what_a_dataset_writes_stays_out_of_the_users_folder(tmp_path, monkeypatch):
    """codeio runs programs of its own to make its tasks, and some of them write files."""
    monkeypatch.chdir(tmp_path)
    found = audit("reasoning_gym:codeio", n=50, only=["determinism"])  # task 49 writes one
    assert found.env["name"] == "reasoning_gym:codeio"
    assert list(tmp_path.iterdir()) == []
