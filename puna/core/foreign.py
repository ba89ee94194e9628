"""A table in a JSON file that others wrote: its fields by the names they have there.

`Table(json.loads(text), path).whole("hidden_size", 1)`; refusals name file, field and value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.core.errors import UserError

LIMIT = 1 << 31


@dataclass(frozen=True)
class Table:
    """`data` out of the file `path`; `prefix` leads to it there, as "vision_config."."""

    data: Mapping[str, Any]
    path: Path
    prefix: str = ""

    def refusal(self, name: str, wanted: str) -> UserError:
        """The complaint about the field `name`, which holds what is not supported."""
        if name not in self.data:
            return UserError(f"{self.path} has no field {self.prefix}{name}", f"needs {wanted}")
        where, value = f"{self.path}: {self.prefix}{name}", self.data[name]
        return UserError(f"{where} = {value!r:.200} is not supported", f"needs {wanted}")

    def need(self, name: str) -> Any:
        """The value of a field. Raises UserError where it is absent or null."""
        if name not in self.data:
            what = f"{self.path} has no field {self.prefix}{name}"
            raise UserError(what, "copy the file from the model's source")
        if self.data[name] is None:
            raise self.refusal(name, "a value")
        return self.data[name]

    def whole(self, name: str, least: int, default: int | None = None) -> int:
        """A whole number from `least` on. Raises UserError; without a default also if absent."""
        value = self.need(name) if default is None else self.data.get(name, default)
        if type(value) is not int or not least <= value < LIMIT:
            raise self.refusal(name, f"a whole number from {least} to {LIMIT - 1}")
        return value

    def inner(self, name: str) -> Table:
        """The table that a field holds, empty where it is absent or null. Raises UserError."""
        value = self.data.get(name)
        if value is not None and not isinstance(value, Mapping):
            raise self.refusal(name, "a table")
        return Table(value or {}, self.path, f"{self.prefix}{name}.")
