"""User vectors from behaviour alone: an encoder with symmetric ALiBi, and its two objectives.

`train(histories, Shape(vocab=64), Plan(steps=200), seed=0).embed([[3, 1, 4], [1, 5]])` -> (2, 64).

B sequences, T tokens, H heads, D width, U users, N windows. Events are integers from 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from puna.core.errors import UserError
from puna.core.rng import derive, stream

PAD, MASK, SPECIAL = 0, 1, 2
TOKENS_AT_ONCE = 16_384

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """The encoder's size; `positions` is "alibi", or "learned" as what ALiBi is compared with."""

    vocab: int
    width: int = 64
    layers: int = 2
    heads: int = 4
    positions: Literal["alibi", "learned"] = "alibi"
    max_length: int = 512  # of learned positions; ALiBi has no such bound


@dataclass(frozen=True)
class Plan:
    """How to train: each step sees two segments of each of `batch` users, `gap` events apart."""

    steps: int = 300
    batch: int = 32
    length: int = 128
    shortest: int = 32
    gap: int = 32
    learning_rate: float = 1e-3
    mask_rate: float = 0.15
    contrastive: bool = True
    temperature: float = 0.07


def alibi_slopes(heads: int) -> Tensor:
    """Slopes (H,): geometric with start and ratio 2^(-8/H) (Press et al. 2022, section 3).

    Where H is no power of two: those of the power below, then every other one of the power above.
    """
    below = 2 ** int(math.log2(heads))
    own = [2 ** (-8 * (i + 1) / below) for i in range(below)]
    between = [2 ** (-4 * (2 * i + 1) / below) for i in range(heads - below)]
    return torch.tensor(own + between)


def symmetric_alibi(heads: int, length: int) -> Tensor:
    """The bias -m_h |i - j| of attention logits, (H, T, T)."""
    place = torch.arange(length)
    distance = (place[:, None] - place[None, :]).abs()
    return -alibi_slopes(heads)[:, None, None] * distance


