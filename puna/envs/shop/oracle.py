"""The reference: what a perfect agent says and calls in a scene, as a list of actions.

`script(actions(scene))` plays it; cheats are the same list with something changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from puna.core.messages import Message, ToolCall
from puna.envs.shop.scene import Request, Scene
from puna.gym.task import Script


def call(tool: str, **arguments: Any) -> Message:
    """A message that calls one tool."""
    text = json.dumps(arguments, separators=(",", ":"))
    return Message("assistant", (ToolCall("call_0", tool, text),))


def question(tool: str, arguments: Mapping[str, Any]) -> Message:
    """Asks the customer to confirm a write, by its name and every argument."""
    return Message.assistant(" ".join([tool, *map(str, arguments.values())]) + "?")


def actions(scene: Scene) -> list[Message]:
    """The assistant's messages in order; the customer's answers are known, so they need no look."""
    out = [] if scene.tells_name else [Message.assistant("Who are you?")]
    out.append(call("verify", name=scene.name, no=scene.number))
    for request in scene.requests:
        out += serve(request)
    return out


def serve(request: Request) -> list[Message]:
    """The messages about one request."""
    out = [] if request.tells_order else [Message.assistant("Which order?")]
    arguments = dict(request.arguments)
    if request.tool == "swap" and request.reason != "owner":
        out.append(call("item", id=arguments["item"]))
    if request.reason:
        return [*out, call("refuse", id=request.order, why=request.reason)]
    return [*out, *write(request)]


def write(request: Request, **changed: Any) -> list[Message]:
    """The question and the write of a request, whether allowed or not."""
    arguments = {**dict(request.arguments), **changed}
    return [question(request.tool, arguments), call(request.tool, **arguments)]


def script(messages: Sequence[Message]) -> Script:
    """Says these messages in order, the last one for ever."""

    def speak(heard: Sequence[Message]) -> Message:
        said = sum(m.role == "assistant" for m in heard)
        return messages[min(said, len(messages) - 1)]

    return speak
