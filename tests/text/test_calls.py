"""The parser of tool calls: every form, round trips, prose that is none, and no way to break it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.core.messages import ToolCall
from puna.text.calls import MAX_DEPTH, may_begin, parse_calls

F, G = ToolCall("", "f", '{"a": 1}'), ToolCall("", "g", "{}")
JSON_F, JSON_G = '{"name": "f", "parameters": {"a": 1}}', '{"name": "g", "arguments": {}}'


@pytest.mark.parametrize(
    "text",
    [
        "[f(a=1), g()]",
        " [ f ( a = 1 , ) , g ( ) , ]\n",
        f"{JSON_F}; {JSON_G}",
        f"{JSON_F}\n{JSON_G}\n",
        f"{JSON_F}{JSON_G}",
        f"[{JSON_F}, {JSON_G}]",
        '{"type": "function", "name": "f", "parameters": {"a": 1}}{"arguments": {}, "name": "g"}',
        '<function=f>{"a": 1}</function><function=g>{}</function>',
        '<function=f> {"a": 1} </function>\n[g()]',
        f"<|python_start|>[f(a=1)]<|python_end|><|python_start|>{JSON_G}<|python_end|>",
        f"<|python_tag|>{JSON_F};{JSON_G}",
        f"<tool_call>\n{JSON_F}\n</tool_call>\n<tool_call>\n{JSON_G}\n</tool_call>",
        f"<tool_call>{JSON_F}</tool_call><tool_call>{JSON_G}",
        f"[TOOL_CALLS] [{JSON_F}, {JSON_G}]",
        f"[TOOL_CALLS][{JSON_F}, {JSON_G}]</s>",
    ],
)
@pytest.mark.parametrize("names", [None, {"f", "g"}])
def test_two_calls_in_any_form(text: str, names: set[str] | None) -> None:
    assert parse_calls(text, names) == ("", [F, G])
    if "python" not in text:
        assert parse_calls("I see [1].\n" + text, names) == ("I see [1].", [F, G])


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"name": "f", "parameters": {"a":1 ,  "b": [2]}}', '{"a":1 ,  "b": [2]}'),
        ('{"type":"function","name":"f","parameters":{ }}', "{ }"),
        ('<function=f>{"a":1}</function>', '{"a":1}'),
        ('{"name": "f", "parameters": {"s": "}]\\" {[ \\u00e9"}}', '{"s": "}]\\" {[ \\u00e9"}'),
        ("[f(s='it\\'s', t=\"é\\n\\x41\\u00e9\\q\")]", '{"s": "it\'s", "t": "é\\nAé\\\\q"}'),
        ("[f(x=-1.5e3, y=[{'k': [None, True, false]}], z={})]",
         '{"x": -1500.0, "y": [{"k": [null, true, false]}], "z": {}}'),
        ('[f(s="\\ud800")]', '{"s": "\\ud800"}'),
        ('[TOOL_CALLS] [{"name": "f", "arguments": {"a":1 }, "id": "call_0"}]', '{"a":1 }'),
        ("[f(s=')]')]", '{"s": ")]"}'),
    ],
)  # fmt: skip
def test_arguments(text: str, arguments: str) -> None:
    assert parse_calls(text, {"f"}) == ("", [ToolCall("", "f", arguments)])


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "The answer is [f, g].",
        '{"answer": 42}',
        '{"name": "f"}',
        '{"name": "f", "parameters": "x"}',
        '{"name": 3, "parameters": {}}',
        '{"name": "h", "parameters": {}}',
        "[h()]",
        "[f(1)]",
        "[f(a)]",
        "[f(a=b)]",
        "[f(a=1, a=2)]",
        "[f(a=__import__('os').getcwd())]",
        "[f(a=g())]",
        "[f(a=1+1)]",
        "[f(a=1 for a in [])]",
        "[f(a=(1, 2))]",
        "[f(a={1: 2})]",
        "[f(**{'a': 1})]",
        "[f(a=1e999)]",
        "[f(a==1)]",
        "f(a=1)",
        "[f(a=1) g()]",
        '[f(a=1)] is how you call f, {"name": "f", "parameters": {}} is another way.',
        '{"example": {"name": "f", "parameters": {}}}',
        f"[{JSON_F}, 3]",
        '<function=f>{"a": 1}</fn>',
        "<function=f>[1]</function>",
        "<function=h>{}</function>",
        '{"name": "f", "parameters": {"a": NaN',
        "<|python_start|>print(1)<|python_end|>",
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert parse_calls(text, {"f", "g"}) == (text, [])


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("[f(a=1), g(b=", ", g(b="),
        ('[f(a=1), g(b="x', ', g(b="x'),
        ("[f(a=1), g(b=-1", ", g(b=-1"),
        ("[f(a=1)", ""),
        (f'{JSON_F}; {{"name": "g", "par', '; {"name": "g", "par'),
        (f'[{JSON_F}, {{"name"', ', {"name"'),
        ('<function=f>{"a": 1}</function><function=g>{}</func', "<function=g>{}</func"),
        ('<function=f>{"a": 1}</function><func', "<func"),
    ],
)
def test_a_call_cut_off_stays_text_and_those_before_count(text: str, rest: str) -> None:
    assert parse_calls(text, {"f", "g"}) == (rest, [F])
    assert parse_calls("Hm " + text, {"f", "g"}) == ("Hm" + rest, [F])


def test_only_the_wrapped_form_is_delimited() -> None:
    text = f"so <|python_start|>{JSON_F}<|python_end|> then"
    assert parse_calls(text, {"f"}) == ("so  then", [F])
    assert parse_calls(text, {"g"}) == (text, [])


words = st.text(max_size=6)
keys = st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(words, v, max_size=3),
    max_leaves=6,
)  # fmt: skip
calls = st.tuples(keys, st.dictionaries(keys, values, max_size=3))
chains = st.lists(calls, min_size=1, max_size=3)


def in_python(chain: list[tuple[str, dict[str, Any]]]) -> str:
    spoken = (f"{n}({', '.join(f'{k}={v!r}' for k, v in a.items())})" for n, a in chain)
    return f"[{', '.join(spoken)}]"


def in_json(chain: list[tuple[str, dict[str, Any]]]) -> str:
    return "; ".join(json.dumps({"name": n, "parameters": a}) for n, a in chain)


def in_tags(chain: list[tuple[str, dict[str, Any]]]) -> str:
    return "\n".join(f"<function={n}>{json.dumps(a)}</function>" for n, a in chain)


def test_an_id_is_kept_where_it_is_one_of_mistrals() -> None:
    text = '[TOOL_CALLS] [{"name": "f", "arguments": {}, "id": %s}]'
    for given_id, kept in (('"Ab3456789"', "Ab3456789"), ('"call_0"', ""), ("3", ""), ("[]", "")):
        assert parse_calls(text % given_id) == ("", [ToolCall(kept, "f", "{}")])
    mention = "[TOOL_CALLS] and <tool_call> are marks"
    assert parse_calls(mention) == (mention, [])
    assert parse_calls(f"<tool_call>{JSON_F}</tool_call>", {"g"})[1] == []


@settings(max_examples=60)
@given(chains, st.sampled_from([in_python, in_json, in_tags]), st.booleans())
def test_what_a_form_says_parses_back(chain: Any, form: Any, known: bool) -> None:
    prose, found = parse_calls("Well: " + form(chain), {n for n, _ in chain} if known else None)
    assert prose == "Well:"
    assert [(c.name, json.loads(c.arguments)) for c in found] == chain


bits = st.sampled_from(
    [
        *"[](){}<>=,:;'\\ \n-.e0é",
        *('"', "[f(", "f", "a=", '{"name": "f", "parameters": {', "<function=f>{", "</function>"),
        *("<|python_start|>", "<|python_end|>", "True", '"""', "\ud800", "\0", "\u0663"),
        *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "</s>", ', "id": "', '"Ab3456789"'),
        *("9" * 5000, "\\x", "\\u12", "\\U00110000"),
    ]
)


