"""Strict readers of request bodies, and errors in the protocols' shapes.

`number({"n": 99}, "n", 1, 1, 16, whole=True)` raises `BadRequest("n is 99, must be 1 to 16")`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from puna.core.messages import Message

MAX_CHOICES = 16
MAX_STOPS = 4
MAX_TOP = 20
LONGEST_STOP = 1000  # characters
TOKENS = 10**7  # more are in no context


class BadRequest(ValueError):
    """A request that cannot be answered: one line, the parameter at fault, OpenAI's error code."""

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# What Anthropic's clients expect; other statuses below 500 are invalid requests.
_THEIRS = {404: "not_found_error", 413: "request_too_large", 503: "overloaded_error"}


def error_body(
    path: str, status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """An error as the protocol of `path` spells it: Anthropic's under /v1/messages, else OpenAI's.

    Errors of OpenAI's shape are {"error": {"message", "type", "param", "code"}}.
    """
    theirs = path.startswith("/v1/messages")
    kind = _KINDS.get(status) or (_THEIRS.get(status) if theirs else None)
    if kind is None:
        server = "api_error" if theirs else "server_error"
        kind = "invalid_request_error" if status < 500 else server
    if theirs:
        return {"type": "error", "error": {"type": kind, "message": message}}
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def json_object(raw: bytes) -> dict[str, Any]:
    """A body as a dictionary, total over any bytes."""
    try:
        data = json.loads(raw)
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(data, dict):
        raise BadRequest("the body is not a JSON object")
    return data


def number(
    data: Mapping[str, Any],
    name: str,
    default: float | None,
    least: float,
    most: float,
    whole: bool = False,
) -> float | None:
    """A number within bounds; `default` where there is none."""
    value = data.get(name)
    if value is None:
        return default
    kind = int if whole else int | float
    if not isinstance(value, kind) or isinstance(value, bool) or value != value:
        wanted = "a whole number" if whole else "a number"
        raise BadRequest(f"{name} is not {wanted}", name)
    if not least <= value <= most:
        shown = str(value) if isinstance(value, float) or abs(value) < 10**30 else "enormous"
        raise BadRequest(f"{name} is {shown}, must be {least:g} to {most:g}", name)
    return value


def whole(
    data: Mapping[str, Any], name: str, default: int | None, least: int, most: int
) -> int | None:
    """A whole number within bounds."""
    value = number(data, name, default, least, most, whole=True)
    return None if value is None else int(value)


def flag(data: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """True or false."""
    value = data.get(name)
    if not isinstance(value, bool | None):
        raise BadRequest(f"{name} is not true or false", name)
    return default if value is None else value


def words(data: Mapping[str, Any], name: str, default: str = "") -> str:
    """A text."""
    value = data.get(name)
    if not isinstance(value, str | None):
        raise BadRequest(f"{name} is not text", name)
    return default if value is None else value


def table(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object, empty where there is none."""
    value = data.get(name)
    if not isinstance(value, Mapping | None):
        raise BadRequest(f"{name} is not an object", name)
    return value or {}


def rows(data: Mapping[str, Any], name: str, where: str = "") -> list[Mapping[str, Any]]:
    """A list of objects, empty where there is none; `where` is what an error calls it."""
    value, where = data.get(name), where or name
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRequest(f"{where} is not a list", where)
    for i, row in enumerate(value):
        if not isinstance(row, Mapping):
            raise BadRequest(f"{where}[{i}] is not an object", f"{where}[{i}]")
    return value


def temperature(data: Mapping[str, Any], most: float = 2.0) -> float:
    """0 below a thousandth: logits divided by so little would overflow to the same answer."""
    given = float(number(data, "temperature", 1.0, 0.0, most) or 0.0)
    return given if given >= 1e-3 else 0.0


def stops(data: Mapping[str, Any], name: str = "stop", most: int = MAX_STOPS) -> tuple[str, ...]:
    """At most `most` texts at which an answer ends."""
    given = data.get(name)
    texts = [given] if isinstance(given, str) else given or []
    if not isinstance(texts, list) or len(texts) > most:
        raise BadRequest(f"{name} is neither text nor a list of at most {most} texts", name)
    if not all(isinstance(t, str) and 0 < len(t) <= LONGEST_STOP for t in texts):
        what = f"of 1 to {LONGEST_STOP} characters"
        raise BadRequest(f"{name} holds something that is not a text {what}", name)
    return tuple(texts)


def token_ids(given: object, where: str) -> tuple[int, ...]:
    """A prompt as token ids; whether the vocabulary has them is told later."""
    if not isinstance(given, list) or not given:
        raise BadRequest(f"{where} is not a list of at least one token id", where)
    if not all(type(i) is int and 0 <= i < 2**31 for i in given):
        raise BadRequest(f"{where} holds something that is no token id", where)
    return tuple(given)


def chat_messages(given: object) -> tuple[Message, ...]:
    """Messages in OpenAI's form."""
    if not isinstance(given, list) or not given:
        raise BadRequest("messages is not a list of at least one message", "messages")
    return read_each(given, "messages", Message.from_openai)


def read_each(
    items: Sequence[Any], where: str, read: Callable[[Mapping[str, Any]], Message]
) -> tuple[Message, ...]:
    """Each object as a message; what is wrong with one is said with its place."""
    out = []
    for i, item in enumerate(items):
        place = f"{where}[{i}]"
        if not isinstance(item, Mapping):
            raise BadRequest(f"{place} is not an object", place)
        try:
            out.append(read(item))
        except BadRequest:
            raise
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise BadRequest(f"{place}: {str(error)[:300]}", place) from None
    return tuple(out)


def tools(data: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Tools in OpenAI's form."""
    given = rows(data, "tools")
    for i, tool in enumerate(given):
        function = tool.get("function")
        where = f"tools[{i}]"
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadRequest(f"{where} has no function with a name", where)
        if not function["name"]:
            raise BadRequest(f"{where} has an empty name", where)
        if not isinstance(function.get("parameters"), Mapping | None):
            raise BadRequest(f"{where}: parameters is not a JSON schema", where)
    return tuple(given)


def tool_choice(given: object, tools: Sequence[Mapping[str, Any]]) -> str:
    """auto, none, required or a tool's name, which chat nests in a function and Responses not."""
    if given is None:
        return "auto" if tools else "none"
    if given in ("auto", "none", "required"):
        if given == "required" and not tools:
            raise BadRequest("tool_choice is 'required', and there are no tools", "tool_choice")
        return str(given)
    function = given.get("function", given) if isinstance(given, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        what = "tool_choice is not 'auto', 'none', 'required' or a function"
        raise BadRequest(what, "tool_choice")
    return known_choice(name, tools)


def known_choice(name: str, given: Sequence[Mapping[str, Any]]) -> str:
    """A tool's name. Raises BadRequest where there is no such tool."""
    names = [t["function"]["name"] for t in given]
    if name not in names:
        what = f"tool_choice names {name[:60]!r}, which is not among the tools"
        raise BadRequest(what, "tool_choice")
    return name


def schema_form(
    form: Mapping[str, Any], inner: Mapping[str, Any], where: str
) -> Mapping[str, Any] | None:
    """The schema an answer must fit, None for text; `form` has its type, `inner` the schema."""
    kind = form.get("type", "text")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise BadRequest(f"{where}: type is not text, json_object or json_schema", where)
    schema = inner.get("schema")
    if not isinstance(schema, Mapping):
        raise BadRequest(f"{where} has no schema", where)
    return schema
