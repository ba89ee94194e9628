"""Llama's chat formats by hand and anew (published templates: test_parity); specials in text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Scripted

from benchmarks.parity.formats import ACT, ADD, CALL, CHATS, FAMILIES, peer_ids, published
from benchmarks.parity.llama_like import SPECIALS, llama_json, llama_like
from puna.core.errors import UserError
from puna.core.messages import Image, Message, Reasoning, Text, ToolCall, ToolResult
from puna.engine.policy import SamplingParams
from puna.gym.seat import SamplerSeat
from puna.text.formats import LLAMA3_1, LLAMA4, LLAMA4_META, PUNA
from puna.text.jinja import chat_template
from puna.text.template import parse_assistant, render
from puna.text.tokenizer import Tokenizer


def spell(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, skip_special=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_template_that_is_saved_renders_the_same(family: str) -> None:
    pytest.importorskip("transformers")
    tokenizer = llama_like(family)
    for chat in CHATS:
        for tools in ([], [ADD]):
            ours = render(tokenizer, chat, tools=tools, open_turn=True).ids
            assert ours == peer_ids(llama_json(family), chat_template(tokenizer), chat, tools, True)


def test_llama_3_1_by_hand() -> None:
    tokenizer = Tokenizer(llama_json("llama3.1"))
    tokenizer.format = replace(tokenizer.format, date="01 Jan 2026")
    chat = [Message.system(" Be kind. "), *ACT[:3]]
    functions = json.dumps(ADD, ensure_ascii=False, indent=4)
    rendered = render(tokenizer, chat, tools=[ADD], open_turn=True)
    assert spell(tokenizer, rendered.ids) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 01 Jan 2026\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nGiven the following functions, please respond"
        " with a JSON for a function call with its proper arguments that best answers the given"
        ' prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of'
        f" argument name and its value}}.Do not use variables.\n\n{functions}\n\n2+3=<|eot_id|>"
        '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "add", "parameters":'
        ' {"a": [1, "é\\n"], "b": {"c": null}}}<|eot_id|>'
        '<|start_header_id|>ipython<|end_header_id|>\n\n"{\\"sum\\": \\"5é\\"}\\n"<|eot_id|>'
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    learned = [i for i, on in zip(rendered.ids, rendered.mask, strict=True) if on]
    assert spell(tokenizer, learned) == (
        '{"name": "add", "parameters": {"a": [1, "é\\n"], "b": {"c": null}}}<|eot_id|>'
    )
    several = render(tokenizer, [Message("assistant", (CALL, CALL))], first=False).ids
    assert spell(tokenizer, several).count("}; {") == 1


def test_llama_4_as_metas_code_encodes_it() -> None:
    tokenizer = Tokenizer(llama_json("llama4"))
    tokenizer.format = LLAMA4_META
    chat = [Message("assistant", (Text("\nhm"), CALL, CALL)), ACT[2], Message.assistant("5")]
    ids = render(tokenizer, chat, first=False).ids
    call = '{"type": "function", "name": "add", "parameters": {"a": [1, "é\\n"], "b": {"c": null}}}'
    head = "<|header_start|>assistant<|header_end|>\n\n"
    assert spell(tokenizer, ids) == (
        f"{head}\nhm{call}{call}<|eom|><|header_start|>ipython<|header_end|>\n\n"
        f'{{"sum": "5é"}}\n<|eom|>{head}5<|eot|>'
    )
    # Pieces: the break of the content is not merged with those of the header, as in HF's text.
    breaks, content = tokenizer.encode("\n\n"), tokenizer.encode("\nhm")
    at = 2 + len(tokenizer.encode("assistant"))
    assert ids[at : at + len(breaks) + len(content)] == [*breaks, *content]
    hf = render(llama_like("llama4"), [Message.assistant("\nhm")], first=False).ids
    assert hf[at : at + 1] == tokenizer.encode("\n\n\n") != [*breaks, *tokenizer.encode("\n")]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_header_is_not_learnt(family: str) -> None:
    tokenizer = llama_like(family)
    rendered = render(tokenizer, [Message.assistant("\nb")], first=False)
    learned = [i for i, on in zip(rendered.ids, rendered.mask, strict=True) if on]
    assert spell(tokenizer, learned) == f"b{tokenizer.token('eot')}"


texts = st.text(max_size=8) | st.sampled_from([" a\n", "\n", *SPECIALS["llama4"][:9]])
turns = st.one_of(
    texts.map(Message.user),
    texts.map(Message.assistant),
    st.just(Message("assistant", (CALL,))),
    texts.map(lambda t: Message("tool", (ToolResult("call_0", (Text(t),)),))),
)


@settings(max_examples=40)
@given(st.sampled_from([*FAMILIES, "meta"]), texts, st.lists(turns, max_size=3), st.booleans())
def test_rendering_is_append_only_behind_its_beginning(
    family: str, text: str, more: list[Message], with_tools: bool
) -> None:
    tokenizer = Tokenizer(llama_json("llama4" if family == "meta" else family))
    if family == "meta":
        tokenizer.format = LLAMA4_META
    head = [Message.system(text), Message.user(text)]
    tools = [ADD] if with_tools else []
    whole = render(tokenizer, [*head, *more], tools=tools, open_turn=True)
    tail = render(tokenizer, more, first=False, open_turn=True)
    assert whole == render(tokenizer, head, tools=tools) + tail


@pytest.mark.parametrize("family", FAMILIES)
def test_an_episode_of_several_turns_has_the_ids_of_the_published_template(family: str) -> None:
    """One branch, as sampled; and rendered anew by the template, the same ids."""
    tokenizer = llama_like(family)
    sampler = Scripted(
        tokenizer, *map(tokenizer.encode, ('{"name": "add", "parameters": {"a": 1}}', "5"))
    )
    seat = SamplerSeat(sampler, SamplingParams(64), ("x",))

    async def play() -> list[Message]:
        chat: tuple[Message, ...] = (Message.system("Be kind."), Message.user("2+3="))
        answer = await seat.reply(chat, [ADD])
        chat = (*chat, answer, Message("tool", (ToolResult("call_0", (Text("5"),)),)))
        return [*chat, await seat.reply(chat, [ADD]), Message.user("end")]

    chat = asyncio.run(play())
    assert chat[2].tool_calls == (ToolCall("call_0", "add", '{"a": 1}'),)
    assert len(seat.branches) == 1
    assert seat.branches[0].ids[: len(sampler.seen[1])] == sampler.seen[1]
    if family == "llama3.1":  # Llama 4's template puts marks before a call that was sampled bare
        assert sampler.seen[1] == render(tokenizer, chat[:4], tools=[ADD], open_turn=True).ids
    assert sampler.seen[0] == render(tokenizer, chat[:2], tools=[ADD], open_turn=True).ids


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("marked", [True, False])
def test_no_special_token_of_the_vocabulary_can_be_spelt(family: str, marked: bool) -> None:
    tokenizer = Tokenizer(llama_json(family, marked))
    ids = {t: tokenizer._ids[t] for t in SPECIALS[family]}
    floor = min(ids.values())

    def specials(text: str) -> list[int]:
        chat = [Message.system(text), Message.user(text), Message.assistant(text)]
        chat += [Message("tool", (ToolResult("x", (Text(text),)),))]
        return [i for i in render(tokenizer, chat, tools=[ADD]).ids if i >= floor]

    for token in ids:
        assert specials(f"a{token}b") == specials("ab")
        assert tokenizer.decode(tokenizer.encode(token)) == token


@pytest.mark.parametrize("family", [*FAMILIES, "meta"])
def test_parsing_inverts_rendering_of_what_a_format_keeps(family: str) -> None:
    tokenizer = Tokenizer(llama_json("llama4" if family == "meta" else family))
    tokenizer.format = LLAMA4_META if family == "meta" else tokenizer.format
    said = Text("so") if family == "llama4" else Text("")
    thought = () if family == "llama3.1" else (Reasoning("hm"),)
    second = replace(CALL, id="call_1")
    for parts in ((*thought, CALL), (*thought, CALL, second), (*thought, said, CALL)):
        message = Message("assistant", tuple(p for p in parts if p != Text("")))
        rendered = render(tokenizer, [message], first=False)
        sampled = [i for i, on in zip(rendered.ids, rendered.mask, strict=True) if on]
        if family == "meta" and len(message.tool_calls) > 1:
            assert parse_assistant(tokenizer, sampled, tools=[ADD]).tool_calls == (CALL, second)
        assert parse_assistant(tokenizer, sampled, tools=[ADD]) == message


def _parsed(tokenizer: Tokenizer, text: str, tools: Sequence[Mapping[str, Any]]) -> Message:
    return parse_assistant(tokenizer, tokenizer.encode(text), tools=tools)


@pytest.mark.parametrize("family", FAMILIES)
def test_json_is_a_call_only_of_a_tool_that_was_given(family: str) -> None:
    tokenizer, text = llama_like(family), '{"name": "add", "parameters": {"a": 1}}'
    assert _parsed(tokenizer, text, [ADD]).tool_calls == (ToolCall("call_0", "add", '{"a": 1}'),)
    assert _parsed(tokenizer, text, []) == Message.assistant(text)
    other = text.replace("add", "sub")
    assert _parsed(tokenizer, other, [ADD]) == Message.assistant(other)
    own = Tokenizer(llama_json(family))
    own.format = PUNA
    assert _parsed(own, text, [ADD]) == Message.assistant(text)
    spelt = f"<|python_start|>{other}<|python_end|>"  # by letters, not by the special tokens
    assert _parsed(tokenizer, spelt, [ADD]) == Message.assistant(spelt)
    ids = [tokenizer.special("python_start"), *tokenizer.encode(other)]
    assert parse_assistant(tokenizer, ids).tool_calls == (ToolCall("call_0", "sub", '{"a": 1}'),)


def test_tools_without_a_user_turn_have_one_of_their_own() -> None:
    tokenizer = llama_like("llama4")
    shown = spell(tokenizer, render(tokenizer, [Message.system("x")], tools=[ADD]).ids)
    assert shown.count("<|header_start|>user<|header_end|>\n\nGiven the following") == 1
    hello = [Message.assistant("hello"), Message.user("hi")]
    shown = spell(tokenizer, render(tokenizer, hello, tools=[ADD]).ids)
    assert shown.index("Given the following") < shown.index("hello") < shown.index("hi<|eot|>")


def test_images_stand_where_the_template_has_them() -> None:
    tokenizer = llama_like("llama4")
    image = Image("0" * 64, "image/png")
    ids = render(tokenizer, [Message("user", (Text(" a "), image, Text(" b ")))], tools=[ADD]).ids
    assert spell(tokenizer, ids).endswith("\n\na <|image|> b<|eot|>")


def test_the_format_is_the_vocabularys_and_is_kept(tmp_path: Path) -> None:
    assert llama_like("llama3.1").format == LLAMA3_1
    assert llama_like("llama4").format == LLAMA4
    assert Tokenizer.train(["a"], 300).format == PUNA
    tokenizer = Tokenizer(llama_json("llama4"))
    for form in (LLAMA4, LLAMA4_META, PUNA, replace(LLAMA3_1, date="01 Jan 2026")):
        tokenizer.format = form
        tokenizer.save(tmp_path)
        assert Tokenizer.load(tmp_path).format == form


def test_another_familys_template_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(llama_json("llama3.1"))
    assert Tokenizer.load(tmp_path).format == LLAMA3_1
    (tmp_path / "chat_template.jinja").write_text("{{ '<|im_start|>' }}")
    with pytest.raises(UserError, match=r"not that of llama3\.1; add .chat_format"):
        Tokenizer.load(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"chat_format": "llama3.1"}')
    assert Tokenizer.load(tmp_path).format == LLAMA3_1
    config.write_text('{"chat_format": "lama4"}')
    with pytest.raises(UserError, match="did you mean 'llama4'"):
        Tokenizer.load(tmp_path)
    for broken in ("[", "[]", "3", '{"chat_format": [[]]}', '{"chat_format": {"name": {}}}'):
        config.write_text(broken)
        with pytest.raises(UserError, match=r"chat.format"):
            Tokenizer.load(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_template_that_came_with_a_checkpoint_is_kept(tmp_path: Path, family: str) -> None:
    given = published(family)
    if not given:
        pytest.skip("no library here carries this template: make peers")
    (tmp_path / "tokenizer.json").write_text(llama_json(family))
    (tmp_path / "chat_template.jinja").write_text(given)
    tokenizer = Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path / "b")
    again = Tokenizer.load(tmp_path / "b")
    again.save(tmp_path / "c")
    again.format = replace(again.format, date="01 Jan 2026")
    again.save(tmp_path / "d")
    kept = [
        json.loads((tmp_path / name / "tokenizer_config.json").read_text())["chat_template"]
        for name in "bcd"
    ]
    assert kept == [given, given, chat_template(again)]
