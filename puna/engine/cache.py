"""The key-value cache of one batch: where its new tokens go, and what attention reads.

`cache = KVCache.fresh(config, rows, capacity); model(prompts_BT, cache=cache)`, then one token a
call with `positions_BT`. The engine makes one over pages of its own: `KVCache(pages, held)`.
A decoded token attends to each page by itself, where it lies; a row's pages are then weighed by
their shares of the softmax. Nothing is gathered, and a page that several rows hold is read once.
Shapes: B rows, T new tokens, S keys read, N pages read, M rows that a page belongs to, K key heads,
G query heads a key head, H = K * G, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from puna.engine.pages import SIZE, Held, Page, Pages
from puna.models.config import ModelConfig
from puna.models.decoder import AttentionFn, additive

if TYPE_CHECKING:
    from puna.kernels.attention import Ragged

_READ_STEP = 16
Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@dataclass
class _Part:
    """Pages `first` to `end` of a pool, `many` rows each, as a decoding step reads them.

    `owners` [N * M] says whose queries they meet (None: row i meets page i), `hidden` [N] how many
    slots from the end nobody sees, `last` [N] is 1 where a row writes.
    """

    first: int
    end: int
    many: int
    owners: Tensor | None
    hidden: Tensor
    last: Tensor


@dataclass
class _Step:
    """How the layers of one kind take part in a decoding step.

    `index` [B, K] are the flat places of the new tokens and `moves` [B, 1] their next ones; `table`
    [B, n] says which results of all parts are a row's (None: one page each, at `places` [B] of the
    only part, or in order), `absent` [B, n] where it has fewer than n.
    """

    parts: list[_Part]
    index: Tensor
    moves: Tensor
    places: Tensor | None
    table: Tensor | None
    absent: Tensor | None
    counts: Ints
    read: int = 0
    masks: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class _Block:
    """How the layers of one kind take part in a pass over several tokens a row.

    `old` [B, n] are the pages with what the rows held, `read` slots of them. On a GPU `ragged` says
    it instead, without a mask.
    """

    index: Tensor
    old: Tensor | None
    read: int
    mask: Tensor | None
    ragged: Ragged | None = None


class KVCache:
    """Keys and values of the sequences of a batch, which grow as they are written.

    Positions of a row are contiguous within a call and go on from what the row holds; a call's
    padding is on its right, marked in `valid_BT`, and lands nowhere. Use without gradients. The
    pages must have room: `begin` asks for it itself, and fails where there is a limit. `idle` rows
    hold nothing. With `whole` pages are read to their ends, whatever the other rows hold.
    """

    def __init__(
        self, pages: Pages, held: Sequence[Held], idle: int = 0, whole: bool = False
    ) -> None:
        self.pages, self.held = pages, [*held, *(Held() for _ in range(idle))]
        self.largest = -1
        pool = next(iter(pages.pools.values()))
        self._like = pool.keys[0].new_empty(0)
        size = pages.size
        # A window of this ramp is the mask row of one page: zeros, then -inf.
        zeros = torch.zeros(size, device=self._like.device)
        self._ramp = torch.cat((zeros, torch.full_like(zeros, float("-inf"))))
        self._steps: dict[bool, _Step] = {}
        self._blocks: dict[bool, _Block] = {}
        self._one_token = False
        self._ahead = 0  # steps that `held.length` does not count yet
        self._taken, self._left = 0, 0  # steps since the plan was made, and until it ends
        self._stamp = pages.stamp
        self._gone = set(range(len(held), len(self.held)))
        self._whole = whole
        # Where there is a kernel for runs of any length, no mask is made and nothing is padded.
        self.ragged = self._like.is_cuda and self._like.dtype == torch.bfloat16

    @classmethod
    def fresh(
        cls,
        config: ModelConfig,
        rows: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> KVCache:
        """A cache with pages of its own, with room for `rows` sequences of `capacity` tokens."""
        pages = Pages(config, dtype, device, min(SIZE, capacity))
        pages.expect([capacity] * rows)
        return cls(pages, [Held() for _ in range(rows)])

    @property
    def bytes(self) -> int:
        """Memory held by keys and values."""
        return self.pages.bytes

    def sync(self) -> None:
        """Bring `held.length` of every row up to date with the steps taken."""
        for row, held in enumerate(self.held):
            if row not in self._gone:
                held.length += self._ahead
        self._ahead = 0

    @property
    def turning(self) -> bool:
        """Whether the next step may need more pages, so that there must be room."""
        return not self._left or self._stamp != self.pages.stamp

    def retire(self, rows: Sequence[int]) -> None:
        """Take rows out: they are computed on, but keep nothing; their pages may be given back."""
        self.sync()
        gone = torch.tensor(rows, device=self._like.device)
        for kind, step in self._steps.items():
            step.index[gone] = self.pages.pools[kind].waste
            step.moves[gone] = 0
            for part in step.parts:
                if part.owners is None:
                    part.last[gone] = 0
                else:
                    hit = torch.isin(part.owners, gone).view(-1, part.many).any(1)
                    part.last.masked_fill_(hit, 0)
        self._gone.update(rows)

    def begin(self, positions_BT: Tensor, valid_BT: Tensor | None = None) -> None:
        """Plan one pass over tokens at `positions_BT`; where `valid_BT` is False they are padding.

        Once a forward pass, before its first layer.
        """
        rows, tokens = positions_BT.shape
        assert rows == len(self.held)
        self._one_token = tokens == 1 and valid_BT is None
        if self._one_token and not self.turning and not self._moved(positions_BT):
            self._advance()
            return
        self.sync()
        starts = positions_BT[:, 0].tolist()
        counts = [tokens] * rows if valid_BT is None else valid_BT.sum(1).tolist()
        for row, (held, start, count) in enumerate(zip(self.held, starts, counts, strict=True)):
            if row in self._gone:
                continue
            held.length = start if count else held.length
            room = not count or self.pages.extend(held, start + count)
            assert room, f"no room for {start + count} tokens"
        if self._one_token:
            self._plan_steps()
            self.largest = max(starts)  # rows that are gone stand where they ended, maybe furthest
            return
        self._left = 0
        self._blocks = {
            kind: self._plan_block(kind, starts, counts, tokens) for kind in self.pages.pools
        }
        for held, start, count in zip(self.held, starts, counts, strict=True):
            held.length = start + count if count else held.length
        self.largest = max(s + tokens - 1 for s in starts)

    def attend(
        self,
        layer: int,
        q_BHTD: Tensor,
        k_BKTD: Tensor,
        v_BKTD: Tensor,
        attention: AttentionFn,
        scale: float,
    ) -> Tensor:
        """Keep the new tokens of a layer and attend to all that is visible, [B, H, T, D]."""
        if self._one_token:
            rows, heads, _, width = q_BHTD.shape
            q_BKGD = q_BHTD.reshape(rows, k_BKTD.shape[1], -1, width)
            return self.step(layer, q_BKGD, k_BKTD, v_BKTD, scale).view(rows, heads, 1, width)
        kind, place = self.pages.layers[layer]
        pool, plan = self.pages.pools[kind], self._blocks[kind]
        if plan.ragged is not None:
            out = plan.ragged.attend(q_BHTD, k_BKTD, v_BKTD, pool.flat(place), scale)
            pool.write(place, plan.index, k_BKTD, v_BKTD)
            return out
        # A block may run over a chunk's end: it attends to what was there and to itself.
        k_all, v_all = k_BKTD, v_BKTD
        if plan.old is not None:
            k_all = torch.cat((_gathered(pool.keys[place], plan.old, plan.read), k_BKTD), 2)
            v_all = torch.cat((_gathered(pool.values[place], plan.old, plan.read), v_BKTD), 2)
        pool.write(place, plan.index, k_BKTD, v_BKTD)
        return attention(q_BHTD, k_all, v_all, plan.mask, scale)

    def step(
        self, layer: int, q_BKGD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, scale: float
    ) -> Tensor:
        """`attend` for one token a row, [B, K, G, D]."""
        kind, place = self.pages.layers[layer]
        pool, plan = self.pages.pools[kind], self._steps[kind]
        pool.write(place, plan.index.view(-1), k_BKTD, v_BKTD)
        keys, values = pool.keys[place], pool.values[place]
        if plan.table is None:
            mask = plan.masks[0]
            _, _, out = _met(plan.parts[0], q_BKGD, keys, values, mask, scale, plan.read)
            return out if plan.places is None else out.index_select(0, plan.places)
        found = [
            _weighed(part, q_BKGD, keys, values, mask, scale, plan.read)
            for part, mask in zip(plan.parts, plan.masks, strict=True)
        ]
        weights, results = (torch.cat(x) if len(x) > 1 else x[0] for x in zip(*found, strict=True))
        rows, most = plan.table.shape
        at = plan.table.view(-1)
        weight = weights.index_select(0, at).view(rows, most, *weights.shape[1:])
        if plan.absent is not None:
            weight = weight.masked_fill(plan.absent[..., None, None], float("-inf"))
        share = weight.softmax(1).to(results.dtype)
        result = results.index_select(0, at).view(rows, most, *results.shape[1:])
        return (result * share[..., None]).sum(1)

    def _moved(self, positions_B1: Tensor) -> bool:
        """Whether rows stand elsewhere than after the last step; on a GPU that is not asked."""
        if positions_B1.is_cuda:
            return False
        want = [h.length + self._ahead for i, h in enumerate(self.held) if i not in self._gone]
        have = positions_B1[:, 0].tolist()
        return [p for i, p in enumerate(have) if i not in self._gone] != want

    def _advance(self) -> None:
        """One step more within the pages that the rows write to."""
        self._ahead += 1
        self._taken += 1
        self._left -= 1
        self.largest += 1
        for step in self._steps.values():
            step.index += step.moves
            for part in step.parts:
                part.hidden -= part.last
            self._look(step)

    def _plan_steps(self) -> None:
        size = self.pages.size
        lengths = np.array([h.length for h in self.held], dtype=np.int64)
        live = [i for i in range(len(self.held)) if i not in self._gone]
        self._taken = 0
        self._steps = {kind: self._plan_step(kind, lengths, live) for kind in self.pages.pools}
        self._ahead, self._stamp = 1, self.pages.stamp
        self._left = int((size - 1 - lengths[live] % size).min()) if live else 0

    def _plan_step(self, kind: bool, lengths: Ints, live: list[int]) -> _Step:
        size, pool = self.pages.size, self.pages.pools[kind]
        heads = self.pages.config.num_kv_heads
        visible = self._visible(kind, lengths, live)
        owners: dict[Page, list[int]] = {}
        for row, pages in visible.items():
            for page in pages:
                owners.setdefault(page, []).append(row)
        writing = {visible[row][-1]: row for row in live}
        own = [p for p, rows in owners.items() if len(rows) == 1]
        shared = [p for p, rows in owners.items() if len(rows) > 1]
        if _sparse(own) or _sparse(shared):
            pool.arrange([*own, *shared])
        parts, where, base = [], dict[tuple[Page, int], int](), 0
        for pages in filter(None, (own, shared)):
            part = self._part(pages, owners, writing, lengths)
            for page in pages:
                for j, row in enumerate(owners[page]):
                    where[page, row] = base + (page.id - part.first) * part.many + j
            base += (part.end - part.first) * part.many
            parts.append(part)
        device = self._like.device
        starts = np.full(len(self.held), -1, dtype=np.int64)
        for page, row in writing.items():
            starts[row] = page.id * heads * size + lengths[row] % size
        index = starts[:, None] + np.arange(heads) * size
        index[starts < 0] = pool.waste
        moves = torch.from_numpy((starts >= 0).astype(np.int64)[:, None]).to(device)
        step = _Step(
            parts, torch.from_numpy(index).to(device), moves, None, None, None, lengths % size
        )
        most = max((len(pages) for pages in visible.values()), default=1)
        if most == 1 and len(parts) == 1 and parts[0].many == 1:
            places = np.zeros(len(self.held), dtype=np.int64)
            for (_, row), place in where.items():
                places[row] = place
            part = parts[0]
            plain = part.end - part.first == len(places)
            if plain and len(live) == len(places) and (places == np.arange(len(places))).all():
                part.owners = None
            else:
                step.places = torch.from_numpy(places).to(device)
        else:
            table = np.full((len(self.held), most), -1, dtype=np.int64)
            for row in live:
                found = [where[page, row] for page in visible[row]]
                table[row, : len(found)] = found
            table[[i for i in range(len(table)) if i in self._gone], 0] = 0
            if (table < 0).any():
                step.absent = torch.from_numpy(table < 0).to(device)
            step.table = torch.from_numpy(table.clip(0)).to(device)
        self._look(step)
        return step

    def _visible(self, kind: bool, lengths: Ints, live: list[int]) -> dict[int, list[Page]]:
        """The pages that the next token of each row sees, the one it is written to included."""
        size, chunk = self.pages.size, self.pages.chunk
        found = {}
        for row in live:
            length = int(lengths[row])
            first = length // chunk * chunk // size if kind and chunk is not None else 0
            pages = self.held[row].pages[kind][first : length // size + 1]
            found[row] = [page for page in pages if page is not None]
            assert len(found[row]) == length // size + 1 - first
        return found

    def _part(
        self,
        pages: list[Page],
        owners: dict[Page, list[int]],
        writing: dict[Page, int],
        lengths: Ints,
    ) -> _Part:
        size, device = self.pages.size, self._like.device
        first, end = min(p.id for p in pages), max(p.id for p in pages) + 1
        many = max(len(owners[p]) for p in pages)
        who = np.zeros((end - first, many), dtype=np.int64)
        hidden = np.zeros(end - first, dtype=np.int64)
        last = np.zeros(end - first, dtype=np.int64)
        for page in pages:
            place = page.id - first
            who[place, : len(owners[page])] = owners[page]
            row = writing.get(page)
            if row is not None:
                hidden[place] = size - 1 - lengths[row] % size
                last[place] = 1
        told = (torch.from_numpy(x).to(device) for x in (who.reshape(-1), hidden, last))
        return _Part(first, end, many, *told)

    def _look(self, step: _Step) -> None:
        """How far pages are read, and the masks, for where the rows now are."""
        size = self.pages.size
        step.read = size
        if (
            step.table is None and not self._whole
        ):  # then every page is the one that its row writes to
            top = int(step.counts.max()) + self._taken
            step.read = min(size, _round_up(top + 1))
        windows = self._ramp.unfold(0, step.read, 1)
        step.masks = tuple(windows[part.hidden][:, None, None] for part in step.parts)

    def _plan_block(self, kind: bool, starts: list[int], counts: list[int], tokens: int) -> _Block:
        size, pool = self.pages.size, self.pages.pools[kind]
        heads, device = self.pages.config.num_kv_heads, self._like.device
        start_B, count_B = np.array(starts), np.array(counts)
        place_BT = start_B[:, None] + np.arange(tokens)
        # What layers of this kind see ends with a chunk, if at all.
        chunk = self.pages.chunk if kind and self.pages.chunk else int(place_BT.max()) + 1
        grid_BT, begin_B = place_BT // chunk, start_B // chunk * chunk
        ends_B = (start_B + np.maximum(count_B, 1) - 1) // chunk
        kept_BT = (np.arange(tokens) < count_B[:, None]) & (grid_BT == ends_B[:, None])
        most = int((start_B + tokens - 1).max()) // size + 1
        ids = np.zeros((len(starts), most), dtype=np.int64)
        for row, held in enumerate(self.held):
            for i, page in enumerate(held.pages[kind][:most]):
                ids[row, i] = -1 if page is None else page.id
        page_BT = np.take_along_axis(ids, place_BT // size, 1)
        slot_BT = page_BT * heads * size + place_BT % size
        index_BKT = slot_BT[:, None] + size * np.arange(heads)[:, None]
        index_BKT = np.where(kept_BT[:, None], index_BKT, pool.waste)
        index = torch.from_numpy(index_BKT.reshape(-1)).to(device)
        if self.ragged:
            from puna.kernels.attention import ragged

            span = self.pages.chunk if kind else None
            shape = heads, size
            plan = ragged(starts, counts, tokens, span, ids, shape, device)
            return _Block(index, None, 0, None, plan)
        held_B = start_B - begin_B
        read = int(held_B.max())
        if not read and (grid_BT == grid_BT[:, :1]).all():
            return _Block(index, None, 0, None)
        old = None
        if read:
            read = _round_up(read)
            span = -(-read // size)
            first_B = begin_B // size
            columns = np.minimum(first_B[:, None] + np.arange(span), most - 1)
            old = torch.from_numpy(np.take_along_axis(ids, columns, 1).clip(0)).to(device)
            read = min(read, span * size)
        # If all rows stand alike, one mask serves them all.
        alike = slice(0, 1) if (start_B == start_B[0]).all() else slice(None)
        grid = torch.from_numpy(grid_BT[alike]).to(device)
        visible = torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()
        visible = visible & (grid[:, :, None] == grid[:, None, :])
        if read:
            held_B1 = torch.from_numpy(held_B[alike, None]).to(device)
            seen_BS = torch.arange(read, device=device) < held_B1
            same_BT = grid == grid[:, :1]
            visible = torch.cat((seen_BS[:, None, :] & same_BT[:, :, None], visible), 2)
        return _Block(index, old, read, additive(visible[:, None], self._like.dtype))


def _met(
    part: _Part, q_BKGD: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float, read: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each page and all rows that meet it: scores, their softmax, the mean of its values."""
    count, many = part.end - part.first, part.many
    heads, width = q_BKGD.shape[1], q_BKGD.shape[3]
    q = q_BKGD if part.owners is None else q_BKGD.index_select(0, part.owners)
    if many > 1:
        q = q.view(count, many, heads, -1, width).transpose(1, 2).reshape(count, heads, -1, width)
    near = slice(part.first, part.end)
    scores = _scores(q, keys[near, :, :read], mask, scale)
    share = scores.softmax(-1)
    return scores, share, torch.matmul(share.to(values.dtype), values[near, :, :read])


