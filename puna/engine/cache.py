"""The key-value cache of batched decoding: local layers hold one attention chunk and no more.

`cache = KVCache(config, rows, capacity); model(prompts_BT, cache=cache)`, then one token a call
with `positions_BT`; `cache.select(rows)` reorders, repeats or drops rows.
A token lives in slot `position % size` of its layer. A query sees the slots up to its own, which
all belong to its chunk, so nothing stale is ever visible and nothing is ever cleared.
Shapes: B rows, T new tokens, S keys read, C slots of a head, K key heads, D head width.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from puna.models.config import ModelConfig
from puna.models.decoder import additive

_READ_STEP = 16


@dataclass(frozen=True)
class _Plan:
    """How one kind of layer (local or global) takes part in one forward pass."""

    index: Tensor
    read: int
    mask: Tensor | None


class _Store:
    """Keys or values of one layer: C slots for each head of a row, and one more as a waste bin.

    A head's slots lie together, so that attention reads them in one run.
    """

    def __init__(
        self, rows: int, size: int, shape: tuple[int, int], like: Tensor, old: Tensor | None = None
    ) -> None:
        self.shape = shape
        heads, width = shape
        # Zeros, not empty: unwritten slots are read under the mask, and 0 * NaN would be NaN.
        self.flat = like.new_zeros(rows * heads * size + 1, width) if old is None else old
        self.slots = self.flat[: rows * heads * size].view(rows, heads, size, width)

    def write(self, index: Tensor, new_BKTD: Tensor) -> None:
        self.flat.index_copy_(0, index, new_BKTD.reshape(-1, self.shape[1]))

    def select(self, rows: Tensor, used: int) -> _Store:
        count, (heads, size) = len(rows), self.slots.shape[1:3]
        kept = self.slots[:, :, :used].index_select(0, rows)
        fits = count * heads * size < self.flat.shape[0]
        store = _Store(count, size, self.shape, self.flat, self.flat if fits else None)
        store.slots[:, :, :used] = kept
        return store

    def part(self, rows: Tensor, used: int) -> _Store:
        """These rows alone, with as many slots as are in use."""
        kept = self.slots[:, :, :used].index_select(0, rows)
        store = _Store(len(rows), used, self.shape, self.flat)
        store.slots.copy_(kept)
        return store


class KVCache:
    """Keys and values of `rows` sequences of at most `capacity` tokens each.

    Positions of a row are contiguous within a call and go on from what the row holds; a call's
    padding is on its right, marked in `valid_BT`, and lands nowhere. Use without gradients.
    """

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.rows, self.capacity, self.largest = rows, capacity, -1
        self._used = 0
        chunk = config.attention_chunk
        local_size = capacity if chunk is None else min(chunk, capacity)
        self._local = [config.is_local(i) for i in range(config.num_layers)]
        self._sizes = {local: local_size if local else capacity for local in set(self._local)}
        like = torch.empty(0, dtype=dtype, device=device)
        self._heads = config.num_kv_heads
        shape = (config.num_kv_heads, config.head_dim)
        self._keys = [_Store(rows, self._sizes[i], shape, like) for i in self._local]
        self._values = [_Store(rows, self._sizes[i], shape, like) for i in self._local]
        # A window of this ramp is the mask row of one slot: that many zeros, then -inf.
        self._ramps = {
            size: torch.cat((like.new_zeros(size), like.new_full((size,), float("-inf"))))
            for size in self._sizes.values()
        }
        self._plans: dict[bool, _Plan] = {}
        self._one_token = False
        self._offsets()

    @property
    def bytes(self) -> int:
        """Memory held by keys and values."""
        stores = self._keys + self._values
        return sum(s.flat.numel() * s.flat.element_size() for s in stores)

    def begin(self, positions_BT: Tensor, valid_BT: Tensor | None = None) -> None:
        """Plan one pass over tokens at `positions_BT`; where `valid_BT` is False they are padding.

        Once a forward pass, before its first `update`.
        """
        self.largest = int(positions_BT.max())
        assert self.largest < self.capacity, f"position {self.largest} of {self.capacity}"
        assert positions_BT.shape[0] == self.rows
        self._used = max(self._used, self.largest + 1)
        self._one_token = positions_BT.shape[1] == 1
        plan = self._plan_step if self._one_token else self._plan_block
        self._plans = {
            local: plan(positions_BT, valid_BT, size) for local, size in self._sizes.items()
        }

    def update(
        self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keep the new tokens; keys and values [B, K, S, D] to attend to, and the mask or None."""
        plan = self._plans[self._local[layer]]
        keys, values, read = self._keys[layer], self._values[layer], plan.read
        if self._one_token:
            keys.write(plan.index, k_BKTD)
            values.write(plan.index, v_BKTD)
            return keys.slots[:, :, :read], values.slots[:, :, :read], plan.mask
        # A block may run over a chunk's end and so over slots that its first queries still need:
        # it attends to what was there and to itself, before it is written.
        k_all, v_all = k_BKTD, v_BKTD
        if read:
            k_all = torch.cat((keys.slots[:, :, :read], k_BKTD), 2)
            v_all = torch.cat((values.slots[:, :, :read], v_BKTD), 2)
        keys.write(plan.index, k_BKTD)
        values.write(plan.index, v_BKTD)
        return k_all, v_all, plan.mask

    def select(self, rows: Tensor) -> None:
        """Row i becomes what row `rows[i]` was: reorders, repeats or drops rows."""
        rows = rows.to(self._keys[0].flat.device)
        for stores in (self._keys, self._values):
            for layer, store in enumerate(stores):
                stores[layer] = store.select(rows, min(self._used, store.slots.shape[2]))
        self.rows = len(rows)
        self._offsets()

    def copy(self, rows: Tensor) -> KVCache:
        """A cache of its own that holds what these rows hold; nothing is to be added to it."""
        made = copy.copy(self)
        made._plans = {}
        made._keys, made._values = list(self._keys), list(self._values)
        rows = rows.to(self._keys[0].flat.device)
        for stores in (made._keys, made._values):
            for layer, store in enumerate(stores):
                stores[layer] = store.part(rows, min(self._used, store.slots.shape[2]))
        made.rows = len(rows)
        return made

    def bytes_of(self, rows: int) -> int:
        """What a copy of so many rows takes."""
        used = sum(min(self._used, s.slots.shape[2]) for s in self._keys + self._values)
        heads, width = self._keys[0].shape
        return rows * heads * width * used * self._keys[0].flat.element_size()

    def adopt(self, rows: list[int], other: KVCache, theirs: list[int], used: int) -> None:
        """Put into `rows` what rows `theirs` of another cache hold of their first `used` tokens."""
        mine, yours = self._keys + self._values, other._keys + other._values
        for store, source in zip(mine, yours, strict=True):
            count = min(used, store.slots.shape[2], source.slots.shape[2])
            store.slots[rows, :, :count] = source.slots[theirs, :, :count]
        self._used = max(self._used, used)

    def _plan_step(self, positions_BT: Tensor, valid_BT: Tensor | None, size: int) -> _Plan:
        slots_B1, top = positions_BT, self.largest
        if top >= size:
            slots_B1 = slots_B1 % size
            top = int(slots_B1.max())
        read = min(size, _round_up(top + 1))
        windows = self._ramps[size].unfold(0, read, 1)
        mask_B1S = windows[size - 1 - slots_B1]
        return _Plan(self._index(slots_B1, valid_BT, size), read, mask_B1S.unsqueeze(1))

    def _plan_block(self, positions_BT: Tensor, valid_BT: Tensor | None, size: int) -> _Plan:
        grid_BT = positions_BT // size
        index = self._index(positions_BT % size, _landing(grid_BT, valid_BT), size)
        if bool((positions_BT == positions_BT[:1]).all()):  # then one mask serves all rows
            positions_BT, grid_BT = positions_BT[:1], grid_BT[:1]
        held_B1 = positions_BT[:, :1] % size
        most = int(held_B1.max())
        read = min(size, _round_up(most))
        same_BT = grid_BT == grid_BT[:, :1]
        if not read and bool(same_BT.all()):
            return _Plan(index, 0, None)
        tokens = positions_BT.shape[1]
        visible = torch.ones(tokens, tokens, dtype=torch.bool, device=index.device).tril()
        visible = visible & (grid_BT[:, :, None] == grid_BT[:, None, :])
        if read:
            old_BS = torch.arange(read, device=index.device) < held_B1
            visible = torch.cat((old_BS[:, None, :] & same_BT[:, :, None], visible), 2)
        return _Plan(index, read, additive(visible[:, None], self._ramps[size].dtype))

    def _index(self, slots_BT: Tensor, kept_BT: Tensor | None, size: int) -> Tensor:
        """Where tokens land in the flat stores [B * K * T]; what is not kept goes past the rows."""
        index_BKT = slots_BT[:, None] + self._starts[size]
        if kept_BT is not None:
            index_BKT = torch.where(kept_BT[:, None], index_BKT, self.rows * self._heads * size)
        return index_BKT.reshape(-1)

    def _offsets(self) -> None:
        device, count = self._keys[0].flat.device, self.rows * self._heads
        self._starts = {
            size: torch.arange(0, count * size, size, device=device).view(self.rows, -1, 1)
            for size in self._sizes.values()
        }


def _landing(grid_BT: Tensor, valid_BT: Tensor | None) -> Tensor:
    """Which tokens are kept: those of each row's last chunk, never padding."""
    if valid_BT is None:
        return grid_BT == grid_BT[:, -1:]
    last_B1 = torch.where(valid_BT, grid_BT, -1).max(1, keepdim=True).values
    return valid_BT & (grid_BT == last_B1)


def _round_up(count: int) -> int:
    return -(-count // _READ_STEP) * _READ_STEP
