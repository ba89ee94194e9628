"""Who answers: a Sampler (token ids in, ids with log-probabilities out) or a ChatPolicy (messages).

A Sampler can be trained, a ChatPolicy cannot. Both are asked from the one event loop of a rollout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from puna.core.messages import Message
from puna.core.rng import Key
from puna.text.images import Picture

if TYPE_CHECKING:
    from puna.engine.grammar import Grammar


@dataclass(frozen=True)
class SamplingParams:
    """How to draw. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 cut nothing off.

    `min_p` keeps tokens with at least that share of the likeliest one's probability. `top_logprobs`
    asks for so many of the likeliest tokens at each place. A `grammar` says what may be said. The
    first of the texts `stop` ends a completion; the token that completes it is its last.
    """

    max_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    top_logprobs: int = 0
    grammar: Grammar | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for values outside their range."""
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}, must be at least 1")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}, must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, must be in (0, 1]")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}, must be in [0, 1]")


@dataclass(frozen=True)
class Completion:
    """Sampled token ids [T], their log-probabilities [T] under the sampling distribution.

    `finish` is "stop" (a stop token, or the end of a stop text, is the last of `ids`) or "length";
    `version` counts the weight updates behind the sampler when it began, `versions` [T] those
    behind each token; `routes` [T_prompt + T - 1, MoE layers] holds the chosen experts; `top` [T]
    the likeliest tokens at each place with their log-probabilities, as many as were asked for.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    version: int
    finish: str
    routes: np.ndarray[Any, Any] | None = None
    versions: tuple[int, ...] = ()
    top: tuple[tuple[tuple[int, float], ...], ...] = ()


class Sampler(Protocol):
    """Token ids in, token ids out; what RL trains."""

    tokenizer: Any

    async def sample(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        key: tuple[Key, ...],
        pictures: Sequence[Picture] = (),
    ) -> Completion:
        """One completion; `key` names the random stream, so equal keys give equal draws.

        `pictures` stand in the prompt; only the sampler of a model with eyes is ever given any.
        """
        ...


@dataclass(frozen=True)
class Usage:
    """Tokens and money one reply cost; `cost` is None where no price was given."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    cached: bool = False


@dataclass(frozen=True)
class Reply:
    """A ChatPolicy's answer."""

    message: Message
    finish: str = "stop"
    usage: Usage = field(default_factory=Usage)


class ChatPolicy(Protocol):
    """Messages in, a message out: a remote endpoint, a script, a person."""

    async def chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> Reply:
        """One reply to the conversation so far."""
        ...


class EndpointError(RuntimeError):
    """The endpoint failed after all retries: the machinery's fault (`Infra`), never a score."""
