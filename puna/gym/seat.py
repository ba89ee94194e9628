"""Seat: a role's policy within one episode, with the recorder of tokens as sampled.

`await seat.reply(messages, tools)` asks the policy and records what it said; `seat.ask` gives its
tokens too. A history that is not what was said before begins a branch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from puna.core.messages import Message, ToolCall, ToolResult
from puna.core.rng import Key, derive
from puna.engine.policy import ChatPolicy, Completion, Reply, Sampler, SamplingParams, Usage
from puna.gym.task import Script
from puna.gym.tools import same_json
from puna.gym.trajectory import Branch
from puna.text.images import pictures_in
from puna.text.template import parse_assistant, render, signs
from puna.text.turns import said as shown


class ContextFullError(RuntimeError):
    """The conversation no longer fits the model: the episode ends with the limit "tokens"."""


class Heard(NamedTuple):
    """What sampled tokens come to: a message, of the first `kept` of them, and how it ended."""

    message: Message
    kept: int
    finish: str


Listen = Callable[[Completion], Heard]


@dataclass(frozen=True)
class Answer:
    """A reply and how it ended; a Sampler's tokens stand in the branch from `start` on."""

    message: Message
    finish: str
    branch: Branch | None = None
    start: int = 0


class Seat(Protocol):
    """What an agent speaks through."""

    tokens: int
    finish: str  # of the last reply: "length" where it was cut off

    @property
    def branches(self) -> list[Branch]:
        """The tokens so far; none of a ChatPolicy."""
        ...

    async def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        stop: Sequence[str] = (),
    ) -> Message:
        """The policy's answer to `messages`."""
        ...

    async def ask(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        max_tokens: int | None = None,
        listen: Listen | None = None,
        stop: Sequence[str] = (),
    ) -> Answer:
        """The same with its tokens; of at most `max_tokens`, understood as `listen` does.

        A Sampler's answer ends with the first of the texts `stop`. An endpoint's does not: it would
        leave that text out of its answer.
        """
        ...


def alike(said: Message, told: Message) -> bool:
    """Whether `told` is `said` as a client hands it back: perhaps without its thoughts, with ids of
    its own, a call's arguments spelt otherwise.
    """
    calls, again = said.tool_calls, told.tool_calls
    return (
        said.role == told.role
        and shown(said.parts) == shown(told.parts)
        and told.thought in ("", said.thought)
        and len(calls) == len(again)
        and all(
            a.name == b.name and same_json(a.arguments, b.arguments)
            for a, b in zip(calls, again, strict=True)
        )
    )


def _ids(messages: Sequence[Message]) -> list[str]:
    """Of calls and of their results."""
    return [p.id for m in messages for p in m.parts if isinstance(p, ToolCall | ToolResult)]


@dataclass(eq=False)
class _History:
    """A branch, and the messages and tools that its tokens are of; `busy` while one is sampled."""

    branch: Branch
    tools: tuple[Mapping[str, Any], ...]
    seen: tuple[Message, ...] = ()
    open_end: bool = False
    busy: bool = False


