"""Models behind one thread: whatever is asked meanwhile joins what is being decoded.

`Worker(catalogue)` then `async for events in worker.submit(ticket)`: `Token`s, at last a `Done` for
each choice.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from puna.core.errors import UserError
from puna.gateway.reading import BadRequest
from puna.serve.tickets import Done, Event, Ticket, Token, hand_over

if TYPE_CHECKING:
    from puna.agents.model import Model
    from puna.engine.local import Engine, Running

SLOTS = 64
_STOPPED = "the server is being stopped"


class Worker:
    """The thread that loads models (when first asked for) and decodes, a step of each in turn.

    An engine takes in at most `SLOTS` choices; what comes meanwhile waits for a place. `models`:
    name -> a function that loads the model of that name.
    """

    def __init__(self, models: Mapping[str, Callable[[], Model]]) -> None:
        self.models, self.loaded = models, dict[str, Any]()
        self.engines: dict[str, Engine] = {}
        self.waiting: list[Ticket] = []
        self.rows: dict[Running, tuple[Ticket, int]] = {}
        self.arrived = threading.Condition()
        self.closing = False
        self.generated = 0
        self.thread = threading.Thread(target=self._work, daemon=True, name="puna-serve")
        self.thread.start()

    async def model(self, name: str) -> Model:
        """The loaded model. Raises UserError where its files are broken."""
        if name not in self.loaded:
            async for _ in self.submit(Ticket(name, [], asyncio.get_running_loop())):
                pass
        found: Model = self.loaded[name]
        return found

    def submit(self, ticket: Ticket) -> AsyncGenerator[list[Token | Done]]:
        """The ticket's events until all its choices are done; leaving early cancels it.

        Raises Overloaded where it was not begun in time, TimeoutError where it took too long.
        """
        with self.arrived:
            self.waiting.append(ticket)
            self.arrived.notify()
        return ticket.listen()

    def close(self) -> None:
        """End the thread; what is being decoded is dropped."""
        with self.arrived:
            self.closing = True
            self.arrived.notify()
        self.thread.join(timeout=10)
        left = {ticket for ticket, _ in self.rows.values()}
        hand_over([(ticket, UserError(_STOPPED)) for ticket in (*self.waiting, *left)])

    def _work(self) -> None:
        while (new := self._new()) is not None:
            for ticket in new:
                self._begin(ticket)
            for name, engine in list(self.engines.items()):
                if not engine.idle:
                    self._step(name, engine)

    def _new(self) -> list[Ticket] | None:
        """Tickets that have come, at once where something is being decoded; None at the end."""
        with self.arrived:
            self.arrived.wait_for(lambda: self.closing or bool(self.waiting) or bool(self.rows))
            new, self.waiting = self.waiting, []
            if self.closing:
                self.waiting = new
                return None
        return new

    def _begin(self, ticket: Ticket) -> None:
        """Hand a ticket's requests to its model's engine, which is made when first asked for."""
        name = ticket.model
        try:
            if name not in self.loaded:
                self.loaded[name] = self.models[name]()
            if not ticket.requests:  # it asked for the model only
                hand_over([(ticket, Done(0, "stop"))])
                return
            if name not in self.engines:
                self.engines[name] = _engine(self.loaded[name])
            rows = self._add(self.engines[name], ticket)
        except (UserError, BadRequest) as error:
            hand_over([(ticket, error)])
        except Exception as error:
            self._failed(name, error, [ticket])
        else:
            self.rows |= {row: (ticket, i) for i, row in enumerate(rows)}

    def _add(self, engine: Engine, ticket: Ticket) -> list[Running]:
        """All of a ticket's requests, or none. Raises BadRequest where one can never fit."""
        try:
            for request in ticket.requests:
                engine.check(request)
        except UserError as error:
            raise BadRequest(str(error), "max_tokens") from None
        return [engine.add(request) for request in ticket.requests]

    def _step(self, name: str, engine: Engine) -> None:
        """One token of every choice, handed over as they are drawn."""
        events = self._dropped()
        try:
            told = engine.step()
        except Exception as error:
            del self.engines[name]  # what it holds is of no use any more
            mine = {t for t, _ in self.rows.values() if t.model == name}
            self.rows = {r: at for r, at in self.rows.items() if at[0] not in mine}
            self._failed(name, error, list(mine))
            told = []
        for row in told:
            if row not in self.rows:
                continue
            ticket, index = self.rows[row]
            ticket.begun = True
            top = row.top[-1] if row.top else ()
            events.append((ticket, Token(index, row.ids[-1], row.logprobs[-1], top)))
            if row.finish:
                events.append((ticket, Done(index, row.finish)))
                del self.rows[row]
        self.generated += len(told)
        hand_over(events)

    def _dropped(self) -> list[tuple[Ticket, Event]]:
        """Choices that nobody wants any more leave the engine with its next step."""
        gone = [row for row, (ticket, i) in self.rows.items() if i in ticket.dropped]
        events = list[tuple[Ticket, Event]]()
        for row in gone:
            row.cancelled = True
            ticket, index = self.rows.pop(row)
            events.append((ticket, Done(index, "stop")))
        return events

    def _failed(self, name: str, error: Exception, tickets: list[Ticket]) -> None:
        traceback.print_exception(error)
        failed = UserError(f"{name} failed: {type(error).__name__}: {error}")
        hand_over([(ticket, failed) for ticket in tickets])


def _engine(model: Model) -> Engine:
    """One that goes on with whatever an earlier request has read."""
    from puna.engine.local import Engine

    own = model.engine
    return Engine(own.model, own.tokenizer, own.seed, SLOTS, frozen=True)
