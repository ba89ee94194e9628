"""`puna propose experiment` on the command line: its options, and what it does with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from puna.envs.experiment.propose import MaskProposer


@dataclass(frozen=True)
class Options:
    """What the command line says; see `puna.envs.experiment.env.ExperimentConfig`."""

    repo: str = ""
    """The folder of a repository of Python."""
    command: str = ""
    """A shell line, run in the root of the repository, that ends by printing a JSON object."""
    second: str = ""
    """The same with other settings (a seed); judged by as well, and never shown."""
    results: str = ""
    """The JSON file that the command writes, where it does not print the numbers."""
    paper: str = ""
    """A paper that ships, or a paper's folder, in place of repository and command."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    """How many functions are taken out for a task, 1 to 5."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("tasks.jsonl")
    """The file of JSON lines; the same command goes on with it."""
    most: int = 100
    """So many of the choices of n functions at most, drawn at random where there are more."""
    seed: int = 0
    """Names the random streams."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A further setting of the environment, e.g. --set env.seconds=10."""


def act(given: Options, settings: Mapping[str, Any]) -> int:
    """Say what can be taken out, propose, and print what came of it."""
    from puna.evals.propose import print_proposed, propose
    from puna.gym.registry import load_environment

    source = {
        "repo": given.repo,
        "paper": given.paper,
        "command": given.command,
        "second": given.second,
        "results": given.results,
        "masked": given.n,
    }
    settings = {**settings, **{k: v for k, v in source.items() if v}}
    proposer: Any = load_environment("experiment", settings).proposer()
    _say(proposer)
    n = max(1, min(given.most, proposer.count))
    found = propose(
        "experiment", n=n, out=given.out, settings=settings, seed=given.seed, progress="auto"
    )
    print_proposed(found)
    return 0


def _say(proposer: MaskProposer) -> None:
    """How many functions there are to choose from, and which stay in spite of being called."""
    from puna.core.printable import printable

    print(f"{len(proposer.functions)} functions can be taken out, in {proposer.count:,} choices")
    for name, why in proposer.refused.items():
        print(printable(f"  {name} stays: {why}"))
