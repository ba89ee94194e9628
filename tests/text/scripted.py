"""A sampler that gives what is written, and remembers what it was asked after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from puna.engine.policy import Completion, SamplingParams
from puna.text.tokenizer import Tokenizer


class Scripted:
    """Says these answers, ids each, one after the other; the turn's end is added."""

    def __init__(self, tokenizer: Tokenizer, *said: list[int]) -> None:
        self.tokenizer, self.said, self.seen = tokenizer, list(said), list[list[int]]()

    async def sample(
        self, ids: Sequence[int], params: SamplingParams, key: Any, pictures: Any = ()
    ) -> Completion:
        self.seen.append(list(ids))
        said = [*self.said.pop(0), self.tokenizer.special("eot")]
        return Completion(tuple(said), (0.0,) * len(said), 0, "stop")
