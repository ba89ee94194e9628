"""The in-process engine: batched decoding of the model that trains, and the Sampler in front of it.

`Engine(model, tokenizer, seed=0).generate([Request(ids, SamplingParams(), ("demo",))])`.
Results depend on the requests alone: batches are formed from sorted requests, never from arrival.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from puna.core.rng import Key, stream
from puna.engine.cache import KVCache
from puna.engine.conversations import Conversation, Conversations, Held, fill, worth
from puna.engine.policy import Completion, SamplingParams
from puna.engine.step import Step, suits
from puna.models.decoder import Decoder
from puna.models.lora import load_learned
from puna.models.moe import Routes
from puna.models.vocab import check_vocab
from puna.text.images import Picture
from puna.text.template import stop_ids


@dataclass(frozen=True)
class Request:
    """One prompt to continue, with its images; `key` names the random stream of its draws.

    What a `conversation` holds in the cache is kept for its next turn, until it is forgotten.
    """

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    key: tuple[Key, ...]
    pictures: tuple[Picture, ...] = ()
    conversation: Conversation | None = None

    @property
    def prompt(self) -> Prompt:
        """What is computed once for all requests that share it."""
        return self.prompt_ids, self.pictures


Prompt = tuple[tuple[int, ...], tuple[Picture, ...]]


def _place(request: Request) -> tuple[int, tuple[int, ...], tuple[str, ...]]:
    """Where a request stands among others; keys as text, since they may mix numbers and names."""
    return len(request.prompt_ids), request.prompt_ids, tuple(map(str, request.key))


PREFILL = 2048  # tokens of a prompt at once
MASK = 1 << 24  # numbers in the masks of rows that begin at different places

Forward = Callable[[torch.Tensor, torch.Tensor, KVCache, Routes | None], torch.Tensor]
"""(last ids [B], their positions [B], cache, routes or None) -> logits [B, V]."""


class Engine:
    """Decodes up to `slots` rows at a time with a KV cache bounded to one chunk on local layers.

    Requests of a conversation read only what is new (not with experts or images).
    `version` is the number of weight updates behind the parameters it samples from. Raises
    UserError where the tokenizer is not the model's.
    """

    def __init__(self, model: Decoder, tokenizer: Any, seed: int, slots: int = 256) -> None:
        check_vocab(tokenizer, model.config)
        self.model, self.tokenizer, self.seed, self.slots = model, tokenizer, seed, slots
        self.version = 0
        self.stop_ids = stop_ids(tokenizer)
        self._stops = torch.tensor(self.stop_ids, dtype=torch.long)
        self.max_context = model.config.max_positions
        self.generated_tokens = 0
        self.prefilled_tokens = 0
        self.conversations = Conversations()
        # A new thread would otherwise begin with as many OpenMP threads as there are cores.
        self.executor = ThreadPoolExecutor(
            1,
            thread_name_prefix="puna-engine",
            initializer=torch.set_num_threads,
            initargs=(torch.get_num_threads(),),
        )

    def ignore_stops(self) -> None:
        """Let every completion run to its `max_tokens`, whatever it samples (for measurements)."""
        self._stops = self._stops[:0]

    def load_weights(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        """Replace what is learned (cast to the engine's dtype) and name its version."""
        load_learned(self.model, weights)
        self.version = version
        self.conversations.forget()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in the order given."""
        order = sorted(range(len(requests)), key=lambda i: _place(requests[i]))
        out: list[Completion | None] = [None] * len(requests)
        for start in range(0, len(order), self.slots):
            chosen = order[start : start + self.slots]
            for i, done in zip(chosen, self._batch([requests[i] for i in chosen]), strict=True):
                out[i] = done
        return [c for c in out if c is not None]

    def _batch(self, requests: list[Request]) -> list[Completion]:
        steps = self.decode(requests)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                done: list[Completion] = stop.value
                return done

    @torch.inference_mode()
    def decode(self, requests: list[Request]) -> Generator[_Run, None, list[Completion]]:
        """One batch, token by token: yields after each step, returns the completions.

        Between steps `drawn()` of what it yields tells the new tokens, and `drop(rows)` ends
        requests early; closing the generator ends them all.
        """
        prompts = list(dict.fromkeys(r.prompt for r in requests))
        row_of = {p: i for i, p in enumerate(prompts)}
        longest_new = max(r.params.max_tokens for r in requests)
        capacity = max(len(r.prompt_ids) + r.params.max_tokens for r in requests)
        moe = self.model.config.num_experts > 0
        device = self.model.device
        cache = KVCache(self.model.config, len(prompts), capacity, self.model.dtype, device)
        keeps = not moe and not any(r.pictures for r in requests)
        found: list[Held | None] = [None] * len(prompts)
        for request in requests if keeps else []:
            i = row_of[request.prompt]
            found[i] = found[i] or self.conversations.find(request.conversation, request.prompt_ids)
        held = fill(cache, worth([len(ids) for ids, _ in prompts], found))
        logits, prompt_routes = self._prefill(prompts, held, cache, moe)
        rows = torch.tensor([row_of[r.prompt] for r in requests], device=device)
        cache.select(rows)
        run = _Run(requests, logits[rows], longest_new, self.seed, self._stops)
        step_routes: list[np.ndarray[Any, Any]] = []
        forward: Step | Forward | None = None
        while True:
            finished = run.sample()
            yield run
            if finished or run.over:
                break
            if run.sparse:
                keep, gone = (rows.nonzero()[:, 0] for rows in (run.alive, ~run.alive))
                if keeps:
                    self.conversations.keep(cache, run.held(gone))
                run.compact(keep)
                cache.select(keep)
            routes = Routes() if moe else None
            forward = forward or (Step(self.model) if suits(self.model) else self._forward)
            run.logits = forward(run.last_ids, run.positions, cache, routes)
            if routes is not None:
                step_routes.append(run.spread(routes.recorded[:, 0].cpu().numpy()))
        if keeps:
            self.conversations.keep(cache, run.held(torch.arange(len(run.rows))))
        done = run.finish(self.version, prompt_routes, step_routes)
        self.generated_tokens += sum(len(c.ids) for c in done)
        return done

    def _forward(
        self, ids_B: torch.Tensor, positions_B: torch.Tensor, cache: KVCache, routes: Routes | None
    ) -> torch.Tensor:
        hidden = self.model(ids_B[:, None], positions_B[:, None], cache=cache, routes=routes)
        return self.model.logits(hidden[:, -1])

    def _prefill(
        self, prompts: list[Prompt], held: torch.Tensor, cache: KVCache, moe: bool
    ) -> tuple[torch.Tensor, dict[Prompt, np.ndarray[Any, Any]]]:
        """Logits behind each prompt [B, V], of which the cache has `held` [B] tokens; routes."""
        model, device = self.model, self.model.device
        lengths = torch.tensor([len(p) for p, _ in prompts]) - held
        self.prefilled_tokens += int(lengths.sum())
        width = int(lengths.max())
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        for i, (prompt, _) in enumerate(prompts):
            ids[i, : lengths[i]] = torch.tensor(prompt[held[i] :])
        ramp = torch.arange(width).expand(len(prompts), width)
        valid = ramp < lengths[:, None]
        positions = (held[:, None] + ramp).clamp_max(cache.capacity - 1)  # padding may go beyond
        seen = model.look(ids.shape, [(i, p) for i, (_, ps) in enumerate(prompts) for p in ps])
        ids, positions, valid = ids.to(device), positions.to(device), valid.to(device)
        last = torch.empty(len(prompts), model.config.hidden_size, dtype=model.dtype, device=device)
        recorded: list[torch.Tensor] = []
        # In blocks, so that the mask over what the cache holds stays small beside it; rows that
        # begin at different places need a mask each.
        most = PREFILL
        if bool(held.any()):
            most = max(1, min(PREFILL, MASK // (len(prompts) * cache.capacity)))
        for start in range(0, width, most):
            block = slice(start, start + most)
            routes = Routes() if moe else None
            kept = None if bool(valid[:, block].all()) else valid[:, block]
            cache.begin(positions[:, block], kept)
            hidden = model(
                ids[:, block],
                positions[:, block],
                cache=cache,
                routes=routes,
                begun=True,
                images=seen and seen.within(block),
            )
            ends = lengths - 1 - start
            rows = ((ends >= 0) & (ends < hidden.shape[1])).nonzero()[:, 0]
            last[rows.to(device)] = hidden[rows.to(device), ends[rows].to(device)]
            if routes is not None:
                recorded.append(routes.recorded)
        found: dict[Prompt, np.ndarray[Any, Any]] = {}
        if moe:
            taken = torch.cat(recorded, 1).cpu().numpy()
            found = {p: taken[i, : len(p[0])] for i, p in enumerate(prompts)}
        return model.logits(last), found


class _Run:
    """The sampling state of one batch: draws, finished rows, compaction."""

    def __init__(
        self,
        requests: list[Request],
        logits: torch.Tensor,
        longest: int,
        seed: int,
        stops: torch.Tensor,
    ) -> None:
        self.requests, self.logits, self.longest = requests, logits, longest
        self.stop_ids: list[int] = stops.tolist()
        n = len(requests)
        draws = np.stack([stream(seed, *r.key).random(longest, dtype=np.float32) for r in requests])
        self.draws = torch.from_numpy(draws).to(logits.device)
        self.limit = torch.tensor([r.params.max_tokens for r in requests], device=logits.device)
        self.params = _Params([r.params for r in requests], logits.device)
        self.positions = torch.tensor([len(r.prompt_ids) - 1 for r in requests]).to(logits.device)
        self.alive = torch.ones(n, dtype=torch.bool, device=logits.device)
        self.rows = torch.arange(n)
        self.step, self.over = 0, False
        self.last_ids = torch.zeros(n, dtype=torch.long)
        self.ids: list[torch.Tensor] = []
        self.logprobs: list[torch.Tensor] = []

    def sample(self) -> bool:
        """Draw the next token of every row; True when all rows are finished."""
        t = self.step
        token, logprob = self.params.draw(self.logits, self.draws[:, t])
        self.ids.append(self._scatter(torch.where(self.alive, token, -1), -1))
        self.logprobs.append(self._scatter(logprob, 0.0))
        self.step += 1
        stopped = self.limit <= self.step
        for stop in self.stop_ids:
            stopped |= token == stop
        # A finished row stays where it is: going on, it would leave its share of the cache.
        self.positions = self.positions + self.alive
        self.alive = self.alive & ~stopped
        self.last_ids = token
        return self.step >= self.longest or not bool(self.alive.any())

    def drawn(self) -> list[tuple[int, float]]:
        """The last step's token and its log-probability per request; token -1 where finished."""
        return list(zip(self.ids[-1].tolist(), self.logprobs[-1].tolist(), strict=True))

    def drop(self, requests: Collection[int]) -> None:
        """Draw nothing more for these requests (by their place in the batch)."""
        gone = torch.tensor([int(i) in requests for i in self.rows.tolist()])
        self.alive = self.alive & ~gone.to(self.alive.device)
        self.over = not bool(self.alive.any())

    def _scatter(self, values: torch.Tensor, fill: float) -> torch.Tensor:
        if len(self.rows) == len(self.requests):
            return values
        out = torch.full((len(self.requests),), fill, dtype=values.dtype, device=values.device)
        out[self.rows.to(values.device)] = values
        return out

    def spread(self, routes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Routes of the rows in work, put back at the rows they belong to."""
        out = np.zeros((len(self.requests), routes.shape[-1]), dtype=np.int16)
        out[self.rows.numpy()] = routes
        return out

    @property
    def sparse(self) -> bool:
        """Whether half of the rows are finished, so that it pays to drop them."""
        return int(self.alive.sum()) * 2 <= len(self.alive) and len(self.alive) > 8

    def compact(self, keep: torch.Tensor) -> None:
        """Drop all rows but `keep`."""
        self.rows = self.rows[keep.cpu()]
        self.alive, self.positions = self.alive[keep], self.positions[keep]
        self.draws, self.limit = self.draws[keep], self.limit[keep]
        self.last_ids = self.last_ids[keep]
        self.params = self.params.select(keep)

    def held(self, rows: torch.Tensor) -> list[tuple[Conversation | None, int, tuple[int, ...]]]:
        """For each of these rows its conversation, its number, and the tokens whose keys the cache
        holds: all but the last one drawn."""
        drawn = torch.stack(self.ids, 1).tolist()
        out = []
        for row in rows.tolist():
            i = int(self.rows[row])
            ids = [x for x in drawn[i] if x >= 0]
            request = self.requests[i]
            out.append((request.conversation, row, (*request.prompt_ids, *ids[:-1])))
        return out

    def finish(
        self,
        version: int,
        prompt_routes: dict[Prompt, np.ndarray[Any, Any]],
        step_routes: list[np.ndarray[Any, Any]],
    ) -> list[Completion]:
        """The completions, each cut after its last token."""
        ids = torch.stack(self.ids, 1).tolist()
        logprobs = torch.stack(self.logprobs, 1).tolist()
        stops = set(self.stop_ids)
        routes = np.stack(step_routes, 1) if step_routes else None
        out = []
        for i, request in enumerate(self.requests):
            length = next((t for t, x in enumerate(ids[i]) if x < 0), len(ids[i]))
            mine = None
            if request.prompt in prompt_routes:
                mine = prompt_routes[request.prompt]
                if routes is not None:
                    mine = np.concatenate([mine, routes[i, : length - 1]])
            reason = "stop" if ids[i][length - 1] in stops else "length"
            out.append(
                Completion(
                    tuple(ids[i][:length]), tuple(logprobs[i][:length]), version, reason, mine
                )
            )
        return out


class _Params:
    """Sampling parameters of a batch as tensors; features nobody asked for cost nothing."""

    def __init__(self, params: Sequence[SamplingParams], device: torch.device) -> None:
        self.all, self.device = list(params), device
        self.plain = all(p.temperature == 1 and not p.top_k and p.top_p == 1 for p in params)
        self.greedy = torch.tensor([p.temperature == 0 for p in params], device=device)
        heat = [p.temperature or 1.0 for p in params]
        self.temperature = torch.tensor(heat, device=device)[:, None]
        self.cut = any(p.top_k or p.top_p < 1 for p in params)

    def select(self, keep: torch.Tensor) -> _Params:
        """The parameters of the rows kept."""
        return _Params([self.all[i] for i in keep.tolist()], self.device)

    def draw(self, logits: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [B] by inverse CDF of uniforms u [B], and their log-probabilities [B]."""
        logits = logits.float()
        if not self.plain:
            logits = logits / self.temperature
            if self.cut:
                logits = self._truncate(logits)
        share = torch.softmax(logits, -1)
        cdf = share.cumsum(-1)
        token = torch.searchsorted(cdf, u[:, None] * cdf[:, -1:], right=True)[:, 0]
        token = token.clamp_max_(logits.shape[-1] - 1)
        if not self.plain:
            token = torch.where(self.greedy, logits.argmax(-1), token)
        return token, share.gather(1, token[:, None])[:, 0].log_()

    def _truncate(self, logits: torch.Tensor) -> torch.Tensor:
        vocab = logits.shape[-1]
        top_k = torch.tensor([p.top_k or vocab for p in self.all], device=self.device)
        top_p = torch.tensor([p.top_p for p in self.all], device=self.device)
        ranked, order = logits.sort(-1, descending=True)
        before = ranked.softmax(-1).cumsum(-1) - ranked.softmax(-1)
        drop = (before >= top_p[:, None]) | (
            torch.arange(vocab, device=self.device) >= top_k[:, None]
        )
        return logits.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), float("-inf"))


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
                engine.conversations.forget(name)
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
