"""What every protocol shares on the way in and out: its reader and writer, bodies, errors.

`DIALECTS["/v1/chat/completions"].read(await body_of(request))` -> `Asked(...)`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from puna.gateway import chat, completions, messages, responses
from puna.gateway.asked import Asked, Writer
from puna.gateway.reading import BadRequest, error_body

BODY_LIMIT = 8_000_000
BODY_S = 60.0  # for all of a body to arrive


class Dialect(NamedTuple):
    """A protocol: how a body is read, how answers are written, and what their ids begin with."""

    read: Callable[[bytes], Asked]
    writer: type[Writer]
    prefix: str


DIALECTS = {
    "/v1/chat/completions": Dialect(chat.read, chat.Chat, "chatcmpl-"),
    "/v1/completions": Dialect(completions.read, completions.Completions, "cmpl-"),
    "/v1/responses": Dialect(responses.read, responses.Responses, "resp_"),
    "/v1/messages": Dialect(messages.read, messages.Messages, "msg_"),
}


async def body_of(request: Request) -> bytes:
    """The request's body. Raises BadRequest for a large or slow one, before all of it is read."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                size += len(part)
                if size > BODY_LIMIT:
                    what = f"the body is larger than {BODY_LIMIT:,} bytes"
                    raise BadRequest(what, None, "request_too_large", 413)
                parts.append(part)
    except TimeoutError:
        raise BadRequest(f"the body took longer than {BODY_S:.0f} s", status=408) from None
    return b"".join(parts)


def complaint(path: str, status: int, what: str, *more: str | None) -> Response:
    """An error in the shape that the clients of `path` expect."""
    waits = {"retry-after": "5"} if status == 503 else None
    body = json.dumps(error_body(path, status, what, *more))
    return Response(body, status, waits, "application/json")
