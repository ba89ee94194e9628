"""Turns with tools: what is sampled is text or calls that fit, as each chat format writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest
from grammar_kit import NAMES, allowed, complete, named
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.core.errors import UserError
from puna.core.messages import Message, Part, Reasoning, Text, ToolCall
from puna.engine.grammar import Grammar
from puna.engine.tool_grammar import tool_grammar
from puna.text.formats import NONE
from puna.text.template import parse_assistant, render, stop_ids
from puna.text.tokenizer import Tokenizer

ADD = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": -9, "maximum": 99}},
    "required": ["a"],
    "additionalProperties": False,
}
FIND = {
    "type": "object",
    "$defs": {"word": {"type": "string", "maxLength": 3}},
    "properties": {
        "words": {"type": "array", "items": {"$ref": "#/$defs/word"}, "maxItems": 2},
        "exact": {"type": "boolean"},
    },
    "required": ["exact"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, Any] = {"add": ADD, "find-it": FIND, "now": {"maxProperties": 0}}
TOOLS = [
    {"type": "function", "function": {"name": "add", "description": "a", "parameters": ADD}},
    {"type": "function", "function": {"name": "find-it", "parameters": FIND}},
    {"name": "now"},
]
# Formats whose calls are text: prose must not seem to hold one.
BARE = tuple(name for name in NAMES if named(name).format.bare_calls)


def well_called(message: Message, most: int = 99) -> bool:
    """Whether every call is of a known tool, with arguments that fit."""
    checks = {name: jsonschema.Draft202012Validator(s) for name, s in SCHEMAS.items()}
    calls = message.tool_calls
    return len(calls) <= most and all(
        call.name in checks and checks[call.name].is_valid(json.loads(call.arguments))
        for call in calls
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("choice", "parallel"), [("required", True), ("find-it", False)])
def test_sampled_calls_fit_and_without_the_mask_there_are_none(
    name: str, choice: str, parallel: bool
) -> None:
    tokenizer = named(name)
    grammar = tool_grammar(tokenizer, TOOLS, choice, parallel)
    for temperature in (1.0, 0.0):
        rows = complete(tokenizer, [grammar] * (8 if temperature else 1), temperature)
        for ids in rows:
            message = parse_assistant(tokenizer, ids, tools=TOOLS)
            assert message.tool_calls
            assert len(message.tool_calls) == len(message.parts), message
            assert well_called(message, 99 if parallel else 1), message
            assert choice == "required" or message.tool_calls[0].name == choice
            assert len({call.id for call in message.tool_calls}) == len(message.tool_calls)
    for ids in complete(tokenizer, [None] * 12, 1.0, limit=60):
        assert not parse_assistant(tokenizer, ids, tools=TOOLS).tool_calls


@pytest.mark.parametrize("name", NAMES)
def test_auto_goes_from_text_to_calls(name: str) -> None:
    tokenizer = named(name)
    grammar = tool_grammar(tokenizer, TOOLS)
    turn = written(tokenizer, [ToolCall("call00000", "find-it", "")])
    if name == "llama4":  # beside prose in front, as models write it, no marks
        turn = [i for i in turn if tokenizer.decode([i])]
    matcher, opening = grammar.matcher(), tokenizer.encode("it is {x}: ")
    for token in opening:
        matcher.accept(token)
    for token in turn:  # as far as no arguments go
        if token not in allowed(matcher):
            break
        matcher.accept(token)
        opening.append(token)
    assert len(opening) > 20
    for ids in complete(tokenizer, [grammar] * 4, 1.0, opening=opening):
        message = parse_assistant(tokenizer, ids, tools=TOOLS)
        assert message.tool_calls[0].name == "find-it"
        assert well_called(message)
        assert "it is {x}:" in message.text


def written(tokenizer: Tokenizer, parts: Sequence[Part]) -> list[int]:
    """An assistant's turn as the format writes it, with the token that ends it."""
    message = Message("assistant", tuple(parts))
    return render(tokenizer, [message], first=False).ids[len(_head(tokenizer)) :]


def _head(tokenizer: Tokenizer) -> list[int]:
    whole = render(tokenizer, [Message.assistant("")], first=False)
    return whole.ids[: whole.mask.index(True)]


