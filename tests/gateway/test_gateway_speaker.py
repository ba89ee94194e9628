"""What is told piece by piece is what the whole is: over all families, stop strings and garbage."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from family_like import FAMILIES, family_like
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.core.messages import Message, Reasoning, Text, ToolCall
from puna.gateway.asked import Asked, Said
from puna.gateway.speaker import Continuation, Growing, Speaker, Telling
from puna.text.formats import LLAMA4
from puna.text.template import parse_assistant, render
from puna.text.tokenizer import Tokenizer

TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}
HELLO = (Message.user("a"),)
PIECES = (
    "so\n", "\n\n", " ok ", "{", '{"name": "add", "parameters": {"a": 1}}', "[add(a=1)]", "[1]",
    "<", "1 < 2", "é", "日本", "🦙", "STOP", "ST", "\n",
)  # fmt: skip
MARKS = ("think_start", "think_end", "python_start", "python_end", "eot")


@cache
def tokenizer(family: str) -> Tokenizer:
    if family not in ("puna", "llama4"):
        return family_like(family)
    made = Tokenizer.train(["the quick brown fox"], 330)
    if family == "llama4":
        made.format = LLAMA4
    return made


def heard(speaker: Speaker | Continuation, ids: list[int], finish: str = "stop") -> list[Said]:
    out = []
    for token in ids:
        if speaker.hear(token, -1.0):
            break
        if said := speaker.say():
            out.append(said)
    speaker.end(finish)
    last = speaker.say()
    assert last is not None
    return [*out, last]


def text_of(told: list[Said]) -> str:
    return "".join(s.text for s in told)


def reasoning(message: Message) -> str:
    return "".join(p.text for p in message.parts if isinstance(p, Reasoning))


@st.composite
def answers(draw: Any, tok: Tokenizer) -> list[int]:
    """Ids as models sample them, marks where they belong and where they do not."""
    known = [tok.special(m) for m in MARKS if tok.token(m) is not None]
    out: list[int] = []
    for _ in range(draw(st.integers(0, 8))):
        if draw(st.booleans()):
            out += tok.encode(draw(st.sampled_from(PIECES)))
        else:
            out.append(draw(st.sampled_from(known)))
    return out


@settings(max_examples=150)
@given(st.data(), st.sampled_from(["puna", "llama4", *FAMILIES]), st.booleans())
def test_pieces_join_to_the_whole(data: Any, family: str, with_tools: bool) -> None:
    tok = tokenizer(family)
    ids = data.draw(answers(tok))
    tools = (TOOL,) if with_tools else ()
    speaker = Speaker(tok, Asked(messages=HELLO, tools=tools))
    told = heard(speaker, ids)
    whole = parse_assistant(tok, ids, tools=tools)
    assert speaker.message == whole
    assert text_of(told) == whole.text
    assert "".join(s.thought for s in told) == reasoning(whole)
    assert [c for s in told for c in s.calls] == list(whole.tool_calls)
    assert told[-1].finish == ("tool_calls" if whole.tool_calls else "stop")


@settings(max_examples=150)
@given(st.data(), st.sampled_from(["puna", "llama4", *FAMILIES]), st.booleans())
def test_a_stop_string_is_never_told_and_all_before_it_is(
    data: Any, family: str, with_tools: bool
) -> None:
    tok = tokenizer(family)
    ids = data.draw(answers(tok))
    known = st.sampled_from(["STOP", "o", "本", "\n\n", "T"])
    stops = tuple(data.draw(st.lists(known, max_size=3)))
    asked = Asked(messages=HELLO, tools=(TOOL,) if with_tools else (), stop=stops)
    speaker = Speaker(tok, asked)
    told = heard(speaker, ids)
    assert text_of(told) == speaker.message.text
    assert not any(s in speaker.message.text for s in stops)
    whole = parse_assistant(tok, speaker.ids, tools=asked.tools).text
    if told[-1].stop is not None:
        assert whole.startswith(speaker.message.text + told[-1].stop)
    else:
        assert speaker.message.text == whole


@settings(max_examples=100)
@given(st.data(), st.sampled_from(["puna", "qwen2.5", "mistral-nemo"]))
def test_text_grows_as_it_is_decoded_whole(data: Any, family: str) -> None:
    """Any ids of a byte-level vocabulary, most of them half characters."""
    tok = tokenizer(family)
    ids = data.draw(st.lists(st.integers(0, tok.vocab_size - 1), max_size=150))
    speaker = Continuation(tok, Asked(chat=False))
    stops = [i for i in ids if i in speaker._stop_ids]
    ids = ids[: ids.index(stops[0])] if stops else ids
    told = heard(speaker, ids)
    assert text_of(told) == tok.decode(ids, skip_special=False)


def test_words_of_sentencepiece_keep_their_spaces() -> None:
    tok = tokenizer("mistral")
    ids = tok.encode("a  user query 🦙 and 日本 more")
    told = heard(Continuation(tok, Asked(chat=False)), ids)
    assert text_of(told) == tok.decode(ids, skip_special=False)


def test_characters_are_told_as_soon_as_they_are_whole() -> None:
    tok = tokenizer("puna")
    growing = Growing(tok)
    ids = tok.encode("日a")
    assert len(ids) == 4  # three bytes, and a letter
    assert [growing.add(i) for i in ids] == ["", "", "日", "a"]


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    telling = Telling(("STOP", "##"))
    said = []
    for text in ("ab", "S", "TO", "x#", "y", "#", "#", "z"):
        telling.add(text)
        said.append(telling.take())
    assert said == ["ab", "", "", "STOx", "#y", "", "", ""]
    assert (telling.cut, telling.stop) == (8, "##")


def test_a_long_answer_costs_the_same_a_token() -> None:
    """Parsing all of it again at every token would cost 16 times as much for 4 times the tokens."""
    tok = tokenizer("puna")

    def seconds(count: int) -> float:
        ids = tok.encode("the quick brown fox. ")
        speaker = Speaker(tok, Asked(messages=HELLO, stop=("never this",)))
        begun = time.thread_time()
        heard(speaker, (ids * count)[:count])
        return time.thread_time() - begun

    seconds(1000)
    short, long = min(seconds(2000) for _ in range(3)), min(seconds(8000) for _ in range(3))
    assert long < 8 * short


def test_prose_after_a_thought_is_told_before_the_answer_ends() -> None:
    tok = tokenizer("puna")
    parts = (Reasoning("hm"), Text("so it is"))
    shown = render(tok, [*HELLO, Message("assistant", parts)])
    ids = [i for i, on in zip(shown.ids, shown.mask, strict=True) if on]
    told = heard(Speaker(tok, Asked(messages=HELLO)), ids)
    assert text_of(told[:-1]) == "so it is"
    assert told[-1].text == ""


def test_calls_are_numbered_through_the_conversation() -> None:
    tok = tokenizer("puna")
    call = ToolCall("call_0", "add", "{}")
    shown = render(tok, [*HELLO, Message("assistant", (call, replace(call, id="call_1")))])
    ids = [i for i, on in zip(shown.ids, shown.mask, strict=True) if on]
    before = (*HELLO, Message("assistant", (call,)))
    told = heard(Speaker(tok, Asked(messages=before, tools=(TOOL,))), ids)
    assert [c.id for c in told[-1].calls] == ["call_1", "call_2"]


@pytest.mark.parametrize("finish", ["length", "stop"])
def test_a_call_that_was_cut_off_is_no_call(finish: str) -> None:
    tok = tokenizer("puna")
    ids = [tok.special("python_start"), *tok.encode('{"name": "add", "param')]
    told = heard(Speaker(tok, Asked(messages=HELLO, tools=(TOOL,))), ids, finish)
    assert not told[-1].calls
    assert told[-1].finish == finish
