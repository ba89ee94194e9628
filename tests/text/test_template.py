"""The chat template: hand-worked ids, append-only, a mask on what the assistant wrote, a parser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.core.messages import Image, Message, Part, Reasoning, Text, ToolCall, ToolResult
from puna.text.template import parse_assistant, render
from puna.text.tokenizer import SPECIAL_TOKENS, Tokenizer

TOKENIZER = Tokenizer.train(["system user assistant ipython\n\n" * 9, '{"name": "a"}'], 400)
ADD = {"name": "add", "description": "é adds", "parameters": {"type": "object"}}
TOOLS = [{"type": "function", "function": ADD}]

words = st.text(max_size=12) | st.sampled_from(SPECIAL_TOKENS)
filled = words.filter(bool)
json_objects = st.dictionaries(
    st.text(max_size=4), st.none() | st.booleans() | st.integers() | st.text(max_size=4)
).map(lambda d: json.dumps(d, ensure_ascii=False))
texts = filled.map(Text)
calls = st.builds(ToolCall, st.just(""), words, json_objects)
images = st.just(Image("0" * 64, "image/png"))
results = st.builds(
    ToolResult, words, st.lists(texts | images, max_size=2).map(tuple), st.booleans()
)


def _assistant(parts: list[Part]) -> Message:
    """As a parser would give it back: no two texts in a row, calls numbered."""
    out: list[Part] = []
    for part in parts:
        if isinstance(part, ToolCall):
            number = sum(isinstance(p, ToolCall) for p in out)
            out.append(ToolCall(f"call_{number}", part.name, part.arguments))
        elif not (isinstance(part, Text) and out and isinstance(out[-1], Text)):
            out.append(part)
    return Message("assistant", tuple(out))


assistants = st.lists(texts | words.map(Reasoning) | calls, max_size=5).map(_assistant)
others = st.one_of(
    words.map(Message.user),
    words.map(Message.system),
    st.lists(texts | images, max_size=3).map(lambda p: Message("user", tuple(p))),
    st.lists(results, max_size=2).map(lambda p: Message("tool", tuple(p))),
)
chats = st.lists(assistants | others, max_size=4)


def spell(ids: list[int]) -> str:
    return TOKENIZER.decode(ids, skip_special=False)


def test_a_chat_by_hand() -> None:
    chat = [Message.system("Be kind."), Message.user("Hi"), Message.assistant("Hello")]
    rendered = render(TOKENIZER, chat)
    assert spell(rendered.ids) == (
        "<|begin_of_text|><|header_start|>system<|header_end|>\n\nBe kind.<|eot|>"
        "<|header_start|>user<|header_end|>\n\nHi<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\nHello<|eot|>"
    )
    learned = [i for i, on in zip(rendered.ids, rendered.mask, strict=True) if on]
    assert spell(learned) == "Hello<|eot|>"


def test_every_part_by_hand() -> None:
    chat = [
        Message("user", (Image("0" * 64, "image/png"), Text("2+3="))),
        Message("assistant", (Reasoning("hm"), ToolCall("x", "add", '{"a": 2, "b": 3}'))),
        Message("tool", (ToolResult("x", (Text("5"),)), ToolResult("y", (Text("6"),)))),
    ]
    assert spell(render(TOKENIZER, chat, tools=TOOLS, open_turn=True).ids) == (
        "<|begin_of_text|><|header_start|>system<|header_end|>\n\n"
        'Tools, as JSON; call one with {"name": ..., "parameters": {...}}:\n'
        '{"name": "add", "description": "é adds", "parameters": {"type": "object"}}<|eot|>'
        "<|header_start|>user<|header_end|>\n\n<|image|>2+3=<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\n<|think_start|>hm<|think_end|>"
        '<|python_start|>{"name": "add", "parameters": {"a": 2, "b": 3}}<|python_end|><|eot|>'
        "<|header_start|>ipython<|header_end|>\n\n5<|eot|>"
        "<|header_start|>ipython<|header_end|>\n\n6<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\n"
    )


def test_header_line_breaks_do_not_merge_with_the_content() -> None:
    tokenizer = Tokenizer.train(["a\n\n\nb" * 50], 400)
    assert len(tokenizer.encode("\n\n\n")) == 1
    ids = render(tokenizer, [Message.user("\nb")]).ids
    header = render(tokenizer, [], open_turn=True, first=False).ids
    breaks = tokenizer.encode("\n\n")
    assert header[-len(breaks) :] == breaks
    assert ids[-3 - len(breaks) : -1] == [*breaks, *tokenizer.encode("\nb")]


@given(chats, chats, st.booleans(), st.booleans())
def test_rendering_is_append_only(
    a: list[Message], b: list[Message], open_turn: bool, with_tools: bool
) -> None:
    tools = TOOLS if with_tools and a else []
    whole = render(TOKENIZER, [*a, *b], tools=tools, open_turn=open_turn)
    tail = render(TOKENIZER, b, first=False, open_turn=open_turn)
    assert whole == render(TOKENIZER, a, tools=tools) + tail


@given(assistants)
def test_parsing_inverts_rendering(message: Message) -> None:
    rendered = render(TOKENIZER, [message])
    sampled = [i for i, on in zip(rendered.ids, rendered.mask, strict=True) if on]
    assert sampled[-1] == TOKENIZER.special("eot")
    assert parse_assistant(TOKENIZER, sampled) == message
    assert parse_assistant(TOKENIZER, sampled[:-1]) == message


@given(chats)
def test_mask_covers_the_assistants_turns_and_no_more(chat: list[Message]) -> None:
    rendered = render(TOKENIZER, chat)
    turns = spell([i for i, on in zip(rendered.ids, rendered.mask, strict=True) if on])
    alone = [render(TOKENIZER, [m], first=False) for m in chat if m.role == "assistant"]
    header = len(render(TOKENIZER, [], first=False, open_turn=True).ids)
    assert turns == "".join(spell(r.ids[header:]) for r in alone)


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=30))
def test_parsing_garbage_never_raises(ids: list[int]) -> None:
    message = parse_assistant(TOKENIZER, ids)
    assert message.role == "assistant"
    assert not any(isinstance(p, Text) and not p.text for p in message.parts)


@given(assistants, st.integers(0, 60))
def test_parsing_a_truncated_turn_never_invents_a_call(message: Message, keep: int) -> None:
    ids = render(TOKENIZER, [message], first=False).ids
    header = len(render(TOKENIZER, [], first=False, open_turn=True).ids)
    parsed = parse_assistant(TOKENIZER, ids[header : header + keep])
    assert parsed.tool_calls == message.tool_calls[: len(parsed.tool_calls)]


def _sampled(call: str, end: str = "python_end") -> Message:
    start = TOKENIZER.special("python_start")
    return parse_assistant(TOKENIZER, [start, *TOKENIZER.encode(call), TOKENIZER.special(end)])


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{"name": "f", "parameters": {"a":1 , "b": [2]}}', '{"a":1 , "b": [2]}'),
        (' {"name":"f","arguments":{ }} ', "{ }"),
        ('{"parameters": {"a":1}, "name": "f"}', '{"a": 1}'),
        ('{"name": "f", "parameters": {"a":1}, "id": 3}', '{"a": 1}'),
        ('{"name": "f", "parameters": {"a":1}, "parameters": {}}', "{}"),
    ],
)
def test_calls_in_any_spelling(written: str, arguments: str) -> None:
    for end in ("python_end", "eot", "eom"):
        assert _sampled(written, end).tool_calls == (ToolCall("call_0", "f", arguments),)


@pytest.mark.parametrize(
    "written",
    [
        '{"name": "f", "parameters": {"a": 1}',
        '{"name": "f"}',
        '{"name": 3, "parameters": {}}',
        '{"name": "f", "parameters": "x"}',
        "[]",
        "",
        "[" * 100_000,
        '{"name": "f", "parameters": {"a": ' + "9" * 10_000 + "}}",
    ],
)
def test_malformed_calls_stay_text(written: str) -> None:
    assert _sampled(written) == Message.assistant(f"<|python_start|>{written}<|python_end|>")


def test_a_turn_ends_at_its_first_stop() -> None:
    for name in ("eot", "eom", "end_of_text"):
        ids = [*TOKENIZER.encode("yes"), TOKENIZER.special(name), *TOKENIZER.encode("user")]
        assert parse_assistant(TOKENIZER, ids) == Message.assistant("yes")


@pytest.mark.parametrize("name", ["pad", "begin_of_text", "header_start", "python_end", "image"])
def test_a_stray_special_token_stays_visible(name: str) -> None:
    ids = [*TOKENIZER.encode("4"), TOKENIZER.special(name), *TOKENIZER.encode("2")]
    assert TOKENIZER.decode(ids) == "42"
    assert parse_assistant(TOKENIZER, ids) == Message.assistant(f"4<|{name}|>2")


def test_calls_are_numbered_from_first_call() -> None:
    call = ToolCall("", "f", "{}")
    ids = render(TOKENIZER, [Message("assistant", (call, call))], first=False).ids
    header = len(render(TOKENIZER, [], first=False, open_turn=True).ids)
    parsed = parse_assistant(TOKENIZER, ids[header:], first_call=7)
    assert [c.id for c in parsed.tool_calls] == ["call_7", "call_8"]


def test_transformers_renders_the_same_ids(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    TOKENIZER.save(tmp_path)
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    plain = [Message.user("Hi, is 2 < 3?\n\nYes 'or' \"no\""), Message.assistant("  Yes.\n")]
    call = ToolCall("c", "ädd", '{"a": "<b>"}')
    act = [
        Message("assistant", (Reasoning("hm"), Text("so"), call, call)),
        Message("tool", (ToolResult("c", (Text("5"),)),)),
    ]
    for chat in (plain, [Message.system("Be kind."), *plain], [Message.system(""), *plain, *act]):
        for tools in ([], TOOLS, [ADD]):
            for open_turn in (False, True):
                theirs = peer.apply_chat_template(
                    [m.to_openai() for m in chat],
                    tools=tools or None,
                    add_generation_prompt=open_turn,
                    tokenize=False,
                )
                ours = render(TOKENIZER, chat, tools=tools, open_turn=open_turn).ids
                assert theirs == spell(ours)
                assert peer(theirs, add_special_tokens=False).input_ids == ours
