"""The paper's measurements: `puna paper run user_model [--data ml-100k]`, a dictionary a seed.

`puna paper run user_model --set table=vectors.parquet` reports on a table of any model's vectors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from puna.core.errors import UserError
from puna.core.files import write_json
from puna.core.ranks import auc
from puna.core.rng import derive, stream

from .baselines import Embed, fit_baselines
from .logs import WINDOWS, Log, Windows, cut, read_movielens, shares
from .measurement import Measurement, measure_table, report_text
from .measures import directions, explained, reciprocal_ranks
from .method import Encoder, Plan, Shape, train, untrained
from .synthetic import Truth, make_log
from .tables import Floats, Table, read_table

QUICK = {"users": 300, "length": 32, "steps": 150, "batch": 24, "width": 32}
MOVIELENS = {"length": 32}
# What is printed of the baselines and variants; of the method, every figure.
COMPARED = (
    "reid_mrr", "split_half", "icc", "content_r2", "mantel", "nuisance_length",
    "predict_auc", "predict_r2",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """The settings; `--set KEY=VALUE` changes one.

    quick: smaller settings, where none is given. data: a folder with MovieLens 100K; without one a
    log is made. table: a file of vectors to report on instead, other: the same users' vectors from
    a second training, for what two of them can tell.
    users: of the made log, half of them to train on. length: events of a training segment and of a
    window at most. width, layers, heads: the encoder's. steps, batch (users), learning_rate: its
    training's.
    """

    quick: bool = False
    data: str = ""
    table: str = ""
    other: str = ""
    users: int = 1000
    length: int = 64
    width: int = 64
    layers: int = 2
    heads: int = 4
    steps: int = 600
    batch: int = 32
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        """Raises ValueError for a size that cannot be."""
        if min(self.width, self.layers, self.heads) < 1:
            raise ValueError("width, layers and heads must be 1 or more")
        if min(self.steps, self.batch) < 1 or not self.learning_rate > 0:
            raise ValueError("steps and batch must be 1 or more, learning_rate above 0")
        if self.length < 8 or self.users < 100:
            raise ValueError("length must be 8 or more, users 100 or more")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")

    def sized(self) -> Config:
        """With the sizes of `quick` and of `data` where the user gave no other."""
        plain = {f.name: f.default for f in dataclasses.fields(Config)}
        sizes: dict[str, Any] = (QUICK if self.quick else {}) | (MOVIELENS if self.data else {})
        return dataclasses.replace(
            self, **{k: v for k, v in sizes.items() if getattr(self, k) == plain[k]}
        )


def measure(config: Config, seed: int) -> dict[str, float]:
    """One seed's numbers: the method's plain, others' with their name in front.

    `mbp_`: without the same-user objective. `learned_`: learned positions. `untrained_`. The
    baselines: `counts_`, `pca_`, `pairs_`, `noise_`. On the made log also the ceilings.
    """
    config = config.sized()
    log, truth = _log(config, seed)
    order = stream(seed, "user_model", "split").permutation(len(log.events))
    trained = np.sort(order[: len(order) // 2])
    held = np.sort(order[len(order) // 2 :])
    windows = cut(log.only(held), config.length, seed)
    users = held[windows.users_N]
    members = cut(log.only(trained), config.length, seed)
    encoders = _encoders(log.only(trained), config, seed)
    embeds: dict[str, Embed] = {name: encoder.embed for name, encoder in encoders.items()}
    embeds |= fit_baselines(members.short, log.vocab, config.width, seed)
    tables = {name: _table(log, windows, users, embed) for name, embed in embeds.items()}
    second = tables.pop("second")
    numbers = measure_table(tables["full"], second, seed).numbers()
    for name, table in tables.items():
        if name != "full":
            found = measure_table(table, seed=seed).numbers()
            numbers |= {f"{name}_{key}": found[key] for key in COMPARED if key in found}
    for name in ("full", "learned"):
        prefix = "" if name == "full" else f"{name}_"
        long = encoders[name].embed(windows.long)
        numbers[f"{prefix}long_reid_mrr"] = _mrr(long)
        numbers[f"{prefix}long_gain"] = _mrr(long) - numbers[f"{prefix}reid_mrr"]
    of_members = encoders["full"].embed(members.short)
    numbers["membership_auc"] = _membership(of_members, tables["full"].vectors_RD)
    if truth is not None:
        numbers |= _ceilings(numbers, tables["full"], truth.only(held), windows)
    return numbers


def _log(config: Config, seed: int) -> tuple[Log, Truth | None]:
    if config.data:
        return read_movielens(Path(config.data)), None
    return make_log(config.users, 8 * config.length, seed)


def _encoders(log: Log, config: Config, seed: int) -> Mapping[str, Encoder]:
    """The method, its variants, and the same once more from another seed."""
    shape = Shape(log.vocab, config.width, config.layers, config.heads)
    learned = dataclasses.replace(shape, positions="learned", max_length=4 * config.length)
    plan = Plan(
        config.steps,
        config.batch,
        config.length,
        shortest=config.length // 4,
        gap=config.length // 4,
        learning_rate=config.learning_rate,
    )
    alone = dataclasses.replace(plan, contrastive=False)
    return {
        "full": train(log.events, shape, plan, seed),
        "second": train(log.events, shape, plan, derive(seed, "second")),
        "mbp": train(log.events, shape, alone, seed),
        "learned": train(log.events, learned, plan, seed),
        "untrained": untrained(shape, seed),
    }


def _table(log: Log, windows: Windows, users: Any, embed: Embed) -> Table:
    content = shares(windows.short, log.vocab)
    return Table(
        log.names_N[users],
        np.repeat(np.arange(len(users)), WINDOWS),
        embed(windows.short),
        {f"event{event}": content[:, event] for event in range(log.vocab)},
        {"length": np.array([float(len(events)) for events in windows.short])},
        {name: label[users] for name, label in log.labels_N.items()},
        {"cohort": log.cohort_N[users]},
    )


def _mrr(long_RD: Floats) -> float:
    return float(reciprocal_ranks(long_RD[0::2], long_RD[1::2]).mean())


def _membership(inside_RD: Floats, outside_RD: Floats) -> float:
    """How well one who has the vectors tells whom the encoder was trained on, as an AUC.

    Training drew the vectors of a user's windows together: their cosine is the guess.
    """
    unit_RD = directions(np.concatenate([inside_RD, outside_RD]))
    closeness = (unit_RD[::WINDOWS] * unit_RD[WINDOWS - 1 :: WINDOWS]).sum(1)
    member = np.arange(len(closeness)) < len(inside_RD) // WINDOWS
    return auc(closeness, member.astype(np.float64))


def _ceilings(
    numbers: Mapping[str, float], table: Table, truth: Truth, windows: Windows
) -> dict[str, float]:
    """What knowing the users' ways would earn; `ceiling` is that of `reid_mrr`."""
    found = {"ceiling": float(truth.own_ranks(windows).mean())}
    for kind in ("auc", "r2"):
        scores = []
        for name, label in table.labels_N.items():
            if f"{kind}_{name}" in numbers:
                best = truth.expected_N[name][windows.users_N]
                share = explained(label[:, None], best[:, None])[0]
                scores.append(auc(best, label) if kind == "auc" else float(share))
                found[f"ceiling_{kind}_{name}"] = scores[-1]
        found[f"ceiling_predict_{kind}"] = float(np.mean(scores))
    return found