@settings(max_examples=150)
@given(st.lists(bits | st.text(max_size=3), max_size=20).map("".join))
def test_nothing_raises_and_no_text_is_invented(text: str) -> None:
    prose, found = parse_calls(text, None)
    assert found or prose == text
    assert all(isinstance(json.loads(c.arguments), dict) for c in found)
    assert parse_calls(text, ())[1] == []


@settings(max_examples=60)
@given(chains, st.sampled_from([in_python, in_json, in_tags]), st.data())
def test_a_call_cut_anywhere_is_never_another(chain: Any, form: Any, data: Any) -> None:
    text = form(chain)
    cut = text[: data.draw(st.integers(0, len(text)))]
    found = parse_calls(cut, None)[1]
    assert [(c.name, json.loads(c.arguments)) for c in found] == chain[: len(found)]
    assert may_begin(cut) == 0 or not cut


def test_depth_is_bounded() -> None:
    for depth, ok in ((MAX_DEPTH - 2, True), (MAX_DEPTH + 2, False), (100_000, False)):
        nested = "[" * depth + "]" * depth
        for text in (f"[f(a={nested})]", f'{{"name": "f", "parameters": {{"a": {nested}}}}}'):
            assert bool(parse_calls(text, None)[1]) == ok


@pytest.mark.parametrize(
    "bit",
    ["[", "[f(", '{"', '{"a":', '[{"a":', "[f(a=[", '[f(a="', "[f(a='\n", "<function=f>", "{ ",
     '{"name": "f", "parameters": {}} ', "[f(a=1), ", "[f(a=1)] x ", "<|python_start|>[f(",
     "<tool_call>", "[TOOL_CALLS]", "<tool_call>[f(", "[TOOL_CALLS] [f(", " \n"],
)  # fmt: skip
def test_time_is_linear(bit: str) -> None:
    def seconds(size: int) -> float:
        text = bit * (size // len(bit)) + "x"
        begun = time.process_time()
        parse_calls(text, None)
        return time.process_time() - begun

    small, large = seconds(20_000), seconds(160_000)
    assert large < 40 * small + 0.05  # quadratic is 64 times
