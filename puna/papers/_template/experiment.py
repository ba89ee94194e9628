"""What the paper's claims are measured with: `puna paper run ./FOLDER` calls `measure` a seed.

`measure(Config(quick=True), seed=0)` -> the errors of the method, of doing nothing, and the least.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from puna.core.errors import UserError
from puna.core.rng import stream

from .method import Floats, error, james_stein


@dataclass(frozen=True)
class Config:
    """The settings; `--set KEY=VALUE` changes one.

    `count` means of size `spread` are estimated, `repeats` times; `quick` takes a tenth of the
    repeats; `data` is a folder with `pairs.csv`, lines of an observation and its true mean.
    """

    quick: bool = False
    data: str = ""
    count: int = 20
    spread: float = 1.0
    repeats: int = 1000

    def __post_init__(self) -> None:
        """Raises ValueError for a count that is too small."""
        if self.count < 3 or self.repeats < 10:
            raise ValueError("count must be at least 3, and repeats at least 10")


def measure(config: Config, seed: int) -> dict[str, float]:
    """One seed's numbers: the method, the trivial baseline and the ceiling on the same draws."""
    random = stream(seed, "james-stein")
    pairs = read_pairs(Path(config.data) / "pairs.csv") if config.data else None
    rows = []
    for _ in range(config.repeats // 10 if config.quick else config.repeats):
        if pairs is None:
            means = config.spread * random.standard_normal(config.count)
            observed = means + random.standard_normal(config.count)
        else:
            observed, means = pairs[random.integers(len(pairs), size=config.count)].T
        # The best factor there is, which only the true means tell.
        best = float(observed @ means) / float(observed @ observed)
        rows.append([error(x, means) for x in (james_stein(observed, 1.0), observed)])
        rows[-1].append(error(best * observed, means))
    shrunk, plain, ceiling = np.mean(rows, axis=0)
    return {"error_shrunk": shrunk, "error_plain": plain, "ceiling": ceiling}


def read_pairs(path: Path) -> Floats:
    """(rows, 2): observation and true mean. Raises UserError naming file and row."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"cannot read {path}: {problem}") from problem
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            observed, mean = map(float, line.split(","))
        except ValueError:
            raise UserError(f"{path} row {number}: {line!r:.80}", "give two numbers") from None
        if not (math.isfinite(observed) and math.isfinite(mean)):
            raise UserError(f"{path} row {number}: not finite", "give two numbers")
        rows.append((observed, mean))
    if not rows:
        raise UserError(f"{path} is empty", "give two numbers a line")
    return np.array(rows)
