"""Tables (TOML, `--set a.b=c`) into frozen dataclasses; a wrong key or type is one line.

`build(SFTConfig, {"steps": 50}, where="recipe.toml [sft]")`.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from puna.core.errors import UserError, nearest

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as tables. Raises UserError for a missing, unreadable or broken file."""
    try:
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise UserError(f"no recipe {path}", "see `ls recipes/`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error


def build(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """An instance of dataclass `cls` from a table; lists become tuples, tables classes.

    Where the class has `fill`, that adds to the table what follows from what it says.
    Raises UserError naming the key, what was found and the nearest known name.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            raise UserError(f"{where}: unknown key '{key}'", nearest(key, fields))
    fill = getattr(cls, "fill", None)
    table = fill(table) if fill else table
    values = {k: _convert(v, hints[k], f"{where}.{k}") for k, v in table.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING
        if required and field.default_factory is dataclasses.MISSING and name not in values:
            raise UserError(f"{where}: '{name}' is missing", f"add {name} = ...")
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, args, where)
    if origin is typing.Literal:
        if value not in args:
            raise UserError(f"{where} is {value!r}", nearest(str(value), map(str, args)))
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return build(hint, value, where)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(v, args[0], f"{where}[{i}]") for i, v in enumerate(value))
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {k: _convert(v, args[1], f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value).expanduser()
    plain = origin or hint
    if isinstance(value, plain) and not (plain is int and isinstance(value, bool)):
        return value
    name = getattr(plain, "__name__", str(plain))
    raise UserError(f"{where} is {value!r} ({type(value).__name__})", f"give a {name}")


def _convert_union(value: Any, args: tuple[Any, ...], where: str) -> Any:
    if value is None or (value == "none" and type(None) in args and str not in args):
        return None
    failure: UserError | None = None
    for arg in args:
        if arg is type(None):
            continue
        try:
            return _convert(value, arg, where)
        except UserError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def to_dict(config: Any) -> Any:
    """Plain JSON-able data of a config: dataclasses to dictionaries, paths to text."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(k): to_dict(v) for k, v in config.items()}
    if isinstance(config, Path):
        return str(config)
    if isinstance(config, Sequence) and not isinstance(config, str | bytes):
        return [to_dict(v) for v in config]
    return config


def parse_set(text: str) -> tuple[list[str], Any]:
    """`stage.key=value` -> (["stage", "key"], value); the value is TOML, or bare text.

    Raises UserError where there is no `=` or no key.
    """
    path, equals, raw = text.partition("=")
    keys = [k.strip() for k in path.split(".")]
    if not equals or not all(keys):
        raise UserError(f"--set {text}: not of the form key=value", "e.g. --set rl.steps=50")
    try:
        value = tomllib.loads(f"v = {raw}")["v"]
    except tomllib.TOMLDecodeError:
        value = raw
    return keys, value
