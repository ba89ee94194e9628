"""What the calls of an oracle say, and which of it is another in each task.

`varying_places(cases)` holds (0, "book", "seats") where the first message books seats.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from puna.core.messages import ToolCall
from puna.gym.audit.case import Case

Place = tuple[int, str, str]
"""The number of a message, the tool it calls and the argument; the last two "" for what it says."""


def arguments(call: ToolCall) -> dict[str, Any]:
    """The arguments of a call, none where they are no JSON object."""
    try:
        data = json.loads(call.arguments)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def said(case: Case) -> dict[Place, Any]:
    """All that the oracle says in one task, and where."""
    found: dict[Place, Any] = {}
    for i, message in enumerate(case.said):
        if not message.tool_calls:
            found[i, "", ""] = message.text
        for call in message.tool_calls:
            found |= {(i, call.name, name): value for name, value in arguments(call).items()}
    return found


def varying_places(cases: Sequence[Case]) -> set[Place]:
    """Where what oracles say is not the same in all tasks."""
    values: dict[Place, set[str]] = {}
    for case in cases:
        for place, value in said(case).items():
            values.setdefault(place, set()).add(repr(value))
    return {place for place, found in values.items() if len(found) > 1}
