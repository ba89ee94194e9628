"""An OpenAI-compatible server that answers at once, so that only the client's cost is measured.

`python benchmarks/peers/instant_server.py` prints {"port": N} and serves http://127.0.0.1:N/v1
until its standard input ends. Standard library only; every answer is the same word.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import Any

ANSWER = "yes"
_COMPLETION = {
    "id": "chatcmpl-instant",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "instant",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": ANSWER},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9},
}
_MODELS = {
    "object": "list",
    "data": [{"id": "instant", "object": "model", "created": 1_700_000_000, "owned_by": "local"}],
}


def _response(status: str, content: dict[str, Any]) -> bytes:
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


# Made once: the server must not be what a client waits for.
ROUTES = {
    b"POST /v1/chat/completions": _response("200 OK", _COMPLETION),
    b"GET /v1/models": _response("200 OK", _MODELS),
}
NOT_FOUND = _response("404 Not Found", {"error": {"message": "no such route", "type": "invalid"}})


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serves one connection, request after request, until the client or the server closes it."""
    ends = (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError)
    with contextlib.suppress(*ends):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            line, *headers = head.split(b"\r\n")
            length = 0
            for header in headers:
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            await reader.readexactly(length)
            writer.write(ROUTES.get(line.rpartition(b" ")[0], NOT_FOUND))
            await writer.drain()
    writer.close()


async def main() -> None:
    """Serves on a free port of the loopback interface until standard input ends."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    async with server:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
