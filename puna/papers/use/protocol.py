"""The tests that embeddings are put to: period by period, once on a history, and for their cost.

`views = embed(encoder, history, context, period=250)`, then `reid(views)`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from puna.core.ranks import auc
from puna.core.rng import stream

from .method import PAD, Encoder, State, pieces, retain_chunk, retain_recurrent
from .probes import one_hot, probe_scores, r2, reciprocal_ranks, ridge, shares

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Views:
    """Every user seen in several ways: N users, P periods of the context.

    `history_ND` embeds the history at once, `habits_PND` each of its first P periods by itself. Of
    the context, which starts without a state: `recent_PND` embeds each period alone, `pool_PND` is
    the mean of those so far, `stateful_PND` reads on from the last period's state.
    """

    history_ND: Floats
    habits_PND: Floats
    recent_PND: Floats
    pool_PND: Floats
    stateful_PND: Floats


def embed(encoder: Encoder, history_NT: Tensor, context_NT: Tensor, period: int) -> Views:
    """The views of an encoder. Contexts are whole periods; a history is at least as long.

    Histories may have pads at their end.
    """
    first, parts = split(history_NT, context_NT, period)
    recent = np.stack([_rows(encoder.encode(part)) for part in parts])
    return Views(
        _rows(encoder.encode(history_NT)),
        np.stack([_rows(encoder.encode(part)) for part in first]),
        recent,
        _running_mean(recent),
        np.stack([_rows(state) for state in refreshed(encoder, context_NT, period)]),
    )


def split(history_NT: Tensor, context_NT: Tensor, period: int) -> list[list[Tensor]]:
    """The history's first periods, as many as the context has, and the context's."""
    alike = history_NT[:, : context_NT.shape[1]]
    return [pieces(ids, period) for ids in (alike, context_NT)]


def refreshed(encoder: Encoder, context_NT: Tensor, period: int) -> list[State]:
    """The state after each period, each read on top of the one before."""
    states, state = [], None
    for part in pieces(context_NT, period):
        state = encoder.encode(part, state)
        states.append(state)
    return states


def count_views(history_NT: Tensor, context_NT: Tensor, period: int, events: int) -> Views:
    """The trivial baseline: shares of events, pooled where the encoder has a state."""
    first, last = split(history_NT, context_NT, period)
    parts = np.stack([counts(part, events) for part in last])
    pool = np.stack([shares(part) for part in parts.cumsum(axis=0)])
    return Views(
        shares(counts(history_NT, events)),
        np.stack([shares(counts(part, events)) for part in first]),
        np.stack([shares(part) for part in parts]),
        pool,
        pool,
    )


def counts(ids_NT: Tensor, events: int) -> Floats:
    """(N, V): how often each user did what."""
    out = np.zeros((len(ids_NT), events))
    for row, ids in zip(out, ids_NT.numpy(), strict=True):
        row += np.bincount(ids[ids != PAD], minlength=events)
    return out


def _rows(state: State) -> Floats:
    rows: Floats = state.embedding().double().numpy()
    return rows


def _running_mean(x_PND: Floats) -> Floats:
    mean: Floats = x_PND.cumsum(axis=0) / np.arange(1, len(x_PND) + 1)[:, None, None]
    return mean


def reid(known_ND: Floats, query_ND: Floats) -> float:
    """MRR of finding each user's history from what is known of the context."""
    return float(reciprocal_ranks(query_ND, known_ND).mean())


def recognise(views: Views) -> float:
    """Share of single context periods whose user a linear probe names that learnt from the habits.

    One class a user, one row a user and period.
    """
    _, n, width = views.habits_PND.shape
    classes = np.tile(np.eye(n), (len(views.habits_PND), 1))
    queries = views.recent_PND.reshape(-1, width)
    said = ridge(views.habits_PND.reshape(-1, width), classes, queries).argmax(axis=1)
    return float((said == np.tile(np.arange(n), len(views.recent_PND))).mean())


def forecast(views: Views, context_NT: Tensor, period: int, events: int) -> float:
    """R^2 of the shares of events in the last period, from what was known before it (5 folds)."""
    last = shares(counts(context_NT[:, -period:], events))
    return r2(probe_scores(views.stateful_PND[-2], last), last)


def drift(views: Views, moved_N: Floats) -> float:
    """AUC of the angle between history and context as a sign of users whose habits moved."""
    mean = views.history_ND.mean(axis=0)
    a, b = views.history_ND - mean, views.stateful_PND[-1] - mean
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return auc(-(a * b).sum(axis=1) / np.maximum(lengths, 1e-12), moved_N)


def static(history_ND: Floats, labels: dict[str, Floats]) -> dict[str, float]:
    """A score for each label from the history's embedding, by a linear probe over 5 folds.

    AUC for a label of 0 and 1, the mean of one-against-rest AUCs for several classes, R^2 for any
    other number.
    """
    out = {}
    for name, y in labels.items():
        if len(np.unique(y)) > 8:
            out[name] = r2(probe_scores(history_ND, y[:, None]), y[:, None])
        else:
            hot = one_hot(y)
            scores = probe_scores(history_ND, hot)
            columns = range(1 if hot.shape[1] == 2 else 0, hot.shape[1])
            out[name] = float(np.mean([auc(scores[:, c], hot[:, c]) for c in columns]))
    return out


def forms_gap(encoder: Encoder, ids_NT: Tensor) -> float:
    """The largest difference between embeddings by the three forms, in 64 bits."""
    wide = Encoder(encoder.shape).double()
    wide.load_state_dict(encoder.state_dict())
    parallel = wide.encode(ids_NT, chunk=ids_NT.shape[1]).embedding()
    others = [wide.encode(ids_NT, chunk=c, retain=retain_chunk) for c in (1, 7, 16, 64)]
    others.append(wide.encode(ids_NT, retain=retain_recurrent))
    return max(float((other.embedding() - parallel).abs().max()) for other in others)


def state_gap(encoder: Encoder, context_NT: Tensor, period: int) -> float:
    """The largest difference between reading on from states and reading all anew, in any period."""
    worst = 0.0
    for p, state in enumerate(refreshed(encoder, context_NT, period), 1):
        anew = encoder.encode(context_NT[:, : p * period])
        worst = max(worst, float((state.embedding() - anew.embedding()).abs().max()))
    return worst


def cost(encoder: Encoder, period: int, lengths: tuple[int, ...], seed: int) -> dict[str, float]:
    """Seconds of a refresh by one period and of reading all anew, for histories of `lengths`.

    Processor time of this process; the least of five tries of a refresh, one of reading anew.
    """
    random, out = stream(seed, "use-cost"), {}
    new = torch.from_numpy(random.integers(encoder.shape.events, size=(1, period)))
    for length in lengths:
        life = torch.from_numpy(random.integers(encoder.shape.events, size=(1, length)))
        state = encoder.encode(life)
        tries = [_seconds(encoder, new, state) for _ in range(5)]
        out[f"refresh_s_{length}"] = min(tries)
        out[f"recompute_s_{length}"] = _seconds(encoder, torch.cat([life, new], dim=1), None)
    return out


def _seconds(encoder: Encoder, ids_1T: Tensor, state: State | None) -> float:
    begun = time.process_time()
    encoder.encode(ids_1T, state).embedding()
    return time.process_time() - begun
