"""USE measured: what its claims say, on made users or on MovieLens, beside counts of events.

`measure(Config(quick=True), seed=0)` -> the numbers of one seed by name; README.md says which.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from puna.core.errors import UserError
from puna.core.ranks import ranks_of_own
from puna.core.rng import derive, stream

from . import protocol
from .made import EVENTS, Floats, Ids, likelihoods, make_log
from .method import Encoder, Shape
from .movielens import read_movielens
from .objectives import Training, padded, train

LENGTHS = (1_000, 20_000, 100_000)
CHECKED = 16  # users whose embeddings are compared form by form


@dataclass(frozen=True)
class Config:
    """The settings; `--set KEY=VALUE` changes one.

    `quick` takes a third of the users, a quarter of a period, an eighth of the steps. `data` is
    a folder with MovieLens 100K; then `users` and `train_users` are those of the data, a period is
    `real_period` events and `gap` is W. `users` are tested, `train_users` others trained on.
    History and context have `periods` periods of `period` events each. `objective` is a sum of clm,
    fbp and sup; `compared` is trained beside it. `window` is W; `steps`, `batch` users of two
    segments of `length` events, `gap` between them and `lr` are the training's; `width`, `layers`
    and `heads` the encoder's.
    """

    quick: bool = False
    data: str = ""
    users: int = 120
    train_users: int = 240
    periods: int = 16
    period: int = 250
    real_period: int = 5
    objective: str = "fbp+sup"
    compared: str = "clm"
    window: int = 5
    steps: int = 400
    batch: int = 32
    length: int = 128
    gap: int = 50
    lr: float = 2e-3
    width: int = 64
    layers: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that nothing can be measured with."""
        if self.users < 30 or self.train_users < 30:
            raise ValueError("users and train_users must be at least 30")
        if self.periods < 2 or self.period < 20 or self.real_period < 2:
            raise ValueError("periods must be at least 2, period 20 and real_period 2")
        Shape(EVENTS, self.width, self.layers, self.heads)
        self.training(self.objective)
        self.training(self.compared)

    def training(self, objective: str) -> Training:
        """How one encoder is trained."""
        sizes = (self.steps, self.batch, self.length, self.window, self.gap, self.lr)
        return Training(objective, *sizes)

    def sized(self) -> Config:
        """The settings that are measured with: smaller where `quick` says so."""
        config = replace(self, gap=self.window) if self.data else self  # its histories are short
        if not self.quick:
            return config
        return replace(
            config,
            quick=False,
            users=max(30, self.users // 3),
            train_users=max(30, self.train_users // 3),
            period=max(20, self.period // 4),
            steps=max(1, self.steps // 8),
        )


@dataclass(frozen=True)
class Users:
    """Who is trained on and who is tested: N users' histories, and contexts after them."""

    train: list[Ids]
    history_NT: Tensor
    context_NT: Tensor
    labels: dict[str, Floats]
    events: int
    period: int
    moved_N: Floats | None = None
    ceiling: float | None = None


def measure(config: Config, seed: int) -> dict[str, float]:
    """One seed's numbers: the method, the objective compared with, counts, and the ceiling."""
    config = config.sized()
    users = read_users(Path(config.data), config, seed) if config.data else made_users(config, seed)
    shown = protocol.count_views(users.history_NT, users.context_NT, users.period, users.events)
    encoder, loss = trained(config, config.objective, users, seed)
    other, _ = trained(config, config.compared, users, seed)
    views = protocol.embed(encoder, users.history_NT, users.context_NT, users.period)
    rival = protocol.embed(other, users.history_NT, users.context_NT, users.period)
    out = {
        "mrr_stateful": protocol.reid(views.history_ND, views.stateful_PND[-1]),
        "mrr_pool": protocol.reid(views.history_ND, views.pool_PND[-1]),
        "mrr_recent": protocol.reid(views.history_ND, views.recent_PND[-1]),
        "mrr_compared": protocol.reid(rival.history_ND, rival.stateful_PND[-1]),
        "mrr_counts": protocol.reid(shown.history_ND, shown.stateful_PND[-1]),
        "mrr_chance": float(np.mean(1 / np.arange(1, len(users.history_NT) + 1))),
    }
    if users.ceiling is not None:
        out["ceiling"] = users.ceiling
    for p in (0, 3):
        if p < config.periods - 1:
            out[f"mrr_stateful_{p + 1}"] = protocol.reid(views.history_ND, views.stateful_PND[p])
            out[f"mrr_pool_{p + 1}"] = protocol.reid(views.history_ND, views.pool_PND[p])
            out[f"mrr_recent_{p + 1}"] = protocol.reid(views.history_ND, views.recent_PND[p])
    out |= tasks(views, users, "") | tasks(rival, users, "_compared")
    out |= tasks(shown, users, "_counts")
    few = users.context_NT[:CHECKED]
    out["gap_state"] = protocol.state_gap(encoder, few, users.period)
    out["gap_forms"] = protocol.forms_gap(encoder, few[:, : 4 * users.period])
    out |= costs(encoder, users.period, seed)
    return out | {"loss": loss}


def tasks(views: protocol.Views, users: Users, ending: str) -> dict[str, float]:
    """The other tasks' scores, and the mean of the static ones as `static`."""
    scores = protocol.static(views.history_ND, users.labels)
    out = {"static": float(np.mean(list(scores.values()))), **scores}
    out["recognise"] = protocol.recognise(views)
    out["forecast"] = protocol.forecast(views, users.context_NT, users.period, users.events)
    if users.moved_N is not None:
        out["drift"] = protocol.drift(views, users.moved_N)
    return {name + ending: value for name, value in out.items()}


def costs(encoder: Encoder, period: int, seed: int) -> dict[str, float]:
    """What a refresh costs beside reading all anew, as the history grows; and what is kept."""
    found = protocol.cost(encoder, period, LENGTHS, seed)
    short, middle, long = LENGTHS
    found["speedup_20k"] = found[f"recompute_s_{middle}"] / found[f"refresh_s_{middle}"]
    found["growth_refresh"] = found[f"refresh_s_{long}"] / found[f"refresh_s_{short}"]
    found["growth_recompute"] = found[f"recompute_s_{long}"] / found[f"recompute_s_{short}"]
    state = encoder.begin(1)
    kept = (state.layers_LBHKK, state.seen_B, state.total_BD)
    found["state_bytes"] = float(sum(t.numel() * t.element_size() for t in kept))
    return found


def trained(config: Config, objective: str, users: Users, seed: int) -> tuple[Encoder, float]:
    """An encoder trained on the train users; every objective starts from the same weights."""
    torch.manual_seed(derive(seed, "use-init") % 2**31)
    encoder = Encoder(Shape(users.events, config.width, config.layers, config.heads))
    loss = train(encoder, users.train, config.training(objective), seed)
    return encoder.eval(), loss


def made_users(config: Config, seed: int) -> Users:
    """Users of `made.py`, with the MRR of who knows everybody's true habits as ceiling."""
    periods, period = config.periods, config.period
    others = make_log(seed, "train", config.train_users, periods, period)
    log = make_log(seed, "test", config.users, 2 * periods, period, fresh=periods)
    labels = dict(log.labels)
    moved = labels.pop("drift")
    ids = torch.from_numpy(log.events_NT)
    history, context = ids[:, : periods * period], ids[:, periods * period :]
    ceiling = float(ranks_of_own(likelihoods(log, periods, periods)).mean())
    return Users(list(others.events_NT), history, context, labels, EVENTS, period, moved, ceiling)


def read_users(folder: Path, config: Config, seed: int) -> Users:
    """MovieLens: users with a context and as much history are tested, the others trained on.

    Half of the long ones, drawn by the seed, are trained on too: seeds differ in their users.
    """
    ratings = read_movielens(folder)
    length = config.periods * config.real_period
    long = [u for u, h in enumerate(ratings.histories) if len(h) >= 2 * length]
    tested = sorted(stream(seed, "use-split").permutation(long)[: len(long) // 2].tolist())
    if len(tested) < 30:
        what = f"{folder}: {len(long)} users have {2 * length} events or more"
        raise UserError(what, "60 are needed; give --set real_period=2")
    train_on = [h for u, h in enumerate(ratings.histories) if u not in set(tested)]
    histories = [ratings.histories[u][:-length] for u in tested]
    context = torch.from_numpy(np.stack([ratings.histories[u][-length:] for u in tested]))
    labels = {name: values[tested] for name, values in ratings.labels.items()}
    events, period = 2 * len(ratings.kinds), config.real_period
    return Users(train_on, padded(histories), context, labels, events, period)


def plots(rows: list[dict[str, float]], directory: Path) -> None:
    """Cost against the history's length, and MRR period by period, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "use", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7, 2.8), layout="constrained")
        cost, rank = figure.subplots(1, 2)
        for name in ("refresh", "recompute"):
            means = [np.mean([row[f"{name}_s_{n}"] for row in rows]) for n in LENGTHS]
            cost.loglog(LENGTHS, means, "o-", label=name)
        cost.set(xlabel="events of history", ylabel="seconds")
        for name in ("stateful", "pool", "recent"):
            keys = [k for k in (f"mrr_{name}_1", f"mrr_{name}_4", f"mrr_{name}") if k in rows[0]]
            means = [np.mean([row[key] for row in rows]) for key in keys]
            rank.plot([k.removeprefix("mrr_") for k in keys], means, "o", label=name)
        rank.tick_params(axis="x", labelrotation=60, labelsize=7)
        rank.set(ylabel="MRR")
        for axes in (cost, rank):
            axes.legend(frameon=False, fontsize=8)
        figure.savefig(directory / "use.svg", format="svg", metadata={"Date": None})
