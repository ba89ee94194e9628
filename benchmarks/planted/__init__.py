"""Environments with known holes in five guises, and sound ones: what an audit is measured by.

`broken("a")` to `broken("e")` hold the same kinds of incident in different guises; `sound()` and
`sound2()` to `sound4()` are honest ones that look suspicious. Each maps a name to a target: a
file and a class in it.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

from puna.gym.environment import Environment

FOLDER = Path(__file__).parent


def broken(variant: str) -> dict[str, str]:
    """Name -> target of the broken environments of a variant, "a", "b", "c", "d" or "e"."""
    if variant not in ("a", "b", "c", "d", "e"):
        raise ValueError(f"variant is {variant!r}, not 'a', 'b', 'c', 'd' or 'e'")
    return {cls.name: _target(cls) for cls in classes(variant)}


def sound() -> dict[str, str]:
    """Name -> target of the sound environments."""
    return {cls.name: _target(cls) for cls in classes("sound")}


def sound2() -> dict[str, str]:
    """Name -> target of the second set of sound environments."""
    return {cls.name: _target(cls) for cls in classes("sound2")}


def sound3() -> dict[str, str]:
    """Name -> target of the third set of sound environments."""
    return {cls.name: _target(cls) for cls in classes("sound3")}


def sound4() -> dict[str, str]:
    """Name -> target of the fourth set of sound environments."""
    return {cls.name: _target(cls) for cls in classes("sound4")}


def classes(folder: str) -> list[type[Environment]]:
    """The environments that the modules of a folder define, in order of file and line."""
    found: list[type[Environment]] = []
    for path in sorted((FOLDER / folder).glob("[a-z]*.py")):
        module = importlib.import_module(f"{__name__}.{folder}.{path.stem}")
        found += [
            cls
            for cls in vars(module).values()
            if inspect.isclass(cls)
            and issubclass(cls, Environment)
            and cls.__module__ == module.__name__
            and cls.name
        ]
    return found


def _target(cls: type[Environment]) -> str:
    return f"{Path(inspect.getfile(cls)).resolve()}:{cls.__name__}"
