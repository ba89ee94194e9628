"""Chats as token ids, beside what transformers' `apply_chat_template` makes of the published
templates. The difference is the number of ids that differ, over all chats.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tokenizers

from benchmarks.parity.case import Found, case
from benchmarks.parity.llama_like import llama_json, llama_like
from benchmarks.parity.models import library, unlike
from puna.core.messages import Message, Text, ToolCall, ToolResult
from puna.text.formats import LLAMA4, PUNA, Format
from puna.text.template import render
from puna.text.tokenizer import Tokenizer

FAMILIES = ("llama3.1", "llama4")
PEER = "trl"  # which carries Llama 3.1's template; transformers carries Llama 4's
SITES = sorted((Path(__file__).parents[2] / ".peers" / "trl").glob("lib/python3*/site-packages"))
INSTALL = "make peers"

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "é adds <two> 'numbers'",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
CALL = ToolCall("call_0", "add", '{"a": [1, "é\\n"], "b": {"c": null}}')
PLAIN = [Message.user("  Hi, is 2 < 3?\n\nYes 'or' \"no\" \n"), Message.assistant("  Yes.\n")]
ACT = [
    *(Message.user("2+3="), Message("assistant", (CALL,))),
    Message("tool", (ToolResult("call_0", (Text('{"sum": "5é"}\n'),)),)),
    *(Message.assistant("5"), Message.user(" and? ")),
]
BREAKS = [Message.user("\nb"), Message.assistant("\n\n c"), Message.system(" late ")]
CHATS = [PLAIN, ACT, BREAKS, [Message.system(" Be kind. \n"), *PLAIN, *ACT], [*PLAIN, *BREAKS]]
CHATS += [[Message.system(""), *c] for c in (PLAIN, ACT)]


def published(family: str) -> str:
    """The template of the published checkpoints, from a library that carries it; or empty."""
    if family == "llama3.1":
        found = [site / "trl" / "chat_templates" / "llama3_1.jinja" for site in SITES]
        return found[0].read_text() if found and found[0].exists() else ""
    if (spec := find_spec("transformers")) is None or spec.origin is None:
        return ""
    source = Path(spec.origin).parent / "models" / "llama4" / "processing_llama4.py"
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "chat_template":
            return str(ast.literal_eval(node.value))
    raise AssertionError(f"{source} no longer carries the template")


def peer_ids(
    text: str,
    template: str,
    chat: Sequence[Message],
    tools: list[Any],
    more: bool,
    bos: str | None = "<|begin_of_text|>",
    eos: str | None = None,
    **variables: Any,
) -> list[int]:
    """What `apply_chat_template` makes of a chat, with arguments as objects, as it wants them.

    `text` is the tokenizer.json; `variables` go to the template.
    """
    data = [m.to_openai() for m in chat]
    for message in data:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    peer = library().PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(text),
        bos_token=bos,
        eos_token=eos,
        chat_template=template,
    )
    ids: list[int] = peer.apply_chat_template(
        data, tools=tools or None, add_generation_prompt=more, return_dict=False, **variables
    )
    return ids


def spoilt(form: Format) -> dict[str, Format]:
    """The format with a feature done another way."""
    out = {"its own turns": PUNA}
    if form == LLAMA4:  # the other trims line breaks away, and says the date
        out["line breaks as one token"] = replace(form, joined=False)
    else:
        out["date"] = replace(form, date="01 Jan 2026")
    return out


def rendered(family: str) -> Found:
    """Every chat, with and without tools, closed and open."""
    tokenizer, template = llama_like(family), published(family)
    assert len(tokenizer.encode("\n\n\n")) == 1
    asked = [(c, t, more) for c in CHATS for t in ([], [ADD, ADD]) for more in (False, True)]
    expected = [peer_ids(llama_json(family), template, *asking) for asking in asked]

    def differ(form: Format) -> float:
        mine = Tokenizer(llama_json(family))
        mine.format = form
        pairs = zip(asked, expected, strict=True)
        return float(
            sum(unlike(render(mine, c, tools=t, open_turn=o).ids, ids) for (c, t, o), ids in pairs)
        )

    off = {name: differ(form) for name, form in spoilt(tokenizer.format).items()}
    note = f"{len(asked)} chats, {sum(map(len, expected))} ids"
    return Found(differ(tokenizer.format), off, note)


for _family in FAMILIES:
    case(
        f"{_family}: chat format",
        0,
        peer=PEER if _family == "llama3.1" else "transformers",
        dtype="ids",
        unit="ids",
    )(partial(rendered, _family))
