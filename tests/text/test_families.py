"""ChatML's and Mistral's formats, token by token against the published templates."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from family_like import FAMILIES, family_json, family_like, tokens
from scripted import Scripted

pytest.importorskip("transformers")

from benchmarks.parity.formats import ADD, SITES, peer_ids
from puna.core.errors import UserError
from puna.core.messages import Message, Reasoning, Text, ToolCall, ToolResult
from puna.engine.policy import SamplingParams
from puna.evals.bits import document
from puna.gym.seat import SamplerSeat
from puna.text.chatml import CHATML, QWEN, QWEN2_5, QWEN3
from puna.text.jinja import chat_template
from puna.text.mistral import MISTRAL, NEMO, nine
from puna.text.template import parse_assistant, render, stop_ids
from puna.text.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
QWENS = {"qwen2.5": "qwen2_5", "qwen3": "qwen3", "chatml": "qwen3_instruct_2507"}
MISTRALS = ("mistral", "mistral-nemo")
user, says, system = Message.user, Message.assistant, Message.system
CALL = ToolCall("call00000", "add", '{"a": [1, "é\\n"], "b": {"c": null}}')
OTHER = replace(CALL, id="Ab3456789")


def result(call_id: str, text: str) -> Message:
    return Message("tool", (ToolResult(call_id, (Text(text),)),))


PLAIN = [user("  Hi, is 2 < 3?\n\nYes 'or' \"no\" \n"), says("  Yes.\n")]
ACT = [
    *(user("2+3="), Message("assistant", (CALL,)), result("call00000", '{"sum": "5é"}\n')),
    *(says("5"), user(" and? ")),
]
TWO = [
    *(user("x"), Message("assistant", (CALL, OTHER))),
    *(result("call00000", "5"), result("Ab3456789", "\n6")),
    *(says("\n11"), user("go"), says("")),
]
SAID = [user("x"), Message("assistant", (Text("hm\n"), CALL)), result("call00000", "5")]
BREAKS = [user("\nb"), says("\n\n c"), user("\u00e9 e\u0301\n")]
CHATS = [PLAIN, ACT, TWO, SAID, BREAKS, PLAIN[:1], [*PLAIN, *ACT], [*PLAIN, *TWO]]
CHATS += [[system(text), *chat] for text in (" Be kind. \n", "") for chat in CHATS]
# Of the templates of Mistral, what they made of these chats with no tools and with two is kept.
MISTRAL_CHATS = {
    "plain": PLAIN,
    "act": [system(" Be kind. \n"), *PLAIN, *ACT],
    "two": TWO,
    "said": SAID,
    "breaks": [system(""), *BREAKS],
    "asked": [system("é"), user("Hi")],
}


def theirs(
    family: str, template: str, chat: Sequence[Message], tools: list[Any], more: bool, **given: Any
) -> list[int]:
    """What `apply_chat_template` makes of a chat with the family's tokens."""
    bos, eos = ("<s>", "</s>") if family in MISTRALS else (None, "<|im_end|>")
    return peer_ids(family_json(family), template, chat, tools, more, bos=bos, eos=eos, **given)


def published(family: str) -> str:
    """Qwen's template as its checkpoints have it, from a library that carries it."""
    if not SITES:
        pytest.skip("no .peers/trl: `make peers` installs TRL there, which carries the template")
    return (SITES[0] / "trl" / "chat_templates" / f"{QWENS[family]}.jinja").read_text()


def closed(tokenizer: Tokenizer, ids: list[int], more: bool) -> list[int]:
    """With the line break that ChatML's templates have after the last turn too."""
    return ids if more or not tokenizer.format.gap else [*ids, *tokenizer.encode("\n")]


def spell(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, skip_special=False)


@pytest.mark.parametrize("family", QWENS)
def test_ids_are_those_of_qwens_published_template(family: str) -> None:
    tokenizer, template = family_like(family), published(family)
    assert len(tokenizer.encode("\n\n")) == 1
    for chat, tools, more in itertools.product(CHATS, ([], [ADD, ADD]), (False, True)):
        ours = render(tokenizer, chat, tools=tools, open_turn=more).ids
        wanted = theirs(family, template, chat, tools, more, enable_thinking=False)
        assert closed(tokenizer, ours, more) == wanted
    # Another member of the family differs in these chats.
    tokenizer = Tokenizer(family_json(family))
    for form in (CHATML, QWEN2_5, QWEN3):
        if form.name == family:
            continue
        tokenizer.format = form
        ours = closed(tokenizer, render(tokenizer, PLAIN).ids, False)
        assert ours != theirs(family, template, PLAIN, [], False)


