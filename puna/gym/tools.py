"""Tools: Python functions whose JSON schema comes from types and docstring, and checked dispatch.

`Toolbox(lookup).dispatch(ToolCall("call_0", "lookup", '{"id": 7}'))` is a ToolResult, whatever the
arguments are.
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from puna.core.messages import Text, ToolCall, ToolResult

MAX_ARGUMENTS = 10_000  # characters of a call's arguments
_KINDS: dict[type, str] = {int: "integer", float: "number", bool: "boolean", str: "string"}


class ToolError(Exception):
    """The call is at fault; the text is what the caller is told."""


class Toolbox:
    """Some functions as tools; `schemas` are their OpenAI function dictionaries.

    A parameter is int, float, bool, str, a Literal or a list of one of them, `| None` where it may
    be null; `Annotated[int, "what it is"]` describes it; one with a default may be left out. A
    method's `self` is no parameter: it is given to `dispatch`.
    """

    def __init__(self, *functions: Callable[..., Any]) -> None:
        self.functions = {f.__name__: f for f in functions}
        self.schemas = tuple(schema(f) for f in functions)
        self._parameters = {
            s["function"]["name"]: s["function"]["parameters"] for s in self.schemas
        }

    def dispatch(self, call: ToolCall, *given: Any) -> ToolResult:
        """Run `call`, with `given` before its arguments; a call at fault gives an is_error result.

        Raises only what the function itself raises, unless that is a ToolError.
        """
        try:
            arguments = self.arguments(call.name, call.arguments)
            value = self.functions[call.name](*given, **arguments)
        except ToolError as error:
            return ToolResult(call.id, (Text(f"error: {error}"),), True)
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        return ToolResult(call.id, (Text(text),))

    def arguments(self, name: str, text: str) -> dict[str, Any]:
        """The checked arguments of a call of tool `name`. Raises ToolError saying what is wrong."""
        if name not in self.functions:
            raise ToolError(f"no tool {name!r:.40}, only {', '.join(self.functions)}")
        values = _read(text)
        wanted = self._parameters[name]["properties"]
        for key, value in values.items():
            if key not in wanted:
                raise ToolError(
                    f"{name} takes no {key!r:.40}, only {', '.join(wanted) or 'nothing'}"
                )
            _check(key, value, wanted[key])
        missing = [k for k in self._parameters[name]["required"] if k not in values]
        if missing:
            raise ToolError(f"{name} needs {', '.join(missing)}")
        return values


def schema(function: Callable[..., Any]) -> dict[str, Any]:
    """The OpenAI function dictionary of `function`: its name, docstring and parameters' types.

    Raises TypeError for a parameter whose type is not one that JSON knows.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    properties, required = {}, []
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "self":
            continue
        if name not in hints or parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            raise TypeError(f"{function.__name__}: parameter {name} needs a type and a name")
        properties[name] = _type(hints[name], f"{function.__name__}: parameter {name}")
        if parameter.default is parameter.empty:
            required.append(name)
    parameters = {"type": "object", "properties": properties, "required": required}
    described = {
        "name": function.__name__,
        "description": inspect.getdoc(function) or "",
        "parameters": {**parameters, "additionalProperties": False},
    }
    return {"type": "function", "function": described}


def _type(hint: Any, where: str) -> dict[str, Any]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return {**_type(inner[0], where), "description": str(inner[1])}
    if origin in (typing.Union, types.UnionType):
        some = [_type(h, where) for h in inner if h is not type(None)]
        if len(some) == 1 and len(inner) == 2 and isinstance(some[0]["type"], str):
            made = {**some[0], "type": [some[0]["type"], "null"]}
            return {**made, "enum": [*made["enum"], None]} if "enum" in made else made
    if origin is typing.Literal and len({type(v) for v in inner}) == 1 and type(inner[0]) in _KINDS:
        return {"type": _KINDS[type(inner[0])], "enum": list(inner)}
    if origin is list:
        return {"type": "array", "items": _type(inner[0], where)}
    if hint in _KINDS:
        return {"type": _KINDS[hint]}
    raise TypeError(f"{where} is {hint}, which is no type of JSON's")


def _read(text: str) -> dict[str, Any]:
    if len(text) > MAX_ARGUMENTS:
        raise ToolError(f"the arguments have {len(text)} characters, {MAX_ARGUMENTS} are too many")
    try:
        values = strict_json(text, "an argument", "the arguments are not JSON")
        text.encode()
        json.dumps(values, ensure_ascii=False).encode()  # "\ud800" is JSON, and no text
    except UnicodeEncodeError:
        raise ToolError("the arguments are not valid Unicode") from None
    except RecursionError:
        raise ToolError("the arguments are not JSON") from None
    except ValueError as error:
        raise ToolError(str(error)) from None
    if not isinstance(values, dict):
        raise ToolError("the arguments are not a JSON object")
    return values


def same_json(one: str, two: str) -> bool:
    """Whether two texts are the same JSON, however spelt; 1, 1.0, true and "1" are four values.

    Equal texts are, whatever they hold; others are not where one is no strict JSON.
    """
    if one == two:
        return True
    try:
        return _plainly(one) == _plainly(two)
    except ValueError:
        return False


def _plainly(text: str) -> str:
    try:
        return json.dumps(strict_json(text), sort_keys=True)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class _NotStrictError(ValueError):
    """What Python reads, and JSON or one who reads it once would not."""


def strict_json(text: str, key: str = "a key", otherwise: str = "it is not JSON") -> Any:
    """What `text` says in JSON, without keys twice and NaN.

    Raises ValueError: `key` is given twice, NaN and the like are not JSON, or `otherwise`.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise _NotStrictError(f"{key} is given twice")
        return found

    def no_constant(name: str) -> Any:
        raise _NotStrictError(f"{name} is not JSON")

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=no_constant)
    except _NotStrictError:
        raise
    except (ValueError, RecursionError):
        raise ValueError(otherwise) from None


def _check(name: str, value: Any, wanted: Mapping[str, Any]) -> None:
    """Raises ToolError where `value` does not fit the schema `wanted`."""
    kinds = wanted["type"] if isinstance(wanted["type"], list) else [wanted["type"]]
    if not any(_is(value, kind) for kind in kinds):
        raise ToolError(f"{name} must be {' or '.join(kinds)}")
    if "enum" in wanted and value not in wanted["enum"]:
        known = ", ".join(str(v) for v in wanted["enum"] if v is not None)
        raise ToolError(f"{name} must be one of {known}")
    if isinstance(value, list):
        for item in value:
            _check(name, item, wanted["items"])


def _is(value: Any, kind: str) -> bool:
    match kind:
        case "integer":  # 64 bits: what databases hold
            return type(value) is int and -(2**63) <= value < 2**63
        case "number":
            return type(value) is float or _is(value, "integer")
        case "boolean":
            return type(value) is bool
        case "string":
            return type(value) is str
        case "array":
            return type(value) is list
    return value is None
