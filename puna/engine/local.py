"""The in-process engine: continuous batching over the model that trains.

`Engine(model, tokenizer, seed=0).generate([Request(ids, SamplingParams(), ("demo",))])`, or
`running = engine.add(request)` and `engine.step()` until `running.finish`. A step reads waiting
prompts, then decodes one token of every row. `generate` sorts its requests, so that results do not
depend on the order they came in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np
import torch

from puna.core.errors import UserError
from puna.engine.ahead import Ahead, fits
from puna.engine.batch import Batch, Forward, draw
from puna.engine.cache import KVCache
from puna.engine.captured import Captured, check_weights
from puna.engine.captured import suits as suits_kernels
from puna.engine.kept import Kept
from puna.engine.pages import SIZE, Held, Pages
from puna.engine.policy import Completion
from puna.engine.reading import Reader
from puna.engine.running import Request, Running
from puna.engine.sampling import Drawing
from puna.engine.step import Step, suits
from puna.engine.stopping import Stopping
from puna.models.decoder import Decoder
from puna.models.lora import load_learned
from puna.models.moe import Routes
from puna.models.vocab import check_vocab
from puna.text.template import stop_ids

__all__ = ["Engine", "Request", "Running"]
REFILL = 8  # an eighth of the slots is free before requests are taken in, if none is urgent
MEMORY = 4 << 30  # bytes of keys and values on a processor
GROUP = 4  # rows of a product that a processor computes alike
SHARE = 0.6  # of a GPU's free memory


class Engine:
    """Decodes up to `slots` rows at a time, with keys and values in pages.

    They take at most `memory` bytes; a page has at most `page` tokens.

    `version` is the number of weight updates behind the parameters it samples from. `frozen` says
    that nobody changes the weights behind its back: any request may then begin with what another
    has read. `deterministic`: an answer is the same to the last bit whatever else is decoded; every
    step then computes `slots` rows at least, and no request begins with what another has read.
    Raises UserError where the tokenizer is not the model's, and where `model.decode_weights` asks
    for quantised ones that no kernel reads here.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Any,
        seed: int,
        slots: int = 256,
        frozen: bool = False,
        deterministic: bool = False,
        memory: int | None = None,
        page: int = SIZE,
    ) -> None:
        check_vocab(tokenizer, model.config)
        self.model, self.tokenizer, self.seed, self.slots = model, tokenizer, seed, slots
        self.frozen, self.version = frozen, 0
        self.stop_ids: tuple[int, ...] = tuple(stop_ids(tokenizer))
        self.max_context = model.config.max_positions
        self.generated_tokens = 0
        self.moe = model.config.num_experts > 0
        limit = _memory(model) if memory is None else memory
        self.pages = Pages(model.config, model.dtype, model.device, page, limit)
        self.deterministic = deterministic
        self.kept = Kept(self.pages, frozen)
        self.reader = Reader(model, self.pages, self.moe, deterministic)
        self.waiting: deque[Running] = deque()
        self.reading: list[Running] = []
        self.batch: Batch | Ahead | None = None
        graphs = suits_kernels(model, self.pages.size) and not deterministic
        check_weights(model, graphs)
        self.captured = Captured(model, self.pages) if graphs else None
        self._forgotten: deque[str] = deque()
        self._turns = count()
        self._step: Forward | None = None
        self._changed = True  # since the engine was made
        self._untold: list[Running] = []
        # A new thread would otherwise begin with as many OpenMP threads as there are cores.
        self.executor = ThreadPoolExecutor(
            1,
            thread_name_prefix="puna-engine",
            initializer=torch.set_num_threads,
            initargs=(torch.get_num_threads(),),
        )

    @property
    def prefilled_tokens(self) -> int:
        """Tokens of prompts that were read."""
        return self.reader.tokens

    @property
    def running(self) -> list[Running]:
        """Rows that are being decoded."""
        return [] if self.batch is None else self.batch.live

    @property
    def idle(self) -> bool:
        """Whether nothing waits, nothing runs and every token has been told."""
        return not (self.waiting or self.reading or self.running or self._untold)

    def ignore_stops(self) -> None:
        """Let every completion run to its `max_tokens`, whatever it samples (for measurements)."""
        self.stop_ids = ()

    def load_weights(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        """Replace what is learned (cast to the engine's dtype) and name its version.

        Between steps: what is being decoded goes on with the new weights and the keys it has.
        """
        self._untold += self._finish_ahead()
        load_learned(self.model, weights)
        self.version = version
        self._weights_changed()
        self.kept.forget()
        for row in (*self.running, *self.reading):
            row.changes.append((len(row.ids), version))

    def forget(self, episode: str) -> None:
        """Let go of what an episode's conversations hold, before the next step; from any thread."""
        self._forgotten.append(episode)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in the order given."""
        order = sorted(range(len(requests)), key=lambda i: requests[i].place)
        rows = {i: self.add(requests[i]) for i in order}
        while not self.idle:
            self.step(urgent=False)
        if not self.frozen:
            self._changed = True  # the weights may, in place, before the next call
        return [rows[i].completion() for i in range(len(requests))]

    def check(self, request: Request) -> None:
        """Raises UserError where it could never fit."""
        limit, length = self.pages.limit, len(request.prompt_ids) + request.params.max_tokens
        if limit is not None and self.pages.needed(length) > limit:
            what = f"{length:,} tokens take {self.pages.needed(length) / 1e9:.3g} GB of cache"
            raise UserError(f"{what}, there are {limit / 1e9:.3g}", "ask for fewer tokens")

    def add(self, request: Request) -> Running:
        """Line a request up. Raises UserError where it could never fit."""
        self.check(request)
        grammar, stop = request.params.grammar, request.params.stop
        row = Running(
            request,
            matcher=None if grammar is None else grammar.matcher(),
            stopping=Stopping(self.tokenizer, stop) if stop else None,
        )
        self.waiting.append(row)
        return row

    @torch.inference_mode()
    def step(self, urgent: bool = True) -> list[Running]:
        """Read what waits, decode one token of every row; the rows that have a new token.

        Where nothing is `urgent` prompts are taken in many at a time and all read at once.
        """
        self._clear()
        if self._changed:
            self._weights_changed()
        if self._free() >= (1 if urgent else max(1, self.slots // REFILL)) or not self.running:
            self._admit(urgent)
        fresh, fresh_logits = self._read(every=not urgent)
        if self.captured is not None:
            return self._step_ahead(fresh, fresh_logits)
        assert not isinstance(self.batch, Ahead)
        logits = self._decode()
        if fresh or self.batch is None:
            logits = self._join(logits, fresh, fresh_logits)
        batch = self.batch
        if batch is None or logits is None:
            return []
        assert isinstance(batch, Batch)
        return self._draw(batch, logits)

    def _step_ahead(self, fresh: list[Running], logits: list[torch.Tensor]) -> list[Running]:
        """A step on a GPU, launched before the tokens of the last one are read."""
        told, self._untold = self._untold, []
        plain_BV = self._decode() if isinstance(self.batch, Batch) else None
        if isinstance(self.batch, Batch) and plain_BV is not None:
            told += self._draw(self.batch, plain_BV)
        if isinstance(self.batch, Ahead) and (fresh or self.batch.sparse or self.batch.turning):
            told += self._finish_ahead()
        told += self._first(fresh, logits) if fresh else []
        joined = [row for row in fresh if not row.finish]
        batch = self.batch
        if joined or (batch is not None and (batch.sparse or not batch.live)):
            self._remake([*self.running, *joined])
        if isinstance(self.batch, Ahead) and self.batch.turning:
            self._make_room()
        if isinstance(self.batch, Ahead):
            self.batch.launch()
            if len(self.batch.under_way) > 1:
                told += self._collect(self.batch)
        return told

    def _draw(self, batch: Batch, logits_BV: torch.Tensor) -> list[Running]:
        """One token more of every row that has not ended; those rows."""
        before = batch.live
        self.generated_tokens += len(before)
        self._leave(batch.draw(logits_BV, self.stop_ids))
        return before

    def _first(self, fresh: list[Running], logits: list[torch.Tensor]) -> list[Running]:
        """The first tokens of rows whose prompts have been read."""
        drawing = Drawing([r.request.params for r in fresh], self.model.device)
        uniforms = np.concatenate([r.draws(self.seed, 1) for r in fresh])
        uniforms_B = torch.from_numpy(uniforms).to(self.model.device)
        matchers = [r.matcher for r in fresh]
        stacked = torch.stack(logits)
        _, ended = draw(fresh, matchers, drawing, stacked, uniforms_B, self.stop_ids)
        self.generated_tokens += len(fresh)
        self._leave(ended)
        return list(fresh)

    def _collect(self, batch: Ahead) -> list[Running]:
        told, ended = batch.collect(self.stop_ids)
        self.generated_tokens += len(told)
        self._leave(ended)
        return told

    @torch.inference_mode()  # also between steps: what it writes to was made in one
    def _finish_ahead(self) -> list[Running]:
        """Read the tokens of all that is under way; the rows that were told one."""
        told: list[Running] = []
        while isinstance(self.batch, Ahead) and self.batch.under_way:
            told += self._collect(self.batch)
        return told

    def _weights_changed(self) -> None:
        self._step, self._changed = None, False
        if self.captured is not None:
            self.captured.refresh()

    def _clear(self) -> None:
        """Do away with what was cancelled and forgotten."""
        while self._forgotten:
            self.kept.forget(self._forgotten.popleft())
        gone = [r for r in (*self.waiting, *self.reading, *self.running) if r.cancelled]
        followers = [f for r in self.reading for f in r.followers if f.cancelled]
        for row in (*gone, *followers):
            row.finish = "cancelled"
        if not gone and not followers:
            return
        for row in self.reading:
            row.followers = [f for f in row.followers if not f.finish]
            if row.finish and row.followers:  # the next in line reads in its place
                self.waiting.extendleft(reversed(row.followers))
                row.followers = []
        self.waiting = deque(r for r in self.waiting if not r.finish)
        self.reading = [r for r in self.reading if not r.finish]
        if self.batch is not None:
            self.batch.retire([r for r in gone if r in self.batch.rows])
        for row in gone:
            self.pages.release(row.held)

    def _free(self) -> int:
        taken = sum(1 + len(r.followers) for r in self.reading) + len(self.running)
        return self.slots - taken

    def _admit(self, urgent: bool) -> None:
        """Take waiting requests in, as many as there are slots and pages for."""
        leaders = {r.request.prompt: r for r in self.reading if not r.ids}
        chosen: list[Running] = []
        free = self._free()
        while self.waiting and free > 0 and self._may_finish(self.waiting[0]):
            row, free = self.waiting.popleft(), free - 1
            leader = leaders.get(row.request.prompt)
            if leader is not None and not row.ids and row.request.conversation is None:
                leader.followers.append(row)
                continue
            chosen.append(row)
            if not row.ids:
                leaders.setdefault(row.request.prompt, row)
        if not urgent:  # their answers will mostly be as long as they may
            whole = [r.longest for c in chosen for r in (c, *c.followers)]
            self.pages.expect(whole)
        self._find(chosen)

    def _may_finish(self, row: Running) -> bool:
        """Whether it is sure never to be put off, where that would change its last bits."""
        limit = self.pages.limit
        if not self.deterministic or limit is None:
            return True
        row.pledged = self.pages.needed(row.longest)
        others = (*self.running, *self.reading, *(f for r in self.reading for f in r.followers))
        return row.pledged + sum(r.pledged for r in others) <= limit

    def _find(self, chosen: Sequence[Running]) -> None:
        """Pages for those whose prompts are to be read; who finds none waits again."""
        for row in chosen:
            if not row.changes:
                row.changes.append((0, self.version))
                row.turn = next(self._turns)
            if not (row.request.pictures or self.deterministic):
                found = self.kept.find(row.tokens, row.request.conversation)
                if found is not None:
                    row.held, routes = found
                    row.routes = [] if routes is None else [routes]
        for at, row in enumerate(chosen):
            if self._extend(row.held, row.length):
                self.reading.append(row)
                continue
            left = [f for r in chosen[at:] for f in (r, *r.followers)]
            for other in chosen[at:]:
                self.pages.release(other.held)
                other.followers, other.routes = [], []
            self.waiting.extendleft(reversed(left))
            return

    def _extend(self, held: Held, length: int) -> bool:
        """Room for `length` tokens, at the cost of what was kept."""
        while not self.pages.extend(held, length):
            if not self.kept.give_up():
                return False
        return True

    def _read(self, every: bool) -> tuple[list[Running], list[torch.Tensor]]:
        """Read prompts; the rows that are ready for their first token, and their logits."""
        rows: list[Running] = []
        logits: list[torch.Tensor] = []
        while self.reading:
            done, behind = self.reader.read(self.reading)
            self.reading = [r for r in self.reading if r not in done]
            for i, row in enumerate(done):
                rows.append(row)
                logits.append(behind[i])
                rows_like = self._fork(row)
                rows += rows_like
                logits += [behind[i]] * len(rows_like)
            if not every:
                break
        return rows, logits

    def _fork(self, row: Running) -> list[Running]:
        """The followers of a row that has been read, with what it holds."""
        followers, row.followers = row.followers, []
        many = len(followers)
        whole = [row.held] * many, [row.length] * many, not self.deterministic
        while (made := self.pages.fork(*whole)) is None:
            if not self.kept.give_up():
                self.waiting.extendleft(reversed(followers))
                return []
        for follower, held in zip(followers, made, strict=True):
            follower.held, follower.routes = held, list(row.routes)
            follower.changes, follower.turn = list(row.changes), next(self._turns)
        return followers

    def _decode(self) -> torch.Tensor | None:
        """Logits behind the last tokens of the batch, None where none is left."""
        if self.batch is not None and (self.batch.sparse or not self.batch.live):
            self._remake(self.batch.live)
        if isinstance(self.batch, Batch) and self.batch.cache.turning:
            self._make_room()
        if not isinstance(self.batch, Batch):
            return None
        if self._step is None:
            self._step = Step(self.model) if suits(self.model) else self._forward
        return self.batch.forward(self._step)

    def _make_room(self) -> None:
        """Pages for the next tokens of every row; the latest rows are put off if there are none."""
        batch = self.batch
        assert batch is not None
        if isinstance(batch, Batch):
            batch.cache.sync()
        live = sorted(batch.live, key=lambda r: r.turn)
        put_off: list[Running] = []
        for row in batch.live:
            while row not in put_off and not self._more_room(row):
                last = live.pop()
                self.pages.release(last.held)
                put_off.append(last)
        if put_off:
            self.waiting.extendleft(put_off)
            self._remake([r for r in batch.live if r not in put_off])
            for row in put_off:
                row.routes = []
        if isinstance(self.batch, Ahead):
            self.batch.plan()

    def _more_room(self, row: Running) -> bool:
        """Room for one token more of a row; for a page on a GPU, where planning costs."""
        length = row.held.length
        if self.captured is not None:
            enough = min(row.longest, length + self.pages.size)
            if enough > length and self._extend(row.held, enough):
                return True
        return self._extend(row.held, length + 1)

    def _remake(self, rows: Sequence[Running]) -> None:
        if isinstance(self.batch, Ahead):
            self.batch.close()
        elif self.batch is not None:
            self.batch.cache.sync()
        if not rows:
            self.batch = None
        elif self.captured is not None and all(fits(r.request.params) for r in rows):
            self.batch = Ahead(rows, self.captured, self.pages, self.seed)
        else:
            places = _even(self.slots) if self.deterministic else 0
            self.batch = Batch(_ordered(rows), self.pages, self.seed, self.moe, places)

    def _join(
        self, logits: torch.Tensor | None, fresh: list[Running], fresh_logits: list[torch.Tensor]
    ) -> torch.Tensor | None:
        """Make a batch of the rows that live and those that came; their logits in its order."""
        behind: dict[Running, torch.Tensor] = dict(zip(fresh, fresh_logits, strict=True))
        if isinstance(self.batch, Batch) and logits is not None:
            told = zip(self.batch.rows, logits, strict=True)
            behind |= {row: line for row, line in told if not row.finish}
        self._remake(list(behind))
        if not isinstance(self.batch, Batch):
            return None
        some = next(iter(behind.values()))
        return torch.stack([behind.get(row, some) for row in self.batch.rows])

    def _leave(self, rows: Iterable[Running]) -> None:
        """Keep of rows that ended what others may begin with."""
        for row in rows:
            # Keys of several weights, or of more than ids, serve nobody else.
            if self.deterministic or len(row.changes) > 1 or row.request.pictures:
                self.pages.release(row.held)
                continue
            routes = row.completion().routes
            held, row.held = row.held, Held()
            self.kept.add(held, row.tokens, routes, row.request.conversation)

    def _forward(
        self, ids_B: torch.Tensor, positions_B: torch.Tensor, cache: KVCache, routes: Routes | None
    ) -> torch.Tensor:
        hidden = self.model(ids_B[:, None], positions_B[:, None], cache=cache, routes=routes)
        return self.model.logits(hidden[:, -1])


def _ordered(rows: Sequence[Running]) -> list[Running]:
    """By the place of the page that each writes to."""

    def place(row: Running) -> int:
        pages = next(p for p in row.held.pages.values() if p)
        return pages[-1].id if pages[-1] is not None else -1

    return sorted(rows, key=place)


def _even(rows: int) -> int:
    """So many that each thread multiplies whole groups of rows: a rest is computed otherwise."""
    group = GROUP * torch.get_num_threads()
    return -(-rows // group) * group


def _memory(model: Decoder) -> int:
    if model.device.type != "cuda":
        return MEMORY
    return int(SHARE * torch.cuda.mem_get_info(model.device)[0])
