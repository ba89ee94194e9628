"""Models behind one thread: requests that wait together are decoded together, token by token.

`Worker(catalogue)` then `async for event in worker.submit(ticket)`: `Token`s, at last a `Done`.
"""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from puna.core.errors import UserError

if TYPE_CHECKING:
    from puna.agents.model import Model
    from puna.engine.local import Request

QUEUE_S = 60.0
REQUEST_S = 600.0
SLOTS = 32
_STOPPED = "the server is being stopped"


class Overloaded(RuntimeError):
    """The request waited `QUEUE_S` seconds and was not begun: it may be sent again."""


@dataclass(frozen=True)
class Token:
    """One sampled token of the choice `index`."""

    index: int
    id: int
    logprob: float


@dataclass(frozen=True)
class Done:
    """The choice `index` is complete: "stop" (its last token ends a turn) or "length"."""

    index: int
    finish: str


@dataclass(eq=False)
class Ticket:
    """A model's name and the requests to it, one a choice; `cancel()` or `drop(i)` end them."""

    model: str
    requests: list[Request]
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[Token | Done | Exception] = field(default_factory=asyncio.Queue)
    dropped: set[int] = field(default_factory=set)
    since: float = field(default_factory=time.monotonic)
    begun: bool = False

    def drop(self, index: int) -> None:
        """Draw nothing more for one choice."""
        self.dropped.add(index)

    def cancel(self) -> None:
        """Draw nothing more at all."""
        self.dropped.update(range(len(self.requests)))

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for any of it."""
        return len(self.dropped) == len(self.requests)

    def tell(self, event: Token | Done | Exception) -> None:
        """Hand an event over to the event loop that waits for it."""
        try:
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:  # that loop is closed: nobody waits any more
            self.cancel()


class Worker:
    """The thread that loads models (when first asked for) and decodes.

    Tickets that wait for one model are decoded as one batch of at most `SLOTS` choices; what comes
    meanwhile waits for the batch's end. `names` -> a function that loads the model of that name.
    """

    def __init__(self, models: dict[str, Callable[[], Model]]) -> None:
        self.models, self.loaded = models, dict[str, Any]()
        self.waiting: list[Ticket] = []
        self.arrived = threading.Condition()
        self.closing = False
        self.generated = 0
        self.thread = threading.Thread(target=self._work, daemon=True, name="puna-serve")
        self.thread.start()

    async def model(self, name: str) -> Model:
        """The loaded model. Raises UserError where its files are broken."""
        if name not in self.loaded:
            ticket = Ticket(name, [], asyncio.get_running_loop())
            self._enqueue(ticket)
            await self._next(ticket)
        found: Model = self.loaded[name]
        return found

    async def submit(self, ticket: Ticket) -> AsyncGenerator[Token | Done]:
        """The ticket's events until all its choices are done; leaving early cancels it.

        Raises Overloaded where it was not begun in time, TimeoutError where it took too long.
        """
        self._enqueue(ticket)
        left = len(ticket.requests)
        try:
            while left:
                event = await self._next(ticket)
                left -= isinstance(event, Done)
                yield event
        finally:
            ticket.cancel()

    def close(self) -> None:
        """End the thread; what is being decoded is dropped."""
        with self.arrived:
            self.closing = True
            self.arrived.notify()
        self.thread.join(timeout=10)
        for ticket in self.waiting:
            ticket.tell(UserError(_STOPPED))

    def _enqueue(self, ticket: Ticket) -> None:
        with self.arrived:
            self.waiting.append(ticket)
            self.arrived.notify()

    async def _next(self, ticket: Ticket) -> Token | Done:
        while True:
            limit = REQUEST_S if ticket.begun else QUEUE_S
            left = ticket.since + limit - time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, left)):
                    event = await ticket.events.get()
            except TimeoutError:
                if ticket.begun and limit == QUEUE_S:
                    continue  # it was begun while we waited: the other limit holds
                ticket.cancel()
                if not ticket.begun:
                    raise Overloaded(f"not begun within {QUEUE_S:.0f} s") from None
                raise TimeoutError(f"not done within {REQUEST_S:.0f} s") from None
            if isinstance(event, Exception):
                raise event
            return event

    def _work(self) -> None:
        while (wave := self._wave()) is not None:
            try:
                name = wave[0].model
                if name not in self.loaded:
                    self.loaded[name] = self.models[name]()
                for ticket in wave:
                    if not ticket.requests:  # it asked for the model only
                        ticket.tell(Done(0, "stop"))
                self._decode(self.loaded[name], [t for t in wave if t.requests])
            except UserError as error:
                for ticket in wave:
                    ticket.tell(error)
            except Exception as error:
                traceback.print_exc()
                for ticket in wave:
                    ticket.tell(UserError(f"{name} failed: {type(error).__name__}: {error}"))

    def _wave(self) -> list[Ticket] | None:
        """The oldest ticket and those for the same model that fit beside it; None at the end."""
        with self.arrived:
            while True:
                self.arrived.wait_for(lambda: self.closing or bool(self.waiting))
                if self.closing:
                    return None
                self.waiting = [t for t in self.waiting if not t.requests or not t.cancelled]
                if self.waiting:
                    break
            name, room, wave = self.waiting[0].model, SLOTS, list[Ticket]()
            for ticket in self.waiting:
                if ticket.model == name and (not wave or len(ticket.requests) <= room):
                    room -= len(ticket.requests)
                    ticket.begun = True
                    wave.append(ticket)
            self.waiting = [t for t in self.waiting if t not in wave]
            return wave

    def _decode(self, model: Model, wave: list[Ticket]) -> None:
        """One batch to its end, each token handed over as it is drawn."""
        rows = [(t, i) for t in wave for i in range(len(t.requests))]
        if not rows:
            return
        stops = set(model.engine.stop_ids)
        counts, told = [0] * len(rows), [False] * len(rows)
        steps = model.engine.decode([t.requests[i] for t, i in rows])
        for run in steps:
            for row, ((ticket, index), (token, logprob)) in enumerate(
                zip(rows, run.drawn(), strict=True)
            ):
                if told[row] or token < 0:
                    continue
                counts[row] += 1
                self.generated += 1
                ticket.tell(Token(index, token, logprob))
                ended = token in stops
                if ended or counts[row] >= ticket.requests[index].params.max_tokens:
                    ticket.tell(Done(index, "stop" if ended else "length"))
                    told[row] = True
            gone = [row for row, (t, i) in enumerate(rows) if i in t.dropped and not told[row]]
            for row in gone:
                told[row] = True
                rows[row][0].tell(Done(rows[row][1], "stop"))
            if self.closing:
                steps.close()
                raise UserError(_STOPPED)
            if gone:
                run.drop(gone)
