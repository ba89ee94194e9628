"""What both libraries' agents say to an episode: `tell(message)` in lines of JSON."""

import json
import sys
from typing import Any


class Over(BaseException):
    """The episode has ended; nothing on the way up takes it for a failure of a tool."""


def tell(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Say something to the environment; what it says to that."""
    print(json.dumps(message), flush=True)
    told = json.loads(sys.stdin.readline() or '{"end": true}')
    if "end" in told:
        raise Over
    messages: list[dict[str, Any]] = told["messages"]
    return messages


def called(name: str, arguments: str) -> str:
    """What a tool of the environment's answers."""
    function = {"name": name, "arguments": arguments}
    calls = [{"id": "call", "type": "function", "function": function}]
    return str(tell({"content": None, "tool_calls": calls})[0]["content"])