def report(config: Config, directory: Path) -> str:
    """The measurement report on `config.table`, also as `measurement.json`; "" without a table.

    Raises UserError naming the file and row that is wrong.
    """
    if not config.table:
        if config.other:
            raise UserError("--set other= without table=", "name the first table, --set table=FILE")
        return ""
    path = Path(config.table).expanduser()
    other = read_table(Path(config.other).expanduser()) if config.other else None
    found: Measurement = measure_table(read_table(path), other)
    write_json(directory / "measurement.json", dataclasses.asdict(found))
    return report_text(str(path), found)


def plots(rows: Sequence[Mapping[str, float]], directory: Path) -> None:
    """Each embedding's mean and its seeds, for re-identification and for prediction, as SVG."""
    from matplotlib.figure import Figure

    names = ("", "mbp_", "learned_", "untrained_", "pairs_", "pca_", "counts_", "noise_")
    for key, ceiling in (("reid_mrr", "ceiling"), ("predict_auc", "ceiling_predict_auc")):
        figure = Figure(figsize=(6, 3), layout="constrained")
        axes = figure.subplots()
        for place, name in enumerate(reversed(names)):
            values = [row[name + key] for row in rows]
            axes.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.4)
            axes.plot([np.mean(values)], [place], "|", color="black", markersize=16)
        labels = [name.rstrip("_") or "full" for name in reversed(names)]
        axes.set_yticks(range(len(labels)), labels)
        if all(ceiling in row for row in rows):
            best = float(np.mean([row[ceiling] for row in rows]))
            axes.axvline(best, color="tab:red", linestyle=":", label="ceiling")
            axes.legend()
        axes.set_xlabel(f"{key}, {len(rows)} seeds")
        figure.savefig(directory / f"{key}.svg", metadata={"Date": None})
