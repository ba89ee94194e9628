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
        assert await workers.run(pow, 2, 5, deadline_s=60, what="x") == 32
        name = await workers.run(lambda: threading.current_thread().name, deadline_s=60, what="x")
        assert name == "puna-worker"
        for error in (ValueError, TimeoutError, OSError):
            with pytest.raises(error, match="mine"):
                await workers.run(raiser(error("mine")), deadline_s=60, what="x")

    within(body)


def raiser(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration()])
def test_what_would_end_the_loop_becomes_an_error(error: BaseException) -> None:
    async def body(workers: Workers) -> None:
        with pytest.raises(RuntimeError, match=f"the verifier raised {type(error).__name__}"):
            await workers.run(raiser(error), deadline_s=60, what="the verifier")

    within(body)


def test_the_loop_goes_on_while_as_many_calls_block_as_there_are_workers() -> None:
    """Four wait for each other and for the loop, which comes last; one worker has but one wait."""

    async def body(workers: Workers) -> None:
        meet = threading.Barrier(5)
        calls = [workers.run(meet.wait, deadline_s=120, what="x") for _ in range(4)]
        waiting = asyncio.gather(*calls)
        while meet.n_waiting < 4:
            await asyncio.sleep(0.001)
        meet.wait(60)
        await waiting

    async def alone(workers: Workers) -> None:
        meet = threading.Barrier(2)
        calls = [workers.run(meet.wait, 0.2, deadline_s=120, what="x") for _ in range(2)]
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(e) for e in ends] == [threading.BrokenBarrierError] * 2

    within(body, 4)
    within(alone, 1)


def test_the_deadline_counts_from_the_start_of_the_work() -> None:
    async def body(workers: Workers) -> int:
        free = threading.Event()
        first = asyncio.ensure_future(workers.run(free.wait, deadline_s=120, what="x"))
        second = asyncio.ensure_future(workers.run(pow, 2, 3, deadline_s=1, what="x"))
        await asyncio.sleep(1.5)  # longer than the second may take
        free.set()
        await first
        return await second

    assert within(body, 1) == 8


@pytest.mark.parametrize("first", ["the work", "the deadline"])
def test_done_in_the_moment_of_the_deadline_is_done(first: str) -> None:
    """Both happen before the waiting side is asked again: the event loop is held meanwhile."""

    async def body(workers: Workers) -> Any:
        begun, go, done = (threading.Event() for _ in range(3))

        def work() -> int:
            begun.set()
            go.wait()
            return 8

        waiting = asyncio.ensure_future(workers.run(work, deadline_s=0.5, what="x"))
        await asyncio.sleep(0)
        begun.wait(60)
        for _ in range(5):  # turns of the loop: it hears that the work began
            await asyncio.sleep(0)
        time.sleep(0.6)  # past the deadline
        if first == "the deadline":
            await asyncio.sleep(0)
        go.set()
        workers.jobs.put(lambda: bool(done.set()))  # the only worker is at its next job
        done.wait(60)
        return (await asyncio.gather(waiting, return_exceptions=True))[0]

    end = within(body, 1)
    assert end == 8 or (first == "the deadline" and type(end) is DeadlineError)


def test_a_missed_deadline_names_the_work_and_the_thread_is_replaced_and_stopped() -> None:
    async def body(workers: Workers) -> None:
        for _ in range(3):
            with pytest.raises(DeadlineError, match=r"the proof took longer than 0\.05 s"):
                await workers.run(spin, deadline_s=0.05, what="the proof")
        assert await workers.run(pow, 2, 3, deadline_s=60, what="x") == 8

    before = threading.active_count()
    within(body, 1)
    end = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_a_late_stop_never_hits_the_next_job() -> None:
    """Jobs that end just about when their deadline does: neighbours must not be interrupted."""

    async def body(workers: Workers) -> list[Any]:
        async def fine(i: int) -> int:
            return await workers.run(sum, range(20_000), deadline_s=60, what="x") and i

        edges = (workers.run(time.sleep, 0.03, deadline_s=0.01, what="x") for _ in range(39))
        calls = [c for i, edge in enumerate(edges, start=1) for c in (edge, fine(i))]
        return await asyncio.gather(*calls, return_exceptions=True)

    ends = within(body, 2)
    assert ends[1::2] == [*range(1, 40)]
    missed = [e for e in ends[::2] if e is not None]
    assert missed
    assert {type(e) for e in missed} == {DeadlineError}


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
        assert await workers.run(pow, 2, 3, deadline_s=60, what="x") == 8

    within(body, 1)
