"""The ChatPolicy for any OpenAI-compatible endpoint, with token counts, cost, budget and cache.

`async with RemoteChat(RemoteConfig("http://127.0.0.1:8000")) as chat:
    reply = await chat.chat([Message.user("2+2=")])`
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.engine.endpoint import Endpoint, RemoteConfig, RequestRefused
from puna.engine.policy import EndpointError, Reply, Usage
from puna.engine.wire import (
    Answer,
    AnswerCache,
    chat_body,
    encode,
    read_answer,
    read_models,
)

__all__ = ["EndpointError", "RemoteChat", "RemoteConfig", "RequestRefused", "served"]


def served(config: RemoteConfig) -> RemoteConfig:
    """With the model that the endpoint serves, which is asked for where none is named.

    Outside of an event loop. Raises UserError where it cannot be told.
    """
    return replace(config, model=asyncio.run(RemoteChat(config).probe()))


class RemoteChat:
    """A ChatPolicy over HTTP. `usage` totals its replies; `calls`, `cached_calls` count them.

    The totals count a cached reply's tokens, at no cost. Calls already under way when the budget
    is spent (up to `concurrency`) still finish. Sampled requests without a seed are not cached:
    k tries of one task would all be the first.
    """

    def __init__(self, config: RemoteConfig) -> None:
        """Raises UserError: a bad address, an environment variable that is missing or unusable."""
        self.config, self._endpoint = config, Endpoint(config)
        self.url, self._model = self._endpoint.url, config.model
        self._limit = "max_tokens"
        cache_dir = config.cache_dir
        self._cache = AnswerCache(cache_dir, self._endpoint.key) if cache_dir else None
        self.calls = self.cached_calls = 0
        priced = config.price_in is not None and config.price_out is not None
        self.usage = Usage(cost=0.0 if priced else None)

    def __repr__(self) -> str:
        return f"RemoteChat({self.url!r}, model={self._model!r})"

    async def __aenter__(self) -> RemoteChat:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._endpoint.close()

    async def chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Reply:
        """One reply; what is not given comes from the configuration or is left to the endpoint.

        Raises EndpointError where the endpoint fails after all tries (RequestRefused where it
        refuses this request), UserError where the key, model or budget forbids any call.
        """
        body = chat_body(
            await self._name(),
            messages,
            tools,
            max_tokens=max_tokens or self.config.max_tokens,
            temperature=self.config.temperature if temperature is None else temperature,
            seed=seed,
            stop=list(stop),
        )
        if self._cache is None or (seed is None and body.get("temperature") != 0):
            return self._reply(await self._ask(body), cached=False)
        key = self._cache.key(self.url, encode(body))
        found = self._cache.get(key)
        if found is not None:
            return self._reply(found, cached=True)
        answer = await self._ask(body)
        reply = self._reply(answer, cached=False)
        self._cache.put(key, answer)
        return reply

    async def probe(self) -> str:
        """One short chat before a long evaluation; returns the model's name, leaves no connection.

        Raises UserError, in one line, where the endpoint does not answer it.
        """
        try:
            name = await self._name(patient=False)
            body = chat_body(name, [Message.user("Say yes.")], (), max_tokens=16)
            if self.config.temperature is not None:
                body["temperature"] = self.config.temperature
            self._reply(await self._ask(body, patient=False), cached=False)
        except EndpointError as error:
            raise UserError(str(error), fix="check the address and the server") from error
        finally:
            await self.close()
        return name

    async def _name(self, patient: bool = True) -> str:
        if self._model is not None:
            return self._model
        async with self._endpoint.once():
            if self._model is None:
                names = await self._endpoint.request(
                    "GET", "/models", None, read_models, patient=patient
                )
                if len(names) != 1:
                    listed = ", ".join(names[:20]) or "none"
                    raise UserError(f"{self.url} serves these models: {listed}", fix="name one")
                self._model = names[0]
        return self._model

    async def _ask(self, body: dict[str, Any], patient: bool = True) -> Answer:
        sent = dict(body)
        sent[self._limit] = sent.pop("max_tokens")
        try:
            return await self._post(sent, patient)
        except RequestRefused as error:
            # Newer OpenAI models know max_completion_tokens only, most servers the old name only.
            if "max_tokens" not in sent or "max_completion_tokens" not in str(error):
                raise
        self._limit = "max_completion_tokens"
        sent[self._limit] = sent.pop("max_tokens")
        return await self._post(sent, patient)

    async def _post(self, body: dict[str, Any], patient: bool) -> Answer:
        return await self._endpoint.request(
            "POST", "/chat/completions", encode(body), read_answer, self._admit, patient
        )

    def _admit(self) -> None:
        budget, cost = self.config.budget, self.usage.cost
        if budget is not None and cost is not None and cost >= budget:
            raise UserError(
                f"the budget of {budget:g} is spent ({cost:.4g} after {self.calls} calls)",
                fix="raise the budget and run the same command again",
            )

    def _cost(self, answer: Answer, cached: bool) -> float | None:
        price_in, price_out = self.config.price_in, self.config.price_out
        if price_in is None or price_out is None:
            return None
        if cached:
            return 0.0
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            if self.config.budget is not None:
                raise UserError(
                    f"{self.url} does not report token counts, so no budget can be kept",
                    fix="leave out the budget",
                )
            return None
        return (answer.prompt_tokens * price_in + answer.completion_tokens * price_out) / 1e6

    def _reply(self, answer: Answer, cached: bool) -> Reply:
        cost, total = self._cost(answer, cached), self.usage
        tokens = answer.prompt_tokens or 0, answer.completion_tokens or 0
        self.calls += not cached
        self.cached_calls += cached
        # One unknown cost makes the total unknown: the sum of the rest would pass for a bill.
        self.usage = replace(
            total,
            prompt_tokens=total.prompt_tokens + tokens[0],
            completion_tokens=total.completion_tokens + tokens[1],
            cost=None if cost is None or total.cost is None else total.cost + cost,
        )
        return Reply(answer.message, answer.finish, Usage(*tokens, cost, cached))
