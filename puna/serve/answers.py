"""From a request to what the engine draws, and from drawn tokens to what is said.

`job = ask(model, "rl", request)`; a `Speaker` for each choice hears tokens and says deltas.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from puna.core.messages import Message, Text
from puna.gateway.openai import BadRequest, ChatRequest, call_deltas
from puna.serve.worker import Ticket
from puna.text.calls import may_begin

if TYPE_CHECKING:
    from puna.agents.model import Model


UNASKED = 4096  # tokens of an answer whose length nobody limited: room for them is kept at once


@dataclass(frozen=True)
class Asked:
    """A request ready for the worker: `prompt` is its length in tokens."""

    model: str
    tokenizer: Any
    prompt: int
    ticket: Ticket


async def ask(model: Model, name: str, asked: ChatRequest) -> Asked:
    """Render the conversation and number its choices. Raises BadRequest where it does not fit."""
    from puna.engine.local import Request
    from puna.engine.policy import SamplingParams
    from puna.text.template import render

    engine = model.engine
    shown = await asyncio.to_thread(
        render, engine.tokenizer, asked.messages, tools=asked.tools, open_turn=True
    )
    ids = tuple(shown.ids)
    room = engine.max_context - len(ids)
    if room < 1:
        what = f"the conversation has {len(ids)} tokens, {name} takes {engine.max_context - 1}"
        raise BadRequest(what, "messages", "context_length_exceeded")
    limit = min(room, asked.max_tokens or UNASKED)
    params = SamplingParams(limit, asked.temperature, top_p=asked.top_p)
    seed = secrets.randbits(63) if asked.seed is None else asked.seed
    requests = [Request(ids, params, ("serve", seed, i)) for i in range(asked.n)]
    ticket = Ticket(name, requests, asyncio.get_running_loop())
    return Asked(name, engine.tokenizer, len(ids), ticket)


class Speaker:
    """One choice: its tokens so far, and what of its text may be told already.

    Held back are bytes that do not make a character yet, text that may become a stop string, and
    everything from where a tool call may begin on, since only its end tells whether it is one.
    """

    def __init__(self, job: Asked, asked: ChatRequest) -> None:
        self.job, self.stops = job, asked.stop
        # Calls are numbered through the conversation: clients tell results by the call's name.
        self.first_call = sum(len(m.tool_calls) for m in asked.messages)
        self.ids: list[int] = []
        self.tokens: list[tuple[str, float]] = []
        self.message = Message.assistant("")
        self.finish = ""
        self._told = ""
        self._thought = ""
        self._tokens_told = 0
        self._cut: int | None = None
        tok = job.tokenizer
        self._tools = asked.tools
        self._bare = bool(asked.tools) and tok.format.bare_calls
        marked = tok.token("python_start") is not None
        self._call_mark = tok.special("python_start") if marked else -1
        ended = tok.token("python_end") is not None
        self._call_end = tok.special("python_end") if ended else -1

    def hear(self, token: int, logprob: float) -> bool:
        """Take a token; True where a stop string is complete and no more is wanted."""
        if self._cut is not None:
            return True
        self.ids.append(token)
        self.tokens.append((self.job.tokenizer.decode([token], skip_special=False), logprob))
        if self.stops:
            text = self._parse(self._spoken()).text
            found = [at for s in self.stops if (at := text.find(s)) >= 0]
            self._cut = min(found) if found else None
        return self._cut is not None

    def end(self, finish: str) -> None:
        """No more tokens come."""
        message = self._parse(self.ids)
        if self._cut is not None:
            others = tuple(p for p in message.parts if not isinstance(p, Text))
            said = Text(message.text[: self._cut])
            message, finish = Message("assistant", (*others, said)), "stop"
        calls = bool(message.tool_calls) and finish == "stop"
        self.message, self.finish = message, "tool_calls" if calls else finish

    def say(self) -> Iterator[tuple[dict[str, Any], str | None]]:
        """(delta, finish reason or None) of what can be told now and was not."""
        if self.finish:
            openai = self.message.to_openai()
            text, thought = self.message.text, str(openai.get("reasoning_content", ""))
        else:
            text, thought = self._so_far()
        if len(thought) > len(self._thought):
            yield {"reasoning_content": thought[len(self._thought) :]}, None
            self._thought = thought
        if len(text) > len(self._told):
            yield {"content": text[len(self._told) :]}, None
            self._told = text
        if self.finish:
            if self.message.tool_calls:
                yield {"tool_calls": call_deltas(self.message)}, None
            yield {}, self.finish

    def new_tokens(self) -> list[tuple[str, float]]:
        """Tokens not handed out yet."""
        new, self._tokens_told = self.tokens[self._tokens_told :], len(self.tokens)
        return new

    def _so_far(self) -> tuple[str, str]:
        ids = self.ids
        if self._call_mark in ids:
            ids = ids[: ids.index(self._call_mark)]
        message = self._parse(ids, whole=False)
        text = message.text if self._cut is None else message.text[: self._cut]
        thought = str(message.to_openai().get("reasoning_content", ""))
        if self._bare:
            text = text[: may_begin(text)].rstrip()
        if self.job.tokenizer.format.gap:
            text = text.rstrip("\n")  # a break before a call is not said
        held = max((len(s) for s in self.stops), default=1) - 1
        text = text.rstrip("\ufffd")  # first: what is held back is counted in whole characters
        text = text[: max(0, len(text) - held)] if self._cut is None else text
        return text, thought.rstrip("\ufffd")

    def _parse(self, ids: list[int], whole: bool = True) -> Message:
        """A message; one that is not `whole` has its bare calls still in its text."""
        from puna.text.template import parse_assistant

        tools = self._tools if whole else ()
        return parse_assistant(self.job.tokenizer, ids, tools=tools, first_call=self.first_call)

    def _spoken(self) -> list[int]:
        """The ids without a call that has not ended: stop strings are of what is said."""
        for at in range(len(self.ids) - 1, -1, -1):
            if self.ids[at] == self._call_mark:
                return self.ids[:at]
            if self.ids[at] == self._call_end:
                break
        return self.ids