@pytest.mark.parametrize("family", MISTRALS)
def test_ids_are_those_of_mistrals_published_template(family: str) -> None:
    """The texts are what the templates of 7B Instruct v0.3 and Nemo Instruct 2407 made."""
    kept = json.loads((Path(__file__).parent / "mistral_rendered.json").read_text())[family]
    tokenizer, peer = family_like(family), tokenizers.Tokenizer.from_str(family_json(family))
    assert set(kept) == set(MISTRAL_CHATS)
    for name, chat in MISTRAL_CHATS.items():
        for tools, text in zip(([], [ADD, ADD]), kept[name], strict=True):
            wanted = peer.encode(text, add_special_tokens=False).ids
            assert render(tokenizer, chat, tools=tools, open_turn=True).ids == wanted
            assert render(tokenizer, chat, tools=tools).ids == wanted
    other = Tokenizer(family_json(family))
    other.format = NEMO if family == "mistral" else MISTRAL
    assert spell(other, render(other, PLAIN).ids) != kept["plain"][0]


@pytest.mark.parametrize("family", [*FAMILIES, "chatml"])
def test_the_template_that_is_saved_renders_the_same(family: str) -> None:
    tokenizer = family_like(family)
    thought = [user("a"), Message("assistant", (Reasoning("hm"), Text("b")))]
    chats = [*CHATS, [*ACT[:4]], [says("x"), user("y")]] + [thought] * (family not in MISTRALS)
    for chat, tools, more in itertools.product(chats, ([], [ADD]), (False, True)):
        ours = render(tokenizer, chat, tools=tools, open_turn=more).ids
        wanted = theirs(family, chat_template(tokenizer), chat, tools, more)
        assert closed(tokenizer, ours, more) == wanted


def test_mistral_keeps_the_system_message_behind_the_question() -> None:
    """The published template drops it there, so an answer would be learnt without it."""
    chat = [system("Be kind."), user("a"), says("b"), user("2+3="), *ACT[1:3]]
    rendered = render(family_like("mistral"), chat, tools=[], open_turn=True)
    call = '{"name": "add", "arguments": {"a": [1, "é\\n"], "b": {"c": null}}, "id": "call00000"}'
    assert spell(family_like("mistral"), rendered.ids).replace("<s> ", "<s>") == (
        "<s>[INST] a[/INST] b</s>[INST] Be kind.\n\n2+3=[/INST]"
        f'[TOOL_CALLS] [{call}]</s>[TOOL_RESULTS] {{"content": {{"sum": "5é"}}\n,'
        ' "call_id": "call00000"}[/TOOL_RESULTS]'
    )
    assert nine("call_12") == "call00012"
    assert nine("Ab3456789") == "Ab3456789"
    assert nine("x") != nine("y")
    assert len(nine("\ud800")) == 9


@pytest.mark.parametrize(
    ("family", "learnt"),
    [
        ("qwen2.5", '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>'),
        ("qwen3", '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>'),
        (
            "mistral",
            '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, "id": "call00000"}]</s>',
        ),
        (
            "mistral-nemo",
            '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}, "id": "call00000"}]</s>',
        ),
    ],
)
def test_what_the_assistant_wrote_is_learnt(family: str, learnt: str) -> None:
    tokenizer = family_like(family)
    chat = [user("a"), Message("assistant", (ToolCall("call_0", "add", '{"a": 1}'),))]
    rendered = render(tokenizer, chat)
    assert spell(tokenizer, sampled(tokenizer, chat[1])) == learnt
    prompt = render(tokenizer, chat[:1], open_turn=True)
    assert rendered.ids[: len(prompt.ids)] == prompt.ids
    assert not any(rendered.mask[: len(prompt.ids)])
    assert all(rendered.mask[len(prompt.ids) :])


