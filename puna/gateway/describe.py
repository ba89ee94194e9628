"""The bodies that the routes read, as OpenAPI describes them: plain data, beside the readers.

`BODIES["/v1/completions"]` is the JSON schema of its request. What a reader refuses for other
reasons (a tool that is not there, a conversation too long) no schema says.
"""

from __future__ import annotations

from typing import Any

from puna.gateway.reading import LONGEST_STOP, MAX_CHOICES, MAX_STOPS, MAX_TOP, TOKENS


def _whole(least: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


def _part(least: float, most: float) -> dict[str, Any]:
    return {"type": "number", "minimum": least, "maximum": most}


def _table(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _one_of(*words: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(words)}


def _many(items: dict[str, Any], least: int = 0, most: int | None = None) -> dict[str, Any]:
    out = {"type": "array", "items": items, "minItems": least}
    return out if most is None else out | {"maxItems": most}


_TEXT, _FLAG, _ANY = {"type": "string"}, {"type": "boolean"}, {"type": "object"}
_STOP = {"type": "string", "minLength": 1, "maxLength": LONGEST_STOP}
_IDS = _many(_whole(0, 2**31 - 1), 1)
_URL = _table(["url"], url=_TEXT)
_CONTENT = {
    "anyOf": [
        _TEXT,
        _many(
            {
                "anyOf": [
                    _table(["type", "text"], type=_one_of("text"), text=_TEXT),
                    _table(["type", "image_url"], type=_one_of("image_url"), image_url=_URL),
                ]
            }
        ),
    ]
}
_FUNCTION = _table(["name"], name=_TEXT, description=_TEXT, parameters=_ANY, strict=_FLAG)
_TOOL = _table(["type", "function"], type=_one_of("function"), function=_FUNCTION)
_CALL = _table(
    ["id", "type", "function"],
    id=_TEXT,
    type=_one_of("function"),
    function=_table(["name", "arguments"], name=_TEXT, arguments=_TEXT),
)
_MESSAGE = _table(
    ["role", "content"],
    role=_one_of("system", "developer", "user", "assistant", "tool"),
    content=_CONTENT,
    tool_calls=_many(_CALL),
    tool_call_id=_TEXT,
    reasoning_content=_TEXT,
)
_CHOICE = {
    "anyOf": [
        _one_of("auto", "none", "required"),
        _table(["type", "function"], function=_table(["name"], name=_TEXT)),
    ]
}
_FORMAT = _table(
    ["type"],
    type=_one_of("text", "json_object", "json_schema"),
    json_schema=_table(["name", "schema"], name=_TEXT, schema=_ANY, strict=_FLAG),
)
_COMMON: dict[str, Any] = {
    "model": _TEXT,
    "temperature": _part(0, 2),
    "top_p": _part(0, 1),
    "top_k": _whole(-1, 10**9),
    "min_p": _part(0, 1),
    "n": _whole(1, MAX_CHOICES),
    "seed": _whole(-(2**63), 2**63),
    "stop": {"anyOf": [_STOP, _many(_STOP, 0, MAX_STOPS)]},
    "stream": _FLAG,
    "stream_options": _table([], include_usage=_FLAG),
    "max_tokens": _whole(1, TOKENS),
    "prompt_token_ids": _IDS,
    "return_token_ids": _FLAG,
}
_CHAT = _table(
    [],
    **_COMMON,
    messages=_many(_MESSAGE, 1),
    tools=_many(_TOOL),
    tool_choice=_CHOICE,
    parallel_tool_calls=_FLAG,
    response_format=_FORMAT,
    max_completion_tokens=_whole(1, TOKENS),
    logprobs=_FLAG,
    top_logprobs=_whole(0, MAX_TOP),
)
_COMPLETIONS = _table(
    [],
    **_COMMON,
    prompt={"anyOf": [_TEXT, _IDS, _many(_TEXT, 1), _many(_IDS, 1)]},
    logprobs=_whole(0, MAX_TOP),
    echo=_FLAG,
)
_SAID = _many(
    {
        "anyOf": [
            _table(["type", "text"], type=_one_of("input_text", "output_text"), text=_TEXT),
            _table(["type", "image_url"], type=_one_of("input_image"), image_url=_TEXT),
        ]
    }
)
_ITEM = {
    "anyOf": [
        _table(
            ["role", "content"],
            type=_one_of("message"),
            role=_one_of("user", "assistant", "system", "developer"),
            content={"anyOf": [_TEXT, _SAID]},
        ),
        _table(
            ["type", "call_id", "name", "arguments"],
            type=_one_of("function_call"),
            call_id=_TEXT,
            name=_TEXT,
            arguments=_TEXT,
        ),
        _table(
            ["type", "call_id", "output"],
            type=_one_of("function_call_output"),
            call_id=_TEXT,
            output={"anyOf": [_TEXT, _SAID]},
        ),
    ]
}
_RESPONSES = _table(
    ["input"],
    model=_TEXT,
    input={"anyOf": [_TEXT, _many(_ITEM, 1)]},
    instructions=_TEXT,
    tools=_many(_table(["type", "name"], type=_one_of("function"), **_FUNCTION["properties"])),
    tool_choice={"anyOf": [_one_of("auto", "none", "required"), _table(["name"], name=_TEXT)]},
    parallel_tool_calls=_FLAG,
    text=_table(
        [],
        format=_table(
            ["type"], type=_one_of("text", "json_object", "json_schema"), name=_TEXT, schema=_ANY
        ),
    ),
    max_output_tokens=_whole(1, TOKENS),
    temperature=_part(0, 2),
    top_p=_part(0, 1),
    top_logprobs=_whole(0, MAX_TOP),
    include=_many(_TEXT),
    stream=_FLAG,
)
_TEXT_BLOCK = _table(["type", "text"], type=_one_of("text"), text=_TEXT)
_BLOCK = {
    "anyOf": [
        _TEXT_BLOCK,
        _table(["type", "thinking"], type=_one_of("thinking"), thinking=_TEXT),
        _table(
            ["type", "id", "name", "input"],
            type=_one_of("tool_use"),
            id=_TEXT,
            name=_TEXT,
            input=_ANY,
        ),
        _table(
            ["type", "tool_use_id"],
            type=_one_of("tool_result"),
            tool_use_id=_TEXT,
            content={"anyOf": [_TEXT, _many(_TEXT_BLOCK)]},
            is_error=_FLAG,
        ),
        _table(
            ["type", "source"],
            type=_one_of("image"),
            source=_table(
                ["type", "media_type", "data"],
                type=_one_of("base64"),
                media_type=_TEXT,
                data=_TEXT,
            ),
        ),
    ]
}
_TURN = _table(
    ["role", "content"],
    role=_one_of("user", "assistant"),
    content={"anyOf": [_TEXT, _many(_BLOCK)]},
)
_MESSAGES = _table(
    ["messages", "max_tokens"],
    model=_TEXT,
    messages=_many(_TURN, 1),
    system={"anyOf": [_TEXT, _many(_TEXT_BLOCK)]},
    tools=_many(_table(["name", "input_schema"], name=_TEXT, description=_TEXT, input_schema=_ANY)),
    tool_choice=_table(
        ["type"],
        type=_one_of("auto", "any", "tool", "none"),
        name=_TEXT,
        disable_parallel_tool_use=_FLAG,
    ),
    max_tokens=_whole(1, TOKENS),
    temperature=_part(0, 2),
    top_p=_part(0, 1),
    top_k=_whole(0, 10**9),
    stop_sequences=_many(_STOP, 0, 16),
    stream=_FLAG,
)
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _COMPLETIONS,
    "/v1/responses": _RESPONSES,
    "/v1/messages": _MESSAGES,
    "/v1/messages/count_tokens": _MESSAGES | {"required": ["messages"]},
}


def described(path: str) -> dict[str, Any]:
    """What OpenAPI says of the route beside its name."""
    body = {"application/json": {"schema": BODIES[path]}}
    return {"requestBody": {"required": True, "content": body}}
