"""What a request of any protocol asks for, and what its answer is written from.

`Asked(messages=(Message.user("2+2="),), max_tokens=8)`; a protocol's `read` makes one of a body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from puna.core.messages import Message, ToolCall


@dataclass(frozen=True)
class Asked:
    """A request as read: `messages` to answer or, for completions, `prompts` to continue.

    `max_tokens` None leaves the length to the context, `seed` None to us. `prompts` are texts or
    token ids; with `chat` they are whole prompts of a chat, and what follows is an assistant's
    message. `choice` is auto, none, required or a tool's name. `schema` None asks for text. `given`
    is the body, which some protocols repeat.
    """

    model: str = ""
    messages: tuple[Message, ...] = ()
    prompts: tuple[str | tuple[int, ...], ...] = ()
    chat: bool = True
    tools: tuple[Mapping[str, Any], ...] = ()
    choice: str = "auto"
    parallel: bool = True
    schema: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    n: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    token_ids: bool = False
    echo: bool = False
    given: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Drawn(NamedTuple):
    """A sampled token, its log-probability, and the likeliest tokens with theirs."""

    id: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()


class Said(NamedTuple):
    """What is new of one choice; `finish` once it is complete: stop, length or tool_calls.

    `tokens` only where log-probabilities or ids were asked for; `stop` is the stop string found.
    """

    text: str = ""
    thought: str = ""
    calls: tuple[ToolCall, ...] = ()
    tokens: Sequence[Drawn] = ()
    finish: str = ""
    stop: str | None = None


@dataclass(frozen=True)
class Choice:
    """One whole answer: `count` tokens, `thinking` of them of a thought."""

    message: Message
    finish: str
    stop: str | None
    tokens: Sequence[Drawn]
    count: int
    thinking: int


@dataclass(frozen=True)
class Head:
    """What every piece of an answer repeats; `prompts` are the ids each choice goes on from."""

    name: str
    model: str
    created: int
    tokenizer: Any
    prompts: tuple[tuple[int, ...], ...]
    prompt_tokens: int

    def text(self, token: int) -> str:
        """A token as text; a part of a character is U+FFFD."""
        text: str = self.tokenizer.decode([token], skip_special=False)
        return text


class Writer(Protocol):
    """An answer in one protocol: whole, or as server-sent events."""

    def __init__(self, asked: Asked, head: Head) -> None: ...

    def whole(self, choices: Sequence[Choice]) -> str:
        """The JSON of a whole answer."""
        ...

    def begin(self) -> str:
        """The events before anything is said."""
        ...

    def say(self, index: int, said: Said) -> str:
        """The events for what is new of a choice."""
        ...

    def end(self, choices: Sequence[Choice]) -> str:
        """The events after all is said."""
        ...

    def failed(self, message: str) -> str:
        """The event for an answer that breaks off."""
        ...
