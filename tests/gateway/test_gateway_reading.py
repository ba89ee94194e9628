"""Readers are total: any body is read or refused in one line, and what is refused is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.core.messages import Image, Message, Reasoning, Text, ToolCall, ToolResult
from puna.gateway import chat, completions, messages, responses
from puna.gateway.asked import Asked
from puna.gateway.reading import BadRequest, error_body

READERS: dict[str, Callable[[bytes], Asked]] = {
    "chat": chat.read,
    "completions": completions.read,
    "responses": responses.read,
    "messages": messages.read,
}
WORDS = (
    "messages", "prompt", "input", "system", "role", "content", "user", "assistant", "tools",
    "type", "text", "function", "name", "parameters", "tool_choice", "tool_calls", "stop", "n",
    "format", "json_schema", "schema", "image_url", "url", "source", "base64", "tool_use", "id",
    "tool_result", "function_call", "arguments", "max_tokens", "stream_options", "prompt_token_ids",
)  # fmt: skip
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5)
    ),
    max_leaves=20,
)


def refused(name: str, body: object) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        READERS[name](json.dumps(body).encode())
    return caught.value


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150)
@given(body=ANY_JSON | st.binary())
def test_any_body_is_read_or_refused(name: str, body: Any) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        found = READERS[name](raw)
    except BadRequest as error:
        told = str(error)
    else:
        assert isinstance(found, Asked)
        return
    assert 0 < len(told) < 600


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 50_000])
def test_garbage_is_refused(name: str, raw: bytes) -> None:
    with pytest.raises(BadRequest):
        READERS[name](raw)


HELLO = [{"role": "user", "content": "hi"}]
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def test_a_chat_request_as_it_is_meant() -> None:
    body = {
        "model": "m", "messages": HELLO, "max_completion_tokens": 7, "temperature": 0.5,
        "top_p": 0.9, "top_k": 5, "min_p": 0.1, "n": 3, "seed": 4, "stop": "x", "stream": True,
        "stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 2,
        "tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "add"}},
        "parallel_tool_calls": False, "return_token_ids": True, "user": "ann",
    }  # fmt: skip
    asked = chat.read(json.dumps(body).encode())
    assert asked == Asked(
        model="m", messages=(Message.user("hi"),), tools=(ADD,), choice="add", parallel=False,
        max_tokens=7, temperature=0.5, top_p=0.9, top_k=5, min_p=0.1, n=3, seed=4, stop=("x",),
        stream=True, include_usage=True, logprobs=True, top_logprobs=2, token_ids=True, given=body,
    )  # fmt: skip


def test_token_ids_stand_for_messages() -> None:
    asked = chat.read(b'{"prompt_token_ids": [1, 2]}')
    assert asked.prompts == ((1, 2),)
    assert asked.chat
    assert completions.read(b'{"prompt_token_ids": [1, 2]}').prompts == ((1, 2),)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ("a",)), (["a", "b"], ("a", "b")), ([1, 2], ((1, 2),)), ([[1], [2]], ((1,), (2,)))],
)
def test_prompts_of_all_four_kinds(prompt: Any, prompts: Any) -> None:
    assert completions.read(json.dumps({"prompt": prompt}).encode()).prompts == prompts


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}},
         {"type": "array"}),
    ],
)  # fmt: skip
def test_response_formats(form: Any, schema: Any) -> None:
    body = {"messages": HELLO, "response_format": form}
    assert chat.read(json.dumps(body).encode()).schema == schema
    flat = form | form.get("json_schema", {})
    body = {"input": "hi", "text": {"format": flat}}
    assert responses.read(json.dumps(body).encode()).schema == schema


def test_items_of_an_assistant_are_one_message() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "2+3?"},
                                     {"type": "input_image", "image_url": "data:x"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant",
         "content": [{"type": "output_text", "text": "so", "annotations": []}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "5"},
    ]  # fmt: skip
    body = {"input": items, "instructions": "Be kind."}
    assert responses.read(json.dumps(body).encode()).messages == (
        Message.system("Be kind."),
        Message("user", (Text("2+3?"), Image("", "", "data:x"))),
        Message("assistant", (Reasoning("hm"), Text("so"), ToolCall("c1", "add", "{}"))),
        Message("tool", (ToolResult("c1", (Text("5"),)),)),
    )


def test_blocks_of_a_turn_become_messages() -> None:
    turns = [
        {"role": "user", "content": "2+3?"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "so"},
            {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "c1", "content": "5", "is_error": True},
            {"type": "text", "text": "and?"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png",
                                         "data": "AA=="}}]},
    ]  # fmt: skip
    body = {"messages": turns, "system": [{"type": "text", "text": "s"}], "max_tokens": 3}
    assert messages.read(json.dumps(body).encode()).messages == (
        Message.system("s"),
        Message.user("2+3?"),
        Message("assistant", (Reasoning("hm"), Text("so"), ToolCall("c1", "add", '{"a": 1}'))),
        Message("tool", (ToolResult("c1", (Text("5"),), True),)),
        Message("user", (Text("and?"), Image("", "image/png", "data:image/png;base64,AA=="))),
    )


@pytest.mark.parametrize(
    ("name", "body", "param"),
    [
        ("chat", {"messages": HELLO, "tools": [ADD], "tool_choice": {"function": {"name": "x"}}},
         "tool_choice"),
        ("chat", {"messages": HELLO, "tool_choice": "required"}, "tool_choice"),
        ("chat", {"messages": HELLO, "stop": ["a"] * 5}, "stop"),
        ("chat", {"messages": HELLO, "prompt_token_ids": [1]}, "prompt_token_ids"),
        ("chat", {"prompt_token_ids": [True]}, "prompt_token_ids"),
        ("chat", {"messages": HELLO, "response_format": {"type": "xml"}}, "response_format"),
        ("chat", {"messages": HELLO, "top_logprobs": 3}, "top_logprobs"),
        ("chat", {"messages": HELLO, "min_p": 2}, "min_p"),
        ("completions", {"prompt": []}, "prompt"),
        ("completions", {"prompt": [[]]}, "prompt[0]"),
        ("completions", {"prompt": ["a"] * 64, "n": 3}, "n"),
        ("completions", {"prompt": "a", "echo": True, "logprobs": 1}, "echo"),
        ("completions", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("responses", {"input": "a", "previous_response_id": "r"}, "previous_response_id"),
        ("responses", {"input": "a", "tools": [{"type": "web_search"}]}, "tools[0]"),
        ("responses", {"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ("messages", {"messages": HELLO}, "max_tokens"),
        ("messages", {"messages": [{"role": "system", "content": "x"}], "max_tokens": 1},
         "messages[0]"),
        ("messages", {"messages": HELLO, "max_tokens": 1, "tool_choice": {"type": "any"}},
         "tool_choice"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image", "source":
            {"type": "url", "url": "http://x"}}]}], "max_tokens": 1}, "messages[0].content[0]"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(name: str, body: Any, param: str) -> None:
    assert refused(name, body).param == param


def test_errors_in_the_shape_of_their_protocol() -> None:
    assert error_body("/v1/completions", 400, "no", "n") == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": None}
    }
    assert error_body("/v1/messages", 429, "no") == {
        "type": "error", "error": {"type": "rate_limit_error", "message": "no"}
    }  # fmt: skip
