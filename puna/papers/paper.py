"""Finding a paper, by its name or by its folder, and importing what it does.

`load_paper("use").experiment.measure(config, seed=0)`; `load_paper("./mypaper")` is the same.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from puna.core.claims import Claim, read_claims
from puna.core.errors import UserError, nearest

HERE = Path(__file__).parent
TEMPLATE = HERE / "_template"


@dataclass(frozen=True)
class Paper:
    """A paper's folder, the module `experiment` in it, and its claims.

    `code` is the hash of the folder's Python files: what numbers were measured with.
    """

    name: str
    folder: Path
    experiment: Any
    claims: tuple[Claim, ...]
    code: str


def known_papers() -> dict[str, str]:
    """Name -> what it is in a line, of the papers that ship; nothing of them is imported."""
    folders = sorted(p.parent for p in HERE.glob("*/experiment.py"))
    return {f.name: _about(f) for f in folders if not f.name.startswith("_")}


def _about(folder: Path) -> str:
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    return (text or "no description").splitlines()[0]


def load_paper(name: str) -> Paper:
    """The paper called `name`, or the one in a folder (`./mypaper`).

    Raises UserError where there is none, or its files are not what a paper's must be.
    """
    if "/" in name or name.startswith("."):
        folder = Path(name).expanduser().resolve()
        module = _import_folder(folder)
    elif name in known_papers():
        folder = HERE / name
        module = _import(f"puna.papers.{name}.experiment", folder)
    else:
        raise UserError(f"no paper '{name}'", nearest(name, known_papers()))
    config = getattr(module, "Config", None)
    fields = (
        {f.name for f in dataclasses.fields(config)} if dataclasses.is_dataclass(config) else ()
    )
    if not {"quick", "data"} <= set(fields):
        what = f"{folder / 'experiment.py'} has no dataclass Config with `quick` and `data`"
        raise UserError(what, f"see {TEMPLATE / 'experiment.py'}")
    if not callable(getattr(module, "measure", None)):
        what = f"{folder / 'experiment.py'} has no function measure(config, seed)"
        raise UserError(what, f"see {TEMPLATE / 'experiment.py'}")
    claims = read_claims(folder / "claims.toml")
    return Paper(folder.name, folder, module, claims, _hash_code(folder))


def _import_folder(folder: Path) -> ModuleType:
    """`experiment` of the package that a folder is, imported anew under a name of its own."""
    for name in ("__init__.py", "experiment.py"):
        if not (folder / name).is_file():
            raise UserError(f"no file {folder / name}", f"copy {TEMPLATE} to start a paper")
    package = "puna_paper_" + hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        del sys.modules[name]
    places = [str(folder)]
    spec = importlib.util.spec_from_file_location(
        package, folder / "__init__.py", submodule_search_locations=places
    )
    assert spec is not None
    sys.modules[package] = importlib.util.module_from_spec(spec)
    return _import(f"{package}.experiment", folder)


def _import(module: str, folder: Path) -> ModuleType:
    try:
        return importlib.import_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        what = f"{folder} cannot be imported: {type(error).__name__}: {error}"
        raise UserError(what) from error


def _hash_code(folder: Path) -> str:
    state = hashlib.sha256()
    for file in _sources(folder):
        name = file.relative_to(folder).as_posix()
        state.update(name.encode() + b"\0" + file.read_bytes())
    return state.hexdigest()[:16]


def _sources(folder: Path) -> Iterator[Path]:
    return (p for p in sorted(folder.rglob("*.py")) if "__pycache__" not in p.parts)
