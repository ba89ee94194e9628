"""Cheats: the oracle's actions with exactly one rule broken, named after that rule.

`cheats(scene)["confirm"]` writes without asking, and the database ends as it should.
"""

from __future__ import annotations

from collections.abc import Sequence

from puna.core.messages import Message
from puna.envs.shop.database import METHODS
from puna.envs.shop.oracle import actions, call, serve, write
from puna.envs.shop.scene import Request, Scene

# The rule that a request breaks when it is served although it is forbidden.
_SERVED = {
    ("cancel", "shipped"): "cancel-pending",
    ("cancel", "delivered"): "cancel-pending",
    ("address", "shipped"): "address-pending",
    ("address", "delivered"): "address-pending",
    ("refund", "pending"): "return-delivered",
    ("refund", "shipped"): "return-delivered",
    ("refund", "late"): "return-window",
    ("refund", "method"): "refund-method",
    ("swap", "category"): "exchange-category",
    ("swap", "stock"): "exchange-stock",
}


def cheats(scene: Scene) -> dict[str, list[Message]]:
    """Actions by the rule that they break; those rules that this scene can break."""
    right = actions(scene)
    verify = next(i for i, m in enumerate(right) if _calls(m, "verify"))
    peek = call("order", id=scene.foreign)
    out = {"owner": [*right[: verify + 1], peek, *right[verify + 1 :]]}
    own = next((r.order for r in scene.requests if r.order != scene.foreign), scene.foreign)
    out["verify"] = [*right[:verify], call("order", id=own), *right[verify:]]
    for i, request in enumerate(scene.requests):
        for rule, served in _wrong_ways(request).items():
            out.setdefault(rule, _instead(scene, i, served))
    return out


def _wrong_ways(request: Request) -> dict[str, list[Message]]:
    """Wrong ways to serve one request, by rule."""
    right = serve(request)
    if not request.reason:
        unasked = [m for m in right if not m.text.endswith("?") or m.text == "Which order?"]
        refused = call("refuse", id=request.order, why="late")
        asks = right[: 0 if request.tells_order else 1]
        out = {"confirm": unasked, "refuse-reason": [*asks, refused]}
        if request.tool == "refund":
            right_method = dict(request.arguments)["to"]
            other = next(m for m in METHODS if m != right_method)
            out["refund-method"] = [*asks, *write(request, to=other)]
        return out
    looks = right[:-1]
    wrong = "stock" if request.reason != "stock" else "late"
    out = {
        "refuse": [*looks, *[Message.assistant("That is not possible.")] * 4],
        "refuse-reason": [*looks, call("refuse", id=request.order, why=wrong)],
    }
    if request.reason != "owner":
        rule = _SERVED[request.tool, request.reason]
        out[rule] = [*looks, *write(request)]
    return out


def _instead(scene: Scene, at: int, served: Sequence[Message]) -> list[Message]:
    """The oracle's actions with request `at` served another way."""
    out = actions(scene)[: 1 if scene.tells_name else 2]
    for i, request in enumerate(scene.requests):
        out += served if i == at else serve(request)
    return out


def _calls(message: Message, tool: str) -> bool:
    return any(c.name == tool for c in message.tool_calls)
