"""Models behind one thread: requests that wait together are decoded together, token by token.

`Worker(catalogue)` then `async for event in worker.submit(ticket)`: `Token`s, at last a `Done`.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from puna.core.errors import UserError
from puna.serve.tickets import Done, Event, Ticket, Token, hand_over

if TYPE_CHECKING:
    from puna.agents.model import Model

SLOTS = 32
_STOPPED = "the server is being stopped"


class Worker:
    """The thread that loads models (when first asked for) and decodes.

    Tickets that wait for one model are decoded as one batch of at most `SLOTS` choices; what comes
    meanwhile waits for the batch's end. `names` -> a function that loads the model of that name.
    """

    def __init__(self, models: Mapping[str, Callable[[], Model]]) -> None:
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
            async for _ in self.submit(Ticket(name, [], asyncio.get_running_loop())):
                pass
        found: Model = self.loaded[name]
        return found

    def submit(self, ticket: Ticket) -> AsyncGenerator[list[Token | Done]]:
        """The ticket's events until all its choices are done; leaving early cancels it.

        Raises Overloaded where it was not begun in time, TimeoutError where it took too long.
        """
        self._enqueue(ticket)
        return ticket.listen()

    def close(self) -> None:
        """End the thread; what is being decoded is dropped."""
        with self.arrived:
            self.closing = True
            self.arrived.notify()
        self.thread.join(timeout=10)
        for ticket in self.waiting:
            hand_over([(ticket, UserError(_STOPPED))])

    def _enqueue(self, ticket: Ticket) -> None:
        with self.arrived:
            self.waiting.append(ticket)
            self.arrived.notify()

    def _work(self) -> None:
        while (wave := self._wave()) is not None:
            try:
                name = wave[0].model
                if name not in self.loaded:
                    self.loaded[name] = self.models[name]()
                asked = [t for t in wave if not t.requests]  # for the model only
                hand_over([(t, Done(0, "stop")) for t in asked])
                self._decode(self.loaded[name], [t for t in wave if t.requests])
            except UserError as error:
                hand_over([(ticket, error) for ticket in wave])
            except Exception as error:
                traceback.print_exc()
                failed = UserError(f"{name} failed: {type(error).__name__}: {error}")
                hand_over([(ticket, failed) for ticket in wave])

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
            events = list[tuple[Ticket, Event]]()
            for row, ((ticket, index), (token, logprob)) in enumerate(
                zip(rows, run.drawn(), strict=True)
            ):
                if told[row] or token < 0:
                    continue
                counts[row] += 1
                self.generated += 1
                events.append((ticket, Token(index, token, logprob)))
                ended = token in stops
                if ended or counts[row] >= ticket.requests[index].params.max_tokens:
                    events.append((ticket, Done(index, "stop" if ended else "length")))
                    told[row] = True
            gone = [row for row, (t, i) in enumerate(rows) if i in t.dropped and not told[row]]
            for row in gone:
                told[row] = True
                events.append((rows[row][0], Done(rows[row][1], "stop")))
            hand_over(events)
            if self.closing:
                steps.close()
                raise UserError(_STOPPED)
            if gone:
                run.drop(gone)