def fits(grammar: Grammar, ids: Sequence[int]) -> bool:
    """Whether a turn may be `ids`; the mask and what is accepted have to agree."""
    matcher = grammar.matcher()
    for token in ids:
        if token not in allowed(matcher):
            with pytest.raises(ValueError, match="does not fit"):
                matcher.copy().accept(token)
            return False
        matcher.accept(token)
    return matcher.done


CALL = ToolCall("call00000", "add", '{"a": 1}')
OTHER = ToolCall("call00001", "find-it", '{"words": ["\\n"], "exact": true}')
WRONG = {
    "unknown": ToolCall("call00000", "sub", '{"a": 1}'),
    "type": ToolCall("call00000", "add", '{"a": "1"}'),
    "missing": ToolCall("call00000", "find-it", "{}"),
    "extra": ToolCall("call00000", "now", '{"a": 1}'),
}


@pytest.mark.parametrize("name", NAMES)
def test_turns_as_the_format_writes_them(name: str) -> None:
    tokenizer = named(name)
    auto, required = tool_grammar(tokenizer, TOOLS), tool_grammar(tokenizer, TOOLS, "required")
    single, only = (
        tool_grammar(tokenizer, TOOLS, "required", parallel=False),
        tool_grammar(tokenizer, TOOLS, "add"),
    )
    one, two = written(tokenizer, [CALL]), written(tokenizer, [CALL, OTHER])
    text = written(tokenizer, [Text('He said: {"a": [1]} (add).')])
    assert [fits(g, one) for g in (auto, required, single, only)] == [True] * 4
    assert [fits(g, two) for g in (auto, required, single, only)] == [True, True, False, False]
    assert [fits(g, text) for g in (auto, required, single, only)] == [True] + [False] * 3
    for case, call in WRONG.items():
        turn = written(tokenizer, [call])
        assert not any(fits(g, turn) for g in (required, single, only)), case
        said = case == "unknown" and not parse_assistant(tokenizer, turn, tools=TOOLS).tool_calls
        assert fits(auto, turn) == (said and name != "llama4"), (
            case
        )  # its marks say that calls come
    assert fits(auto, written(tokenizer, [Text("so: {1}"), CALL, OTHER]))
    for stop in stop_ids(tokenizer):
        assert fits(auto, [*one[:-1], stop])
        assert not fits(required, [stop])


@pytest.mark.parametrize("name", [n for n in NAMES if named(n).token("think_start")])
def test_auto_may_think_first(name: str) -> None:
    tokenizer = named(name)
    turn = [
        tokenizer.special("think_start"),
        *tokenizer.encode("hm"),
        tokenizer.special("think_end"),
        *written(tokenizer, [CALL]),
    ]
    assert fits(tool_grammar(tokenizer, TOOLS), turn)
    assert not fits(tool_grammar(tokenizer, TOOLS), [*turn[:-1], *turn])
    parts = parse_assistant(tokenizer, turn, tools=TOOLS).parts
    assert parts == (Reasoning("hm"), ToolCall(parts[1].id, "add", '{"a": 1}'))


def choose(*texts: str) -> st.SearchStrategy[str]:
    return st.sampled_from(texts)


NAMED = st.tuples(
    choose('"name"', '"n\\u0061me"', '"id"'), choose(": ", ":", " :\n"),
    choose('"add"', '"now"', '"sub"', '"\\u0061DD"', '"\\u0061\\u0064d"'),
).map("".join)  # fmt: skip
GIVEN = choose('"parameters": {"a": 1}', '"arguments": {"a": "x"}', '"parameters": {}', '"a": {}')
OBJECTS = st.permutations([NAMED, GIVEN]).flatmap(lambda p: st.tuples(*p)).map(", ".join)
CALLS = st.one_of(
    OBJECTS.map("{{{}}}".format),
    st.tuples(choose("add", "now", "sub"), choose("", "a=1", "a='x'", "b=2")).map(
        lambda p: f"[{p[0]}({p[1]})]"
    ),
    st.tuples(choose("add", "now", "sub"), choose('{"a": 1}', '{"a": "x"}')).map(
        lambda p: f"<function={p[0]}>{p[1]}</function>"
    ),
)
BEFORE = choose("", "so: ", "{", "[", "<tool_call>\n", '{"x": 1} ', "\\")
BEHIND = choose("", "}", "]", "; ", "\n</tool_call>", " and")
PROSE = st.tuples(BEFORE, CALLS, BEHIND, CALLS | st.just(""), BEHIND).map("".join)
SEEMING = [
    '{"name": "add", "parameters": {"a": "x"}}',
    'so {"parameters": {}, "name":"add"}',
    '{"n\\u0061me": "\\u0061dd", "arguments": {"b": 1}}',
    '[{"name" : "find-it", "parameters": {"exact": 3}}]',
    "[add(a='x')]",
    "now: [ add ( b = 1 ) ]",
    '<function=add>{"a": "x"}</function>',
    '<tool_call>{"name": "now", "arguments": {"a": 1}}</tool_call>',
]


