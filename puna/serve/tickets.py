"""Requests on their way through the engine's thread: what is asked of it, and what it hands back.

`hand_over([(ticket, Token(0, 17, -0.3)), ...])` from that thread; `async for events in
ticket.listen()` on the event loop. A step's tokens for many tickets wake the loop once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from puna.engine.local import Request

QUEUE_S = 60.0
REQUEST_S = 600.0
BEHIND = 20_000  # events that nobody has taken: their reader is stuck


class Overloaded(RuntimeError):
    """The request waited `QUEUE_S` seconds and was not begun: it may be sent again."""


class Gone(RuntimeError):
    """Whoever asked has left."""


class Token(NamedTuple):
    """One sampled token of a choice; `top` are the likeliest with their logprobs."""

    choice: int
    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Done(NamedTuple):
    """A choice is complete: "stop" (its last token ends a turn) or "length"."""

    choice: int
    finish: str


Event = Token | Done | Exception


@dataclass(eq=False)
class Ticket:
    """A model's name and the requests to it, one a choice; `cancel()` or `drop(i)` end them.

    One without requests only asks for the model, and is done once that is loaded. What is not told
    `whole` goes to a reader, who may be stuck: then it is given up.
    """

    model: str
    requests: list[Request]
    loop: asyncio.AbstractEventLoop
    whole: bool = False
    dropped: set[int] = field(default_factory=set)
    since: float = field(default_factory=time.monotonic)
    begun: bool = False
    _events: list[Event] = field(default_factory=list)
    _waiter: asyncio.Future[None] | None = None
    _timer: asyncio.TimerHandle | None = None

    def drop(self, index: int) -> None:
        """Draw nothing more for one choice."""
        self.dropped.add(index)

    def cancel(self) -> None:
        """Draw nothing more at all."""
        self.dropped.update(range(len(self.requests)))

    def leave(self) -> None:
        """Whoever asked has left: nothing more is drawn, and `listen` raises Gone."""
        self.cancel()
        self.put(Gone("the client has left"))

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for any of it."""
        return len(self.dropped) == len(self.requests)

    def put(self, event: Event) -> None:
        """An event, on the event loop."""
        self._events.append(event)
        if len(self._events) == BEHIND and not self.whole:
            self._events.append(TimeoutError("nobody took what was said"))
            self.cancel()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def listen(self) -> AsyncGenerator[list[Token | Done]]:
        """Events, as many as have come at a time, until all choices are done.

        Raises Overloaded where it was not begun in time, TimeoutError where it took too long, and
        whatever the engine put. Leaving early cancels the ticket.
        """
        left = max(1, len(self.requests))
        self._timer = self.loop.call_later(QUEUE_S, self._late)
        try:
            while left:
                if not self._events:
                    self._waiter = self.loop.create_future()
                    await self._waiter
                events, self._events = self._events, []
                good = [e for e in events if not isinstance(e, Exception)]
                left -= sum(type(e) is Done for e in good)
                if good:
                    yield good
                if len(good) < len(events):
                    raise next(e for e in events if isinstance(e, Exception))
        finally:
            self._timer.cancel()
            self.cancel()

    def _late(self) -> None:
        if not self.begun:
            self.put(Overloaded(f"not begun within {QUEUE_S:.0f} s"))
        elif (left := self.since + REQUEST_S - time.monotonic()) > 0:
            self._timer = self.loop.call_later(left, self._late)
        else:
            self.put(TimeoutError(f"not done within {REQUEST_S:.0f} s"))


def hand_over(events: Iterable[tuple[Ticket, Event]]) -> None:
    """Give events to the event loops that wait for them, waking each once; from any thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, Event]]] = {}
    for ticket, event in events:
        by_loop.setdefault(ticket.loop, []).append((ticket, event))
    for loop, batch in by_loop.items():
        try:
            loop.call_soon_threadsafe(_deliver, batch)
        except RuntimeError:  # that loop is closed: nobody waits any more
            for ticket, _ in batch:
                ticket.cancel()


def _deliver(batch: list[tuple[Ticket, Event]]) -> None:
    for ticket, event in batch:
        ticket.put(event)
