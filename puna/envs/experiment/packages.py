"""What a repository may import inside the jail: the installed packages it needs, never itself.

`mounts_for(source)` shows these folders alone, so that no installed copy of the repository's own
package can be read there.
"""

from __future__ import annotations

import ast
import atexit
import os
import re
import sysconfig
import tempfile
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

from puna.envs.experiment.source import Source
from puna.sandbox import Mounts
from puna.sandbox.outer import LIBRARY, PACKAGES

SYSTEM_PACKAGES = Path("/usr/lib/python3/dist-packages")
BESIDE = {"tests", "test", "docs", "doc", "examples", "scripts", "setup", "conftest"}
_PUNA = Path(__file__).parent.parent.parent


def mounts_for(source: Source) -> Mounts:
    """The folders that a job of this repository sees."""
    folders = {f"{PACKAGES}/{path.name}": path for path in package_paths(source)}
    if source.paper:  # a paper imports `puna.core` and itself
        for name in ("__init__.py", "core"):
            folders[f"{LIBRARY}/puna/{name}"] = _PUNA / name
    if SYSTEM_PACKAGES.is_dir():
        folders[str(SYSTEM_PACKAGES)] = _nothing()
    return Mounts(folders=folders)


def package_paths(source: Source) -> list[Path]:
    """Files and folders of the installed packages that the repository imports, and of theirs."""
    own = own_names(source)
    hidden = {name for top in own for name in _owners().get(top, ())} | {"puna"}
    wanted = imported(source) - own
    todo = sorted({name for top in wanted for name in _owners().get(top, ())})
    seen: set[str] = set()
    paths: dict[str, Path] = {}
    while todo:
        name = todo.pop()
        if name.lower() in seen or name in hidden:
            continue
        seen.add(name.lower())
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        paths |= {p.name: p for p in _tops(found) if p.name not in own}
        todo += _required(found)
    return [paths[name] for name in sorted(paths)]


def visible(source: Source) -> Iterator[Path]:
    """Every Python file that a job of this repository could read outside its own folder."""
    library = Path(sysconfig.get_path("stdlib"))
    for place in (library, *package_paths(source)):
        if place.suffix == ".py":
            yield place
        for folder, folders, names in os.walk(place):
            folders[:] = [f for f in folders if f not in ("site-packages", "__pycache__")]
            yield from (Path(folder) / name for name in names if name.endswith(".py"))


def own_names(source: Source) -> set[str]:
    """What the repository itself may be imported as, from its root or from `src`."""
    paths = [p.removeprefix("src/") for p in source.files if p.endswith(".py")]
    return {path.split("/")[0].removesuffix(".py") for path in paths} - BESIDE


def imported(source: Source) -> set[str]:
    """The first names of all imports of the repository."""
    found: set[str] = set()
    for text in source.texts.values():
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").partition(".")[0])
    return found


@cache
def _owners() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


def _tops(found: metadata.Distribution) -> Iterator[Path]:
    for top in sorted({file.parts[0] for file in found.files or ()}):
        path = Path(str(found.locate_file(top)))
        if top not in ("..", "__pycache__") and not top.endswith(".pth") and path.exists():
            yield path


def _required(found: metadata.Distribution) -> list[str]:
    """Names of the packages it requires, those of extras left out."""
    lines = [line for line in found.requires or () if "extra ==" not in line]
    return [m[0] for line in lines if (m := re.match(r"[A-Za-z0-9._-]+", line))]


@cache
def _nothing() -> Path:
    """An empty folder, to be shown in the place of one that must not be seen."""
    made = tempfile.TemporaryDirectory(prefix="puna-nothing-")
    atexit.register(made.cleanup)
    Path(made.name).chmod(0o755)  # a job is another user
    return Path(made.name)
