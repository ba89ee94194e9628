"""shop: no fixed script earns 5 %, not even one that copies numbers from what the customer says."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import pytest

from puna.core.messages import Message
from puna.envs.shop.database import METHODS, NAMES
from puna.envs.shop.env import Shop, ShopConfig
from puna.envs.shop.oracle import call, question, script
from puna.envs.shop.scene import Request
from puna.envs.shop.tools import Reason
from puna.gym.task import Script, Task
from puna.gym.trajectory import Episode

Plan = tuple[str, str]  # a tool, and what cannot be copied: the method or the reason
PLANS: list[Plan] = [
    *(("cancel", ""), ("address", ""), ("swap", "")),
    *(("refund", m) for m in METHODS),
    *(("refuse", r) for r in get_args(Reason)),
]
ENV = Shop(ShopConfig(prompt="none"))
TASKS = {split: [ENV.task(split, i) for i in range(1500)] for split in ("train", "test")}


def earned(task: Task, agent: Script) -> float:
    session = ENV.start(task, ENV.setup(), None)
    for _ in range(ENV.limits.turns):
        turn = session.next()
        if turn is None:
            break
        session.take(turn, agent(turn.messages))
    ended = "done" if session.next() is None else "turns"
    episode = Episode(task.id, (), session.artifacts(), ended)
    session.close()
    (verdict,) = ENV.judge([episode], task.hidden, None)  # type: ignore[arg-type]
    return verdict["agent"].value  # type: ignore[union-attr]


def last(messages: Sequence[Message]) -> str:
    return next(m.text for m in reversed(messages) if m.role == "user")


def copier(first: Plan, second: Plan) -> Script:
    """Tells a customer's number from an order's by its size, and serves all customers alike.

    It sees which request it is at; it reads neither words nor results.
    """

    def steps(heard: Sequence[Message]) -> Iterator[Message]:
        text = heard[0].text
        numbers = [int(n) for n in re.findall(r"\b\d{3}\b", text)]
        name = next((n for n in NAMES if re.search(rf"\b{n}\b", text)), "Ana")
        yield call("verify", name=name, no=next((n for n in numbers if n < 400), 0))
        for at, plan in enumerate((first, second)):
            if at:
                text = last(heard)
            found = [int(n) for n in re.findall(r"\b\d{3}\b", text)]
            order = next((n for n in found if n >= 400), 0)
            yield from serve(plan, order, text)

    def speak(heard: Sequence[Message]) -> Message:
        said = sum(m.role == "assistant" for m in heard)
        # The second request is the last thing a customer says before the second plan begins, so
        # replay with what was heard up to there.
        requests = [m for m in heard if m.role == "user" and re.search(r"\d{3}|order", m.text)]
        made = list(steps([requests[0], requests[-1]]))
        return made[min(said, len(made) - 1)]

    return speak


def serve(plan: Plan, order: int, text: str) -> list[Message]:
    tool, fixed = plan
    if tool == "refuse":
        return [call("refuse", id=order, why=fixed)]
    arguments: dict[str, Any] = {"id": order}
    if tool == "refund":
        arguments["to"] = fixed
    if tool == "swap":
        arguments["item"] = int((re.findall(r"\b\d{2}\b", text) or ["0"])[0])
    if tool == "address":
        arguments["to"] = (re.findall(r"\b\d{1,2} [A-Z]\w+", text) or ["1 Elm"])[0]
    return [question(tool, arguments), call(tool, **arguments)]


def fits(plan: Plan, request: Request) -> bool:
    if request.reason:
        return plan == ("refuse", request.reason)
    return plan == (request.tool, dict(request.arguments)["to"] if request.tool == "refund" else "")


def share(tasks: Sequence[Task], plans: Sequence[Plan]) -> float:
    """What `copier` earns, by comparison with what is right."""
    scenes = [t.hidden["scene"] for t in tasks]
    return sum(
        s.tells_name
        and all(fits(p, r) for p, r in zip(plans, s.requests, strict=False))
        and all(r.tells_order for r in s.requests)
        for s in scenes
    ) / len(scenes)


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_fixed_script_earns_five_percent(split: str) -> None:
    tasks = TASKS[split]
    best, pair = max((share(tasks, pair), pair) for pair in itertools.product(PLANS, PLANS))
    assert 0.02 < best <= ENV.chance < 0.05, (best, pair)
    played = tasks[:300]
    by_play = sum(earned(t, copier(*pair)) for t in played) / len(played)
    assert by_play == pytest.approx(share(played, pair), abs=0.005)
    assert by_play <= 0.06


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_reduced_forms_chance_is_measured_too(split: str) -> None:
    env = Shop(ShopConfig(prompt="none", intents=1))
    tasks = [env.task(split, i) for i in range(1500)]
    best = max(share(tasks, [plan]) for plan in PLANS)
    assert 0.05 < best <= env.chance < 0.1


@pytest.mark.parametrize("split", ["train", "test"])
def test_constant_scripts_earn_nothing(split: str) -> None:
    verify = call("verify", name="Ana", no=500)
    scripts = {"idle": [Message.assistant("")], "polite": [Message.assistant("Of course!")]}
    for tool, fixed in PLANS:
        scripts[f"{tool} {fixed}"] = [verify, *serve((tool, fixed), 500, "50 to 1 Elm")]
    for said in scripts.values():
        assert sum(earned(t, script(said)) for t in TASKS[split][:60]) == 0
