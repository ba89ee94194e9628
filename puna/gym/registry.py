"""Finding environments: by id (`arithmetic`), by file (`./mine.py`), by entry point of a package.

`load_environment("arithmetic", {"terms": 2})`. `./mine.py:ClassName` names one of several in a
file; `reasoning_gym:coin_flip` and the like are other libraries' environments (`FOREIGN`).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from puna.core.config import build, to_dict
from puna.core.errors import UserError, nearest
from puna.core.files import sha256_file, sha256_json
from puna.gym import GYM_VERSION
from puna.gym.environment import Environment, SingleTurn

GROUP = "puna.environments"


class BrokenEnvironmentError(UserError):
    """The environment is there, but its code fails when it is imported."""


_SHIPPED = Path(__file__).parent.parent / "envs"
# PREFIX:REST is what `load(REST, settings, seed) -> Environment` of the module makes.
FOREIGN = {
    "reasoning_gym": "puna.compat.reasoning_gym",
    "gymnasium": "puna.compat.gymnasium",
    "trl": "puna.compat.trl",
    "verifiers": "puna.compat.verifiers",
    "openenv": "puna.compat.openenv",
}


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
    prefix, colon, rest = name.partition(":")
    if colon and prefix in FOREIGN:
        return _load_foreign(prefix, rest, settings or {}, seed)
    cls, folder = _find(name)
    env = cls(build(cls.Config, settings or {}, where=f"env {name}"), seed)
    facts = to_dict(env.config)
    if env.data_files:
        facts = [facts, [_file_hash(path, name) for path in env.data_files]]
    env.content_hash = _hash_folder(folder, sha256_json(facts))  # type: ignore[attr-defined]
    return env


def _file_hash(path: Path, name: str) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise UserError(f"env {name}: cannot read {path}: {error.strerror}") from error


def _load_foreign(prefix: str, rest: str, settings: Mapping[str, Any], seed: int) -> Environment:
    """What the prefix's module makes of `rest`; it may have set `content_hash` by itself."""
    module = importlib.import_module(FOREIGN[prefix])
    env: Environment = module.load(rest, settings, seed)
    if not getattr(env, "content_hash", ""):
        facts = [prefix, rest, env.version, repr(env.config)]
        env.content_hash = foreign_hash(module, facts)  # type: ignore[attr-defined]
    return env


def foreign_hash(adapter: Any, facts: Sequence[Any]) -> str:
    """A content hash over the module that adapts, JSON-able `facts` and the gym's version."""
    return _hash_folder(Path(adapter.__file__), sha256_json(list(facts)))


def import_object(target: str) -> tuple[Any, Path]:
    """The object that `./file.py:Name` or `package.module:Name` names, and the file it is in.

    Raises UserError where there is no such module or name.
    """
    where, colon, wanted = target.rpartition(":")
    if not colon or not where or not wanted:
        raise UserError(f"'{target}' names no object", "e.g. ./file.py:Name or package.module:Name")
    module = import_module(where)
    if not hasattr(module, wanted):
        raise UserError(f"{where} has no '{wanted}'", nearest(wanted, _public(module)))
    return getattr(module, wanted), Path(module.__file__ or where)


def import_module(where: str) -> Any:
    """The module in file `./file.py`, or `package.module` (the working directory is searched too).

    Raises UserError where it cannot be imported.
    """
    if where.endswith(".py") or "/" in where:
        return _import_file(Path(where))
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(where)
    except (Exception, SystemExit) as error:
        raise UserError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error


def _public(module: Any) -> list[str]:
    own = [n for n, x in vars(module).items() if getattr(x, "__module__", "") == module.__name__]
    return [name for name in own if not name.startswith("_")]


def _find(name: str) -> tuple[type[Environment], Path]:
    if name.endswith(".py") or "/" in name or ".py:" in name:
        file, colon, wanted = name.rpartition(".py:")
        path = Path(file + ".py" if colon else name)
        return _only_environment(_import_file(path), str(path), wanted if colon else ""), path
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
    prefix, colon, _ = name.partition(":")
    known = (f"{p}:..." for p in FOREIGN) if colon else known_environments()
    raise UserError(f"no environment '{name}'", nearest(f"{prefix}:..." if colon else name, known))


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


def _only_environment(module: Any, name: str, wanted: str = "") -> type[Environment]:
    """The Environment class that `module` defines; of several, the one that is `wanted`."""
    found = [
        cls
        for cls in vars(module).values()
        if inspect.isclass(cls)
        and issubclass(cls, Environment)
        and cls not in (Environment, SingleTurn)
        and cls.__module__ == module.__name__
    ]
    if wanted:
        known = [c.__name__ for c in found]
        found = [c for c in found if c.__name__ == wanted]
        if not found:
            raise UserError(f"{name} has no Environment class '{wanted}'", nearest(wanted, known))
    if len(found) != 1:
        names = ", ".join(c.__name__ for c in found) or "none"
        fix = f"name one: {name}:{found[0].__name__}" if found else ""
        raise UserError(f"{name} must define one Environment class, found: {names}", fix)
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
