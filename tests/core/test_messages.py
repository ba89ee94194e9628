"""Messages to JSON and to the OpenAI form, and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.core.messages import Image, Message, Reasoning, Text, ToolCall, ToolResult

text = st.text(max_size=20)
texts = st.builds(Text, text)
images = st.builds(Image, text, text, text)
calls = st.builds(ToolCall, text, text, text)
results = st.builds(
    ToolResult, text, st.lists(texts | images, max_size=3).map(tuple), st.booleans()
)
parts = texts | st.builds(Reasoning, text) | images | calls | results
roles = st.sampled_from(["system", "user", "assistant", "tool"])
messages = st.builds(Message, roles, st.lists(parts, max_size=5).map(tuple))


@given(messages)
def test_json_round_trip(message: Message) -> None:
    assert Message.from_json(json.loads(json.dumps(message.to_json()))) == message


filled = st.text(min_size=1, max_size=20)
said = st.builds(
    lambda role, t: Message(role, (Text(t),)), st.sampled_from(["system", "user"]), text
)
shown = st.lists(st.builds(Text, filled) | st.builds(lambda r: Image("", "", r), text), max_size=4)
asked = shown.filter(lambda ps: any(isinstance(p, Image) for p in ps)).map(
    lambda ps: Message("user", tuple(ps))
)
answered = st.builds(
    lambda think, t, c: Message(
        "assistant",
        (*([Reasoning(think)] if think else []), *([Text(t)] if t or not c else []), *c),
    ),
    text, text, st.lists(calls, max_size=3),
)  # fmt: skip
returned = st.builds(lambda i, t: Message("tool", (ToolResult(i, (Text(t),)),)), text, text)


@given(said | asked | answered | returned)
def test_openai_round_trip(message: Message) -> None:
    sent = json.loads(json.dumps(message.to_openai()))
    assert Message.from_openai(sent) == message


def test_the_openai_form_by_hand() -> None:
    call = ToolCall("c1", "add", '{"a":1}')
    message = Message("assistant", (Reasoning("hm"), Text("let me"), call))
    assert message.to_openai() == {
        "role": "assistant",
        "content": "let me",
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
        ],
    }
    assert message.text == "let me"
    assert message.tool_calls == (call,)


def test_an_empty_content_beside_calls_is_no_text() -> None:
    for content in ("", None):
        given_ = {"role": "assistant", "content": content, "tool_calls": [{"function": {}}]}
        assert [type(p) for p in Message.from_openai(given_).parts] == [ToolCall]


def test_arguments_given_as_an_object_become_text() -> None:
    call = {"id": 3, "function": {"name": "f", "arguments": {"a": 1}}}
    made = Message.from_openai({"role": "assistant", "content": None, "tool_calls": [call]})
    assert made.tool_calls == (ToolCall("3", "f", '{"a": 1}'),)
    assert Message.from_openai({"role": "developer", "content": "x"}).role == "system"


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ({"content": "x"}, "role is None"),
        ({"role": "robot", "content": "x"}, "role is 'robot'"),
        ({"role": "user", "content": 3}, "content is int"),
        ({"role": "user", "content": [{"type": "audio"}]}, "type 'audio'"),
        ({"role": "user", "content": ["x"]}, "type None"),
        ({"role": "assistant", "tool_calls": [{}]}, "no function"),
        ({"role": "assistant", "tool_calls": 5}, "tool_calls is int"),
        ({"role": "assistant", "tool_calls": "x"}, "tool_calls is str"),
    ],
)
def test_a_malformed_message_names_the_field(data: dict[str, Any], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        Message.from_openai(data)


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match="part kind is 'smell'"):
        Message.from_json({"role": "user", "parts": [{"kind": "smell"}]})
