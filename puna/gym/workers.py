"""Threads for blocking work (verifiers, slow sessions) with a deadline that an endless loop cannot hold.

`await Workers(2).run(score, answer, deadline_s=10, what="verifier of arithmetic")`.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class DeadlineError(TimeoutError):
    """Blocking work did not finish in time; its thread was abandoned and replaced."""


class Workers:
    """A fixed number of daemon threads; one stuck in a call that missed its deadline is replaced."""

    def __init__(self, count: int = 2) -> None:
        self.jobs: queue.SimpleQueue[Callable[[], bool] | None] = queue.SimpleQueue()
        self.count = max(1, count)
        for _ in range(self.count):
            self._start()

    def _start(self) -> None:
        threading.Thread(target=self._work, daemon=True, name="puna-worker").start()

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            if job():
                return  # this thread was abandoned and another has taken its place

    async def run(
        self, function: Callable[..., T], *args: Any, deadline_s: float, what: str
    ) -> T:
        """Run `function(*args)` on a worker; the deadline counts from its actual start.

        Raises DeadlineError naming `what`, or whatever the function raised.
        """
        loop = asyncio.get_running_loop()
        started, done = asyncio.Event(), loop.create_future()
        abandoned = threading.Event()

        def deliver(result: Any, error: BaseException | None) -> None:
            if not done.done():
                done.set_exception(error) if error else done.set_result(result)

        def post(callback: Callable[..., object], *values: Any) -> None:
            try:
                loop.call_soon_threadsafe(callback, *values)
            except RuntimeError:
                pass  # the loop is gone: nobody waits any more

        def job() -> bool:
            post(started.set)
            try:
                result, error = function(*args), None
            except BaseException as raised:
                result, error = None, raised
            post(deliver, result, error)
            return abandoned.is_set()

        self.jobs.put(job)
        await started.wait()
        try:
            value: T = await asyncio.wait_for(asyncio.shield(done), deadline_s)
            return value
        except TimeoutError as error:
            if done.done() and not done.cancelled():
                raise error  # the function itself raised TimeoutError
            abandoned.set()
            self._start()
            raise DeadlineError(f"{what} took longer than {deadline_s:g} s") from None

    def close(self) -> None:
        """Let idle threads end."""
        for _ in range(self.count):
            self.jobs.put(None)
