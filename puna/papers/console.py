"""`puna paper`: list the papers, run one, print its claims.

`act(Options("run", "use", quick=True))` is what the verb calls.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from puna.core.errors import UserError, nearest
from puna.core.printable import printable


@dataclass(frozen=True)
class Options:
    """What is given after `puna paper`."""

    action: tyro.conf.Positional[str]
    """list, run or claims."""
    name: tyro.conf.Positional[str] = ""
    """A paper's name, or a folder such as ./mypaper."""
    quick: bool = False
    """A small form of the experiment, under two minutes on two cores."""
    seeds: int = 5
    """How many seeds; a verdict takes 5. More can be added to a finished run."""
    data: str = ""
    """A folder of real data, which the paper's README describes; made data if not given."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A setting of the experiment, e.g. --set steps=100."""
    dir: Path | None = None
    """The run's directory; one in runs/ if not given. The same command goes on there."""
    json: bool = False
    """Print JSON instead of text."""


def act(given: Options) -> int:
    """Do what is asked; gives the exit status. Raises UserError for anything else."""
    actions = ("list", "run", "claims")
    if given.action not in actions:
        raise UserError(f"puna paper: no action '{given.action}'", nearest(given.action, actions))
    if given.action == "list":
        _list(given.json)
        return 0
    if not given.name:
        raise UserError(f"puna paper {given.action}: which one?", "`puna paper list` names them")
    from puna.core.threads import set_threads

    set_threads(0)
    from puna.papers.room import read_run, run_paper

    if given.action == "claims":
        found = read_run(given.name, given.dir, quick=given.quick, data=given.data)
    else:
        found = run_paper(
            given.name,
            given.dir,
            seeds=given.seeds,
            quick=given.quick,
            data=given.data,
            sets=given.set,
            progress="auto",
        )
    if given.json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        print(printable(found.text()))
        if found.rows:
            print(printable(f"\nin {found.directory}"))
    return 0


def _list(as_json: bool) -> None:
    from puna.papers.paper import TEMPLATE, known_papers

    if as_json:
        print(json.dumps(known_papers(), indent=1))
        return
    for name, about in known_papers().items():
        print(printable(f"{name:<12}{about}"))
    print(f"a folder to copy for another: {TEMPLATE}")
