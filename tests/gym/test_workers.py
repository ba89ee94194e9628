"""Workers: blocking calls off the event loop, with deadlines that an endless loop cannot hold."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from puna.gym.workers import DeadlineError, Workers, _Place


def within(body: Callable[[Workers], Any], count: int = 2) -> Any:
    async def all_of() -> Any:
        workers = Workers(count)
        try:
            return await body(workers)
        finally:
            workers.close()

    return asyncio.run(all_of())


def spin() -> None:
    while True:
        pass


def test_results_errors_and_threads_come_back_as_they_are() -> None:
    async def body(workers: Workers) -> None:
        assert await workers.run(pow, 2, 5, deadline_s=1, what="x") == 32
        name = await workers.run(lambda: threading.current_thread().name, deadline_s=1, what="x")
        assert name == "puna-worker"
        for error in (ValueError, TimeoutError, OSError):
            with pytest.raises(error, match="mine"):
                await workers.run(raiser(error("mine")), deadline_s=1, what="x")

    within(body)


def raiser(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration()])
def test_what_would_end_the_loop_becomes_an_error(error: BaseException) -> None:
    async def body(workers: Workers) -> None:
        with pytest.raises(RuntimeError, match=f"the verifier raised {type(error).__name__}"):
            await workers.run(raiser(error), deadline_s=1, what="the verifier")

    within(body)


def test_the_loop_goes_on_while_a_worker_blocks() -> None:
    async def body(workers: Workers) -> float:
        begun = time.monotonic()
        calls = [workers.run(time.sleep, 0.2, deadline_s=5, what="x") for _ in range(4)]
        await asyncio.gather(*calls, asyncio.sleep(0.2))
        return time.monotonic() - begun

    assert 0.2 <= within(body, 4) < 0.5
    assert within(body, 1) >= 0.8


def test_the_deadline_counts_from_the_start_of_the_work() -> None:
    async def body(workers: Workers) -> list[None]:
        calls = [workers.run(time.sleep, 0.15, deadline_s=0.4, what="x") for _ in range(6)]
        return await asyncio.gather(*calls)

    assert within(body, 1) == [None] * 6


def test_a_missed_deadline_names_the_work_and_the_thread_is_replaced_and_stopped() -> None:
    async def body(workers: Workers) -> None:
        for _ in range(3):
            with pytest.raises(DeadlineError, match=r"the proof took longer than 0\.05 s"):
                await workers.run(spin, deadline_s=0.05, what="the proof")
        assert await workers.run(pow, 2, 3, deadline_s=1, what="x") == 8

    before = threading.active_count()
    within(body, 1)
    end = time.monotonic() + 2
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_a_late_stop_never_hits_the_next_job() -> None:
    """Jobs that end just about when their deadline does: neighbours must not be interrupted."""

    async def body(workers: Workers) -> int:
        async def edge() -> None:
            with pytest.raises(DeadlineError):
                await workers.run(time.sleep, 0.03, deadline_s=0.01, what="x")

        async def fine(i: int) -> int:
            return await workers.run(sum, range(20_000), deadline_s=5, what="x") and i

        calls = [c for i in range(1, 40) for c in (edge(), fine(i))]
        return sum(x or 0 for x in await asyncio.gather(*calls))

    assert within(body, 2) == sum(range(1, 40))


def test_a_finished_job_is_not_interrupted_any_more() -> None:
    place = _Place()
    assert place.take()
    assert not place.leave()
    assert not place.abandon()  # True would have stopped this very thread
    assert not place.take()


def test_cancelled_waiting_frees_the_place() -> None:
    async def body(workers: Workers) -> None:
        hung = asyncio.ensure_future(workers.run(spin, deadline_s=100, what="x"))
        queued = asyncio.ensure_future(workers.run(spin, deadline_s=100, what="x"))
        await asyncio.sleep(0.05)
        hung.cancel()
        queued.cancel()
        assert await workers.run(pow, 2, 3, deadline_s=2, what="x") == 8

    within(body, 1)
