"""The chat-completions format on the server's side: requests read, answers and chunks built.

`read_request(b'{"messages": [{"role": "user", "content": "2+2="}]}')` -> `ChatRequest(...)`.
Pure functions without HTTP; the client's side is `puna.engine.wire`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from puna.core.messages import Image, Message, ToolResult

MAX_CHOICES = 16


class BadRequest(ValueError):
    """A request that cannot be answered: one line, the parameter at fault, OpenAI's error code."""

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status

    def body(self) -> dict[str, Any]:
        """The error as OpenAI spells it."""
        return error_body(str(self), "invalid_request_error", self.param, self.code)


@dataclass(frozen=True)
class ChatRequest:
    """A request as read. `max_tokens` None leaves the length to the context, `seed` None to us."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]
    max_tokens: int | None
    temperature: float
    top_p: float
    n: int
    seed: int | None
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    logprobs: bool


@dataclass(frozen=True)
class Choice:
    """One answer: its message, why it ended, and its tokens with their log-probabilities."""

    message: Message
    finish: str
    tokens: tuple[tuple[str, float], ...]
    """(text, log-probability) of each sampled token."""


def error_body(
    message: str, kind: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def read_request(raw: bytes) -> ChatRequest:
    """A chat-completions body, total over any bytes. Raises BadRequest naming what is wrong.

    Parameters that no local model has a use for (`user`, penalties, `logit_bias`) are ignored, as
    other servers do; those that ask for another kind of answer are refused.
    """
    data = _json(raw)
    tools = _tools(data.get("tools"))
    choice = data.get("tool_choice") or ("auto" if tools else "none")
    if choice not in ("auto", "none"):
        raise BadRequest("tool_choice is neither 'auto' nor 'none'", "tool_choice")
    form = data.get("response_format") or {"type": "text"}
    if not isinstance(form, Mapping) or form.get("type") != "text":
        raise BadRequest("response_format is not supported, but for text", "response_format")
    if _number(data, "top_logprobs", 0, 0, 20, whole=True):
        raise BadRequest("top_logprobs is not supported; logprobs is", "top_logprobs")
    limit = "max_tokens" if data.get("max_completion_tokens") is None else "max_completion_tokens"
    options = data.get("stream_options") or {}
    if not isinstance(options, Mapping):
        raise BadRequest("stream_options is not an object", "stream_options")
    seed = _number(data, "seed", None, -(2**63), 2**63, whole=True)
    model = data.get("model") or ""
    if not isinstance(model, str):
        raise BadRequest("model is not text", "model")
    return ChatRequest(
        model=model,
        messages=_messages(data.get("messages")),
        tools=tools if choice == "auto" else (),
        max_tokens=_whole(_number(data, limit, None, 1, 10**9, whole=True)),
        temperature=_temperature(data),
        top_p=float(_number(data, "top_p", 1.0, 1e-9, 1.0) or 1.0),
        n=int(_number(data, "n", 1, 1, MAX_CHOICES, whole=True) or 1),
        seed=_whole(seed),
        stop=_stops(data.get("stop")),
        stream=_flag(data, "stream"),
        include_usage=_flag(options, "include_usage"),
        logprobs=_flag(data, "logprobs"),
    )


def answer(name: str, model: str, created: int, choices: Sequence[Choice], prompt: int,
           logprobs: bool) -> dict[str, Any]:  # fmt: skip
    """The whole answer: `prompt` is the number of tokens of the prompt."""
    return {
        "id": name,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": i,
                "message": spoken(c.message),
                "logprobs": _logprobs(c.tokens) if logprobs else None,
                "finish_reason": c.finish,
            }
            for i, c in enumerate(choices)
        ],
        "usage": usage(prompt, sum(len(c.tokens) for c in choices)),
    }


def spoken(message: Message) -> dict[str, Any]:
    """An assistant's message; its content is null where it has only calls."""
    out = message.to_openai()
    if message.tool_calls and not out["content"]:
        out["content"] = None
    return out