@pytest.mark.parametrize("family", [*FAMILIES, "chatml"])
def test_no_token_of_the_vocabulary_can_be_spelt(family: str) -> None:
    tokenizer = family_like(family)
    known = {tokenizer._ids[t] for t in tokens(family)}

    def specials(text: str) -> list[int]:
        call = ToolCall("call_0", "add", json.dumps({"a": text}))
        tool = {"function": {"name": "add", "description": text}}
        chat = [system(text), user(text), Message("assistant", (Text(text), call))]
        chat += [result("call_0", text), says(text), user(text)]
        return [i for i in render(tokenizer, chat, tools=[tool]).ids if i in known]

    peer = tokenizers.Tokenizer.from_str(family_json(family))
    for token in tokens(family):
        assert specials(f"a{token}b") == specials("ab")
        assert specials(token) == specials("ab")
        assert tokenizer.decode(tokenizer.encode(token)) == token
        assert peer.encode(token, add_special_tokens=False).ids == [tokenizer._ids[token]]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_continuation_goes_on_where_the_beginning_ended(family: str) -> None:
    """As preferences have it, and an episode: prompt and answer, and answers to calls."""
    tokenizer = family_like(family)
    chat = [system("s"), user("2+3="), Message("assistant", (CALL,)), result("call00000", "5")]
    whole = [*chat, says("5")]
    # Qwen 3's template takes the empty thought of an answer away where another follows.
    for cut in (2, 4) if family == "qwen3" else (2, 3, 4):
        tail = render(tokenizer, whole[cut:], first=False)
        assert (
            render(tokenizer, whole, tools=[ADD])
            == render(tokenizer, whole[:cut], tools=[ADD]) + tail
        )
    more = [user("and?")]
    joined = render(tokenizer, chat, tools=[ADD]) + render(tokenizer, more, first=False)
    moves = joined != render(tokenizer, [*chat, *more], tools=[ADD])
    assert moves == (family in MISTRALS) == (not tokenizer.format.goes_on(chat, [ADD], more))
    assert tokenizer.format.goes_on(chat, [ADD], whole[4:])
    assert tokenizer.format.goes_on(chat[1:], [], more)


def sampled(tokenizer: Tokenizer, message: Message) -> list[int]:
    rendered = render(tokenizer, [user("a"), message])
    return [i for i, on in zip(rendered.ids, rendered.mask, strict=True) if on]


@pytest.mark.parametrize("family", [*FAMILIES, "chatml"])
def test_parsing_inverts_rendering_of_what_a_format_keeps(family: str) -> None:
    tokenizer = family_like(family)
    first = replace(CALL, id="call00000" if family in MISTRALS else "call_0")
    second = replace(OTHER, id=OTHER.id if family in MISTRALS else "call_1")
    messages = [says("5"), says("<tool_call> [TOOL_CALLS] [x]</s>")]
    messages += [Message("assistant", ())]
    messages += [Message("assistant", (first,)), Message("assistant", (first, second))]
    if family not in MISTRALS:
        messages += [says(" 5 \n"), Message("assistant", (Text("so\n"), first))]
    if family == "qwen3":
        messages += [Message("assistant", (Reasoning("hm\n\nso"), Text("5"), first, second))]
    for message in messages:
        if family == "chatml" and (message.tool_calls or "<" in message.text):
            continue  # calls are text there
        assert parse_assistant(tokenizer, sampled(tokenizer, message)) == message


def test_calls_without_tokens_of_their_own_are_read_of_known_tools() -> None:
    tokenizer = family_like("chatml")
    calls = replace(CALL, id="call_0"), replace(CALL, id="call_1")
    message = Message("assistant", (Text("so"), *calls))
    ids = sampled(tokenizer, message)
    assert parse_assistant(tokenizer, ids, tools=[ADD]) == message
    assert not parse_assistant(tokenizer, ids).tool_calls


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_no_call_stays_text(family: str) -> None:
    tokenizer = family_like(family)
    start = tokenizer.special("python_start")
    ids = [start, *tokenizer.encode(' {"name": "add", "arg')]
    said = parse_assistant(tokenizer, ids, tools=[ADD])
    assert not said.tool_calls
    assert said.text.startswith(tokenizer.format.marks[0])
    whole = [*tokenizer.encode('hm\n{"name": "add", "arguments": {}}')]
    assert parse_assistant(tokenizer, whole, tools=[ADD]).text == tokenizer.decode(whole)


