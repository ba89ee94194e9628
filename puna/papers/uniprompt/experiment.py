"""What the claims are measured with: `puna paper run uniprompt` calls `measure` a seed.

`measure(Config(quick=True), seed=0)["heterophilic.learned"]` -> accuracy on the test nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from puna.core.errors import UserError

from .graphs import Graph, Recipe, by_kind, synthetic
from .reading import read_graphs

ROWS = ("raw", "propagation", "gcn", "probe", "gpf", "knn", "fixed", "learned", "tuned")


@dataclass(frozen=True)
class Config:
    """The settings; `--set KEY=VALUE` changes one.

    Data: `data` is a folder with graphs of Planetoid's or geom-gcn's format. A kind (homophilic,
    heterophilic) that it has none of is made, of `nodes` nodes in `classes` classes, `homophilic`
    or `heterophilic` the share of edges within a class, `degree` edges a node, `words` words.

    Task: `shots` labels a class to learn from and `held` to choose a step by, `splits` of either
    number of shots a seed.

    Encoders: `encoders` names pretrainings, of width `hidden`, for `epochs` passes.

    Method: `k` neighbours, `kept` the share of the original graph after `steps` steps
    (tau^steps), `lr` and `decay` of heads, `prompt_lr` and `prompt_decay` of all else.

    `quick` takes half of the nodes and pretrainings, and smaller numbers of everything else.
    """

    quick: bool = False
    data: str = ""
    nodes: int = 400
    classes: int = 5
    homophilic: float = 0.8
    heterophilic: float = 0.15
    degree: float = 5.0
    words: int = 200
    shots: tuple[int, ...] = (1, 5)
    held: int = 2
    splits: int = 2
    encoders: tuple[str, ...] = ("dgi", "grace", "graphmae", "edges")
    hidden: int = 128
    epochs: int = 150
    k: int = 10
    kept: float = 0.82
    steps: int = 150
    lr: float = 0.05
    decay: float = 0.01
    prompt_lr: float = 0.003
    prompt_decay: float = 0.1

    def __post_init__(self) -> None:
        """Raises ValueError for a number out of its range."""
        for name in ("held", "splits", "hidden", "epochs", "k", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not self.shots or min(self.shots) < 1 or not self.encoders:
            raise ValueError("shots must be numbers from 1, and at least one encoder is needed")
        if not 0 <= self.kept <= 1:
            raise ValueError("kept must lie within 0..1")
        if self.nodes < 60:
            raise ValueError("nodes must be at least 60: up to 50 neighbours of each are taken")
        self.recipe(self.homophilic), self.recipe(self.heterophilic)

    def recipe(self, homophily: float) -> Recipe:
        """The made graph of that homophily."""
        return Recipe(homophily, self.nodes, self.classes, self.degree, self.words)

    @property
    def small(self) -> Config:
        """The quick form."""
        return replace(
            self,
            quick=False,
            nodes=max(10 * self.classes, 60, self.nodes // 2),
            encoders=self.encoders[::2],
            splits=1,
            hidden=min(self.hidden, 64),
            epochs=min(self.epochs, 60),
            steps=min(self.steps, 80),
        )


def graphs_of(config: Config, seed: int) -> Mapping[str, list[Graph]]:
    """Kind -> the graphs of the user's folder; where it has none of a kind, a made one."""
    found = by_kind(read_graphs(Path(config.data)) if config.data else [])
    homophily = {"homophilic": config.homophilic, "heterophilic": config.heterophilic}
    return {
        kind: graphs or [synthetic(config.recipe(homophily[kind]), f"made-{kind}", seed)]
        for kind, graphs in found.items()
    }


def measure(config: Config, seed: int) -> dict[str, float]:
    """One seed's numbers, every row on the same splits: `KIND.ROW`, and `NAME.ROW` of read graphs.

    `KIND.ROW` is a mean over the kind's graphs, `ceiling` the mean of the made graphs' ceilings.
    Raises UserError without torch-geometric, or for a malformed file.
    """
    try:
        import torch_geometric  # noqa: F401
    except ImportError:
        what = "uniprompt needs torch-geometric, which is not installed"
        raise UserError(what, "pip install 'puna[graphs]'") from None
    from .method import Training
    from .pretrain import Pretraining
    from .rows import Bench, Settings

    config = config.small if config.quick else config
    settings = Settings(
        config.encoders,
        config.shots,
        config.held,
        config.splits,
        config.k,
        config.kept,
        Pretraining(config.hidden, config.epochs),
        Training(config.steps, config.lr, config.decay, config.prompt_lr, config.prompt_decay),
    )
    out: dict[str, float] = {}
    ceilings = []
    for kind, graphs in graphs_of(config, seed).items():
        numbers = {g.name: Bench(g, settings, seed).numbers() for g in graphs}
        for name in next(iter(numbers.values())):
            out[f"{kind}.{name}"] = fmean(found[name] for found in numbers.values())
        for graph in graphs:
            if graph.ceiling is None:
                rows = numbers[graph.name]
                out |= {f"{graph.name}.{name}": value for name, value in rows.items()}
            else:
                out[f"{kind}.ceiling"] = graph.ceiling
                ceilings.append(graph.ceiling)
    if ceilings:
        out["ceiling"] = fmean(ceilings)
    return out


def plots(rows: list[dict[str, float]], directory: Path) -> None:
    """`rows.svg`: accuracy by row, a panel a kind of graph, a point a seed. Needs matplotlib."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    kinds = ("homophilic", "heterophilic")
    figure = Figure(figsize=(8, 3), layout="constrained")
    FigureCanvasSVG(figure)
    panels: Any = figure.subplots(1, 2, sharey=True)
    for axes, kind in zip(panels, kinds, strict=True):
        means = [fmean(row[f"{kind}.{name}"] for row in rows) for name in ROWS]
        axes.bar(range(len(ROWS)), means, color="#b8c4d6")
        for place, name in enumerate(ROWS):
            values = [row[f"{kind}.{name}"] for row in rows]
            axes.plot([place] * len(values), values, ".", color="#1f3a5f", markersize=4)
        if all(f"{kind}.ceiling" in row for row in rows):
            axes.axhline(
                fmean(row[f"{kind}.ceiling"] for row in rows), color="#888", linestyle="--"
            )
        axes.set_title(kind)
        axes.set_xticks(range(len(ROWS)), ROWS, rotation=45, ha="right")
    panels[0].set_ylabel("accuracy")
    figure.savefig(directory / "rows.svg", format="svg", metadata={"Date": None})
