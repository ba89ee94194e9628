"""The official clients, `openai` and `anthropic`, hear exactly what a model said.

Tokens come from a list, so that thoughts, calls and cuts are known; the rest is the real server.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pydantic
import pytest

from benchmarks.serve_streams import ListWorker
from puna.core.messages import Message, Reasoning, Text, ToolCall
from puna.serve.app import create_app
from puna.text.template import render
from puna.text.tokenizer import Tokenizer

ADD = {
    "name": "add",
    "description": "Adds.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}
TOOLS: list[Any] = [{"type": "function", "function": ADD}]
ANSWERS = {
    "plain": (Text("It is 12. 日本🦙"),),
    "think": (Reasoning("5 and 7"), Text("12")),
    "call": (Text("Let me see."), ToolCall("call_0", "add", '{"a": 5, "b": 7}')),
    "calls": (
        ToolCall("call_0", "add", '{"a": 5, "b": 7}'),
        ToolCall("call_1", "add", '{"a": 1, "b": 2}'),
    ),
    "json": (Text('{"sum": 12}'),),
}


class Said:
    """What the model says next, and the worker that says it."""

    def __init__(self) -> None:
        self.tokenizer = Tokenizer.train(["the quick brown fox"], 330)
        self.parts: Sequence[Any] = ()
        self.worker = ListWorker(self.tokenizer, lambda _: self.ids, max_context=900)

    @property
    def ids(self) -> list[int]:
        shown = render(self.tokenizer, [Message.user("x"), Message("assistant", tuple(self.parts))])
        return [i for i, on in zip(shown.ids, shown.mask, strict=True) if on]


@pytest.fixture(scope="module")
def said() -> Said:
    return Said()


@pytest.fixture(scope="module")
def address(said: Said, run_app: Callable[..., Any], tmp_path_factory: Any) -> Iterator[str]:
    empty: Path = tmp_path_factory.mktemp("none")
    with run_app(create_app(said.worker, empty)) as found:  # type: ignore[arg-type]
        yield found


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def claude(address: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=address, api_key="none", max_retries=0) as made:
        yield made


HELLO: list[Any] = [{"role": "user", "content": "5+7?"}]


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("stream", [False, True])
def test_chat(client: openai.OpenAI, said: Said, name: str, stream: bool) -> None:
    said.parts = ANSWERS[name]
    message = Message("assistant", tuple(said.parts))
    asked: dict[str, Any] = {"model": "list", "messages": HELLO, "tools": TOOLS}
    if stream:
        with client.chat.completions.stream(
            **asked, stream_options={"include_usage": True}
        ) as events:
            done: Any = events.get_final_completion()
    else:
        done = client.chat.completions.create(**asked)
    choice = done.choices[0]
    assert (choice.message.content or "") == message.text
    calls = [(c.id, c.function.name, c.function.arguments) for c in choice.message.tool_calls or ()]
    assert calls == [(c.id, c.name, c.arguments) for c in message.tool_calls]
    assert choice.finish_reason == ("tool_calls" if calls else "stop")
    assert done.usage.completion_tokens == len(said.ids)
    assert done.usage.prompt_tokens == len(said.worker.asked[-1].prompt_ids)
    if name == "think" and not stream:
        assert choice.message.reasoning_content == "5 and 7"
        assert done.usage.completion_tokens_details.reasoning_tokens == len(
            said.tokenizer.encode("5 and 7")
        )


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_and_the_likeliest(client: openai.OpenAI, said: Said, stream: bool) -> None:
    said.parts = ANSWERS["plain"]
    asked: dict[str, Any] = {"model": "list", "messages": HELLO, "logprobs": True}
    asked["top_logprobs"] = 2
    if stream:
        pieces = client.chat.completions.create(**asked, stream=True)
        rows = [
            t
            for p in pieces
            if p.choices and p.choices[0].logprobs
            for t in p.choices[0].logprobs.content or ()
        ]
    else:
        done = client.chat.completions.create(**asked)
        assert done.choices[0].logprobs is not None
        rows = done.choices[0].logprobs.content or []
    decode = said.tokenizer.decode
    assert [t.token for t in rows] == [decode([i], skip_special=False) for i in said.ids]
    assert all(t.logprob == -0.5 for t in rows)
    assert [[p.logprob for p in t.top_logprobs] for t in rows] == [[-0.5, -1.5]] * len(rows)
    first = said.ids[0]
    assert [p.token for p in rows[0].top_logprobs] == [decode([first + i]) for i in (0, 1)]


@pytest.mark.parametrize("stream", [False, True])
def test_token_ids_in_and_out(address: str, said: Said, stream: bool) -> None:
    said.parts = ANSWERS["plain"]
    prompt = said.tokenizer.encode("5+7?")
    body = {"prompt_token_ids": prompt, "return_token_ids": True, "stream": stream, "n": 2}
    for path in ("chat/completions", "completions"):
        given = httpx.post(f"{address}/v1/{path}", json=body | {"max_tokens": 90})
        assert said.worker.asked[-1].prompt_ids == tuple(prompt)
        if not stream:
            found = given.json()
            ids = [c["token_ids"] for c in found["choices"]]
            shown = [c.get("prompt_token_ids") for c in found["choices"]]
            told = [found.get("prompt_token_ids")] if path.startswith("chat") else shown
        else:
            lines = [line[6:] for line in given.text.split("\n\n") if line.startswith("data: {")]
            pieces = [json.loads(line) for line in lines]
            told = [p["prompt_token_ids"] for p in pieces if "prompt_token_ids" in p]
            told += [c["prompt_token_ids"] for p in pieces for c in p["choices"]
                     if "prompt_token_ids" in c]  # fmt: skip
            ids = [[], []]
            for p in pieces:
                for c in p["choices"]:
                    ids[c["index"]] += c.get("token_ids", [])
        assert ids == [said.ids, said.ids]
        assert told == [prompt] * len(told)
        assert told


def test_parse_reads_what_a_schema_asks_for(client: openai.OpenAI, said: Said) -> None:
    pytest.importorskip("llguidance")

    class Sum(pydantic.BaseModel):
        sum: int

    said.parts = ANSWERS["json"]
    done = client.chat.completions.parse(model="list", messages=HELLO, response_format=Sum)
    assert done.choices[0].message.parsed == Sum(sum=12)
    assert said.worker.asked[-1].params.grammar is not None
    again = client.responses.parse(model="list", input="5+7?", text_format=Sum)
    assert again.output_parsed == Sum(sum=12)
    client.chat.completions.create(model="list", messages=HELLO)
    assert said.worker.asked[-1].params.grammar is None


@pytest.mark.parametrize(
    ("choice", "constrained"),
    [("auto", False), ("required", True), ("none", False),
     ({"type": "function", "function": {"name": "add"}}, True)],
)  # fmt: skip
def test_a_call_that_must_be_made_is_a_grammar(
    client: openai.OpenAI, said: Said, choice: Any, constrained: bool
) -> None:
    pytest.importorskip("llguidance")
    said.parts = ANSWERS["call"]
    client.chat.completions.create(model="list", messages=HELLO, tools=TOOLS, tool_choice=choice)
    assert (said.worker.asked[-1].params.grammar is not None) == constrained


def test_an_impossible_grammar_is_a_mistake_of_the_request(client: openai.OpenAI) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}, "required": ["a"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match="response_format"):
        client.chat.completions.create(model="list", messages=HELLO, response_format=form)


@pytest.mark.parametrize("stream", [False, True])
def test_completions(client: openai.OpenAI, said: Said, stream: bool) -> None:
    said.parts = ANSWERS["plain"]
    asked: dict[str, Any] = {"model": "list", "prompt": ["go", "stay"], "n": 2, "max_tokens": 90}
    asked |= {"echo": True, "stop": "日"}
    texts = [""] * 4
    if stream:
        for piece in client.completions.create(**asked, stream=True):
            for c in piece.choices:
                texts[c.index] += c.text
    else:
        done = client.completions.create(**asked)
        for c in done.choices:
            texts[c.index] = c.text
        assert [c.finish_reason for c in done.choices] == ["stop"] * 4
        assert done.usage is not None
        assert done.usage.prompt_tokens == sum(len(r.prompt_ids) for r in said.worker.asked[-4::2])
    assert texts == ["goIt is 12. ", "goIt is 12. ", "stayIt is 12. ", "stayIt is 12. "]


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("stream", [False, True])
def test_responses(client: openai.OpenAI, said: Said, name: str, stream: bool) -> None:
    said.parts = ANSWERS[name]
    message = Message("assistant", tuple(said.parts))
    tools: list[Any] = [{"type": "function", **ADD}]
    if stream:
        kinds, text, thought = [], "", ""
        with client.responses.stream(model="list", input="5+7?", tools=tools) as events:
            for event in events:
                kinds.append(event.type)
                text += event.delta if event.type == "response.output_text.delta" else ""
                thought += event.delta if event.type == "response.reasoning_text.delta" else ""
            done: Any = events.get_final_response()
        assert kinds[:2] == ["response.created", "response.in_progress"]
        assert kinds[-1] == "response.completed"
        assert text == message.text
        assert thought == ("5 and 7" if name == "think" else "")
        for a, b in (("output_item.added", "output_item.done"),
                     ("content_part.added", "content_part.done")):  # fmt: skip
            assert kinds.count(f"response.{a}") == kinds.count(f"response.{b}") > 0 or not text
    else:
        done = client.responses.create(model="list", input="5+7?", tools=tools)
    assert done.status == "completed"
    assert done.output_text == message.text
    calls = [(i.call_id, i.name, i.arguments) for i in done.output if i.type == "function_call"]
    assert calls == [(c.id, c.name, c.arguments) for c in message.tool_calls]
    thoughts = [i.content[0].text for i in done.output if i.type == "reasoning"]
    assert thoughts == (["5 and 7"] if name == "think" else [])
    assert done.usage.output_tokens == len(said.ids)
    # What was said is taken back as the beginning of the next request.
    more = [*HELLO, *(i.model_dump(exclude_none=True) for i in done.output)]
    more += [{"type": "function_call_output", "call_id": c[0], "output": "12"} for c in calls]
    said.parts = ANSWERS["plain"]
    client.responses.create(model="list", input=[*more, *HELLO], tools=tools)
    shown = said.tokenizer.decode(said.worker.asked[-1].prompt_ids, skip_special=False)
    assert message.text in shown


def test_a_response_that_was_cut_is_incomplete(client: openai.OpenAI, said: Said) -> None:
    said.parts = ANSWERS["plain"]
    done = client.responses.create(model="list", input="5+7?", max_output_tokens=3)
    assert done.status == "incomplete"
    assert done.incomplete_details is not None
    assert done.incomplete_details.reason == "max_output_tokens"


CLAUDE_TOOLS: list[Any] = [{"name": "add", "description": "Adds.",
                            "input_schema": ADD["parameters"]}]  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("stream", [False, True])
def test_messages(claude: anthropic.Anthropic, said: Said, name: str, stream: bool) -> None:
    said.parts = ANSWERS[name]
    message = Message("assistant", tuple(said.parts))
    asked: dict[str, Any] = {"model": "list", "max_tokens": 200, "messages": HELLO,
                             "tools": CLAUDE_TOOLS, "system": "Be kind."}  # fmt: skip
    if stream:
        with claude.messages.stream(**asked) as events:
            text = "".join(events.text_stream)
            done: Any = events.get_final_message()
        assert text == message.text
    else:
        done = claude.messages.create(**asked)
    assert "".join(b.text for b in done.content if b.type == "text") == message.text
    used = [(b.id, b.name, b.input) for b in done.content if b.type == "tool_use"]
    assert used == [(c.id, c.name, json.loads(c.arguments)) for c in message.tool_calls]
    thoughts = [b.thinking for b in done.content if b.type == "thinking"]
    assert thoughts == (["5 and 7"] if name == "think" else [])
    assert done.stop_reason == ("tool_use" if used else "end_turn")
    assert done.usage.output_tokens == len(said.ids)
    counted = claude.messages.count_tokens(
        model="list", messages=HELLO, tools=CLAUDE_TOOLS, system="Be kind."
    )
    assert counted.input_tokens == done.usage.input_tokens
    results: list[Any] = [
        {"type": "tool_result", "tool_use_id": i, "content": "12"} for i, _, _ in used
    ]
    more = [*HELLO, {"role": "assistant", "content": done.content}]
    more.append({"role": "user", "content": [*results, {"type": "text", "text": "and?"}]})
    claude.messages.create(**(asked | {"messages": more}))
    shown = said.tokenizer.decode(said.worker.asked[-1].prompt_ids, skip_special=False)
    assert message.text in shown


def test_a_stop_sequence_is_told(claude: anthropic.Anthropic, said: Said) -> None:
    said.parts = ANSWERS["plain"]
    done = claude.messages.create(
        model="list", max_tokens=90, messages=HELLO, stop_sequences=["never", "日"]
    )
    assert (done.stop_reason, done.stop_sequence) == ("stop_sequence", "日")
    cut = claude.messages.create(model="list", max_tokens=3, messages=HELLO)
    assert cut.stop_reason == "max_tokens"


def test_mistakes_raise_what_the_clients_have_for_them(
    client: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    long: list[Any] = [{"role": "user", "content": "x " * 2000}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="list", messages=long)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="gpt", input="x")
    with pytest.raises(anthropic.BadRequestError, match="the prompt has"):
        claude.messages.create(model="list", max_tokens=3, messages=long)
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="gpt", max_tokens=3, messages=HELLO)
