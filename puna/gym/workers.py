"""Threads for blocking work (verifiers, slow sessions) with a deadline that holds.

`await Workers(2).run(score, answer, deadline_s=10, what="verifier of arithmetic")`.
"""

from __future__ import annotations

import asyncio
import ctypes
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class DeadlineError(TimeoutError):
    """Blocking work did not finish in time; its thread was interrupted and replaced."""


class Workers:
    """A fixed number of daemon threads; one stuck past its deadline is replaced."""

    def __init__(self, count: int = 2) -> None:
        self.jobs: queue.SimpleQueue[Callable[[], bool] | None] = queue.SimpleQueue()
        self.count = max(1, count)
        for _ in range(self.count):
            self._start()

    def _start(self) -> None:
        threading.Thread(target=self._work, daemon=True, name="puna-worker").start()

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            try:
                abandoned = job()
            except SystemExit:  # the interruption came when the work was just done
                abandoned = True
            if abandoned:
                return  # another has taken the place of this thread

    async def run(self, function: Callable[..., T], *args: Any, deadline_s: float, what: str) -> T:
        """Run `function(*args)` on a worker; the deadline counts from its actual start.

        Raises DeadlineError naming `what`, or whatever the function raised.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        started, place = asyncio.Event(), _Place()

        def deliver(result: Any, error: BaseException | None) -> None:
            if done.done():
                return
            if isinstance(error, StopIteration) or not isinstance(error, Exception | None):
                # sys.exit() in a verifier must not end the run; a future refuses StopIteration
                error = RuntimeError(f"{what} raised {error!r}")
            done.set_exception(error) if error else done.set_result(result)

        def post(callback: Callable[..., object], *values: Any) -> None:
            try:
                loop.call_soon_threadsafe(callback, *values)
            except RuntimeError:
                pass  # the loop is gone: nobody waits any more

        def job() -> bool:
            if not place.take():
                return False  # nobody waits any more
            post(started.set)
            try:
                result, error = function(*args), None
            except BaseException as raised:
                result, error = None, raised
            post(deliver, result, error)
            return place.leave()

        def abandon() -> None:
            done.cancel()
            if place.abandon():
                self._start()

        self.jobs.put(job)
        try:
            await started.wait()
            return await asyncio.wait_for(asyncio.shield(done), deadline_s)
        except TimeoutError:
            if done.done():  # in this very moment, or the function itself raised it
                return done.result()
            abandon()
            raise DeadlineError(f"{what} took longer than {deadline_s:g} s") from None
        except asyncio.CancelledError:
            if not done.done():
                abandon()
            raise

    def close(self) -> None:
        """Let idle threads end."""
        for _ in range(self.count):
            self.jobs.put(None)


class _Place:
    """Which thread does a job, if one still does: only that one may be interrupted."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.thread = 0
        self.abandoned = False

    def take(self) -> bool:
        """The calling thread begins; False where the job was abandoned before."""
        with self.lock:
            self.thread = 0 if self.abandoned else threading.get_ident()
            return not self.abandoned

    def leave(self) -> bool:
        """The thread is done; True where another has taken its place."""
        with self.lock:
            self.thread = 0
            return self.abandoned

    def abandon(self) -> bool:
        """Ask the thread to stop (an endless loop would slow all others); True where one ran."""
        with self.lock:
            self.abandoned = True
            if not self.thread:
                return False
            stop = ctypes.py_object(SystemExit)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread), stop)
            return True
