"""The verdict on a conversation, from its final database and its log alone.

`judge_episode(db_bytes, log_bytes, scene)`: the log's calls are done again on a fresh database,
each held against the policy as it stood then.
"""

from __future__ import annotations

import contextlib
import json
from functools import lru_cache
from typing import Any

from puna.core.messages import ToolCall
from puna.core.outcome import Scored
from puna.envs.shop.database import open_copy, state_hash, template
from puna.envs.shop.policy import broken, reason
from puna.envs.shop.scene import Scene
from puna.envs.shop.tools import TOOLBOX, WRITES, Desk

Event = list[str]
"""["said", text, ""], ["heard", text, kind] or ["called", tool, arguments as JSON text]."""


def judge_episode(final: bytes, log: bytes, scene: Scene) -> Scored:
    """1 where the state is the reference's and no rule was broken; evidence names what was."""
    found = _broken(json.loads(log), scene)
    with contextlib.closing(open_copy(final)) as db:
        right = state_hash(db) == reference_hash(scene)
    evidence = [f"broke {rule}: {what}" for rule, what in found]
    if not right:
        evidence.append("the final database is not the reference's")
    parts = {"state": float(right), "policy": float(not found)}
    good = right and not found
    return Scored(float(good), good, parts, "; ".join(evidence))


@lru_cache(maxsize=4096)
def reference_hash(scene: Scene) -> str:
    """The state after the reference's writes."""
    with contextlib.closing(open_copy(template(), scene.rows)) as db:
        desk = Desk(db)
        for request in scene.requests:
            if request.reason:
                desk.refuse(request.order, request.reason)  # type: ignore[arg-type]
            else:
                getattr(desk, request.tool)(**dict(request.arguments))
        return state_hash(db)


def _broken(log: list[Event], scene: Scene) -> list[tuple[str, str]]:
    """Every (rule, what was done) of the log, in order."""
    found: list[tuple[str, str]] = []
    settled: set[int] = set()
    with contextlib.closing(open_copy(template(), scene.rows)) as db:
        desk = Desk(db)
        said = asked = ""
        for kind, what, detail in log:
            if kind == "said":
                said = what
            elif kind == "heard":
                asked = said if detail == "yes" else ""
            else:
                arguments = json.loads(detail)
                rules = broken(desk, what, arguments, asked)
                if what == "refuse" and desk.verified is not None:
                    rules += _unjust(desk, arguments, scene)
                shown = " ".join([what, *map(str, arguments.values())])
                found += [(rule, f"{shown:.80} ({why})") for rule, why in rules]
                TOOLBOX.dispatch(ToolCall("", what, detail), desk)
                if what == "verify" and desk.verified != scene.number:
                    found.append(("verify", f"{shown:.80} (the customer is another one)"))
                if what in WRITES:
                    asked = ""
                if what in (*WRITES, "refuse"):
                    settled.add(arguments["id"])
    for request in scene.requests:
        if request.reason and request.order not in settled:
            found.append(("refuse", f"{request.tool} of {request.order} was never refused"))
    return found


def _unjust(desk: Desk, arguments: dict[str, Any], scene: Scene) -> list[tuple[str, str]]:
    """A refusal that nobody's request calls for, or with a reason that is not the true one."""
    for request in scene.requests:
        if request.order == arguments["id"] and desk.verified is not None:
            true = reason(desk.db, desk.verified, request.tool, dict(request.arguments))
            if true == arguments["why"]:
                return []
            return [
                ("refuse-reason", f"the reason is {true}" if true else "the request is allowed")
            ]
    return [("refuse-reason", "nobody asked for it")]
