"""What USE is trained on: the next W events, the same user, and the next event to compare with.

`train(encoder, histories, Training(objective="fbp+sup"), seed=0)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from puna.core.rng import stream

from .method import PAD, Encoder

Ids = NDArray[np.int64]
OBJECTIVES = ("clm", "fbp", "sup")


@dataclass(frozen=True)
class Training:
    """One training: `objective` is a sum of clm, fbp and sup; rows are two segments a user.

    `window` is W, the events ahead that fbp predicts; `gap` events lie between the two segments,
    at least W of them, or the second would be the first's labels.
    """

    objective: str = "fbp+sup"
    steps: int = 400
    users: int = 32
    length: int = 128
    window: int = 5
    gap: int = 50
    lr: float = 2e-3

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown objective, a gap below W, or a count below 1."""
        unknown = set(self.objective.split("+")) - set(OBJECTIVES)
        if unknown:
            raise ValueError(f"no objective {unknown.pop()!r}; they are {', '.join(OBJECTIVES)}")
        if self.gap < self.window:
            raise ValueError(f"a gap of {self.gap} shows segments' labels; give {self.window}")
        if min(self.steps, self.users, self.length, self.window) < 1 or self.users < 2:
            raise ValueError("steps, length and window must be at least 1, and users at least 2")


def future_labels(ids_BT: Tensor, window: int, events: int) -> tuple[Tensor, Tensor]:
    """(B, T, V) with 1 where the event comes in the next `window` places, and (B, T) which count.

    A place counts where it is real and has `window` real events after it. Pads, which stand at the
    end of rows, are no event.
    """
    B, T = ids_BT.shape
    slots = torch.where(ids_BT >= 0, ids_BT, events)
    labels = torch.zeros(B, T, events + 1)
    for ahead in range(1, min(window, T - 1) + 1):
        labels[:, : T - ahead].scatter_(2, slots[:, ahead:, None], 1.0)
    counts = torch.zeros(B, T, dtype=torch.bool)
    counts[:, : max(0, T - window)] = ids_BT[:, window:] >= 0
    return labels[..., :events], counts


def future_loss(encoder: Encoder, hidden_BTD: Tensor, ids_BT: Tensor, window: int) -> Tensor:
    """L_FBP: mean binary cross-entropy of sigmoid(W_f h) over counted places and event types."""
    labels, counts = future_labels(ids_BT, window, encoder.shape.events)
    logits = encoder.future(hidden_BTD[counts])
    if not len(logits):
        return hidden_BTD.sum() * 0.0
    return F.binary_cross_entropy_with_logits(logits, labels[counts])


def next_loss(encoder: Encoder, hidden_BTD: Tensor, ids_BT: Tensor) -> Tensor:
    """CLM: cross-entropy of the next event, the table of events being the output layer too."""
    logits = hidden_BTD[:, :-1] @ encoder.table.weight.T
    return F.cross_entropy(logits.flatten(0, 1), ids_BT[:, 1:].flatten(), ignore_index=PAD)


def mean_hidden(hidden_BTD: Tensor, ids_BT: Tensor) -> Tensor:
    """(B, D): mean over real places; 0 for a row of pads."""
    real = (ids_BT >= 0)[..., None]
    return (hidden_BTD * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


def same_user_loss(z_BD: Tensor, other_BD: Tensor, temperature: float = 0.07) -> Tensor:
    """L_SUP: -log of the softmax of own against others' cosines; in the denominator z' of all.

    One direction only, as published: z against every z'.
    """
    cosines = F.normalize(z_BD, dim=-1) @ F.normalize(other_BD, dim=-1).T
    return F.cross_entropy(cosines / temperature, torch.arange(len(z_BD)))


def loss(encoder: Encoder, ids_BT: Tensor, training: Training) -> Tensor:
    """The sum of the objectives; the first half of the rows are first segments, in users' order."""
    hidden = encoder.hidden(ids_BT)
    total = torch.zeros(())
    for name in training.objective.split("+"):
        if name == "fbp":
            total = total + future_loss(encoder, hidden, ids_BT, training.window)
        elif name == "clm":
            total = total + next_loss(encoder, hidden, ids_BT)
        else:
            first, second = encoder.project(mean_hidden(hidden, ids_BT)).chunk(2)
            total = total + same_user_loss(first, second)
    return total


def segments(history: Ids, length: int, gap: int, random: np.random.Generator) -> tuple[Ids, Ids]:
    """Two pieces of a history, in time's order, with at least `gap` events between them.

    Shorter than `length` where the history is short. Raises ValueError where it has no two events
    so far apart.
    """
    length = min(length, (len(history) - gap) // 2)
    if length < 1:
        raise ValueError(f"{len(history)} events have no two segments {gap} apart")
    first = int(random.integers(len(history) - 2 * length - gap + 1))
    second = int(random.integers(first + length + gap, len(history) - length + 1))
    return history[first : first + length], history[second : second + length]


def padded(rows: Sequence[Ids], length: int = 0) -> Tensor:
    """(B, T): rows side by side, short ones filled with pads at their end."""
    out = np.full((len(rows), max(length, *map(len, rows))), PAD, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return torch.from_numpy(out)


def train(encoder: Encoder, histories: Sequence[Ids], training: Training, seed: int) -> float:
    """Train in place with AdamW, 6 % of warm-up, then a linear fall; returns the last losses' mean.

    Raises ValueError where fewer than two histories hold two segments `gap` apart.
    """
    whole = [h for h in histories if len(h) >= 2 * training.window + training.gap]
    if len(whole) < 2:
        raise ValueError(f"{len(whole)} histories are long enough for a gap of {training.gap}")
    users = min(training.users, len(whole))
    optimizer = torch.optim.AdamW(encoder.parameters(), training.lr, weight_decay=0.01)
    warm = max(1, round(0.06 * training.steps))
    losses = []
    for step in range(training.steps):
        random = stream(seed, "use-batch", step)
        chosen = random.choice(len(whole), size=users, replace=False)
        pairs = [segments(whole[u], training.length, training.gap, random) for u in chosen]
        rows = [first for first, _ in pairs] + [second for _, second in pairs]
        share = min((step + 1) / warm, (training.steps - step) / max(1, training.steps - warm))
        for group in optimizer.param_groups:
            group["lr"] = training.lr * share
        value = loss(encoder, padded(rows), training)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        losses.append(value.item())
    return float(np.mean(losses[-20:]))