class SamplerSeat:
    """A seat over a Sampler: goes on with the longest branch that a conversation begins with, as it
    was sampled, and opens another where there is none.
    """

    def __init__(self, sampler: Sampler, params: SamplingParams, key: tuple[Key, ...]) -> None:
        self.sampler, self.params, self.key = sampler, params, key
        self.histories: list[_History] = []
        self.turn = 0
        self.tokens = 0
        self.finish = "stop"

    @property
    def branches(self) -> list[Branch]:
        """What was sampled so far, in the order in which branches were opened."""
        return [h.branch for h in self.histories]

    def _known(
        self, messages: tuple[Message, ...], tools: tuple[Mapping[str, Any], ...]
    ) -> _History | None:
        """The longest history that `messages` go on from; the later of two."""
        form, found = self.sampler.tokenizer.format, None
        for history in self.histories:
            seen = history.seen
            known = len(seen)
            if history.busy or not seen or history.tools != tools or known > len(messages):
                continue
            if found is not None and known < len(found.seen):
                continue
            if form.moves and _ids(seen) != _ids(messages[:known]):
                continue  # Mistral's, whose tokens have the ids
            if all(map(alike, seen, messages)) and form.goes_on(seen, tools, messages[known:]):
                found = history
        return found

    def _prompt(
        self, messages: tuple[Message, ...], tools: tuple[Mapping[str, Any], ...]
    ) -> _History:
        tok = self.sampler.tokenizer
        known = self._known(messages, tools)
        history = known or _History(Branch(), tools)
        if known:
            messages = messages[len(history.seen) :]
            new = list(render(tok, messages, open_turn=True, first=False).ids)
            if history.open_end:
                new = [tok.special("eot"), *new]
        else:
            new = list(render(tok, messages, tools=tools, open_turn=True).ids)
        branch = history.branch
        branch.pictures += pictures_in(tok, messages, new, len(branch.ids))
        branch.extend_prompt(new)
        if not known:
            self.histories.append(history)
        return history

    async def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        stop: Sequence[str] = (),
    ) -> Message:
        """Sample one assistant turn. Raises ContextFullError where it cannot fit."""
        return (await self.ask(messages, tools, stop=stop)).message

    async def ask(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        max_tokens: int | None = None,
        listen: Listen | None = None,
        stop: Sequence[str] = (),
    ) -> Answer:
        """See `Seat`. Several may be under way at once. Raises ContextFullError."""
        messages, tools = tuple(messages), tuple(tools)
        turn, self.turn = self.turn, self.turn + 1
        history = self._prompt(messages, tools)
        branch = history.branch
        start, history.busy = len(branch.ids), True
        try:
            room = getattr(self.sampler, "max_context", 1 << 60) - start
            if room < 1:
                raise ContextFullError(f"the conversation has {start} tokens")
            most = min(room, self.params.max_tokens, max_tokens or room)
            params = replace(self.params, max_tokens=most, stop=tuple(stop) or self.params.stop)
            done = await self.sampler.sample(branch.ids, params, (*self.key, turn), branch.pictures)
            heard = (listen or self._listen(messages, tools))(done)
        except BaseException:
            self._forget(history)
            if self.turn == turn + 1:  # asked again, it draws the same
                self.turn = turn
            raise
        finally:
            history.busy = False
        kept = heard.kept
        branch.extend_sampled(done.ids[:kept], done.logprobs[:kept], done.version)
        if done.routes is not None:
            lost = len(done.ids) - kept
            branch.routes = np.asarray(done.routes)[: len(done.routes) - lost]
        self.tokens += kept
        closed = done.finish == "stop" and done.ids[-1] in signs(self.sampler.tokenizer)[0]
        history.open_end = not closed or kept < len(done.ids)
        history.seen = (*messages, heard.message)
        self.finish = heard.finish
        return Answer(heard.message, heard.finish, branch, start)

    def _listen(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Listen:
        first = sum(len(m.tool_calls) for m in messages)

        def heard(done: Completion) -> Heard:
            tok = self.sampler.tokenizer
            message = parse_assistant(tok, done.ids, tools=tools, first_call=first)
            return Heard(message, len(done.ids), done.finish)

        return heard

    def _forget(self, history: _History) -> None:
        """Nothing came of it: what was asked is no part of what was said."""
        branch = history.branch
        known = len(branch.mask)
        while known and not branch.mask[known - 1]:
            known -= 1
        branch.cut(known)
        if not known:
            self.histories.remove(history)


class ChatSeat:
    """A seat over a ChatPolicy: text only, scored, never in RL."""

    def __init__(self, policy: ChatPolicy, params: SamplingParams, key: tuple[Key, ...]) -> None:
        self.policy, self.params, self.key = policy, params, key
        self.branches: list[Branch] = []
        self.turn = 0
        self.tokens = 0
        self.finish = "stop"
        self.usages: list[Usage] = []

    async def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        stop: Sequence[str] = (),
    ) -> Message:
        """Ask the policy once."""
        return (await self.ask(messages, tools, stop=stop)).message

    async def ask(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        max_tokens: int | None = None,
        listen: Listen | None = None,
        stop: Sequence[str] = (),
    ) -> Answer:
        """Ask the policy once; it has no tokens to listen to."""
        seed = derive(0, *self.key, self.turn) & 0x7FFFFFFF
        self.turn += 1
        most = self.params.max_tokens
        done = await self.policy.chat(
            messages,
            tools,
            max_tokens=min(most, max_tokens or most),
            temperature=self.params.temperature,
            seed=seed,
        )
        self.usages.append(done.usage)
        self.tokens += done.usage.completion_tokens
        self.finish = done.finish
        return Answer(done.message, done.finish)


@dataclass(frozen=True)
class Scripted:
    """A script as a ChatPolicy: the oracle, the idle agent, the cheats, a scripted opponent."""

    script: Script

    async def chat(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), **_: Any
    ) -> Reply:
        """What the script says."""
        return Reply(self.script(messages))


Policy = Sampler | ChatPolicy


def take_seat(policy: Policy, params: SamplingParams, key: tuple[Key, ...]) -> Seat:
    """The seat that fits the kind of policy."""
    if hasattr(policy, "sample"):
        return SamplerSeat(cast(Sampler, policy), params, key)
    return ChatSeat(policy, params, key)
