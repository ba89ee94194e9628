"""Finding environments: by id (`arithmetic`), by file (`./mine.py`), by entry point of a package.

`load_environment("arithmetic", {"terms": 2})`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from puna.core.config import build, to_dict
from puna.core.errors import UserError, nearest
from puna.core.files import sha256_json
from puna.gym import GYM_VERSION
from puna.gym.environment import Environment, SingleTurn

GROUP = "puna.environments"


class BrokenEnvironmentError(UserError):
    """The environment is there, but its code fails when it is imported."""


_SHIPPED = Path(__file__).parent.parent / "envs"


def known_environments() -> dict[str, str]:
    """Name -> where it comes from, for those that ship and those installed packages declare."""
    shipped = {p.parent.name: "shipped" for p in sorted(_SHIPPED.glob("*/env.py"))}
    found = {e.name: e.value for e in entry_points(group=GROUP)}
    return {**found, **shipped}


def load_environment(
    name: str, settings: Mapping[str, Any] | None = None, seed: int = 0
) -> Environment:
    """The environment called `name` with its settings.

    Raises UserError for an unknown name, a file that cannot be imported, or a wrong setting.
    """
    cls, folder = _find(name)
    env = cls(build(cls.Config, settings or {}, where=f"env {name}"), seed)
    config_hash = sha256_json(to_dict(env.config))
    env.content_hash = _hash_folder(folder, config_hash)  # type: ignore[attr-defined]
    return env


def _find(name: str) -> tuple[type[Environment], Path]:
    if name.endswith(".py") or "/" in name:
        path = Path(name)
        return _only_environment(_import_file(path), name), path
    if (_SHIPPED / name / "env.py").exists():
        module = importlib.import_module(f"puna.envs.{name}.env")
        return _only_environment(module, name), _SHIPPED / name
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            try:
                cls = entry.load()
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                raise BrokenEnvironmentError(
                    f"{name} ({entry.value}) cannot be imported: {what}"
                ) from error
            return cls, Path(inspect.getfile(cls))
    raise UserError(f"no environment '{name}'", nearest(name, known_environments()))


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"no environment file {path}", "`puna env new NAME` writes one")
    name = "puna_env_" + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file", "name an environment or a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        what = f"{path} cannot be imported: {type(error).__name__}: {error}"
        raise BrokenEnvironmentError(what) from error
    return module


def _only_environment(module: Any, name: str) -> type[Environment]:
    found = [
        cls
        for cls in vars(module).values()
        if inspect.isclass(cls)
        and issubclass(cls, Environment)
        and cls not in (Environment, SingleTurn)
        and cls.__module__ == module.__name__
    ]
    if len(found) != 1:
        names = ", ".join(c.__name__ for c in found) or "none"
        raise UserError(f"{name} must define one Environment class, found: {names}")
    if not found[0].name:
        raise UserError(f"{name}: class {found[0].__name__} has no name", 'add name = "..."')
    return found[0]


def _hash_folder(path: Path, config_hash: str) -> str:
    """SHA-256 over the environment's files, its settings and the gym's version."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    state = hashlib.sha256(f"{GYM_VERSION}:{config_hash}".encode())
    for file in files:
        if "__pycache__" not in file.parts:
            state.update(file.name.encode() + b"\0" + file.read_bytes())
    return state.hexdigest()[:16]
