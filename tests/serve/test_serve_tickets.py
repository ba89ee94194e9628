"""What the engine's thread hands over reaches who waits for it: in order, in time, in bounds."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from puna.serve import tickets
from puna.serve.tickets import Done, Event, Gone, Overloaded, Ticket, Token, hand_over


def ticket(choices: int = 1) -> Ticket:
    requests: list[Any] = [None] * choices
    return Ticket("m", requests, asyncio.get_running_loop())


async def heard(waiting: Ticket) -> list[Event]:
    return [event async for events in waiting.listen() for event in events]


def test_a_step_for_many_wakes_the_loop_once() -> None:
    async def play() -> tuple[int, list[list[Event]]]:
        loop, calls = asyncio.get_running_loop(), 0
        call = loop.call_soon_threadsafe

        def counted(*args: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            return call(*args, **more)

        many = [ticket() for _ in range(50)]
        tasks = [asyncio.ensure_future(heard(t)) for t in many]
        await asyncio.sleep(0)
        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        hand_over([(t, Token(0, i, 0.0)) for i, t in enumerate(many)])
        hand_over([(t, Done(0, "stop")) for t in many])
        loop.call_soon_threadsafe = call  # type: ignore[method-assign]
        return calls, [await t for t in tasks]

    calls, found = asyncio.run(play())
    assert calls == 2
    assert found == [[Token(0, i, 0.0), Done(0, "stop")] for i in range(50)]


def test_what_came_before_an_error_is_heard() -> None:
    async def play() -> list[Event]:
        waiting = ticket()
        hand_over([(waiting, Token(0, 1, 0.0)), (waiting, TimeoutError("late"))])
        listening = waiting.listen()
        out = [*await anext(listening)]
        with pytest.raises(TimeoutError, match="late"):
            await anext(listening)
        assert waiting.cancelled
        return out

    assert asyncio.run(play()) == [Token(0, 1, 0.0)]


def test_all_choices_are_waited_for() -> None:
    async def play() -> list[Event]:
        waiting = ticket(2)
        hand_over([(waiting, Done(1, "stop")), (waiting, Token(0, 3, 0.0))])
        hand_over([(waiting, Done(0, "length"))])
        return await heard(waiting)

    assert asyncio.run(play()) == [Done(1, "stop"), Token(0, 3, 0.0), Done(0, "length")]


def test_waiting_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one limit ends what was not begun, the other what was, and that not before."""
    monkeypatch.setattr(tickets, "QUEUE_S", 0.05)

    async def play(begun: bool, most_s: float) -> float:
        monkeypatch.setattr(tickets, "REQUEST_S", most_s)
        waiting, since = ticket(), time.monotonic()
        waiting.begun = begun
        with pytest.raises(TimeoutError if begun else Overloaded):
            await heard(waiting)
        assert waiting.cancelled
        return time.monotonic() - since

    asyncio.run(play(False, 600.0))
    assert asyncio.run(play(True, 0.2)) >= 0.19


def test_a_client_that_left_ends_it() -> None:
    async def play() -> None:
        waiting = ticket()
        asyncio.get_running_loop().call_later(0.01, waiting.leave)
        with pytest.raises(Gone):
            await heard(waiting)

    asyncio.run(play())


def test_who_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "BEHIND", 10)

    async def play() -> int:
        waiting = ticket()
        for i in range(10):
            assert not waiting.cancelled
            waiting.put(Token(0, i, 0.0))
        assert waiting.cancelled
        with pytest.raises(TimeoutError, match="nobody took"):
            await heard(waiting)
        return 1

    assert asyncio.run(play())


def test_an_answer_told_whole_waits_for_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tokens are taken by the server itself, which may be slower than a small model."""
    monkeypatch.setattr(tickets, "BEHIND", 10)

    async def play() -> int:
        waiting = ticket()
        waiting.whole = True
        for i in range(30):
            waiting.put(Token(0, i, 0.0))
        assert not waiting.cancelled
        waiting.put(Done(0, "stop"))
        return len(await heard(waiting))

    assert asyncio.run(play()) == 31


def test_a_closed_loop_ends_its_tickets() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    waiting = Ticket("m", [None], loop)  # type: ignore[list-item]
    hand_over([(waiting, Token(0, 1, 0.0))])
    assert waiting.cancelled