@pytest.mark.parametrize("name", BARE)
@settings(max_examples=60)
@given(text=PROSE)
def test_prose_never_becomes_a_call_that_does_not_fit(name: str, text: str) -> None:
    tokenizer = named(name)
    ids = [*tokenizer.encode(text), tokenizer.special("eot")]
    message = parse_assistant(tokenizer, ids, tools=TOOLS)
    assert well_called(message) or not fits(tool_grammar(tokenizer, TOOLS), ids), message


@pytest.mark.parametrize("name", BARE)
@pytest.mark.parametrize("text", SEEMING)
def test_prose_that_would_be_such_a_call(name: str, text: str) -> None:
    tokenizer = named(name)
    ids = [*tokenizer.encode(text), tokenizer.special("eot")]
    assert not well_called(parse_assistant(tokenizer, ids, tools=TOOLS))
    assert not fits(tool_grammar(tokenizer, TOOLS), ids)


@pytest.mark.parametrize("name", BARE)
def test_prose_beside_calls_stays_free(name: str) -> None:
    tokenizer = named(name)
    grammar = tool_grammar(tokenizer, TOOLS)
    for text in ('{"name": "Ann", "age": 3}', "add(1)", "[adder(1)]", '"name": add', "<function>"):
        assert fits(grammar, [*tokenizer.encode(text), tokenizer.special("eot")]), text


def test_names_of_any_letters() -> None:
    tools = [{"name": 'say/"é\\汉🦙" 1', "parameters": ADD}]
    call = ToolCall("call00000", 'say/"é\\汉🦙" 1', '{"a": 1}')
    for name in ("puna", "llama3.1", "mistral"):
        tokenizer = named(name)
        for choice in ("auto", call.name):
            assert fits(tool_grammar(tokenizer, tools, choice), written(tokenizer, [call]))
    spelt = json.dumps(call.name).replace("/", "\\/")
    ids = named("llama3.1").encode(f'{{"parameters": {{"b": 1}}, "name": {spelt}}}')
    assert parse_assistant(named("llama3.1"), ids, tools=tools).tool_calls[0].name == call.name
    assert not fits(
        tool_grammar(named("llama3.1"), tools), [*ids, named("llama3.1").special("eot")]
    )


@pytest.mark.parametrize(
    ("tools", "choice", "said"),
    [
        ([], "auto", "no tools"),
        (TOOLS, "ad", "did you mean 'add'"),
        ([{"name": "f", "parameters": {"type": "string"}}], "auto", "'f': its arguments are no"),
        ([{"name": "f", "parameters": [1]}], "auto", "'f': its arguments are no"),
        ([*TOOLS, {"name": "g", "parameters": {"not": {}}}], "auto", "'g': .*not"),
        (
            [{"name": "f", "parameters": {"properties": {"a": False}, "required": ["a"]}}],
            "f",
            "'f': Unsatisfiable",
        ),
    ],
)
def test_tools_that_are_refused(tools: list[dict[str, Any]], choice: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        tool_grammar(named("puna"), tools, choice)


def test_a_tokenizer_without_turns_is_refused() -> None:
    tokenizer = Tokenizer.train(["a"], 300)
    tokenizer.format = NONE
    with pytest.raises(UserError, match="no turn tokens"):
        tool_grammar(tokenizer, TOOLS)
