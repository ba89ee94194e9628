"""`puna propose` on the command line: its options, and what it does with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro


@dataclass(frozen=True)
class Options:
    """What the command line says; see `puna.evals.propose.propose`."""

    env: tyro.conf.Positional[str]
    """An environment that has a proposer, such as proofs, or ./file.py."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The file of JSON lines; the same command goes on with it."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 100
    """How many proposals to make."""
    model: str = ""
    """An endpoint's address, or a run's or a stage's directory; none: drawn from a grammar."""
    model_name: str = ""
    """The model's name at the endpoint; asked for if not given."""
    api_key_env: str = ""
    """The environment variable that holds the endpoint's key."""
    tries: int = 8
    """Answers to each proposal, whose share of right ones is its difficulty."""
    shots: int = 12
    """Examples shown in a prompt."""
    max_tokens: int = 512
    """Tokens of one answer at most."""
    useful: tuple[float, float] = (0.0, 1.0)
    """The least and the largest share of right answers of a task worth having."""
    seed: int = 0
    """Names the random streams."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A setting of the environment, e.g. --set env.seconds=2."""


def act(given: Options, settings: Mapping[str, Any]) -> int:
    """Propose, and print what came of it."""
    from puna.evals.propose import print_proposed, propose

    asked = {k: v for k, v in vars(given).items() if k != "set"}
    print_proposed(propose(**asked, settings=settings, progress="auto"))
    return 0
