"""Rows of files and of oracles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.outcome import Scored
from puna.gym.environment import Environment, Turn
from puna.gym.registry import load_environment
from puna.gym.task import Task
from puna.train.data import demonstrations, env_settings, read_messages

ASK, ANSWER = {"role": "user", "content": "2+2="}, {"role": "assistant", "content": "4"}


def rows(path, *lines: Any):
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return read_messages(path)


def test_messages_and_prompt_with_completion_are_the_same(tmp_path):
    found = rows(
        tmp_path / "a.jsonl",
        {"messages": [ASK, ANSWER]},
        "",
        {"prompt": "2+2=", "completion": "4"},
        {"prompt": [ASK], "completion": [ANSWER], "more": "is let be"},
    )
    assert [c.messages for c in found] == [(Message.user("2+2="), Message.assistant("4"))] * 3


def test_tools_as_data_or_as_json(tmp_path):
    tool = {"type": "function", "function": {"name": "add"}}
    row = {"messages": [ASK, ANSWER]}
    found = rows(
        tmp_path / "a.jsonl", row | {"tools": [tool]}, row | {"tools": json.dumps([tool])}, row
    )
    assert [list(c.tools) for c in found] == [[tool], [tool], []]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"message": [ASK, ANSWER]}, "'messages'"),
        ({"messages": []}, "messages must be a list that is not empty"),
        ({"messages": "hello"}, "messages must be a list"),
        ({"messages": ["hello"]}, ""),
        ({"messages": [ASK]}, "no assistant message, so nothing to learn"),
        ({"messages": [ASK, {"role": "assistant", "content": 5}]}, "content is int"),
        ({"messages": [ASK, ANSWER], "tools": "{oops"}, ""),
        ({"messages": [ASK, ANSWER], "tools": 5}, ""),
        ({"prompt": 5, "completion": "x"}, ""),
        ("null", "a row must be an object, not NoneType"),
        ("[" * 100_000, "not JSON"),
        ('{"a": NaN', "not JSON"),
    ],
)
def test_every_complaint_names_file_and_line(tmp_path, row, said):
    good = {"messages": [ASK, ANSWER]}
    with pytest.raises(UserError) as caught:
        rows(tmp_path / "chats.jsonl", good, "", row, good)
    assert "chats.jsonl line 3" in str(caught.value)
    assert said in str(caught.value)


def test_demonstrations_of_one_turn():
    env = load_environment("arithmetic", {"terms": 2}, seed=1)
    found = demonstrations(env, 5)
    size = env.count("train")  # the last ones: RL begins with the first
    problems = [env.task("train", i).hidden["problem"] for i in range(size - 5, size)]
    wanted = [(Message.user(p.prompt), Message.assistant(p.answer)) for p in problems]
    assert [c.messages for c in found] == wanted


class Echo:
    """Two roles speak in turn; each hears only the other."""

    def __init__(self, append_only: bool) -> None:
        self.heard: dict[str, tuple[Message, ...]] = {"a": (), "b": ()}
        self.said, self.append_only = 0, append_only

    def next(self) -> Turn | None:
        if self.said == 4:
            return None
        role = "ab"[self.said % 2]
        messages = (*self.heard[role], Message.user(f"turn {self.said}"))
        return Turn(role, messages if self.append_only else messages[-1:])

    def take(self, turn: Turn, message: Message) -> None:
        self.heard[turn.role] = (*turn.messages, message)
        self.said += 1

    def artifacts(self) -> Mapping[str, bytes]:
        return {}

    def close(self) -> None:
        pass


class Talk(Environment):
    name = "talk"
    roles = ("a", "b")
    append_only = True

    def count(self, split):
        return 3

    def task(self, split, index):
        return Task(f"talk/{index}", (), f"{split}{index}")

    def start(self, task, resources, ctx):
        return Echo(self.append_only)

    def judge(self, episodes, hidden, ctx):
        return [dict.fromkeys(self.roles, Scored(1.0, True)) for _ in episodes]

    def oracle(self, task):
        return {r: lambda messages, r=r: Message.assistant(f"{r}{len(messages)}") for r in "ab"}


def test_resources_are_made_once():
    env, log = Talk(), []
    env.setup = lambda: log.append("up") or "database"
    env.teardown = lambda resources: log.append(f"{resources} down")
    start = env.start
    env.start = lambda task, resources, ctx: log.append(resources) or start(task, resources, ctx)
    demonstrations(env, 2)
    assert log == ["up", "database", "database", "database down"]


def test_no_train_task():
    env = Talk()
    env.count = lambda split: 0
    with pytest.raises(UserError, match="talk has no train tasks"):
        demonstrations(env, 5)


def test_each_role_learns_from_what_it_saw_and_said():
    a, b = (c.messages for c in demonstrations(Talk(), 1))
    assert [m.text for m in a] == ["turn 0", "a1", "turn 2", "a3"]
    assert [m.text for m in b] == ["turn 1", "b1", "turn 3", "b3"]
    assert [m.role for m in a] == ["user", "assistant"] * 2
    assert len(demonstrations(Talk(), 99)) == 6


def test_a_history_that_is_not_append_only_gives_a_row_a_branch():
    env = Talk()
    env.append_only = False
    found = [[m.text for m in c.messages] for c in demonstrations(env, 1)]
    assert found == [["turn 0", "a1"], ["turn 2", "a1"], ["turn 1", "b1"], ["turn 3", "b1"]]


def test_env_settings():
    assert env_settings("arithmetic") == ("arithmetic", {})
    assert env_settings({"id": "arithmetic", "terms": 3}) == ("arithmetic", {"terms": 3})
    with pytest.raises(UserError, match="'id' is missing"):
        env_settings({"terms": 3})