def test_stops_are_the_ends_of_turns() -> None:
    for family, ends in (("qwen3", ["<|im_end|>", "<|endoftext|>"]), ("mistral", ["</s>"])):
        tokenizer = family_like(family)
        assert {spell(tokenizer, [i]) for i in stop_ids(tokenizer)} == set(ends)
    assert family_like("qwen3").opening == []
    assert family_like("mistral").opening == [family_like("mistral").special("begin_of_text")]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_episode_of_several_turns_is_one_branch_unless_the_prompt_moves(family: str) -> None:
    tokenizer, own = family_like(family), family in MISTRALS
    call = Message("assistant", (ToolCall("Xy3456789", "add", '{"a": 1}'),))
    sampler = Scripted(
        tokenizer, *(sampled(tokenizer, m)[:-1] for m in (call, says("5"), says("6")))
    )
    seat = SamplerSeat(sampler, SamplingParams(64), ("x",))

    async def play() -> tuple[Message, ...]:
        chat: tuple[Message, ...] = (system("Be kind."), user("2+3="))
        answer = await seat.reply(chat, [ADD])
        chat = (*chat, answer, result(answer.tool_calls[0].id, "5"))
        chat = (*chat, await seat.reply(chat, [ADD]), user("and?"))
        return (*chat, await seat.reply(chat, [ADD]))

    chat = asyncio.run(play())
    assert chat[2].tool_calls[0].arguments == '{"a": 1}'
    assert chat[2].tool_calls[0].id == ("Xy3456789" if own else "call_0")
    assert chat[-1].text == "6"
    assert len(seat.branches) == (2 if own else 1)
    assert seat.branches[-1].ids[: len(sampler.seen[2])] == sampler.seen[2]
    for seen, known in zip(sampler.seen, (2, 4, 6), strict=True):
        whole = render(tokenizer, chat[:known], tools=[ADD], open_turn=True).ids
        # Qwen 3's template takes the empty thoughts away again; an episode keeps what was sampled.
        assert (seen == whole) == (family != "qwen3" or known == 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_is_never_told_as_text(family: str) -> None:
    """Streamed pieces join to the whole answer."""
    from puna.gateway.chat import read
    from puna.gateway.speaker import Speaker

    tokenizer = family_like(family)
    prose = () if family in MISTRALS else (Text("so"),)
    message = Message("assistant", (*prose, ToolCall("call00000", "add", '{"a": 1}')))
    body = {"messages": [{"role": "user", "content": "a"}], "tools": [ADD]}
    speaker = Speaker(tokenizer, read(json.dumps(body).encode()))
    told = []
    for token in sampled(tokenizer, message):
        speaker.hear(token, -1.0)
        told.append(speaker.say())
    speaker.end("stop")
    told.append(speaker.say())
    assert "".join(said.text for said in told if said) == message.text
    assert [c.name for said in told if said for c in said.calls] == ["add"]


def saved(directory: Path, family: str, template: str = "", **config: Any) -> Path:
    """A tokenizer's files as they are published."""
    directory.mkdir(exist_ok=True)
    (directory / "tokenizer.json").write_text(family_json(family))
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    if template:
        (directory / "chat_template.jinja").write_text(template)
    return directory


TEMPLATES = {
    "qwen2.5": f"{{{{- '<|im_start|>system\\n{QWEN}<|im_end|>\\n' }}}}",
    "qwen3": "{% if enable_thinking %}<|im_start|>{% endif %}",
    "chatml": "<|im_start|> and no more",
    "mistral": "{{ '[INST] ' + x }}",
    "mistral-nemo": "{{ '[INST]' + x }}",
}


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_chooses_within_the_family_and_is_kept(
    tmp_path: Path, name: str, inside: bool
) -> None:
    """In tokenizer_config.json or beside it; what is saved again says the same."""
    transformers = pytest.importorskip("transformers")
    for family in MISTRALS if name in MISTRALS else ("qwen3", "qwen2.5", "chatml"):
        given = {"chat_template": TEMPLATES[name]} if inside else {}
        source = tmp_path / f"{family}0"
        saved(source, family, "" if inside else TEMPLATES[name], **given)
        for again in range(1, 3):
            tokenizer = Tokenizer.load(source)
            assert tokenizer.format.name == name
            source = tmp_path / f"{family}{again}"
            tokenizer.save(source)
            assert (
                transformers.AutoTokenizer.from_pretrained(source).chat_template == TEMPLATES[name]
            )
        others = {"qwen3": CHATML, "mistral": NEMO, "mistral-nemo": MISTRAL}
        tokenizer.format = others.get(name, QWEN3)
        tokenizer.save(source)
        assert Tokenizer.load(source).format.name == tokenizer.format.name
        kept = transformers.AutoTokenizer.from_pretrained(source).chat_template
        assert kept == chat_template(tokenizer) != TEMPLATES[name]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vocabulary_without_a_template_has_one_when_saved(tmp_path: Path, family: str) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer.load(saved(tmp_path / "a", family))
    tokenizer.save(tmp_path / "b")
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
    data = [m.to_openai() for m in PLAIN[:1]]
    ids = peer.apply_chat_template(data, add_generation_prompt=True, return_dict=False)
    assert ids == render(tokenizer, PLAIN[:1], open_turn=True).ids
    assert peer.eos_token_id == tokenizer.special("eot")
    assert Tokenizer.load(tmp_path / "b").format == tokenizer.format


def test_another_default_system_message_is_the_templates(tmp_path: Path) -> None:
    """Qwen 2 and Qwen 2.5 Math have templates that differ in it."""
    text = "Reason.\\nPut it within \\\\boxed{}."
    template = f"{{{{ '<|im_start|>system\\n{text}<|im_end|>\\n' }}}}"
    tokenizer = Tokenizer.load(saved(tmp_path / "a", "qwen2.5", template))
    for _ in range(2):
        shown = spell(tokenizer, render(tokenizer, [user("a")]).ids)
        assert "<|im_start|>system\nReason.\nPut it within \\boxed{}.<|im_end|>\n" in shown
        tokenizer.save(tmp_path / "b")
        tokenizer = Tokenizer.load(tmp_path / "b")
    assert QWEN not in shown
    assert QWEN in spell(family_like("qwen2.5"), render(family_like("qwen2.5"), PLAIN).ids)


@pytest.mark.parametrize(
    ("family", "template"),
    [
        ("qwen3", "{{ '<\uff5cUser\uff5c>' }}"),
        ("qwen3", "{{ '<|im_start|>assistant\\n<think>\\n' }}"),
        ("mistral", "{{ '[SYSTEM_PROMPT][INST] ' }}"),
    ],
)
def test_a_template_of_another_family_is_refused(
    tmp_path: Path, family: str, template: str
) -> None:
    with pytest.raises(UserError, match=rf"not that of {family}; add .chat_format"):
        Tokenizer.load(saved(tmp_path, family, template))
    named = saved(tmp_path, family, template, chat_format=family)
    assert Tokenizer.load(named).format.name == family
    for other in ("chatml", "mistral", "llama4", "puna"):
        if other != family and not (family == "qwen3" and other == "chatml"):
            with pytest.raises(
                UserError, match=f"tokens the vocabulary lacks some; name '{family}'"
            ):
                Tokenizer.load(saved(tmp_path, family, template, chat_format=other))


def test_a_vocabulary_of_no_family_reads_text_and_is_refused_for_chats(tmp_path: Path) -> None:
    data = json.loads(family_json("mistral"))
    for token in data["added_tokens"]:
        token["content"] = token["content"].replace("INST", "ISNT")
    data["model"]["vocab"] = {
        k.replace("INST", "ISNT"): v for k, v in data["model"]["vocab"].items()
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ x }}"}')
    tokenizer = Tokenizer.load(tmp_path)
    assert document(tokenizer, "ab")[0] == tokenizer.special("begin_of_text")
    for refused in (
        lambda: tokenizer.require_chat(tmp_path),
        lambda: render(tokenizer, [user("a")]),
    ):
        with pytest.raises(UserError, match="no turn tokens of a known chat format; take one of"):
            refused()
    tokenizer.save(tmp_path / "b")
    kept = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    assert kept["chat_template"] == "{{ x }}"
    assert "chat_format" not in kept
    assert document(family_like("qwen3"), "ab")[-1] == family_like("qwen3").special("end_of_text")
