"""Where episodes meet the engine: what they sample does not depend on the order they come in.

`async with meet.episode(name): await LocalSampler(engine, meet).sample(ids, params, key)`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence

from puna.core.rng import Key
from puna.engine.local import Engine
from puna.engine.policy import Completion, SamplingParams
from puna.engine.running import Request
from puna.text.images import Picture


class Rendezvous:
    """Where episodes meet: samples only when every live episode waits, so arrival order is nothing.

    `async with meet.episode(name): ... await sampler.sample(...)`.
    """

    def __init__(self, deadline_s: float = 600.0) -> None:
        self.deadline_s = deadline_s
        self.live: dict[str, bool] = {}
        self.queue: dict[Engine, list[tuple[Request, asyncio.Future[Completion]]]] = {}
        self.engines: set[Engine] = set()
        self.running: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def episode(self, name: str) -> AsyncIterator[None]:
        """Mark an episode live; `name` is what a missed deadline reports."""
        self.live[name] = False
        try:
            yield
        finally:
            self.live.pop(name, None)
            for engine in self.engines:
                engine.forget(name)
            self._maybe_run()

    def expect(self, names: Iterable[str]) -> None:
        """Announce episodes before they start, so that the first to arrive waits for the rest."""
        for name in names:
            self.live.setdefault(name, False)

    def forget(self, names: Iterable[str]) -> None:
        """Take back announcements of episodes that will not come."""
        for name in names:
            self.live.pop(name, None)

    async def submit(self, engine: Engine, request: Request, name: str) -> Completion:
        """Wait for everybody, then decode together. Raises TimeoutError naming who is missing."""
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self.queue.setdefault(engine, []).append((request, future))
        self.engines.add(engine)
        if name in self.live:
            self.live[name] = True
        self._maybe_run()
        try:
            return await self._wait(future)
        finally:
            if not future.done():  # whoever stops waiting must not be decoded with the next ones
                left = [w for w in self.queue.pop(engine, []) if w[1] is not future]
                self.queue |= {engine: left} if left else {}

    async def _wait(self, future: asyncio.Future[Completion]) -> Completion:
        while True:
            try:
                return await asyncio.wait_for(asyncio.shield(future), self.deadline_s)
            except TimeoutError:
                if future.done():  # in this very moment, or decoding itself raised it
                    return future.result()
                if self._busy():
                    continue  # decoding is under way: slow, not stuck
                missing = [n for n, waiting in self.live.items() if not waiting]
                raise TimeoutError(
                    f"sampling waited {self.deadline_s:.0f} s for {len(missing)} episodes, "
                    f"first {missing[:3]}"
                ) from None

    def _busy(self) -> bool:
        return self.running is not None and not self.running.done()

    def _maybe_run(self) -> None:
        if not self._busy() and self.queue and all(self.live.values()):
            self.running = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        queue, self.queue = self.queue, {}
        for name in self.live:
            self.live[name] = False
        try:
            for engine, waiting in queue.items():
                await self._decode(engine, [w for w in waiting if not w[1].done()])
        finally:  # also where the loop is closed under it: the next one starts afresh
            self.running = None
        self._maybe_run()

    async def _decode(
        self, engine: Engine, waiting: list[tuple[Request, asyncio.Future[Completion]]]
    ) -> None:
        loop, requests = asyncio.get_running_loop(), [request for request, _ in waiting]
        try:
            done = await loop.run_in_executor(engine.executor, engine.generate, requests)
        except Exception as error:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), completion in zip(waiting, done, strict=True):
            if not future.done():
                future.set_result(completion)


class LocalSampler:
    """The engine behind the Sampler interface."""

    def __init__(self, engine: Engine, meet: Rendezvous) -> None:
        self.engine, self.meet = engine, meet
        self.tokenizer = engine.tokenizer
        self.max_context = engine.max_context
        self.seed = engine.seed

    async def sample(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        key: tuple[Key, ...],
        pictures: Sequence[Picture] = (),
    ) -> Completion:
        """See `engine.policy.Sampler`; the caller is inside `meet.episode(key's episode)`."""
        name = "/".join(map(str, key[:-2]))
        conversation = (name, str(key[-2]))
        request = Request(tuple(prompt_ids), params, key, tuple(pictures), conversation)
        return await self.meet.submit(self.engine, request, name)