class Block(nn.Module):
    """Attention and feed-forward, each normalised after its residual (Devlin et al. 2019)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x_BTD: Tensor, bias_BHTT: Tensor) -> Tensor:
        """The next x, (B, T, D)."""
        B, T, D = x_BTD.shape
        q, k, v = self.qkv(x_BTD).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias_BHTT)
        x = self.attention_norm(x_BTD + self.out(mixed.transpose(1, 2).reshape(B, T, D)))
        found: Tensor = self.norm(x + self.down(F.gelu(self.up(x))))
        return found


class Encoder(nn.Module):
    """Tokens to vectors; with ALiBi a window and its reverse have the same vector."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(SPECIAL + shape.vocab, shape.width)
        self.places = nn.Embedding(shape.max_length, shape.width)
        self.first_norm = nn.LayerNorm(shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.guess = nn.Sequential(
            nn.Linear(shape.width, shape.width), nn.GELU(), nn.LayerNorm(shape.width)
        )
        self.guess_bias = nn.Parameter(torch.zeros(shape.vocab))
        self.project = nn.Sequential(
            nn.Linear(shape.width, shape.width, bias=False),
            nn.ReLU(),
            nn.Linear(shape.width, 128, bias=False),
        )
        for table in (self.tokens, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Vectors (B, T, D) of the tokens; those of padding mean nothing."""
        T = tokens_BT.shape[1]
        x: Tensor = self.tokens(tokens_BT)
        if self.shape.positions == "learned":
            x = x + self.places.weight[:T]
            bias = torch.zeros(self.shape.heads, T, T)
        else:
            bias = symmetric_alibi(self.shape.heads, T)
        padding = (tokens_BT == PAD)[:, None, None, :]
        bias = bias.expand(len(x), -1, -1, -1).masked_fill(padding, -1e4)
        x = self.first_norm(x)
        for block in self.blocks:
            x = block(x, bias)
        return x

    def pooled(self, x_BTD: Tensor, tokens_BT: Tensor) -> Tensor:
        """The mean vector over what is not padding, (B, D): the user's vector."""
        real = (tokens_BT != PAD)[..., None].to(x_BTD.dtype)
        return (x_BTD * real).sum(1) / real.sum(1)

    def event_logits(self, x_MD: Tensor) -> Tensor:
        """Logits of the event behind each of M vectors, (M, V); output weights are the input's."""
        hidden: Tensor = self.guess(x_MD)
        return F.linear(hidden, self.tokens.weight[SPECIAL:], self.guess_bias)

    @torch.no_grad()
    def embed(self, windows: Sequence[ArrayLike]) -> Floats:
        """Vectors (N, D) of windows of events, each padded with those of about its length.

        Raises UserError for an empty window, an event that is not of the vocabulary, and a window
        longer than learned positions reach.
        """
        checked = [self._checked(i, window) for i, window in enumerate(windows)]
        order = sorted(range(len(checked)), key=lambda i: len(checked[i]))
        vectors = np.zeros((len(checked), self.shape.width))
        while order:
            count = max(1, TOKENS_AT_ONCE // len(checked[order[-1]]))
            batch, order = order[-count:], order[:-count]
            tokens = pad([checked[i] for i in batch])
            vectors[batch] = self.pooled(self(tokens), tokens).double().numpy()
        return vectors

    def _checked(self, number: int, window: ArrayLike) -> Ints:
        events = np.asarray(window)
        if events.ndim != 1 or not events.size:
            raise UserError(f"window {number} has no events", "leave it out")
        wrong = ~((events >= 0) & (events < self.shape.vocab) & (events == np.floor(events)))
        if wrong.any():
            event = events[int(np.argmax(wrong))]
            last = self.shape.vocab - 1
            raise UserError(f"window {number}: event {event} is not one of 0 to {last}")
        if self.shape.positions == "learned" and len(events) > self.shape.max_length:
            fix = f"give at most {self.shape.max_length}"
            raise UserError(f"window {number} has {len(events)} events", fix)
        return events.astype(np.int64)


def pad(windows: Sequence[Ints]) -> Tensor:
    """Windows of events as tokens (B, T), PAD behind the shorter ones."""
    tokens = torch.full((len(windows), max(map(len, windows))), PAD)
    for row, events in zip(tokens, windows, strict=True):
        row[: len(events)] = torch.from_numpy(events) + SPECIAL
    return tokens


def mask_tokens(
    tokens_BT: Tensor, vocab: int, rate: float, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Inputs with a share `rate` of the events hidden, and which they are, both (B, T).

    Of those chosen 80 % become MASK, 10 % a random event, 10 % stay (Devlin et al. 2019).
    """
    draws = torch.from_numpy(random.random((2, *tokens_BT.shape)))
    others = torch.from_numpy(random.integers(SPECIAL, SPECIAL + vocab, tokens_BT.shape))
    chosen = (draws[0] < rate) & (tokens_BT != PAD)
    inputs = tokens_BT.masked_fill(chosen & (draws[1] < 0.8), MASK)
    return torch.where(chosen & (draws[1] >= 0.9), others, inputs), chosen


def same_user_loss(first_UD: Tensor, second_UD: Tensor, temperature: float) -> Tensor:
    """-mean_i log(e^(z_i.z'_i/t) / sum_j e^(z_i.z'_j/t)), z of length 1 (Chen et al. 2020, eq. 1).

    One direction only, as the paper's code has it. A single user has no others: the loss is 0.
    """
    z, other = F.normalize(first_UD, dim=-1), F.normalize(second_UD, dim=-1)
    return F.cross_entropy(z @ other.T / temperature, torch.arange(len(z)))


def two_segments(
    events: int, plan: Plan, random: np.random.Generator
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Two spans (start, stop) of a history of `events`, at least `plan.gap` apart, in any order.

    Their lengths are drawn apart, so that length does not tell who it is.
    """
    longest = min(plan.length, events - plan.gap - plan.shortest)
    first = int(random.integers(plan.shortest, longest + 1))
    longest = min(plan.length, events - plan.gap - first)
    second = int(random.integers(plan.shortest, longest + 1))
    slack = events - plan.gap - first - second
    lead, behind = sorted(int(n) for n in random.integers(0, slack + 1, size=2))
    start = first + plan.gap + behind
    spans = (lead, lead + first), (start, start + second)
    return spans if random.random() < 0.5 else spans[::-1]


def train(histories: Sequence[Ints], shape: Shape, plan: Plan, seed: int) -> Encoder:
    """An encoder trained on the users' histories: masked behaviour plus, if asked, same user.

    A user is in a batch once (twice would make a false negative); users with fewer than two
    segments' events are passed over. Raises UserError where fewer than two users have enough.
    """
    least = 2 * plan.shortest + plan.gap
    enough = [h for h in histories if len(h) >= least]
    if len(enough) < 2:
        fix = "give a longer log, or a smaller length"
        raise UserError(f"{len(enough)} users have {least} events or more; training needs 2", fix)
    encoder = untrained(shape, seed)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=plan.learning_rate, weight_decay=0.01)
    warm = max(1, round(0.06 * plan.steps))
    for step in range(plan.steps):
        rate = min((step + 1) / warm, (plan.steps - step) / max(1, plan.steps - warm))
        optimizer.param_groups[0]["lr"] = plan.learning_rate * rate
        loss = _loss(encoder, enough, plan, stream(seed, "user_model", step))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
    return encoder


def untrained(shape: Shape, seed: int) -> Encoder:
    """The encoder as it is before training: a control, a random function of the events."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "user_model", "weights"))
        return Encoder(shape)


def _loss(
    encoder: Encoder, histories: Sequence[Ints], plan: Plan, random: np.random.Generator
) -> Tensor:
    users = random.choice(len(histories), min(plan.batch, len(histories)), replace=False)
    pairs = [(histories[u], two_segments(len(histories[u]), plan, random)) for u in users]
    segments = [events[slice(*spans[i])] for i in (0, 1) for events, spans in pairs]
    tokens = pad(segments)
    inputs, chosen = mask_tokens(tokens, encoder.shape.vocab, plan.mask_rate, random)
    x = encoder(inputs)
    targets = tokens[chosen] - SPECIAL
    loss = F.cross_entropy(encoder.event_logits(x[chosen]), targets, reduction="sum")
    loss = loss / max(1, len(targets))
    if plan.contrastive:
        z = encoder.project(encoder.pooled(x, tokens))
        loss = loss + same_user_loss(z[: len(users)], z[len(users) :], plan.temperature)
    return loss