def _weighed(
    part: _Part, q_BKGD: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float, read: int
) -> tuple[Tensor, Tensor]:
    """Of each page and row: log-sum-exp of its scores [N * M, K, G], the mean of its values."""
    count, many = part.end - part.first, part.many
    heads, width = q_BKGD.shape[1], q_BKGD.shape[3]
    scores, share, result = _met(part, q_BKGD, keys, values, mask, scale, read)
    weight = scores.amax(-1) - share.amax(-1).log()
    if many > 1:
        weight = weight.view(count, heads, many, -1).transpose(1, 2).flatten(0, 1)
        result = result.view(count, heads, many, -1, width).transpose(1, 2).flatten(0, 1)
    return weight, result


def _scores(q: Tensor, k: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Scores in fp32, never rounded to less on the way."""
    if k.is_cuda and k.dtype != torch.float32:
        product = torch.bmm(
            q.flatten(0, 1), k.transpose(2, 3).flatten(0, 1), out_dtype=torch.float32
        )
        product = product.view(*q.shape[:3], k.shape[2])
    else:
        product = torch.matmul(q.float(), k.float().transpose(2, 3))
    return product.mul_(scale).add_(mask)


def _gathered(pool: Tensor, pages_Bn: Tensor, read: int) -> Tensor:
    """The first `read` slots of each row's pages one behind the other, [B, K, S, D]."""
    found = pool[pages_Bn].transpose(1, 2).flatten(2, 3)
    return found[:, :, :read]


def _sparse(pages: Sequence[Page]) -> bool:
    """Whether more than half of the places from the first to the last of them are of others."""
    if len(pages) < 2:
        return False
    places = [p.id for p in pages]
    return max(places) - min(places) + 1 > 2 * len(places)


def _round_up(count: int) -> int:
    return -(-count // _READ_STEP) * _READ_STEP
