"""What a stage is given and what it leaves: a directory in, a directory out.

Every stage module has a frozen `Config` and `run(ctx, config) -> dict`; `run.py` calls it.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from puna.core.progress import Progress


class StageError(RuntimeError):
    """A stage had to stop (loss not finite, too many failures): one line, last checkpoint kept."""


Weights = Literal["auto", "fp8", "int4"]
"""How decoding on a GPU holds feed-forward weights; "auto" as the model has them."""


@dataclass(frozen=True)
class Machine:
    """Choices made once for a run and stored with it: they decide the bits of the result."""

    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    workers: int = 2
    weights: Weights = "auto"


@dataclass
class StageContext:
    """One stage of a run: its own directory, its parents' directories, its seed."""

    id: str
    dir: Path
    seed: int
    machine: Machine
    parents: Mapping[str, Path] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    keep_checkpoints: int = 2

    @property
    def parent(self) -> Path | None:
        """The first parent's directory: the stage this one starts from."""
        return next(iter(self.parents.values()), None)


def cpu_seconds() -> float:
    """User plus system seconds of this process and its finished children."""
    mine = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime + children.ru_utime + children.ru_stime


class Stopwatch:
    """CPU and wall seconds since it was made, on top of what an interrupted run had used."""

    def __init__(self, cpu: float = 0.0, wall: float = 0.0) -> None:
        self._cpu, self._wall = cpu - cpu_seconds(), wall - time.monotonic()

    @property
    def cpu(self) -> float:
        """CPU-seconds."""
        return self._cpu + cpu_seconds()

    @property
    def wall(self) -> float:
        """Wall-clock seconds."""
        return self._wall + time.monotonic()
