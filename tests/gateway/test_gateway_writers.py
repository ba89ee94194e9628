"""What writers write is JSON, whatever the model said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from puna.core.messages import Message, Reasoning, Text, ToolCall
from puna.gateway.asked import Asked, Choice, Drawn, Head, Said
from puna.gateway.chat import Chat
from puna.gateway.completions import Completions
from puna.gateway.messages import Messages
from puna.gateway.responses import Responses
from puna.text.tokenizer import Tokenizer

ODD = 'a "quoted"\\ \ud800 \u2028 \x00 </script> 日'
PARTS = (Reasoning(ODD), Text(ODD), ToolCall("c", "add", '{"a": NaN, "b": 1e999, "c": 1.5}'))
WRITERS: list[Any] = [Chat, Completions, Responses, Messages]


def strict(text: str) -> Any:
    """Parsed as other languages do, to which NaN is no JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def head() -> Head:
    tokenizer = Tokenizer.train(["the quick brown fox"], 330)
    return Head("name", 'a "model"', 7, tokenizer, ((1, 2),), 2)


@pytest.mark.parametrize("writer", WRITERS)
def test_odd_text_is_json_in_every_protocol(head: Head, writer: Any) -> None:
    asked = Asked(logprobs=True, token_ids=True, include_usage=True, echo=True, prompts=(ODD,))
    tokens = [Drawn(5, float("-inf"), ((6, float("-inf")),))]
    choice = Choice(Message("assistant", PARTS), "tool_calls", None, tokens, 1, 0)
    whole = strict(writer(asked, head).whole([choice]))
    assert whole["model"] == 'a "model"'
    if writer is Messages:
        assert whole["content"][-1]["input"] == {"a": None, "b": None, "c": 1.5}
    written = writer(asked, head)
    calls = tuple(p for p in PARTS if isinstance(p, ToolCall))
    said = [Said(ODD, ODD, (), tokens), Said("", "", calls, (), "tool_calls")]
    out = written.begin() + "".join(written.say(0, s) for s in said) + written.end([choice])
    out += writer(asked, head).failed(ODD)
    assert out.isascii()
    assert out.endswith("\n\n")
    for event in out.removesuffix("\n\n").split("\n\n"):
        lines = event.split("\n")
        data = lines[-1].removeprefix("data: ")
        if data == "[DONE]":
            continue
        told = strict(data)
        if len(lines) == 2:  # what the event is called is said twice
            assert lines[0] == f"event: {told['type']}"


@pytest.mark.parametrize("writer", WRITERS)
def test_pieces_of_text_join_to_it(head: Head, writer: Any) -> None:
    written = writer(Asked(prompts=("x",)), head)
    out = written.begin() + "".join(written.say(0, Said(c)) for c in ODD)
    found = [json.loads(x) for x in (e.split("data: ")[-1] for e in out.split("\n\n")[:-1])]

    def text(event: Any) -> str:
        if writer is Responses:
            return event["delta"] if event["type"].endswith("text.delta") else ""
        if writer is Messages:
            return event["delta"]["text"] if event["type"].endswith("delta") else ""
        choice = event["choices"][0]
        return choice["text"] if writer is Completions else choice["delta"].get("content", "")

    assert "".join(text(e) for e in found) == ODD
