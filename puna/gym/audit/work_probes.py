"""Probes of the work that tools do: calls of any kind, repeated, taken from elsewhere, or broken.

`await again(bench)` repeats one step; `await others(bench)` does another task's work.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from puna.core.messages import Message, ToolCall
from puna.gym.audit.bench import Bench, Make, Try
from puna.gym.audit.calls import Place, arguments, varying_places
from puna.gym.audit.case import Case
from puna.gym.audit.explorer import Tool, explored, results, tools_of, with_tools
from puna.gym.audit.mutations import spellings
from puna.gym.audit.probe import Result, hole, must_not_pay, nothing, ok
from puna.gym.task import Script, script

ROUNDS = 0.3  # a step on the way may be worth a little
WORK = 0.4  # what two tasks have in common may be worth a little more
HUGE = 10_000_000
MUCH = 1_000_000  # characters of a tool's answer
FILLERS: Mapping[str, Mapping[type, Any]] = {
    "zeros": {int: 0, float: 0.0, str: "", bool: False, list: [], dict: {}},
    "anything": {int: 1, float: 1.0, str: "x", bool: True, list: ["x"], dict: {"x": "x"}},
}


async def others(bench: Bench) -> Result:
    """The work of another task, and the calls of this one's with nothing of what they say."""
    cases = [c for c in bench.cases if any(m.tool_calls for m in c.said)]
    if len(cases) < 4:
        return nothing("there are no calls")
    ways: dict[str, Make] = {
        f"the work of task {i}": _of(cases[i].said) for i in (0, len(cases) // 2)
    }
    usual = Counter(_called(c) for c in cases).most_common(1)[0][0]
    model = next(c for c in cases if _called(c) == usual)
    varying = varying_places(cases)
    for name, filler in FILLERS.items():
        said = [_emptied(m, i, varying, filler) for i, m in enumerate(model.said)]
        ways[f"the usual calls with {name}"] = _of(said)
    return await must_not_pay(bench, ways, what="works", least=max(WORK, bench.env.chance))


def _of(said: Sequence[Message]) -> Make:
    return lambda case: script(said) if tuple(said) != case.said else None


def _called(case: Case) -> tuple[str, ...]:
    return tuple(call.name for m in case.said for call in m.tool_calls)


def _emptied(message: Message, i: int, varying: set[Place], filler: Mapping[type, Any]) -> Message:
    """A message in which all that differs from task to task says nothing."""
    if not message.tool_calls:
        return Message.assistant(filler[str]) if (i, "", "") in varying else message
    calls = []
    for call in message.tool_calls:
        given = {
            name: filler.get(type(value)) if (i, call.name, name) in varying else value
            for name, value in arguments(call).items()
        }
        calls.append(ToolCall(call.id, call.name, json.dumps(given)))
    return Message("assistant", tuple(calls))


async def broken(bench: Bench) -> Result:
    """Calls that cannot be right are answered, and what any call gives is no megabyte."""
    cases = with_tools(bench)
    if not cases:
        return nothing("there are no tools")
    for walk in await explored(bench):
        for what, text in walk.seen.items():
            if len(text) > MUCH:
                return hole(f"{walk.case.task.id} '{what}' gives {len(text):,} characters")
    tried = 0
    for case in cases[:2]:
        for tool in tools_of(case):
            for name, message in _broken(tool).items():
                tried += 1
                outcomes, episode = await bench.play(
                    case.task, bench.cast(case, script([message])), name
                )
                got = Try(f"{tool.name}, {name}", case, outcomes[case.role])
                if got.broken:
                    return hole(f"a call is not judged: {got}", [got])
                longest = max(len(m.text or results(m)) for _, m in episode.transcript)
                if longest > MUCH + len(case.prompt):
                    return hole(f"{got.name} gives {longest:,} characters")
    return ok(f"{tried} calls, all answered")


def _broken(tool: Tool) -> dict[str, Message]:
    names = list(tool.properties)
    values: dict[str, Any] = {"nulls": None, "lists": [[]], "objects": {"x": {}}, "huge": HUGE}
    values |= {"minus one": -1, "zeros": 0, "empty texts": "", "a long text": "9" * 100_000}
    out = {name: tool.call(**dict.fromkeys(names, value)) for name, value in values.items()}
    for name, text in {"no JSON": "{", "a list of JSON": "[1]", "no arguments": "{}"}.items():
        out[name] = Message("assistant", (ToolCall("call_0", tool.name, text),))
    return out | {"no such tool": Message("assistant", (ToolCall("call_0", "nothing", "{}"),))}


async def again(bench: Bench) -> Result:
    """One step of the work, done over and over, is not the whole of it."""
    ways: dict[str, Make] = {}
    for number in range(2):
        for times in (1, 3):
            ways[f"message {number + 1}, {times} times the length"] = _over_and_over(number, times)
    if not any(len(set(c.said)) > 1 for c in bench.cases):
        return nothing("the work has one step")
    found = await must_not_pay(bench, ways, what="repetitions")
    if found.status != "ok":
        return found
    ways = {f"message {n + 1} in other spellings": _respelt(n) for n in range(2)}
    found = await must_not_pay(bench, ways, what="spellings")
    if found.status not in ("ok", "none"):
        return found
    rounds: dict[str, Make] = {
        f"messages {i + 1} and {j + 1} in turns": _in_turns(i, j)
        for i in range(4)
        for j in range(4)
        if i != j
    }
    tools = dict.fromkeys(t.name for c in bench.cases[:4] for t in tools_of(c))
    rounds |= {f"message {i + 1} and {name} in turns": _undone(i, name)
               for name in list(tools)[:6] for i in range(3)}  # fmt: skip
    return await must_not_pay(bench, rounds, what="rounds", least=ROUNDS)


def _undone(number: int, name: str) -> Make:
    """A step of the oracle's, and another tool with the same arguments, in turns."""

    def make(case: Case) -> Script | None:
        steps = [m for m in case.said if m.tool_calls]
        tool = next((t for t in tools_of(case) if t.name == name), None)
        if tool is None or number >= len(steps) - 1 or steps[number] in _knowing(case):
            return None
        call = steps[number].tool_calls[-1]
        given = {k: v for k, v in arguments(call).items() if k in tool.properties}
        if call.name == name or not given or name in _called(case):
            return None
        before = list(case.said[: case.said.index(steps[number])])
        return script([*before, *[steps[number], tool.call(**given)] * 10])

    return make


def _respelt(number: int) -> Make:
    """One step as often as the work has steps, each time spelt another way."""

    def make(case: Case) -> Script | None:
        steps = [m for m in case.said if m.tool_calls]
        if len(set(steps)) < 2 or number >= len(steps) - 1 or steps[number] in _knowing(case):
            return None
        call = steps[number].tool_calls[-1]
        texts = {k: spellings(v) for k, v in arguments(call).items() if isinstance(v, str)}
        if not texts:
            return None
        said = []
        for i in range(2 * len(steps)):
            given = {**arguments(call), **{k: v[i % len(v)] for k, v in texts.items()}}
            said.append(Message("assistant", (ToolCall(call.id, call.name, json.dumps(given)),)))
        return script(said)

    return make


def _in_turns(one: int, two: int) -> Make:
    """What the oracle does up to its message `one`, then that and `two` in turns."""

    def make(case: Case) -> Script | None:
        steps = list(dict.fromkeys(m for m in case.said if m.tool_calls))
        if max(one, two) >= len(steps) or len(steps) < 2:
            return None
        if {steps[one], steps[two]} & set(_knowing(case)):
            return None
        before = list(case.said[: case.said.index(steps[one])])
        if set(steps) <= {*before, steps[one], steps[two]}:
            return None  # that is the whole work
        return script([*before, *[steps[one], steps[two]] * 10])

    return make


def _over_and_over(number: int, times: int) -> Make:
    def make(case: Case) -> Script | None:
        steps = [m for m in case.said if m.tool_calls] or list(case.said)
        if len(set(steps)) < 2 or number >= len(steps) - 1 or steps[number] in _knowing(case):
            return None
        rest = [m for m in case.said if m not in steps and m not in _knowing(case)]
        return script([steps[number]] * (times * len(steps)) + rest)

    return make


def _knowing(case: Case) -> tuple[Message, ...]:
    """The message that gives the answer: whoever says it has it, however."""
    return (case.said[case.at],) if case.argument or not case.said[case.at].tool_calls else ()


async def any_call(bench: Bench) -> Result:
    """Calling tools, with whatever arguments, is not the work itself."""
    cases = with_tools(bench)
    if not cases:
        return nothing("there are no tools")
    ways: dict[str, Make] = {}
    for tool in {t.name: t for case in cases for t in tools_of(case)}.values():
        for times in (1, 12):
            ways[f"{tool.name} x{times}"] = _calls(tool.name, ({},), times)
        for name, schema in tool.properties.items():
            values = list(schema.get("enum") or ())[:6]
            for value in values:
                ways[f"{tool.name} {value} x12"] = _calls(tool.name, ({name: value},), 12)
            for one, two in pairwise(values):
                both = ({name: one}, {name: two})
                ways[f"{tool.name} {one} and {two} x6"] = _calls(tool.name, both, 6)
    return await must_not_pay(bench, ways, what="calls")


def _calls(name: str, arguments: Sequence[Mapping[str, Any]], times: int) -> Make:
    def make(case: Case) -> Script | None:
        tool = next((t for t in tools_of(case) if t.name == name), None)
        if tool is None:
            return None
        return script([tool.call(**each) for each in arguments] * times)

    return make
