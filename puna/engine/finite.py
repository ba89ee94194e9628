"""Whether some finite value may fit a JSON schema, which recursion can make impossible.

`may_end({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})` is False.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MAX_ROUNDS = 50  # more than any schema written by hand needs; then llguidance decides


def may_end(schema: Mapping[str, Any]) -> bool:
    """Whether a finite value may fit: False only where what a value must hold never ends.

    The least fixed point over the references within the schema; of other keywords than those that
    make a value hold another, the best is assumed. Raises RecursionError for a very deep schema.
    """
    targets: dict[str, Any] = {}  # what each reference that was met points to
    met: list[str] = []
    ending: set[str] = set()  # those that a finite value may fit

    def ends(node: Any) -> bool:
        if not isinstance(node, Mapping) or "enum" in node or "const" in node:
            return True
        ref = node.get("$ref")
        if isinstance(ref, str) and re.fullmatch(r"#(/.*)?", ref, re.DOTALL):
            if ref not in targets:
                targets[ref] = _pointed(schema, ref)
                met.append(ref)
            if ref not in ending:
                return False
        choices = [_list(node.get(key)) for key in ("anyOf", "oneOf")]
        return all(map(ends, _held(node))) and all(any(map(ends, c)) for c in choices if c)

    for _ in range(MAX_ROUNDS):
        if ends(schema):
            return True
        before = len(ending)
        for ref in met:  # grows under way
            ends(targets[ref])
        for ref in reversed(met):  # the last were met in those before
            if ends(targets[ref]):
                ending.add(ref)
        if len(ending) == before:
            return False
    return True


def _held(node: Mapping[str, Any]) -> list[Any]:
    """The schemas that a value has to fit too, and those of the values that it must hold."""
    parts = [*_list(node.get("allOf"))]
    if node.get("type") == "object":
        known, other = node.get("properties"), node.get("additionalProperties")
        known = known if isinstance(known, Mapping) else {}
        parts += [known.get(key, other) for key in _list(node.get("required"))]
    least = node.get("minItems")
    if node.get("type") == "array" and isinstance(least, int) and least > 0:
        parts += [*_list(node.get("prefixItems")), node.get("items")][:least]
    return parts


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _pointed(schema: Any, ref: str) -> Any:
    """What a reference within the schema points to (RFC 6901), None for nothing."""
    for step in ref.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, Mapping):
            schema = schema.get(key)
        else:
            schema = schema[int(key)] if key.isdecimal() and int(key) < len(_list(schema)) else None
    return schema
