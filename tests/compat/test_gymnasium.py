"""Gymnasium, both ways."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vault import Vault

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.outcome import Infra, Outcome, Scored
from puna.gym.audit import audit
from puna.gym.environment import Environment, say
from puna.gym.loop import Context, play_scripts
from puna.gym.registry import load_environment
from puna.gym.task import Script
from puna.gym.verify import judge_group
from puna.gym.workers import Workers

pytest.importorskip("gymnasium", reason="gymnasium is not installed")

from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from puna.compat.gymnasium import as_gymnasium
from puna.compat.gymnasium_spaces import read, write

GAMES = str(Path(__file__).parent / "gym_games.py")


def game(name: str, **settings: Any) -> Environment:
    return load_environment(f"gymnasium:{GAMES}:{name}", settings)


def play(env: Environment, script: Script, index: int = 0) -> tuple[Outcome, Any]:
    async def through() -> tuple[Outcome, Any]:
        task, workers = env.task("test", index), Workers(1)
        episode = await play_scripts(env, task, {"agent": script}, Context())
        verdicts = await judge_group(env, task, [episode], Context(), workers)
        workers.close()
        return verdicts[0]["agent"], episode

    return asyncio.run(through())


def test_a_game_of_one_step() -> None:
    env = game("Sum-v0", train=50, test=20)
    assert (env.name, env.count("train"), env.count("test")) == ("gymnasium:Sum-v0", 50, 20)
    task = env.task("test", 3)
    a, b = task.key.split("+")
    assert [m.to_openai() for m in task.messages] == [{"role": "user", "content": f"{a}+{b}="}]
    assert play(env, say(str(int(a) + int(b))), 3)[0] == Scored(
        1.0, True, {"steps": 1, "malformed": 0}
    )
    assert play(env, say("1"), 3)[0] == Scored(0.0, False, {"steps": 1, "malformed": 0})


def test_the_games_own_oracle_wins_and_the_audit_passes() -> None:
    def failed(most: int) -> list[str]:
        found = audit(f"gymnasium:{GAMES}:Sum-v0", n=5, settings={"kwargs": {"most": most}})
        return [f.probe for f in found.findings if not f.passed]

    assert failed(99_999) == []
    # 81 problems with 17 answers, as the game's keys say
    assert failed(9) == ["frequent answer", "train/test overlap"]


def test_an_audit_says_where_there_is_no_oracle() -> None:
    found = audit("gymnasium:FrozenLake-v1", n=2)
    oracle = next(f for f in found.findings if f.probe == "oracle")
    assert oracle.status == "note"
    assert "nobody knows a right answer" in oracle.seen


def test_a_malformed_action_is_told_counted_and_ends_the_episode_at_the_third() -> None:
    env = game("Walk-v0")
    said: list[str] = []

    def script(messages: Sequence[Message]) -> Message:
        said.append(messages[-1].text)
        return Message.assistant(["[1, [3]]", "left", "[1]", "[2, [1]]"][len(said) - 1])

    outcome, episode = play(env, script)
    assert outcome == Scored(0.0, False, evidence="3 answers were no actions")
    form = "a JSON list of an integer from 0 to 1, then a JSON list of integers from [1] to [3]"
    assert said[2] == f"That is no action: it is not JSON. Answer with {form} and nothing else."
    assert json.loads(episode.artifacts["gymnasium.json"])["rewards"] == [-0.5]
    assert episode.transcript[0][1] == Message.system(f"Answer with {form}.")


def test_one_malformed_action_costs_only_a_turn() -> None:
    env = game("Walk-v0")
    oracle = env.oracle(env.task("test", 0))["agent"]
    first = [True]

    def script(messages: Sequence[Message]) -> Message:
        return Message.assistant("eh") if first.pop() else oracle(messages)

    first = [False] * 9 + [True]
    outcome, _ = play(env, script)
    assert isinstance(outcome, Scored)
    assert outcome.success
    assert outcome.parts["malformed"] == 1
    assert outcome.value == 3.0 - 0.5 * (outcome.parts["steps"] - 1)


def test_truncated_is_not_terminated() -> None:
    back = say("[0, [1]]")
    outcome, episode = play(game("Walk-v0"), back)  # the spec's limit of 4 steps
    assert outcome == Scored(-2.0, False, {"steps": 4, "malformed": 0}, "truncated")
    record = json.loads(episode.artifacts["gymnasium.json"])
    assert (record["terminated"], record["truncated"]) == (False, True)
    outcome, _ = play(game("Walk-v0", turns=3), back)  # ours
    assert outcome == Scored(-1.5, False, {"steps": 3, "malformed": 0}, "truncated")
    env = game("Walk-v0")
    outcome, episode = play(env, env.oracle(env.task("test", 0))["agent"])
    assert outcome.evidence == ""  # type: ignore[union-attr]
    assert json.loads(episode.artifacts["gymnasium.json"])["terminated"]


def test_success_is_what_the_game_says_else_its_threshold() -> None:
    env = game("Sum-v0", kwargs={"says_success": True})
    a, b = env.task("test", 0).key.split("+")
    assert play(env, say(str(int(a) + int(b))))[0].success  # type: ignore[union-attr]
    assert not play(env, say("0"))[0].success  # type: ignore[union-attr]
    env = game("Walk-v0")  # its threshold is 2
    tasks = [i for i in range(40) if env.task("test", i).hidden]
    values = {}
    for index in tasks:
        outcome, _ = play(env, env.oracle(env.task("test", index))["agent"], index)
        assert isinstance(outcome, Scored)
        values[outcome.value] = outcome.success
    assert values == {2.5: True, 2.0: True}


def test_seeds_of_train_and_test_differ_and_decide_the_game() -> None:
    env = game("Walk-v0")
    seeds = {s: {env.task(s, i).hidden["seed"] for i in range(500)} for s in ("train", "test")}
    assert {x % 2 for x in seeds["train"]} == {0}
    assert {x % 2 for x in seeds["test"]} == {1}
    again = game("Walk-v0")
    assert all(env.task("test", i) == again.task("test", i) for i in range(5))


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("Nothing-v0", {}, "gymnasium:Nothing-v0 cannot be made"),
        (
            "CartPole-v1",
            {},
            "gymnasium:CartPole-v1: the observation space is Box, which has no text",
        ),
        ("FrozenLake-v1", {"turn": 3}, "env gymnasium:FrozenLake-v1: unknown key 'turn'"),
        ("FrozenLake-v1", {"turns": 0}, "env gymnasium:FrozenLake-v1: turns is 0"),
        ("no.such.module:X-v0", {}, "no.such.module cannot be imported: ModuleNotFoundError"),
    ],
)
def test_mistakes_are_one_line(name: str, settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        load_environment(f"gymnasium:{name}", settings)
    assert str(caught.value).startswith(expected)


def test_the_hash_covers_settings_and_the_games_source(tmp_path: Path) -> None:
    def of(path: Path, **settings: Any) -> str:
        env = load_environment(f"gymnasium:{path}:Sum-v0", settings)
        return env.content_hash  # type: ignore[attr-defined,no-any-return]

    source = Path(GAMES).read_text()
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text(source)
    two.write_text(source.replace("float(right)", "float(not right)"))
    assert of(one) == of(one)
    assert len({of(one), of(one, turns=5), of(two)}) == 3


SPACES = [
    (spaces.Text(5), "abc", "abc"),
    (spaces.Discrete(4, start=-1), 2, "2"),
    (spaces.MultiDiscrete([[2, 3], [4, 5]]), np.array([[1, 2], [3, 4]]), "[[1, 2], [3, 4]]"),
    (
        spaces.Dict({"a": spaces.Text(3), "b": spaces.Tuple((spaces.Discrete(2),))}),
        {"a": "x", "b": (1,)},
        '{"a": "x", "b": [1]}',
    ),
]


@pytest.mark.parametrize(("space", "value", "text"), SPACES)
def test_spaces_as_text_and_back(space: Any, value: Any, text: str) -> None:
    assert write(space, value) == text
    assert space.contains(read(space, text))
    space.seed(3)
    for _ in range(50):
        drawn = space.sample()
        back = read(space, write(space, drawn))
        assert space.contains(back)
        assert write(space, back) == write(space, drawn)


@pytest.mark.parametrize(
    "text",
    ["", "4", "-2", "1.0", "true", "null", '"1"', "NaN", "01", "1 2", "[1]", "1" * 5000, "[" * 5000,
     "\x00", "\ud800", '{"a": "x", "b": [1], "c": 0}', '{"a": "x", "a": "x", "b": [1]}',
     '{"a": "x"}', '{"a": "toolong", "b": [1]}', "[[1, 2], [3]]", "[[1, 2], [3, true]]",
     "[[1, 2], [3, 9]]", "[[1, 2], [3, 99999999999999999999]]"],
)  # fmt: skip
def test_what_is_no_action_is_refused(text: str) -> None:
    for space, _, _ in SPACES[1:]:
        with pytest.raises(ValueError, match="it is not"):
            read(space, text)
    if text not in ("4", "01"):
        with pytest.raises(ValueError, match="it is not a text of 1 to 5 characters"):
            read(spaces.Text(5), "?" + text)


def test_our_environments_pass_gymnasiums_checker() -> None:
    for name, settings in (("arithmetic", {}), ("shop", {"intents": 1}), (Vault(), {})):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*spec")
            view = as_gymnasium(name, settings=settings)  # type: ignore[arg-type]
            check_env(view)
            view.close()


def test_a_single_turn_terminates_with_the_verdict() -> None:
    view = as_gymnasium("arithmetic", "test")
    shown, info = view.reset(options={"index": 7})
    task = load_environment("arithmetic").task("test", 7)
    assert shown == task.messages[0].text
    assert info == {"index": 7, "messages": [{"role": "user", "content": shown}], "tools": []}
    right = task.hidden["problem"].answer
    *told, info = view.step(right)
    assert told == ["", 1.0, True, False]
    assert (info["success"], info["ended"], info["task"]) == (True, "done", "arithmetic/test/7")
    with pytest.raises(RuntimeError, match="the episode is over"):
        view.step(right)
    drawn = [view.reset(seed=seed)[1]["index"] for seed in (5, None, 5)]
    assert drawn[0] == drawn[2] != drawn[1]
    view.close()


def test_tools_are_called_by_json_and_limits_truncate() -> None:
    env = Vault()
    view = as_gymnasium(env)
    _, info = view.reset(options={"index": 2})
    hidden = env.task("train", 2).hidden
    assert [t["function"]["name"] for t in info["tools"]] == ["look"]
    call = json.dumps({"name": "look", "arguments": {"box": hidden["asked"]}})
    shown, reward, terminated, truncated, _ = view.step(call)
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert shown == str(hidden["boxes"][hidden["asked"]])
    assert view.step(shown)[1:4] == (1.0, True, False)
    view.reset(options={"index": 2})
    for _ in range(env.limits.turns - 1):
        assert view.step(call)[1:4] == (0.0, False, False)
    *told, info = view.step(call)
    assert told == ["", 0.0, False, True]
    assert info["ended"] == "turns"
    view.reset(options={"index": 2})
    assert view.step('{"name": "look"}')[2]  # no call: said, and that ends the visit
    view.close()


class Broken(Vault):
    """Its verifier never works."""

    def judge(self, *_: Any) -> Any:
        """Fails."""
        raise ZeroDivisionError


def test_what_cannot_be_scored_is_truncated_and_says_so() -> None:
    view = as_gymnasium(Broken())
    view.reset(options={"index": 0})
    *told, info = view.step("0")
    assert told == ["", 0.0, False, True]
    assert info["outcome"]["kind"] == "infra"
    assert Infra(info["outcome"]["error"]).error
    view.close()


def test_a_view_can_be_left_and_used_while_a_loop_runs() -> None:
    async def inside() -> float:
        view = as_gymnasium("arithmetic")
        for index in (1, 2, 3):
            view.reset(options={"index": index})  # each leaves the one before
        reward = view.step("x")[1]
        view.close()
        return float(reward)

    assert asyncio.run(inside()) == 0.0


def test_several_roles_are_refused() -> None:
    with pytest.raises(UserError, match="step by step only one can be played"):
        as_gymnasium(Pair())


class Pair(Vault):
    """Two act."""

    roles = ("one", "other")
