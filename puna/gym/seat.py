"""Seat: a role's policy within one episode, with the recorder of tokens as sampled.

`await seat.reply(messages, tools)` asks the policy and records what it said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from puna.core.messages import Message
from puna.core.rng import Key, derive
from puna.engine.policy import ChatPolicy, Reply, Sampler, SamplingParams, Usage
from puna.gym.task import Script
from puna.gym.trajectory import Branch
from puna.text.images import pictures_in
from puna.text.template import parse_assistant, render


class ContextFullError(RuntimeError):
    """The conversation no longer fits the model: the episode ends with the limit "tokens"."""


class Seat(Protocol):
    """What an agent speaks through."""

    branches: list[Branch]
    tokens: int
    finish: str  # of the last reply: "length" where it was cut off

    async def reply(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Message:
        """The policy's answer to `messages`."""
        ...


class SamplerSeat:
    """A seat over a Sampler: extends its branch while the history is append-only, else branches."""

    def __init__(self, sampler: Sampler, params: SamplingParams, key: tuple[Key, ...]) -> None:
        self.sampler, self.params, self.key = sampler, params, key
        self.branches: list[Branch] = []
        self.seen: tuple[Message, ...] = ()
        self.tools: tuple[Mapping[str, Any], ...] = ()
        self.turn = 0
        self.open_end = False
        self.tokens = 0
        self.finish = "stop"

    def _prompt(self, messages: tuple[Message, ...], tools: Sequence[Mapping[str, Any]]) -> Branch:
        tok = self.sampler.tokenizer
        known = len(self.seen)
        same = messages[:known] == self.seen and tuple(tools) == self.tools
        if known and same and tok.format.goes_on(self.seen, tools, messages[known:]):
            branch = self.branches[-1]
            new = list(render(tok, messages[known:], open_turn=True, first=False).ids)
            if self.open_end:
                new = [tok.special("eot"), *new]
            messages = messages[known:]
        else:
            branch = Branch()
            new = list(render(tok, messages, tools=tools, open_turn=True).ids)
            self.branches.append(branch)
        branch.pictures += pictures_in(tok, messages, new, len(branch.ids))
        branch.extend_prompt(new)
        return branch

    async def reply(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Message:
        """Sample one assistant turn. Raises ContextFullError where it cannot fit."""
        messages = tuple(messages)
        branch = self._prompt(messages, tools)
        room = getattr(self.sampler, "max_context", 1 << 60) - len(branch.ids)
        if room < 1:
            raise ContextFullError(f"the conversation has {len(branch.ids)} tokens")
        params = self.params
        if params.max_tokens > room:
            params = SamplingParams(room, params.temperature, params.top_k, params.top_p)
        key = (*self.key, self.turn)
        done = await self.sampler.sample(branch.ids, params, key, branch.pictures)
        self.turn += 1
        self.tokens += len(done.ids)
        branch.extend_sampled(done.ids, done.logprobs, done.version)
        if done.routes is not None:
            branch.routes = np.asarray(done.routes)
        self.open_end = done.finish != "stop"
        self.finish = done.finish
        message = parse_assistant(self.sampler.tokenizer, done.ids, tools=tools)
        self.seen, self.tools = (*messages, message), tuple(tools)
        return message


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
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Message:
        """Ask the policy once."""
        seed = derive(0, *self.key, self.turn) & 0x7FFFFFFF
        self.turn += 1
        done = await self.policy.chat(
            messages,
            tools,
            max_tokens=self.params.max_tokens,
            temperature=self.params.temperature,
            seed=seed,
        )
        self.usages.append(done.usage)
        self.tokens += done.usage.completion_tokens
        self.finish = done.finish
        return done.message


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