def chunk(
    name: str,
    model: str,
    created: int,
    index: int,
    delta: Mapping[str, Any],
    finish: str | None = None,
    tokens: Sequence[tuple[str, float]] | None = None,
) -> dict[str, Any]:
    """One piece of a streamed answer; `tokens` are those new with it, where they are asked for."""
    choice = {
        "index": index,
        "delta": dict(delta),
        "logprobs": None if tokens is None else _logprobs(tokens),
        "finish_reason": finish,
    }
    return _chunk(name, model, created, [choice])


def usage_chunk(name: str, model: str, created: int, counts: Mapping[str, int]) -> dict[str, Any]:
    """The last piece of a stream whose reader asked for usage."""
    return _chunk(name, model, created, []) | {"usage": dict(counts)}


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Token counts."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def call_deltas(message: Message) -> list[dict[str, Any]]:
    """A message's calls as a stream has them: each whole, with its place."""
    calls = message.to_openai().get("tool_calls", [])
    return [{"index": i, **call} for i, call in enumerate(calls)]


def _chunk(name: str, model: str, created: int, choices: list[Any]) -> dict[str, Any]:
    return {
        "id": name,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": choices,
    }


def _logprobs(tokens: Sequence[tuple[str, float]]) -> dict[str, Any]:
    rows = [{"token": t, "logprob": p, "bytes": _bytes(t), "top_logprobs": []} for t, p in tokens]
    return {"content": rows, "refusal": None}


def _bytes(token: str) -> list[int] | None:
    """The token's bytes; None where it is a part of a character, which its text does not tell."""
    return None if "\ufffd" in token else list(token.encode("utf-8", "replace"))


def _json(raw: bytes) -> dict[str, Any]:
    try:
        data = json.loads(raw)
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(data, dict):
        raise BadRequest("the body is not a JSON object")
    return data


def _messages(given: object) -> tuple[Message, ...]:
    if not isinstance(given, list) or not given:
        raise BadRequest("messages is not a list of at least one message", "messages")
    out = []
    for i, item in enumerate(given):
        where = f"messages[{i}]"
        if not isinstance(item, Mapping):
            raise BadRequest(f"{where} is not an object", where)
        try:
            message = Message.from_openai(item)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise BadRequest(f"{where}: {error}", where) from None
        inner = [q for p in message.parts if isinstance(p, ToolResult) for q in p.parts]
        if any(isinstance(p, Image) for p in (*message.parts, *inner)):
            raise BadRequest(f"{where}: this model reads no images", where)
        out.append(message)
    return tuple(out)


def _tools(given: object) -> tuple[Mapping[str, Any], ...]:
    if given is None:
        return ()
    if not isinstance(given, list):
        raise BadRequest("tools is not a list", "tools")
    for i, tool in enumerate(given):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadRequest(f"tools[{i}] has no function with a name", f"tools[{i}]")
    return tuple(given)


def _stops(given: object) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given or []
    if not isinstance(texts, list) or len(texts) > 16:
        raise BadRequest("stop is neither text nor a list of at most 16 texts", "stop")
    if not all(isinstance(t, str) and t for t in texts):
        raise BadRequest("stop holds something that is not a text, or an empty one", "stop")
    return tuple(texts)


def _flag(data: Mapping[str, Any], name: str) -> bool:
    value = data.get(name)
    if not isinstance(value, bool | None):
        raise BadRequest(f"{name} is not true or false", name)
    return bool(value)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _temperature(data: Mapping[str, Any]) -> float:
    """0 below a thousandth: logits divided by so little would overflow to the same answer."""
    given = float(_number(data, "temperature", 1.0, 0.0, 2.0) or 0.0)
    return given if given >= 1e-3 else 0.0


def _number(
    data: Mapping[str, Any],
    name: str,
    default: float | None,
    least: float,
    most: float,
    whole: bool = False,
) -> float | None:
    value = data.get(name)
    if value is None:
        return default
    kind = int if whole else int | float
    if not isinstance(value, kind) or isinstance(value, bool) or value != value:
        wanted = "a whole number" if whole else "a number"
        raise BadRequest(f"{name} is not {wanted}", name)
    if not least <= value <= most:
        raise BadRequest(f"{name} is {value}, must be {least:g} to {most:g}", name)
    return value
