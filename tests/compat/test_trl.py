"""TRL's environment classes, both ways; the real GRPOTrainer in the slow test."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from vault import TOOLS, Vault

from puna.compat.trl import as_trl, reward
from puna.core.errors import UserError
from puna.core.messages import Message, Text, ToolCall
from puna.core.outcome import Infra, Outcome, Scored
from puna.gym.audit import audit
from puna.gym.environment import Environment
from puna.gym.loop import Context, play_scripts
from puna.gym.registry import load_environment
from puna.gym.task import Script
from puna.gym.trajectory import Episode
from puna.gym.verify import judge_group
from puna.gym.workers import Workers

HERE = Path(__file__).parent
GAMES = HERE / "trl_games.py"
ROOT = HERE.parent.parent
PEER = ROOT / ".peers/trl/bin/python"


def call(name: str, **arguments: Any) -> Message:
    return Message("assistant", (ToolCall("c", name, json.dumps(arguments)),))


def write_rows(folder: Path, count: int = 40, **more: Any) -> str:
    rows = []
    for goal in range(1, count + 1):
        steps = [min(5, goal - at) for at in range(0, goal, 5)]
        said = [call("up", by=by).to_openai() for by in steps]
        said.append({"role": "assistant", "content": "done"})
        prompt = [{"role": "system", "content": "Use tools."}, {"role": "user", "content": "Go."}]
        rows.append({"prompt": prompt, "goal": goal, "oracle": said, **more})
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in rows) + "\n")
    return str(path)


@pytest.fixture
def rows(tmp_path: Path) -> str:
    return write_rows(tmp_path)


def load(rows: str, name: str = "Count", **settings: Any) -> Environment:
    return load_environment(f"trl:{GAMES}:{name}", {"rows": rows, **settings})


def play(env: Environment, script: Script, index: int = 0) -> tuple[Outcome, Episode]:
    async def through() -> tuple[Outcome, Episode]:
        task, workers = env.task("train", index), Workers(1)
        episode = await play_scripts(env, task, {"agent": script}, Context())
        verdicts = await judge_group(env, task, [episode], Context(), workers)
        workers.close()
        return verdicts[0]["agent"], episode

    return asyncio.run(through())


def says(*messages: Message) -> Script:
    def script(seen: Sequence[Message]) -> Message:
        return messages[sum(m.role == "assistant" for m in seen)]

    return script


def test_a_class_is_an_environment(rows: str) -> None:
    env = load(rows)
    task = env.task("train", 0)
    goal = task.hidden["row"]["goal"]
    assert env.name == "trl:Count"
    assert [m.text for m in task.messages] == ["Use tools.", f"Go. Count to {goal}."]
    outcome, episode = play(env, env.oracle(task)["agent"])
    assert outcome == Scored(1.0, True)
    assert episode.transcript[3][1].parts[0].parts == (Text(f"at {min(goal, 5)}"),)  # type: ignore[union-attr]
    assert play(env, says(Message.assistant("done")))[0] == Scored(0.0, False)
    assert play(env, lambda _: call("up", by=0))[0] == Scored(
        0.0, False, evidence="the episode was cut off: turns"
    )


def test_calls_at_fault_and_methods_that_raise_are_answered(rows: str) -> None:
    calls = Message(
        "assistant",
        tuple(
            ToolCall(str(i), name, text)
            for i, (name, text) in enumerate(
                [("up", '{"by": 9}'), ("up", '{"by": "x"}'), ("_hidden", "{}"), ("reset", "{}"),
                 ("get_reward", "{}"), ("where", "{}"), ("up", '{"by": 1, "how": "add"}')]
            )
        ),
    )  # fmt: skip
    _, episode = play(load(rows), says(calls, Message.assistant("done")))
    results = [m.parts[0] for _, m in episode.transcript if m.role == "tool"]
    texts = [r.parts[0].text for r in results]  # type: ignore[union-attr]
    assert texts == [
        "{'error': 'too far'}",
        "error: by must be integer",
        "error: no tool '_hidden', only up, where",
        "error: no tool 'reset', only up, where",
        "error: no tool 'get_reward', only up, where",
        "{'at': 0}",
        "at 1",
    ]
    assert [r.is_error for r in results] == [True] * 5 + [False] * 2  # type: ignore[union-attr]


def test_tools_have_the_schemas_that_transformers_makes(rows: str) -> None:
    utils = pytest.importorskip("transformers.utils")
    env = load(rows)
    ours = {t["function"]["name"]: t["function"] for t in env.task("train", 0).tools}
    game = env.new()  # type: ignore[attr-defined]
    assert set(ours) == {"up", "where"}
    for name, mine in ours.items():
        theirs = utils.get_json_schema(getattr(game, name))["function"]
        assert mine["description"] == theirs["description"]
        for key, described in theirs["parameters"]["properties"].items():
            about = mine["parameters"]["properties"][key]
            assert {k: about[k] for k in ("type", "enum") if k in about} == {
                k: described[k] for k in ("type", "enum") if k in described
            }
            assert about["description"] == described["description"]
        assert mine["parameters"]["required"] == theirs["parameters"].get("required", [])


def test_a_reward_function_of_trl_scores(rows: str) -> None:
    env = load(rows, "Odd", reward=f"{GAMES}:reward_function")
    task = env.task("train", 0)
    assert play(env, env.oracle(task)["agent"])[0] == Scored(1.0, True)
    assert play(env, says(Message.assistant("done")))[0] == Scored(0.5, False)


def test_a_reward_that_fails_is_not_a_zero(rows: str) -> None:
    outcome, _ = play(load(rows, "Raises"), says(Message.assistant("done")))
    assert isinstance(outcome, Infra)
    assert "no reward today" in outcome.error


def test_rows_fall_into_train_or_test_by_their_content(rows: str, tmp_path: Path) -> None:
    def goals(env: Environment, split: str) -> set[int]:
        return {env.task(split, i).hidden["row"]["goal"] for i in range(env.count(split))}

    env = load(rows)
    train, test = goals(env, "train"), goals(env, "test")
    assert train | test == set(range(1, 41))
    assert not train & test
    assert 2 <= len(test) <= 16
    lines = Path(rows).read_text().splitlines()
    (tmp_path / "other.jsonl").write_text("\n".join([*reversed(lines[:30]), lines[3]]))
    other = load(str(tmp_path / "other.jsonl"))
    assert goals(other, "test") == {g for g in test if g <= 30}


def test_the_audit_passes_it(rows: str) -> None:
    found = audit(f"trl:{GAMES}:Count", n=6, settings={"rows": rows})
    assert found.passed, found.findings


def test_the_hash_covers_class_rows_and_reward(rows: str, tmp_path: Path) -> None:
    def of(env: Environment) -> str:
        return env.content_hash  # type: ignore[attr-defined,no-any-return]

    first = of(load(rows))
    assert first == of(load(rows))
    assert first != of(load(rows, turns=3))
    assert first != of(load(write_rows(tmp_path, 39)))


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("Cuont", {}, "has no 'Cuont'; did you mean 'Count'?"),
        ("NoReward", {}, "trl:NoReward has no method get_reward; give --set env.reward="),
        ("Untyped", {}, "trl:Untyped: other: parameter x needs a type"),
        ("Wants", {}, "trl:Wants() raised TypeError"),
        ("Count", {"rows": "gone.jsonl"}, "cannot read the rows gone.jsonl"),
        ("Count", {"reward": "x"}, "'x' names no object"),
        ("Count", {"row": 3}, "unknown key 'row'; did you mean 'rows'?"),
    ],
)
def test_mistakes_are_one_line(rows: str, name: str, settings: Any, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        load_environment(f"trl:{GAMES}:{name}", {"rows": rows, **settings})
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [("{", "line 2"), ("3", "line 2"), ('{"prompt": [{"role": "x"}]}', "line 2: role is 'x'"),
     ('{"prompt": []}', "line 2: the prompt is empty")],
)  # fmt: skip
def test_a_broken_row_is_named(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "goal": 1}\n' + line + "\n")
    with pytest.raises(UserError, match=expected):
        load(str(path))


def test_missing_rows_are_asked_for() -> None:
    with pytest.raises(UserError, match="'rows' is missing"):
        load_environment(f"trl:{GAMES}:Count")


def test_our_tools_come_back_from_transformers_as_they_were() -> None:
    utils = pytest.importorskip("transformers.utils")
    for env, settings in ((Vault(), {}), ("shop", {"intents": 1})):
        rows, cls = as_trl(env, "train", 2, settings)  # type: ignore[arg-type]
        found = load_environment(env, settings) if isinstance(env, str) else env
        for tool in found.task("train", 0).tools:
            mine = tool["function"]
            theirs = utils.get_json_schema(getattr(cls(), mine["name"]))["function"]
            assert theirs["description"] == mine["description"]
            assert set(theirs["parameters"]["properties"]) == set(mine["parameters"]["properties"])
            for key, about in mine["parameters"]["properties"].items():
                seen = theirs["parameters"]["properties"][key]
                assert {k: seen[k] for k in ("type", "enum") if k in seen} == {
                    k: about[k] for k in ("type", "enum") if k in about
                }
            required = theirs["parameters"].get("required", [])
            assert sorted(required) == sorted(mine["parameters"]["required"])
        assert [r["index"] for r in rows] == [0, 1]


def test_our_environment_as_a_class() -> None:
    env = Vault()
    rows, cls = as_trl(env, "train", 8)
    assert rows[3]["prompt"] == [m.to_openai() for m in env.task("train", 3).messages]
    hidden = env.task("train", 3).hidden
    right = str(hidden["boxes"][hidden["asked"]])
    game, idle, wrong, cut = cls(), cls(), cls(), cls()
    for each in (game, idle, wrong, cut):
        assert each.reset(**rows[3]) is None
    assert game.look(box=hidden["asked"]) == right
    assert game.look(box=7) == "error: there is no box 7"
    calls = [{"type": "function", "function": {"name": "look", "arguments": {"box": 0}}}]
    final = [{"role": "assistant", "content": right}]
    completions = [
        [{"role": "assistant", "content": "", "tool_calls": calls}, *final],
        [],
        [{"role": "assistant", "content": right + "!"}],
        [{"role": "assistant", "content": "", "tool_calls": calls}],
    ]
    assert reward([game, idle, wrong, cut], completions, prompts=[]) == [1.0, 0.0, 0.0, 0.0]
    game.reset(**rows[0])  # TRL uses an object again
    assert reward([game], [[{"role": "assistant", "content": "?"}]]) == [0.0]
    with pytest.raises(RuntimeError, match="over"):
        game.look(box=0)


def test_a_single_turn_has_no_tools_and_a_conversation_has_say() -> None:
    def tools(cls: type) -> set[str]:
        return {n for n in dir(cls) if not n.startswith("_")} - {"reset"}

    rows, cls = as_trl("arithmetic", "test", 3)
    assert tools(cls) == set()
    game = cls()
    game.reset(**rows[0])
    task = load_environment("arithmetic").task("test", 0)
    answer = task.hidden["problem"].answer
    assert reward([game], [[{"role": "assistant", "content": answer}]]) == [1.0]
    rows, cls = as_trl("shop", "train", 3, {"intents": 1})
    assert {"say", "verify", "refund"} <= tools(cls)
    game = cls()
    game.reset(**rows[0])
    assert game.say(text="What is your code?")


def test_an_episode_that_is_not_scored_has_no_reward() -> None:
    rows, cls = as_trl(Broken(), "train", 1)
    game = cls()
    game.reset(**rows[0])
    assert reward([game], [[{"role": "assistant", "content": "0"}]]) == [None]


class Broken(Vault):
    """Its verifier never works."""

    def judge(self, *_: Any) -> Any:
        """Fails."""
        raise ZeroDivisionError


class Unnamed(Vault):
    """Its tool cannot be a method."""

    def task(self, split: str, index: int) -> Any:
        """With another name of the tool."""
        import copy
        from dataclasses import replace

        tools = copy.deepcopy(list(TOOLS.schemas))
        tools[0]["function"]["name"] = "get_reward"
        return replace(super().task(split, index), tools=tuple(tools))


def test_what_trl_cannot_take_is_refused() -> None:
    with pytest.raises(UserError, match="the tool 'get_reward' cannot be a public method"):
        as_trl(Unnamed(), "train", 1)
    with pytest.raises(UserError, match="no train tasks to give"):
        as_trl(Vault(), "train", 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trl_trains_on_our_environment(tmp_path: Path) -> None:
    """A tiny Llama that has learnt to call the tool now and then, three steps of GRPO."""
    if not PEER.exists():
        pytest.skip(f"no {PEER.relative_to(ROOT)}: `make peers` installs TRL there")
    done = subprocess.run(
        [str(PEER), str(HERE / "trl_run.py"), str(tmp_path), "3"],
        capture_output=True,
        text=True,
        timeout=800,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    assert seen["trl"].startswith("1.16.")
    assert len(seen["rewards"]) == 3
    assert all(0 <= r <= 1 for r in seen["rewards"])
    assert sum(seen["rewards"]) > 0
    assert min(seen["calls"]) > 0
    assert seen["changed"] > 10
