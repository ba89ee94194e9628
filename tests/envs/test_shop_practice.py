"""Practice: tools are called as they may be, on real databases; nothing tells what is right."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from puna.core.errors import UserError
from puna.core.messages import ToolCall, ToolResult
from puna.gym.registry import load_environment
from puna.train.data import practised

ENV = load_environment("shop", {"prompt": "none", "intents": 1}, 3)
ROWS = [ENV.practice(i) for i in range(300)]


def parts(kind: type) -> list:
    return [p for row in ROWS for m in row for p in m.parts if isinstance(p, kind)]


def test_calls_are_those_of_the_desk_and_hardly_ever_fail() -> None:
    calls, results = parts(ToolCall), parts(ToolResult)
    assert len(calls) == len(results) > 600
    names = Counter(c.name for c in calls)
    assert set(names) == {
        "verify",
        "order",
        "item",
        "cancel",
        "refund",
        "swap",
        "address",
        "refuse",
    }
    assert sum(r.is_error for r in results) == 0


def test_what_is_called_with_was_named_before() -> None:
    """All but the reason of a refusal, which is drawn: nothing says when one is right."""
    for row in ROWS:
        heard = ""
        for message in row:
            for call in message.tool_calls:
                given = json.loads(call.arguments)
                given.pop("why", None)
                named = [str(value).lower() in heard.lower() for value in given.values()]
                assert all(named), (heard, given)
            heard += " " + message.text


def test_a_refusal_is_as_likely_where_it_would_be_wrong() -> None:
    refused = Counter(json.loads(c.arguments)["why"] for c in parts(ToolCall) if c.name == "refuse")
    assert len(refused) == 8
    assert max(refused.values()) < 3 * min(refused.values())


def test_the_seed_decides() -> None:
    again = load_environment("shop", {"prompt": "none", "intents": 1}, 3)
    other = load_environment("shop", {"prompt": "none", "intents": 1}, 4)
    assert again.practice(7) == ROWS[7]
    assert other.practice(7) != ROWS[7]


def test_rows_for_training() -> None:
    assert [c.messages for c in practised(ENV, 5)] == ROWS[:5]
    with pytest.raises(UserError, match="nothing to practise with"):
        practised(load_environment("arithmetic"), 5)
