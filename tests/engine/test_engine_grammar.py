"""What is sampled under a grammar fits it, with the tokens of every family of tokenizers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest
import torch
from grammar_kit import NAMES, allowed, complete, named
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.core.errors import UserError
from puna.engine.finite import may_end
from puna.engine.grammar import (
    MAX_NODES,
    Grammar,
    apply,
    json_grammar,
    lark_grammar,
    regex_grammar,
)
from puna.engine.policy import SamplingParams
from puna.engine.running import Request, Running
from puna.text.template import stop_ids
from puna.text.tokenizer import Tokenizer

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 4},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["é", "汉", 'a"b', 7]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def texts(tokenizer: Tokenizer, rows: Sequence[list[int]]) -> list[str]:
    return [tokenizer.decode(ids[:-1]) for ids in rows]


def fits(text: str, schema: Any) -> bool:
    try:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_sampled_text_fits_its_schema_and_without_the_mask_never(name: str) -> None:
    tokenizer = named(name)
    grammars = [json_grammar(tokenizer, PERSON)] * 6
    for temperature in (1.0, 0.0):
        rows = complete(tokenizer, grammars[: 6 if temperature else 1], temperature)
        assert all(fits(text, PERSON) for text in texts(tokenizer, rows))
        assert all(row[-1] in stop_ids(tokenizer) for row in rows)
    free = complete(tokenizer, [None] * 12, 1.0, limit=60)
    assert not any(fits(text, PERSON) for text in texts(tokenizer, free))


VALUES = st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=4)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)


def _bounded(kind: str, least: str, most: str, low: int, high: int) -> st.SearchStrategy[Any]:
    pairs = st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted)
    return pairs.map(lambda p: {"type": kind, least: p[0], most: p[1]})


LEAVES = st.one_of(
    _bounded("integer", "minimum", "maximum", -1000, 1000),
    _bounded("string", "minLength", "maxLength", 0, 4),
    st.lists(VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    VALUES.map(lambda value: {"const": value}),
    st.sampled_from(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"type": ["boolean", "null"]},
            {"type": "string", "pattern": "^(a|é){1,3}$"},
            {"type": "string", "format": "date"},
            {"type": "integer", "minimum": 0, "maximum": 40, "multipleOf": 7},
        ]
    ),
)


@st.composite
def _objects(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(KEYS, inner, max_size=3))
    required = (
        draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
    )
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


@st.composite
def _arrays(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    low, high = sorted(draw(st.tuples(st.integers(0, 2), st.integers(0, 2))))
    first = draw(st.lists(inner, max_size=2))
    schema = {"type": "array", "items": draw(inner), "minItems": low, "maxItems": high}
    return schema | ({"prefixItems": first} if first else {})


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        _objects(inner),
        _arrays(inner),
        st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"anyOf": parts}),
    ),
    max_leaves=5,
)


@settings(max_examples=20)
@given(schemas=st.lists(SCHEMAS, min_size=6, max_size=6), name=st.sampled_from(NAMES))
def test_any_schema(schemas: list[dict[str, Any]], name: str) -> None:
    tokenizer = named(name)
    rows = complete(tokenizer, [json_grammar(tokenizer, s) for s in schemas], 1.0, limit=6000)
    for text, schema in zip(texts(tokenizer, rows), schemas, strict=True):
        assert fits(text, schema), (text, schema)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12)
@given(
    words=st.lists(st.text('aeé汉🦙 \n"/\\', min_size=1, max_size=5), min_size=1, max_size=4),
    turns=st.lists(st.integers(0, 10**6), min_size=8, max_size=8),
)
def test_the_tokens_allowed_are_those_that_some_word_begins_with(
    name: str, words: list[str], turns: list[int]
) -> None:
    """Against a brute force over the vocabulary: no token too many, none too few."""
    tokenizer = named(name)
    pattern = "|".join("".join(f"\\x{{{ord(c):x}}}" for c in word) for word in words)
    matcher = regex_grammar(tokenizer, f"({pattern})").matcher()
    gap = tokenizer.format.space
    whole = {(blank + word).encode() for word in words for blank in {"", gap}}
    spelt, stops, seen = tokenizer.spelling(), set(stop_ids(tokenizer)), b""
    for turn in turns:
        expected = {
            i
            for i, text in enumerate(spelt)
            if text and any(word.startswith(seen + text) for word in whole)
        }
        expected |= stops if seen in whole else set()
        found = allowed(matcher)
        assert set(found) == expected
        token = found[turn % len(found)]
        matcher.accept(token)
        if token in stops:
            assert matcher.done
            assert not matcher.failed
            return
        seen += spelt[token] or b""


def test_masks_of_a_batch() -> None:
    tokenizer = named("puna")
    digit, word = regex_grammar(tokenizer, "[0-9]"), regex_grammar(tokenizer, "ab")
    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    for device in devices:
        for dtype in (torch.float32, torch.bfloat16):
            vocab = tokenizer.vocab_size + 41  # a model's vocabulary, padded
            logits = torch.randn(4, vocab, device=device).to(dtype)
            before = logits.clone()
            out = apply(logits, [None, digit.matcher(), word.matcher(), None])
            assert torch.equal(logits, before)
            assert out.dtype == dtype
            assert torch.equal(out[[0, 3]], before[[0, 3]])
            for row, first in ((1, "0123456789"), (2, "a")):
                kept = out[row].isfinite().nonzero().flatten().tolist()
                assert {tokenizer.decode([i])[:1] for i in kept} == set(first)
                assert torch.equal(out[row, kept], before[row, kept])
            assert apply(logits, [None] * 4) is logits


def test_grammars_are_compiled_once_and_matchers_are_apart() -> None:
    tokenizer = named("puna")
    one, two = json_grammar(tokenizer, PERSON), json_grammar(tokenizer, dict(PERSON))
    assert one == two
    assert hash(one) == hash(two)
    assert one != json_grammar(tokenizer, None)
    assert one != json_grammar(named("qwen3"), PERSON)
    first = one.matcher()
    first.accept(tokenizer.encode("{")[0])
    second, third = first.copy(), one.matcher()
    assert allowed(first) == allowed(second) != allowed(third)
    first.accept(tokenizer.encode('"')[0])
    assert allowed(first) != allowed(second)
    with pytest.raises(ValueError, match="does not fit"):
        second.accept(tokenizer.encode("x")[0])
    second.accept(tokenizer.encode('"')[0])
    assert allowed(first) == allowed(second)


def test_any_object_without_a_schema() -> None:
    tokenizer = named("puna")
    for text, ends in (
        ("{}", True),
        ('{"a": [1, {"b": null}]}', True),
        ("[", False),
        ("{,", False),
    ):
        assert accepts(json_grammar(tokenizer, None), text) == ends, text


def accepts(grammar: Grammar, text: str) -> bool:
    """Whether a turn may be `text`."""
    matcher = grammar.matcher()
    try:
        for token in [*grammar.tokenizer.encode(text), stop_ids(grammar.tokenizer)[0]]:
            matcher.accept(token)
    except ValueError:
        return False
    return matcher.done


def test_a_grammar_too_large_to_follow_ends_the_turn_and_says_so() -> None:
    tokenizer = named("puna")
    many = range(2100)  # that may follow an "a" at once
    rules = [f'b{i}: c{i} "y"\nc{i}: "x" | "z{i}" c{i}' for i in many]
    start = f'start: "a" ({" | ".join(f"b{i}" for i in many)})'
    matcher = lark_grammar(tokenizer, "\n".join([start, *rules])).matcher()
    matcher.accept(tokenizer.encode("a")[0])
    assert "max is 2000" in matcher.failed
    assert set(allowed(matcher)) == set(stop_ids(tokenizer))
    with pytest.raises(ValueError, match="does not fit"):
        matcher.accept(tokenizer.encode("x")[0])
    assert not matcher.done
    matcher.accept(tokenizer.special("eot"))
    assert matcher.done
    assert matcher.failed
    with pytest.raises(ValueError, match="does not fit"):
        matcher.accept(tokenizer.special("eot"))
    ends = stop_ids(tokenizer)
    for held, finish in ((matcher, "length"), (json_grammar(tokenizer, None).matcher(), "stop")):
        row = Running(Request((1,), SamplingParams(9), ("x",)), matcher=held)
        assert row.hear(ends[0], 0.0, ends)
        assert row.finish == finish


def test_white_space_has_an_end() -> None:
    grammar = json_grammar(named("puna"), None)
    for text in ('{ "a" : 1 }', '{\n    "a": 1\n}', '{"a":1}'):
        assert accepts(grammar, text), text
    for text in ('{  "a": 1}', '{\n\n"a": 1}', "{\n" + " " * 41 + "}", ' {"a": 1}'):
        assert not accepts(grammar, text), text


def test_lark() -> None:
    tokenizer = named("puna")
    grammar = lark_grammar(tokenizer, 'start: "a" B* <|think_end|>? "c"\nB: /b+/\n')
    mark = tokenizer.special("think_end")
    assert accepts(grammar, "abbc")
    assert not accepts(grammar, "a<|think_end|>c")  # text is no token
    matcher = grammar.matcher()
    for token in (*tokenizer.encode("ab"), mark, *tokenizer.encode("c"), tokenizer.special("eot")):
        assert token in allowed(matcher)
        matcher.accept(token)
    assert matcher.done


LOOP = {"$ref": "#/$defs/x", "$defs": {"x": {"type": "array", "items": {"$ref": "#/$defs/x"}}}}
REFUSED: dict[str, tuple[Any, str]] = {
    "unknown": ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    "not": ({"not": {"type": "null"}}, '"not"'),
    "no type": ({"type": "text"}, "text"),
    "pattern": ({"type": "string", "pattern": "("}, "unclosed"),
    "look-around": ({"type": "string", "pattern": "a(?=b)"}, "look-around"),
    "format": ({"type": "string", "format": "zip"}, "zip"),
    "never": ({"type": "string", "pattern": "^a$", "minLength": 5}, "Unsatisfiable"),
    "two types": ({"allOf": [{"type": "string"}, {"type": "null"}]}, "Unsatisfiable"),
    "range": ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum"),
    "empty": ({"enum": []}, "is empty"),
    "false": (False, "False"),
    "a list": ([], r"\[\]"),
    "remote": ({"$ref": "http://example.com/a.json"}, "example.com"),
    "dangling": ({"$ref": "#/$defs/gone"}, "gone"),
    "endless": (
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        "without an end",
    ),
    "endless list": (LOOP | {"$defs": {"x": LOOP["$defs"]["x"] | {"minItems": 1}}}, "an end"),
    "itself": ({"$ref": "#"}, "without an end"),
    "no JSON": ({"const": {1}}, "no JSON"),
    "nan": ({"const": float("nan")}, "no JSON"),
    "surrogate": ({"const": "\ud800"}, "half a character"),
    "huge": ({"enum": [[i] for i in range(MAX_NODES)]}, f"{MAX_NODES:,}"),
    "long": ({"const": "a" * 1_000_001}, "1,000,000"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_schemas_that_are_refused(case: str) -> None:
    schema, said = REFUSED[case]
    with pytest.raises(UserError, match=said) as caught:
        json_grammar(named("puna"), schema)
    assert str(caught.value).startswith("JSON schema: ")
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": 1}
    return schema


def test_deep_schemas() -> None:
    tokenizer = named("puna")
    assert accepts(json_grammar(tokenizer, nested(40)), "[" * 40 + "null" + "]" * 40)
    for depth in (200, 900, 20_000):
        with pytest.raises(UserError, match=r"recursion|no JSON|brackets"):
            json_grammar(tokenizer, nested(depth))


def test_recursion_that_ends_and_long_chains_of_references() -> None:
    tokenizer = named("puna")
    assert accepts(json_grammar(tokenizer, LOOP), "[[], [[[]]]]")
    steps = 1600  # llguidance recurses through all of them: on an ordinary stack the process ends
    chain: dict[str, Any] = {
        f"a{i}": {"items": {"$ref": f"#/$defs/a{i + 1}"}} for i in range(steps)
    }
    schema = {"$ref": "#/$defs/a0", "$defs": chain | {f"a{steps}": {"type": "null"}}}
    grammar = json_grammar(tokenizer, schema)
    assert accepts(grammar, "[[[[1]], 2], 3]")
    assert not accepts(grammar, "[[[[1]], 2, 3]")


@pytest.mark.parametrize(
    ("regex", "said"),
    [
        ("(", "unclosed"),
        ("a(?=b)", "look-around"),
        (r"(a)\1", "backreferences"),
        (r"[^\x00-\x{10FFFF}]", "nothing fits"),
        ("\ud800", "half a character"),
        ("(" * 3000 + "a" + ")" * 3000, "nest"),
    ],
)
def test_regexes_that_are_refused(regex: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        regex_grammar(named("puna"), regex)
    assert str(caught.value).startswith("regex: ")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("lark", "said"),
    [
        ("", "no start rule"),
        ("start: other", "other"),
        ("start: A\nA: /a/ & /b/", "nothing fits"),
        ('start: start "a"', "nothing fits"),
        ("start: <|unheard_of|>", "unheard_of"),
        ("start: <[999999]>", "999999"),
        ('start: %json {"uniqueItems": true, "type": "array"}', "uniqueItems"),
        ("start: " + "(" * MAX_NODES, f"{MAX_NODES:,}"),
        ("\x00\xff{{", "1"),
    ],
)
def test_grammars_that_are_refused(lark: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        lark_grammar(named("puna"), lark)
    assert str(caught.value).startswith("grammar: ")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("schema", "ends"),
    [
        (LOOP, True),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, False),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, True),  # a number fits
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, True),
        ({"anyOf": [{"$ref": "#"}]}, False),
        ({"allOf": [{"$ref": "#"}, {"type": "null"}]}, False),
        ({"$ref": "#/a/1", "a": [0, {"$ref": "#/b~1c"}], "b/c": {"type": "null"}}, True),
        ({"$ref": "#/a/1", "a": [0, {"$ref": "#/b~1c"}], "b/c": {"$ref": "#/a/1"}}, False),
        ({"type": "array", "prefixItems": [{}, {"$ref": "#"}], "minItems": 1}, True),
        ({"type": "array", "prefixItems": [{}, {"$ref": "#"}], "minItems": 2}, False),
        ({"type": "object", "required": ["k"], "additionalProperties": {"$ref": "#"}}, False),
    ],
)
def test_whether_a_value_may_end(schema: dict[str, Any], ends: bool) -> None:
    assert may_end(schema) == ends


def test_without_llguidance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UserError, match=r"pip install 'puna\[grammar\]'"):
        regex_grammar(Tokenizer.train(["a"], 300), "a")
