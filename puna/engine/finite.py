"""Whether some finite value may fit a JSON schema, which recursion can make impossible.

`may_end({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})` is False.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def may_end(schema: Mapping[str, Any]) -> bool:
    """Whether a finite value may fit: False only where what a value must hold never ends."""
    ending: set[str] = set()  # references to schemas that a finite value may fit
    seen: set[str] = set()

    def ends(node: Any) -> bool:
        if not isinstance(node, Mapping) or "enum" in node or "const" in node:
            return True
        ref = node.get("$ref")
        if isinstance(ref, str) and re.fullmatch(r"#(/.*)?", ref, re.DOTALL):
            seen.add(ref)
            if ref not in ending:
                return False
        parts = list(_list(node.get("allOf")))
        if node.get("type") == "object":
            held = node.get("properties")
            other = node.get("additionalProperties")
            held = held if isinstance(held, Mapping) else {}
            parts += [held.get(key, other) for key in _list(node.get("required"))]
        if node.get("type") == "array" and (least := node.get("minItems")):
            first = [*_list(node.get("prefixItems"))]
            parts += [*first, node.get("items")][: least if isinstance(least, int) else 1]
        choices = [_list(node.get(key)) for key in ("anyOf", "oneOf")]
        return all(map(ends, parts)) and all(any(map(ends, c)) for c in choices if c)

    while True:
        found = ends(schema)
        new = {ref for ref in seen - ending if ends(_pointed(schema, ref))}
        if found or not new:
            return found
        ending |= new


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
