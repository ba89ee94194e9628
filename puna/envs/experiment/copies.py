"""Other copies of a function: in the repository, and wherever else a job could read.

`twins(source, "stats.py:mean")` are functions of the same repository with the same syntax tree.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from puna.envs.experiment.masking import Function, fingerprint
from puna.envs.experiment.packages import visible
from puna.envs.experiment.source import Source

TELLING = 3  # words of a function that a file must hold to be looked at


def twins(source: Source, name: str) -> list[str]:
    """Other functions of the repository that do the same, by syntax tree."""
    known = _prints(source)
    print_ = next((p for p, names in known.items() if name in names), "")
    return [other for other in known.get(print_, ()) if other != name]


@lru_cache(maxsize=16)
def _prints(source: Source) -> Mapping[str, list[str]]:
    found = defaultdict(list)
    for name, function in source.functions.items():
        if print_ := fingerprint(function):
            found[print_].append(name)
    return found


@lru_cache(maxsize=16)
def elsewhere(source: Source, names: tuple[str, ...]) -> Mapping[str, str]:
    """Function -> a file outside the repository, in sight of a job, that holds a copy of it.

    Looked for by the function's own name, in the standard library and the packages shown.
    """
    wanted = {name: source.functions[name] for name in names}
    words = {name: _words(function) for name, function in wanted.items()}
    prints = {name: fingerprint(function) for name, function in wanted.items()}
    found: dict[str, str] = {}
    for path in visible(source):
        data = _bytes(path)
        here = [n for n in wanted if prints[n] and all(word in data for word in words[n])]
        for name in here:
            known = Source(files={"copy.py": data}).functions.values()
            if any(fingerprint(f) == prints[name] for f in known):
                found.setdefault(name, str(path))
    return found


def _words(function: Function) -> list[bytes]:
    """`def NAME`, and the longest names that a copy would have as well."""
    nodes = [n for statement in function.body for n in ast.walk(statement)]
    known = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    known |= {n.arg for n in nodes if isinstance(n, ast.keyword) and n.arg}
    longest = sorted(known, key=lambda w: (-len(w), w))[:TELLING]
    return [f"def {function.node.name}".encode(), *(word.encode() for word in longest)]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
