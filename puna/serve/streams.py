"""Answers on their way to a client: whole ones, and streams of server-sent events.

What has come since the last look is sent as one piece: a busy server sends fewer, larger ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any

from fastapi.responses import Response

from puna.core.errors import UserError
from puna.gateway.asked import Writer
from puna.gateway.reading import BadRequest
from puna.serve.answers import Job
from puna.serve.metrics import Metrics
from puna.serve.tickets import Done, Gone, Ticket, Token


class Exchange:
    """One request being answered: its tokens are heard, counted and timed.

    `close` is called once with the tokens it cost, read and said; `watching` waits for the client
    to leave.
    """

    def __init__(
        self,
        job: Job,
        events: AsyncGenerator[list[Token | Done]],
        metrics: Metrics,
        watching: asyncio.Future[None],
        close: Callable[[int], None],
    ) -> None:
        self.job, self.events, self.metrics, self._close = job, events, metrics, close
        self._watching, self._last = watching, 0.0
        metrics.prompt_tokens += job.head.prompt_tokens

    def hear(self, events: Sequence[Token | Done]) -> Iterable[int]:
        """Take events; the choices that they are of."""
        speakers, ticket, tokens = self.job.speakers, self.job.ticket, 0
        touched = dict[int, None]()
        for event in events:
            touched[event.choice] = None
            if isinstance(event, Token):
                tokens += 1
                if speakers[event.choice].hear(event.id, event.logprob, event.top):
                    ticket.drop(event.choice)
            else:
                speakers[event.choice].end(event.finish)
        if tokens:
            now, metrics = time.monotonic(), self.metrics
            metrics.said_tokens += tokens
            if self._last:
                metrics.between.see((now - self._last) * len(touched) / tokens, tokens)
            else:
                metrics.first.see(now - ticket.since)
            self._last = now
        return touched

    async def close(self) -> None:
        """Nothing more is heard."""
        self._watching.cancel()
        await self.events.aclose()
        self._close(self.job.head.prompt_tokens + sum(len(s.ids) for s in self.job.speakers))


async def whole(exchange: Exchange, writer: Writer) -> Response:
    """The answer in one piece. Raises what the worker raises."""
    try:
        async for some in exchange.events:
            exchange.hear(some)
        body = writer.whole([s.choice() for s in exchange.job.speakers])
        return Response(body, media_type="application/json")
    finally:
        await exchange.close()


async def streamed(exchange: Exchange, writer: Writer) -> Response:
    """Server-sent events. Raises what the worker raises before the first one."""
    try:
        first = await anext(exchange.events)
    except BaseException:
        await exchange.close()
        raise
    return Streamed(exchange, first, writer)


class Streamed(Response):
    """The answer event by event; `first` has come already."""

    media_type = "text/event-stream"

    def __init__(self, exchange: Exchange, first: list[Token | Done], writer: Writer) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.exchange, self.first, self.writer = exchange, first, writer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The stream, to its end or until the client leaves."""

        async def tell(text: str, more: bool = True) -> None:
            body = {"type": "http.response.body", "body": text.encode(), "more_body": more}
            await send(body)

        exchange, writer = self.exchange, self.writer
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            begun = writer.begin()
            await tell(begun + self._say(self.first))
            async for some in exchange.events:
                if text := self._say(some):
                    await tell(text)
            end = writer.end([s.choice() for s in exchange.job.speakers])
            await tell(end, more=False)
        except Gone:
            pass
        except (TimeoutError, UserError, BadRequest) as error:
            await tell(writer.failed(str(error)), more=False)
        finally:
            await exchange.close()

    def _say(self, events: Sequence[Token | Done]) -> str:
        out = []
        for index in self.exchange.hear(events):
            said = self.exchange.job.speakers[index].say()
            if said is not None:
                out.append(self.writer.say(index, said))
        return "".join(out)


async def watch(receive: Any, ticket: Ticket) -> None:
    """Wait until the client has left; then the ticket is."""
    while (await receive())["type"] != "http.disconnect":
        pass
    ticket.leave()
