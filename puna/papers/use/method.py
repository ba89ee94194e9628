"""USE's encoder: a retention network over a user's events, in three forms that agree.

`state = encoder.encode(ids_BT); state.embedding()`, and later `encoder.encode(new_BT, state)` goes
on as if the whole life had been read. Shapes: B users, T events, D width, H heads, K width of a
head, L layers, V event types. An id of -1 is a pad, anywhere in a row.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAD = -1
CHUNK = 128


@dataclass(frozen=True)
class Shape:
    """What an encoder is built from: event types, width, layers, heads (of even width)."""

    events: int
    width: int = 64
    layers: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        """Raises ValueError where the heads do not divide the width into even parts."""
        if min(self.events, self.width, self.layers, self.heads) < 1:
            raise ValueError("events, width, layers and heads must be at least 1")
        if self.width % (2 * self.heads) or self.width < 4 * self.heads:
            raise ValueError(f"width {self.width} is not {self.heads} heads of 4, 6, 8, ...")


@dataclass(frozen=True)
class State:
    """What is kept of a batch of users: enough to read on, and to embed all that was read.

    `layers_LBHKK` is never of less than 32 bits: it grows to 512 times its input. `seen_B` counts
    events; `total_BD` sums their last hidden vectors in 64 bits.
    """

    layers_LBHKK: Tensor
    seen_B: Tensor
    total_BD: Tensor

    def embedding(self) -> Tensor:
        """(B, D): the mean hidden vector over all events read; 0 where there was none."""
        mean = self.total_BD / self.seen_B.clamp(min=1)[:, None]
        return mean.to(self.layers_LBHKK.dtype)


def decay_rates(heads: int) -> Tensor:
    """(H,): log gamma, gamma = 1 - exp(a), a from ln(1/32) to ln(1/512) in equal steps; fp64."""
    a = torch.linspace(math.log(1 / 32), math.log(1 / 512), heads, dtype=torch.float64)
    return torch.log1p(-torch.exp(a))


def rotate(x_BHTK: Tensor, place_BT: Tensor) -> Tensor:
    """Turn pairs of components by place * theta_j, theta_j = 10000^(-j / (K/2 - 1)).

    The phase is taken modulo 2 pi in 64 bits, so that a long life costs no precision.
    """
    half = x_BHTK.shape[-1] // 2
    theta = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=x_BHTK.device) / (half - 1))
    phase = torch.remainder(place_BT[:, None, :, None].double() * theta, 2 * math.pi)
    cos, sin = phase.cos().to(x_BHTK.dtype), phase.sin().to(x_BHTK.dtype)
    a, b = x_BHTK[..., :half], x_BHTK[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


# q, k, v (B, H, T, K), log gamma (H,), real (B, T), state (B, H, K, K) -> output, next state
Retention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def steps(real_BT: Tensor) -> Tensor:
    """(B, T): how many real events there are up to each place, itself included."""
    return real_BT.cumsum(dim=1)


def retain_parallel(q: Tensor, k: Tensor, v: Tensor, rate_H: Tensor, real_BT: Tensor) -> Tensor:
    """((Q K^T) * D) V, D[n, m] = gamma^(n - m) for real m <= n; pads neither count nor decay."""
    # Rows without pads share one matrix of decays.
    real = real_BT[:1] if bool(real_BT.all()) else real_BT
    n = steps(real)
    apart = (n[:, :, None] - n[:, None, :]).tril()
    keep = torch.ones_like(apart, dtype=torch.bool).tril() & real[:, None, :]
    decay = torch.exp(apart[:, None].to(rate_H.dtype) * rate_H[:, None, None])
    decay = (decay * keep[:, None]).to(q.dtype)
    return ((q @ k.transpose(-1, -2)) * decay) @ v


def retain_chunk(
    q: Tensor, k: Tensor, v: Tensor, rate_H: Tensor, real_BT: Tensor, state_BHKK: Tensor
) -> tuple[Tensor, Tensor]:
    """The parallel form within a chunk, plus gamma^n Q R of what came before it.

    Next state: gamma^B R + sum_n gamma^(B - n) k_n^T v_n over the B real events of the chunk.
    """
    dtype = state_BHKK.dtype
    n_B1T = steps(real_BT)[:, None].to(rate_H.dtype)
    before_BHT = torch.exp(n_B1T * rate_H[:, None]).to(dtype)
    y = retain_parallel(q, k, v, rate_H, real_BT)
    y = y + (before_BHT[..., None] * (q.to(dtype) @ state_BHKK)).to(y.dtype)
    after_BHT = torch.exp((n_B1T[..., -1:] - n_B1T) * rate_H[:, None]) * real_BT[:, None]
    added = (k.to(dtype) * after_BHT.to(dtype)[..., None]).transpose(-1, -2) @ v.to(dtype)
    return y, before_BHT[..., -1:, None] * state_BHKK + added


def retain_recurrent(
    q: Tensor, k: Tensor, v: Tensor, rate_H: Tensor, real_BT: Tensor, state_BHKK: Tensor
) -> tuple[Tensor, Tensor]:
    """Event by event: S_n = gamma S_(n-1) + k_n^T v_n, y_n = q_n S_n; a pad leaves S as it is."""
    state, out = state_BHKK, []
    gamma = torch.exp(rate_H).to(state.dtype)[:, None, None]
    for t in range(q.shape[2]):
        added = k[:, :, t, :, None].to(state.dtype) * v[:, :, t, None, :].to(state.dtype)
        state = torch.where(real_BT[:, t, None, None, None], gamma * state + added, state)
        out.append((q[:, :, t, None, :].to(state.dtype) @ state)[:, :, 0])
    return torch.stack(out, dim=2).to(q.dtype), state


class Block(nn.Module):
    """x + MSR(LN x), then x + FFN(LN x)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in, self.norm_ffn = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkvg = nn.Linear(width, 4 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(
        self, x_BTD: Tensor, place_BT: Tensor, retain: Callable[..., tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """The block's output, and what `retain(q, k, v)` says the next state is."""
        B, T, D = x_BTD.shape
        q, k, v, gate = self.qkvg(self.norm_in(x_BTD)).chunk(4, dim=-1)
        q, k, v = (y.view(B, T, self.heads, -1).transpose(1, 2) for y in (q, k, v))
        k = k * (D // self.heads) ** -0.5
        y, state = retain(rotate(q, place_BT), rotate(k, place_BT), v)
        y = F.layer_norm(y, y.shape[-1:], eps=1e-6)  # GroupNorm, one head a group
        y = y.transpose(1, 2).reshape(B, T, D)
        x = x_BTD + self.out(F.silu(gate) * y)
        return x + self.down(F.gelu(self.up(self.norm_ffn(x)))), state


class Encoder(nn.Module):
    """Events to hidden vectors, with the heads that its objectives train."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.table = nn.Embedding(shape.events, shape.width)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.future = nn.Linear(shape.width, shape.events)
        self.project = nn.Sequential(
            nn.Linear(shape.width, shape.width, bias=False),
            nn.ReLU(),
            nn.Linear(shape.width, 128, bias=False),
        )
        nn.init.normal_(self.table.weight, std=0.02)

    def hidden(self, ids_BT: Tensor) -> Tensor:
        """(B, T, D): last hidden vectors of whole rows, for training; what a pad gets is void."""

        def retain(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            return retain_parallel(q, k, v, self._rates(), real), v

        real = ids_BT >= 0
        x, place = self.table(ids_BT.clamp(min=0)), steps(real) - 1
        for block in self.blocks:
            x, _ = block(x, place, retain)
        hidden: Tensor = self.norm(x)
        return hidden

    def _rates(self) -> Tensor:
        weight = self.table.weight  # narrow weights would blur how long a memory is
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return decay_rates(self.shape.heads).to(weight.device, dtype)

    def begin(self, users: int) -> State:
        """The state of users who have done nothing yet."""
        s, w = self.shape, self.table.weight
        k = s.width // s.heads
        dtype = torch.promote_types(w.dtype, torch.float32)
        return State(
            torch.zeros(s.layers, users, s.heads, k, k, dtype=dtype, device=w.device),
            torch.zeros(users, dtype=torch.int64, device=w.device),
            torch.zeros(users, s.width, dtype=torch.float64, device=w.device),
        )

    @torch.no_grad()
    def encode(
        self,
        ids_BT: Tensor,
        state: State | None = None,
        *,
        chunk: int = CHUNK,
        retain: Retention = retain_chunk,
    ) -> State:
        """The state after reading these events too, `chunk` of them at a time.

        Exactly what reading the whole life at once gives (to rounding), whatever the chunk and the
        form of `retain`. Raises ValueError for an event that is no type the encoder knows.
        """
        self.check(ids_BT)
        state = state or self.begin(len(ids_BT))
        for part in ids_BT.split(chunk, dim=1) if ids_BT.shape[1] else ():
            state = self._read(part, state, retain)
        return state

    def _read(self, ids_BT: Tensor, state: State, retain: Retention) -> State:
        real = ids_BT >= 0
        n = steps(real)
        place = state.seen_B[:, None] + n - 1
        x, after = self.table(ids_BT.clamp(min=0)), []
        for block, before in zip(self.blocks, state.layers_LBHKK, strict=True):

            def on(
                q: Tensor, k: Tensor, v: Tensor, before: Tensor = before
            ) -> tuple[Tensor, Tensor]:
                return retain(q, k, v, self._rates(), real, before)

            x, there = block(x, place, on)
            after.append(there)
        total = (self.norm(x) * real[..., None]).double().sum(dim=1)
        return State(torch.stack(after), state.seen_B + n[:, -1], state.total_BD + total)

    def check(self, ids_BT: Tensor) -> None:
        """Raises ValueError for an id that is neither a pad nor an event type."""
        wrong = (ids_BT < PAD) | (ids_BT >= self.shape.events)
        if bool(wrong.any()):
            row, column = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"row {row}, event {column}: {int(ids_BT[row, column])} is no event type, "
                f"they are 0 to {self.shape.events - 1}"
            )

    def fingerprint(self) -> str:
        """A hash of shape and weights: whose states these are."""
        found = hashlib.sha256(repr(asdict(self.shape)).encode())
        for name, weight in self.state_dict().items():
            raw = weight.detach().cpu().contiguous().view(torch.uint8)
            found.update(f"{name} {weight.dtype}".encode() + raw.numpy().tobytes())
        return found.hexdigest()[:16]
