"""Tools: schemas from types and docstrings; any junk as arguments gives an is_error result."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.core.messages import Text, ToolCall, ToolResult
from puna.gym.tools import Toolbox, ToolError, schema


def book(
    id: Annotated[int, "the seat"],
    kind: Literal["window", "aisle"] = "aisle",
    names: list[str] | None = None,
    price: float = 1.0,
    paid: bool = False,
) -> dict[str, Any]:
    """Book a seat."""
    return {"id": id, "kind": kind, "names": names, "price": price, "paid": paid}


def find(text: str) -> str:
    """Find a text."""
    if text == "nothing":
        raise ToolError("found nothing")
    return f"found {text}"


TOOLS = Toolbox(book, find)


def answer(name: str, arguments: str) -> tuple[str, bool]:
    result = TOOLS.dispatch(ToolCall("c7", name, arguments))
    assert isinstance(result, ToolResult)
    assert result.id == "c7"
    (part,) = result.parts
    assert isinstance(part, Text)
    return part.text, result.is_error


def test_the_schema_is_openais() -> None:
    assert TOOLS.schemas[0] == schema(book)
    assert schema(book) == {
        "type": "function",
        "function": {
            "name": "book",
            "description": "Book a seat.",
            "parameters": {
                "type": "object",
                "properties": {
                    "id": {"type": "integer", "description": "the seat"},
                    "kind": {"type": "string", "enum": ["window", "aisle"]},
                    "names": {"type": ["array", "null"], "items": {"type": "string"}},
                    "price": {"type": "number"},
                    "paid": {"type": "boolean"},
                },
                "required": ["id"],
                "additionalProperties": False,
            },
        },
    }


def test_types_that_json_does_not_know_are_refused() -> None:
    def bad(x: complex) -> None: ...
    def untyped(x): ...  # type: ignore[no-untyped-def]
    def many(*x: int) -> None: ...

    for function in (bad, untyped, many):
        with pytest.raises(TypeError, match="parameter x"):
            schema(function)


def test_good_calls() -> None:
    assert answer("find", '{"text": "x"}') == ("found x", False)
    text, failed = answer("book", '{"id": 3, "names": ["A"], "price": 2}')
    assert not failed
    assert json.loads(text) == {
        "id": 3, "kind": "aisle", "names": ["A"], "price": 2, "paid": False
    }  # fmt: skip
    assert json.loads(answer("book", '{"id": 3, "names": null}')[0])["names"] is None


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("fetch", "{}", "no tool 'fetch', only book, find"),
        ("find", "", "not JSON"),
        ("find", "[]", "not a JSON object"),
        ("find", "{}", "find needs text"),
        ("find", '{"text": "a", "page": 2}', "find takes no 'page', only text"),
        ("find", '{"text": "a", "text": "b"}', "given twice"),
        ("find", '{"text": "nothing"}', "found nothing"),
        ("find", '{"text": "\\ud800"}', "not valid Unicode"),
        ("find", '{"text": "\ud800"}', "not valid Unicode"),
        ("find", json.dumps({"text": "x" * 100_000}), "are too many"),
        ("find", '{"text":' + "[" * 5000, "not JSON"),
        ("book", '{"id": "3"}', "id must be integer"),
        ("book", '{"id": true}', "id must be integer"),
        ("book", '{"id": 3.0}', "id must be integer"),
        ("book", '{"id": 9223372036854775808}', "id must be integer"),
        ("book", '{"id": ' + "9" * 5000 + "}", "not JSON"),
        ("book", '{"id": 1, "kind": "roof"}', "kind must be one of window, aisle"),
        ("book", '{"id": 1, "names": ["a", 2]}', "names must be string"),
        ("book", '{"id": 1, "price": NaN}', "NaN is not JSON"),
        ("book", '{"id": 1, "paid": 1}', "paid must be boolean"),
    ],
)
def test_calls_at_fault_are_told_what_is_wrong(name: str, arguments: str, told: str) -> None:
    text, failed = answer(name, arguments)
    assert failed
    assert text.startswith("error: ")
    assert told in text
    assert len(text) < 200


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.sampled_from(["book", "find", ""]) | st.text(), st.text() | values.map(json.dumps))
def test_junk_never_raises(name: str, arguments: str) -> None:
    assert answer(name, arguments)[0]


@given(st.fixed_dictionaries({"id": values, "kind": values, "names": values}))
def test_what_gets_through_is_of_the_types_it_should_be(arguments: dict[str, Any]) -> None:
    _, failed = answer("book", json.dumps(arguments))
    if not failed:
        assert type(arguments["id"]) is int
        assert arguments["kind"] in ("window", "aisle")


def test_what_breaks_in_a_tool_is_not_the_callers_fault() -> None:
    def broken() -> str:
        """Break."""
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Toolbox(broken).dispatch(ToolCall("", "broken", "{}"))
