"""What `puna chat` remembers: streamed answers, another try, an answer stopped, files of rows."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from chain_model import chain
from two_stages import write_stages

from puna.agents.conversation import Conversation
from puna.agents.model import load
from puna.core.errors import UserError
from puna.core.messages import Message, Reasoning, Text, ToolCall
from puna.engine.policy import SamplingParams
from puna.gateway.asked import Said
from puna.gym.seat import ContextFullError
from puna.train.data import read_messages

ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.core.threads.default_threads", lambda: 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "tiny"
    write_stages(root, 127)  # letters only
    stages = [{"id": "sft", "kind": "sft"}, {"id": "rl", "kind": "rl"}]
    record = {"name": "tiny", "stages": stages, "machine": {"threads": 1}}
    (root / "run.json").write_text(json.dumps(record))
    return root


def talk(run: Path, temperature: float = 0.0, max_tokens: int = 8) -> Conversation:
    return Conversation(run, "rl", SamplingParams(max_tokens, temperature))


def told(answers: Iterator[tuple[str, Said]]) -> dict[str, str]:
    out: dict[str, str] = {}
    for name, said in answers:
        out[name] = out.get(name, "") + said.text
    return out


def test_answers_are_those_of_the_model_told_token_by_token(run: Path) -> None:
    chat, model = talk(run), load(run, "rl")
    pieces = [said.text for _, said in chat.ask("2+2=")]
    assert sum(map(bool, pieces)) > 4
    asked = [Message.user("2+2=")]
    first = model.chat(asked, max_tokens=8)
    assert "".join(pieces) == first.text
    asked += [first, Message.user("2+2=")]
    second = model.chat(asked, max_tokens=8)
    assert told(chat.ask("2+2=")) == {"rl": second.text}
    assert second.text != first.text  # it saw the first
    assert chat.messages("rl") == (*asked, second)
    with pytest.raises(UserError):
        chat.use("nowhere")
    assert chat.messages("rl") == (*asked, second)  # a mistake forgets nothing
    chat.reset()
    assert told(chat.ask("2+2=")) == {"rl": first.text}


def test_two_stages_answer_in_turn_and_each_goes_on_from_its_own(run: Path) -> None:
    chat = talk(run)
    chat.use("sft", "rl")
    names = [name for _ in range(2) for name, _ in chat.ask("2+2=")]
    assert [n for n, before in zip(names, ["", *names], strict=False) if n != before] == [
        "sft", "rl", "sft", "rl",
    ]  # fmt: skip
    for name in ("sft", "rl"):
        model, messages = load(run, name), chat.messages(name)
        assert messages[3] == model.chat(messages[:3], max_tokens=8)
    assert chat.messages("sft")[1] != chat.messages("rl")[1]


def test_the_system_message_is_told_first_and_outlives_a_reset(run: Path) -> None:
    chat, model = talk(run), load(run, "rl")
    plain = told(chat.ask("2+2="))
    chat.reset()
    chat.system = "Be brief."
    asked = (Message.system("Be brief."), Message.user("2+2="))
    wanted = model.chat(asked, max_tokens=8).text
    assert told(chat.ask("2+2=")) == {"rl": wanted} != plain
    chat.reset()
    assert told(chat.ask("2+2=")) == {"rl": wanted}
    assert chat.messages("rl")[:2] == asked


def test_another_try_is_another_draw_and_the_seed_names_it(run: Path) -> None:
    chat = talk(run, temperature=2.0)
    first = told(chat.ask("2+2="))
    again = told(chat.retry())
    assert again != first
    assert chat.seed == 1
    assert [m.role for m in chat.messages("rl")] == ["user", "assistant"]
    chat.reset()
    assert told(chat.ask("2+2=")) == again
    chat.set("seed", "0")
    chat.reset()
    assert told(chat.ask("2+2=")) == first
    chat.set("temperature", "0")
    assert told(chat.retry()) == told(chat.retry()) != first


def test_what_is_undone_was_never_said(run: Path) -> None:
    chat = talk(run)
    told(chat.ask("1+1="))
    before = chat.messages("rl")
    other = told(chat.ask("2+2="))
    assert chat.undo() == "2+2="
    assert chat.messages("rl") == before
    assert told(chat.ask("2+2=")) == other
    assert (chat.undo(), chat.undo()) == ("2+2=", "1+1=")
    with pytest.raises(UserError, match="nothing was asked yet"):
        chat.undo()


def test_a_stopped_answer_keeps_what_was_said(tmp_path: Path) -> None:
    chat = Conversation(chain(tmp_path / "m", ["ab\x1b[é"], endless=True), "", SamplingParams(4000))
    text = ""
    (name,) = chat.names
    for _, said in chat.ask("go"):
        text += said.text
        if text.count("ab") == 3:
            chat.stop()
        ended = said.finish
    assert ended == "cancelled"
    assert text.startswith("ab\x1b[éab\x1b[éab")
    assert len(text) < 20  # of 4000 tokens
    assert chat.messages(name)[-1] == Message.assistant(text)
    assert told(chat.ask("on"))[name].startswith("ab\x1b[é" * 100)  # the engine is whole
    assert chat.engines[name].idle


def test_an_answer_that_is_left_or_stopped_before_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = Conversation(chain(tmp_path / "m", ["ab"], endless=True), "", SamplingParams(40))
    (name,) = chat.names
    answers = chat.ask("go")
    next(answers)
    assert isinstance(answers, Generator)
    answers.close()  # whoever listened has gone
    assert [m.text for m in chat.messages(name)] == ["go", "a"]
    assert told(chat.retry()) == {name: "ab" * 20}

    with monkeypatch.context() as while_the_prompt_is_prepared:
        while_the_prompt_is_prepared.setattr(chat.engines[name], "check", lambda _: chat.stop())
        (only,) = chat.ask("on")
    assert only == (name, Said(finish="cancelled"))
    assert [m.text for m in chat.messages(name)] == ["go", "ab" * 20, "on", ""]
    assert told(chat.retry()) == {name: "ab" * 20}
    assert chat.engines[name].idle


def test_a_conversation_that_is_too_long_begins_anew(run: Path) -> None:
    chat = talk(run)
    chat.use("sft", "rl")
    first = told(chat.ask("2+2="))
    for _ in range(8):
        try:
            told(chat.ask("2+2="))
        except ContextFullError:
            break
    else:
        pytest.fail("96 tokens held nine prompts")
    assert chat.messages("sft") == chat.messages("rl") == ()
    assert told(chat.ask("2+2=")) == first


def test_thoughts_and_calls_are_parts_of_what_is_kept(tmp_path: Path) -> None:
    script = ["<|think_start|>", "hm", "<|think_end|>", "Ok ", "<|python_start|>", "[f(a=1)]"]
    model = chain(tmp_path / "model", [*script, "<|python_end|>", "<|eot|>"])
    chat = Conversation(model, "", SamplingParams(64, 0.0))
    said = [s for _, s in chat.ask("go")]
    assert "".join(s.thought for s in said) == "hm"
    assert said[-1].calls == (ToolCall("call_0", "f", '{"a": 1}'),)
    (answer,) = (m for m in chat.messages(chat.names[0]) if m.role == "assistant")
    assert answer.parts == (Reasoning("hm"), Text("Ok "), said[-1].calls[0])
    rows = tmp_path / "rows.jsonl"
    chat.save(rows)
    chat.reset()
    chat.load(rows)
    assert chat.messages(chat.names[0])[-1] == answer


def test_a_saved_conversation_is_a_row_for_sft(run: Path, tmp_path: Path) -> None:
    rows, chat = tmp_path / "talks.jsonl", talk(run)
    chat.system = "Be brief."
    told(chat.ask("2+2="))
    first = chat.messages("rl")
    assert chat.save(rows) == 1
    told(chat.ask("3+3="))
    rows.write_bytes(rows.read_bytes().rstrip(b"\n"))  # as an editor may leave it
    assert chat.save(rows) == 2
    assert [c.messages for c in read_messages(rows)] == [first, chat.messages("rl")]

    other = talk(run)
    assert other.load(rows) == 5
    assert other.messages("rl") == chat.messages("rl")
    assert told(other.ask("4+4=")) == told(chat.ask("4+4="))
    other.use("sft", "rl")
    other.load(rows)
    assert other.save(rows) == 4  # a row each
    assert len(read_messages(rows)) == 4


def test_tools_of_a_row_are_asked_with_and_saved_again(run: Path, tmp_path: Path) -> None:
    rows = tmp_path / "tools.jsonl"
    asked = [Message.user("2+2="), Message.assistant("4")]
    messages = [m.to_openai() for m in asked]
    rows.write_text(json.dumps({"messages": messages, "tools": [ADD]}) + "\n")
    chat = talk(run)
    chat.engines["rl"].max_context = 4096
    chat.load(rows)
    request = chat._request("rl", chat.turns["rl"])
    chat.tools = ()
    assert len(request.prompt_ids) > len(chat._request("rl", chat.turns["rl"]).prompt_ids) + 20
    chat.load(rows)
    chat.save(rows)
    assert read_messages(rows)[0] == read_messages(rows)[1]
    assert read_messages(rows)[1].tools == (ADD,)


def test_tools_that_cannot_be_written_out_are_one_line(run: Path, tmp_path: Path) -> None:
    rows, chat = tmp_path / "tools.jsonl", talk(run)
    head = '{"messages": [{"role": "user", "content": "2+2="}, {"role": "assistant"}], "tools": ['
    for depth in range(sys.getrecursionlimit(), 0, -1):
        deep = '{"items": ' * depth + "1" + "}" * depth
        rows.write_text(
            f'{head}{{"type": "function", "function": {{"name": "add", "parameters": {deep}}}}}]}}'
        )
        with contextlib.suppress(UserError):
            chat.load(rows)
            break
    assert depth > 100
    with pytest.raises(UserError, match="nested too deeply"):
        told(chat.retry())
    assert chat.save(rows) == 2
    chat.reset()
    assert told(chat.ask("2+2="))["rl"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[1]", "row 1: the row is not a JSON object"),
        ('{"messages": []}', "row 1: messages is not a list of at least one message"),
        ('{"messages": [{"role": "king"}]}', "row 1: messages[0]: role is 'king'"),
        ('{"prompt": "1", "completion": "2"}', "row 1: messages is not a list"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": '
         '{"url": "a\\u0000b"}}]}]}', "an image is named by no path"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": '
         '{"url": "absent.png"}}]}]}', "cannot read the image"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": '
         '{"url": "data:image/png;base64,AAAA"}}]}]}', "rl reads no images"),
    ],
)  # fmt: skip
def test_what_is_no_row_is_refused_and_forgets_nothing(
    run: Path, tmp_path: Path, text: str, complaint: str
) -> None:
    rows, chat = tmp_path / "rows.jsonl", talk(run)
    told(chat.ask("2+2="))
    before = chat.messages("rl")
    rows.write_text(text)
    with pytest.raises(UserError) as mistake:
        chat.load(rows)
    assert complaint in str(mistake.value)
    assert chat.messages("rl") == before
    if complaint.startswith("row"):
        with pytest.raises(UserError, match="row 1"):
            chat.save(rows)
    assert rows.read_text() == text


def test_a_place_that_cannot_be_written_is_one_line(run: Path, tmp_path: Path) -> None:
    chat = talk(run)
    told(chat.ask("2+2="))
    with pytest.raises(UserError, match=r"cannot (read|write)"):
        chat.save(tmp_path / "absent" / "rows.jsonl")
    with pytest.raises(UserError, match="is not a file"):
        chat.save(tmp_path)
