"""One task as the audit sees it: what its oracle said, which text of it decides, other answers.

`answered(cases, [])` are cases that know their answer; `case.instead("x")` says "x" in its place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from puna.core.messages import Message, ToolCall
from puna.core.outcome import Infra, Outcome, Scored
from puna.gym.task import Script, Task, script
from puna.gym.trajectory import Episode

LONG_ARGUMENT = 40  # characters of one that is the answer by itself


@dataclass(frozen=True)
class Case:
    """One task, what its oracle said in it and what that earned; the rest are other answers.

    `said` are the oracle's messages in order; `answer` is the text that decides: what message
    number `at` of them says, or the longest argument of its last call (`argument` names it).
    `wrong` are answers to other tasks that differ from this one's.
    """

    task: Task
    role: str
    said: tuple[Message, ...] = ()
    answer: str = ""
    at: int = -1
    argument: str = ""
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    varying: tuple[str, ...] = ()  # the call's arguments where several make the answer
    wrong: tuple[str, ...] = ()
    episode: Episode | None = None
    problem: str = ""  # why there is no reference

    @property
    def outcome(self) -> Outcome:
        """Of the role that is probed."""
        return self.outcomes.get(self.role, Infra(self.problem or "no outcome"))

    @property
    def sound(self) -> bool:
        """Whether the reference was scored at all: then a bad answer must be, too."""
        return isinstance(self.outcome, Scored)

    @property
    def prompt(self) -> str:
        """All text that the policy sees at first."""
        return "\n".join(m.text for m in self.task.messages)

    def message(self, text: str) -> Message:
        """`text` in the place of the answer: said, or as the argument of the same call."""
        if not self.argument:
            return Message.assistant(text)
        call = self.said[self.at].tool_calls[-1]
        arguments = json.loads(call.arguments)
        if self.varying:  # the answer is all of them: nothing of it is given away
            kept = {k: v for k, v in arguments.items() if k not in self.varying}
            arguments = kept | (_object(text) or dict.fromkeys(self.varying, text))
        else:
            arguments[self.argument] = _like(arguments[self.argument], text)
        return Message("assistant", (ToolCall(call.id, call.name, json.dumps(arguments)),))

    @property
    def before(self) -> tuple[Message, ...]:
        """What the oracle says before its answer."""
        return self.said[: self.at] if self.at >= 0 else self.said[:-1]

    @property
    def after(self) -> tuple[Message, ...]:
        """What it says after its answer (that it is done)."""
        return self.said[self.at + 1 :] if self.at >= 0 else ()

    def instead(self, text: str) -> Script:
        """Answers at once with `text`, then says no more than the oracle does."""
        return script([self.message(text), *self.after])

    def at_the_end(self, text: str) -> Script:
        """Does all that the oracle did, but answers with `text`."""
        return script([*self.before, self.message(text), *self.after])


def _like(old: Any, text: str) -> Any:
    """`text` as the kind of value that `old` is, where it can be."""
    if isinstance(old, int | float) and not isinstance(old, bool):
        try:
            return type(old)(text)
        except (ValueError, OverflowError):
            return text
    return text


def answered(found: Sequence[Case], known: Sequence[Case]) -> list[Case]:
    """`found` with the text that decides in each, and the answers to others, `known` ones first."""
    speaks = _decides(found or known)
    told = _composed([_slotted(c, speaks) for c in found])
    pool = list(dict.fromkeys(c.answer for c in (*known, *told) if c.answer))
    return [replace(c, wrong=_others(c, pool)) for c in told]


def _decides(cases: Sequence[Case]) -> bool:
    """Whether what the oracles say last is the answer, and not that they are done."""
    last = [c.said[-1] for c in cases if c.said]
    if any(m.tool_calls for m in last) or not any(m.tool_calls for c in cases for m in c.said):
        return True
    texts = {m.text for m in last}
    return len(texts) > 2 or (len(last) < 3 and all(len(t) > 20 for t in texts))


def _slotted(case: Case, speaks: bool) -> Case:
    """With the text that decides, and where it stands."""
    if not case.said:
        return case
    last = len(case.said) - 1
    calls = [i for i, m in enumerate(case.said) if m.tool_calls]
    at = last if speaks or not calls else calls[-1]
    message = case.said[at]
    if not message.tool_calls:
        return replace(case, answer=message.text, at=at)
    try:
        arguments = json.loads(message.tool_calls[-1].arguments)
        texts = {k: str(v) for k, v in arguments.items() if isinstance(v, str | int | float)}
    except (ValueError, AttributeError):
        texts = {}
    if not texts:
        return replace(case, answer=message.tool_calls[-1].arguments, at=at)
    name = max(texts, key=lambda k: (isinstance(arguments[k], str), len(texts[k])))
    return replace(case, answer=texts[name], at=at, argument=name)


def _composed(cases: list[Case]) -> list[Case]:
    """Where several short arguments of the deciding call differ from task to task, all of them."""
    values: dict[tuple[str, str], set[str]] = {}
    for c in cases:
        if c.argument:
            call = c.said[c.at].tool_calls[-1]
            for name, value in json.loads(call.arguments).items():
                values.setdefault((call.name, name), set()).add(repr(value))
    out = []
    for c in cases:
        if c.argument and len(c.answer) < LONG_ARGUMENT:
            call = c.said[c.at].tool_calls[-1]
            moved = {n: v for n, v in json.loads(call.arguments).items()
                     if len(values[call.name, n]) > 1}  # fmt: skip
            if len(moved) > 1:
                c = replace(c, answer=json.dumps(moved), varying=tuple(moved))
        out.append(c)
    return out


def _object(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _others(case: Case, pool: Sequence[str]) -> tuple[str, ...]:
    """Up to eleven answers to other tasks, none of which is this one's in other clothes."""

    def plain(text: str) -> str:
        return "".join(text.casefold().split())

    own = plain(case.answer)
    return tuple(x for x in pool if plain(x) != own)[:11]
