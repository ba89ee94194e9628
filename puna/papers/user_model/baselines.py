"""What an encoder has to beat: counts, their principal components, pairs of neighbours, noise.

`fit_baselines(train_windows, vocab=64, width=64)["pca"](windows)` -> (R, 64).

R windows, V events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from puna.core.rng import stream

from .logs import shares
from .tables import Floats, Ints

Embed = Callable[[Sequence[Ints]], Floats]


def fit_baselines(
    windows: Sequence[Ints], vocab: int, width: int, seed: int
) -> Mapping[str, Embed]:
    """Embeddings by name, fitted on windows of users who are not measured.

    counts: log(1 + count) of each event. pca: `width` principal components of TF-IDF. pairs: those
    of the counts of neighbours, in either order. noise: a random vector a window.
    """
    rarity = _rarity(windows, vocab)
    return {
        "counts": lambda rows: log_counts(rows, vocab),
        "pca": _components(lambda rows: shares(rows, vocab) * rarity, windows, width),
        "pairs": _components(lambda rows: np.log1p(pair_counts(rows, vocab)), windows, width),
        "noise": lambda rows: stream(seed, "noise").standard_normal((len(rows), width)),
    }


def log_counts(windows: Sequence[Ints], vocab: int) -> Floats:
    """log(1 + how often each event is in each window), (R, V)."""
    return np.log1p(np.stack([np.bincount(events, minlength=vocab) for events in windows]))


def pair_counts(windows: Sequence[Ints], vocab: int) -> Floats:
    """How often each two events are neighbours, in either order, (R, V (V + 1) / 2)."""
    table = np.zeros((vocab, vocab), dtype=np.int64)
    upper = np.triu_indices(vocab)
    table[upper] = np.arange(len(upper[0]))
    place = np.maximum(table, table.T)
    rows = [
        np.bincount(place[events[:-1], events[1:]], minlength=len(upper[0])) for events in windows
    ]
    return np.stack(rows).astype(np.float64)


def _rarity(windows: Sequence[Ints], vocab: int) -> Floats:
    """log(windows / windows with the event), (V,), each counted once more than it is."""
    present = (shares(windows, vocab) > 0).sum(0)
    return np.asarray(np.log((1 + len(windows)) / (1 + present)) + 1)


def _components(features: Embed, windows: Sequence[Ints], width: int) -> Embed:
    """The first `width` principal components of features, with axes fitted on `windows`."""
    x = features(windows)
    centre = x.mean(0)
    _, power, axes = np.linalg.svd(x - centre, full_matrices=False)
    axes = axes[power > 1e-9 * power[0]][:width]
    return lambda rows: (features(rows) - centre) @ axes.T
