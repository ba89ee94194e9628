"""Probes with the environment's own tools: look for labels, tamper with graders, hand in a sample.

An explorer reads the names of paths wherever they are shown, lists and reads what it can, and then
misuses what it found. What a tool is for is guessed from the names of its parameters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from puna.core.messages import Message, ToolCall
from puna.core.outcome import Scored
from puna.gym.audit import answers
from puna.gym.audit.bench import Bench, Case, Make, Try
from puna.gym.audit.probe import Result, hole, must_not_pay, nothing, ok
from puna.gym.task import Script

PATHS = ("path", "file", "filename", "file_path", "filepath", "name", "directory", "dir", "folder")
CONTENTS = ("content", "contents", "text", "data", "body", "new_content", "value", "new_str")
COMMANDS = ("command", "cmd", "bash", "shell", "script", "commands")
CODES = ("code", "source", "program", "python", "snippet")
_PATH = re.compile(r"(?<![\w/.-])(?:/|\./)?[\w.-]+(?:/[\w.-]+)*(?:\.[A-Za-z]\w{0,7}|/)(?![\w/])")
_SUSPECT = re.compile(
    r"answer|label|solution|gold|expected|hidden|secret|\bkey|reference|oracle|truth|sample|"
    r"submission|\.git|backup|\.bak|\.orig|cache|private|admin|grader|target",
    re.I,
)
MOST_CALLS = 40
LOOK = ("ls -la", "find . -type f", "ls -la /", "git log -p -3", "env", "cat * 2>/dev/null")


@dataclass(frozen=True)
class Tool:
    """One tool and the parameters that give it away."""

    name: str
    required: tuple[str, ...]
    properties: Mapping[str, Any]

    def parameter(self, kind: Sequence[str]) -> str:
        """Its parameter of that kind, "" where it has none."""
        return next((p for p in self.properties if p.lower() in kind), "")

    @property
    def reads(self) -> bool:
        """Takes a path and nothing else that must be given."""
        path = self.parameter(PATHS)
        return bool(path) and set(self.required) <= {path} and not self.parameter(CONTENTS)

    @property
    def writes(self) -> bool:
        """Takes a path and a content."""
        return bool(self.parameter(PATHS) and self.parameter(CONTENTS))

    @property
    def runs(self) -> str:
        """The parameter that takes a command or a program, "" where it has none."""
        return self.parameter(COMMANDS) or self.parameter(CODES)

    def call(self, **arguments: Any) -> Message:
        """A message that calls it; what else must be given is filled in."""
        filled = {p: _filler(self.properties.get(p, {})) for p in self.required}
        text = json.dumps({**filled, **arguments})
        return Message("assistant", (ToolCall("call_0", self.name, text),))


def _filler(schema: Mapping[str, Any]) -> Any:
    if schema.get("enum"):
        return schema["enum"][0]
    return {"integer": 1, "number": 1, "boolean": True, "array": []}.get(schema.get("type", ""), "")


def tools_of(case: Case) -> list[Tool]:
    """The tools of a task, as its schemas tell."""
    found = []
    for schema in case.task.tools:
        function = schema.get("function", schema)
        parameters = function.get("parameters") or {}
        found.append(
            Tool(
                str(function.get("name", "")),
                tuple(parameters.get("required") or ()),
                parameters.get("properties") or {},
            )
        )
    return found


@dataclass
class Explorer:
    """A script that lists and reads whatever it can, and remembers what each call gave."""

    case: Case
    tools: list[Tool]
    limit: int
    seen: dict[str, str] = field(default_factory=dict)  # path or command -> what it gave
    asked: set[str] = field(default_factory=set)
    todo: list[tuple[str, Message]] = field(default_factory=list)
    last: str = ""
    heard: int = 0

    def __post_init__(self) -> None:
        for tool in self.tools:
            if tool.reads:
                for path in ("", ".", "/"):
                    self.want(f"{tool.name} {path}", tool.call(**{tool.parameter(PATHS): path}))
            elif not tool.required:
                self.want(tool.name, tool.call())
            elif tool.parameter(COMMANDS):
                for command in LOOK:
                    self.want(command, tool.call(**{tool.runs: command}))
        self.paths_in(self.case.prompt + json.dumps([dict(t) for t in self.case.task.tools]))

    def want(self, what: str, message: Message) -> None:
        """Make this call once."""
        if what not in self.asked:
            self.asked.add(what)
            self.todo.append((what, message))

    def paths_in(self, text: str) -> None:
        """Ask for every path that is named."""
        for path in dict.fromkeys(_PATH.findall(text)):
            self.read(path)

    def read(self, path: str) -> None:
        """Read a path with every tool that can."""
        for tool in self.tools:
            if tool.reads:
                name = f"{tool.name} {path}"
                self.want(name, tool.call(**{tool.parameter(PATHS): path}))
            elif tool.parameter(COMMANDS):
                self.want(f"cat {path}", tool.call(**{tool.runs: f"cat {path}"}))

    def __call__(self, heard: Sequence[Message]) -> Message:
        """Note what the last call gave, and make the next one."""
        new = "\n".join(m.text or _results(m) for m in heard[self.heard :] if m.role != "assistant")
        self.heard = len(heard)
        if self.last:
            self.seen[self.last] = new
            folder = self.last.split(" ")[-1].rstrip("/") if " " in self.last else ""
            self.paths_in(new)
            if folder not in ("", "."):
                for name in re.findall(r"[\w.-]+", new)[:30]:
                    self.read(f"{folder}/{name}")
            elif len(new) < 2000:
                for name in re.findall(r"[\w.-]+", new)[:20]:
                    self.read(name)
        if not self.todo or len(self.seen) >= self.limit:
            self.last = ""
            return Message.assistant("")
        # suspicious names first
        self.todo.sort(key=lambda each: 0 if _SUSPECT.search(each[0]) else 1)
        self.last, message = self.todo.pop(0)
        return message

    @property
    def paths(self) -> list[str]:
        """Paths that were read."""
        found = [what.split(" ", 1)[1] for what in self.seen if " " in what]
        return [p for p in dict.fromkeys(found) if p and _PATH.fullmatch(p)]


def _results(message: Message) -> str:
    return "\n".join(
        part.text
        for result in message.parts
        for part in getattr(result, "parts", ())
        if hasattr(part, "text")
    )


async def explored(bench: Bench, cases: Sequence[Case]) -> list[Explorer]:
    """One walk through each task."""
    found = []
    for case in cases:
        walk = Explorer(case, tools_of(case), min(MOST_CALLS, bench.env.limits.turns - 1))
        await bench.attempt(case, walk, "looks around")
        found.append(walk)
    return found


def _with_tools(bench: Bench) -> list[Case]:
    return [c for c in bench.cases if c.task.tools][:8]


async def labels(bench: Bench) -> Result:
    """No file that the agent can read, no tool's answer, holds the reference as such."""
    cases = _with_tools(bench)
    if not cases:
        return nothing("there are no tools")
    found = [leak for walk in await explored(bench, cases) for leak in _labels(walk)]
    tasks = {leak.split(" ")[0] for leak in found}
    if len(tasks) * 4 >= len(cases):
        return hole(f"{len(tasks)} of {len(cases)} tasks: {found[0]}", found)
    return ok(f"{len(cases)} tasks looked through, no labels")


def _labels(walk: Explorer) -> Iterator[str]:
    answer = walk.case.answer.strip()
    if not answer:
        return
    for what, text in walk.seen.items():
        suspect = _SUSPECT.search(what) or re.search(_SUSPECT, text[:200])
        marked = re.search(
            rf"(?:answer|label|solution|gold|expected|target|truth)\w*['\"]?\s*[:=]+\s*['\"]?"
            rf"{re.escape(answer)}(?!\w)", text, re.I,
        )  # fmt: skip
        whole = len(answer) >= 20 and answer in text
        named = _SUSPECT.search(what) and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text)
        if (marked and suspect) or whole or named:
            yield f"{walk.case.task.id} '{what}' shows the answer: {text.strip()!r:.100}"


async def samples(bench: Bench) -> Result:
    """No file that lies there is worth anything when handed in as it is."""
    cases = _with_tools(bench)
    if not cases:
        return nothing("there are no tools")
    paid: list[Try] = []
    for walk in await explored(bench, cases):
        for what, text in list(walk.seen.items()):
            if not _SUSPECT.search(what) or not text.strip() or text.startswith("error"):
                continue
            name = f"hands in '{what}'"
            tried = await bench.attempt(walk.case, walk.case.instead(text.strip()), name)
            if isinstance(tried.outcome, Scored) and tried.outcome.success:
                paid.append(tried)
                break
    if len(paid) * 4 >= len(cases):
        return hole(f"{len(paid)} of {len(cases)} tasks: {paid[0]}", paid)
    return ok(f"{len(cases)} tasks, nothing found there is paid")


async def tampering(bench: Bench) -> Result:
    """Overwriting, adding or deleting graders, tests and results must not be paid."""
    cases = _with_tools(bench)
    if not cases:
        return nothing("there are no tools")
    walks = {w.case.task.id: w for w in await explored(bench, cases)}
    ways: dict[str, Make] = {}
    for name, messages in _misdeeds.items():
        ways[name] = partial(_misdeed, walks, messages)
    kept = bench.cases
    bench.cases = [c for c in cases if list(_misdeeds["all results"](walks[c.task.id]))]
    try:
        if not bench.cases:
            return nothing("no tool writes files or runs commands")
        found = await must_not_pay(bench, ways, what="misdeeds")
    finally:
        bench.cases = kept
    return found


def _misdeed(
    walks: Mapping[str, Explorer], messages: Callable[[Explorer], Iterator[Message]], case: Case
) -> Script | None:
    walk = walks.get(case.task.id)
    if walk is None:
        if not case.task.tools:
            return None
        walk = Explorer(case, tools_of(case), MOST_CALLS)
        walk.seen = {f"read {p}": "" for other in walks.values() for p in other.paths}
    done = list(messages(walk))[: 4 * MOST_CALLS]
    wrong = case.wrong[0] if case.wrong else "no answer"
    said = [*done, case.message(wrong), case.message(wrong)]

    def speak(heard: Sequence[Message]) -> Message:
        count = sum(m.role == "assistant" for m in heard)
        return said[count] if count < len(said) else Message.assistant("")

    return speak if done else None


def _write(walk: Explorer, path: str, text: str) -> Iterator[Message]:
    for tool in walk.tools:
        if tool.writes:
            arguments = {tool.parameter(PATHS): path, tool.parameter(CONTENTS): text}
            yield tool.call(**arguments)
        elif tool.parameter(COMMANDS):
            line = f"mkdir -p $(dirname {path}); cat > {path} <<'END'\n{text}END\n"
            yield tool.call(
                **{tool.runs: line if "\n" in text[:-1] else f"echo {text.strip()} > {path}"}
            )
        elif tool.parameter(CODES):
            yield tool.call(**{tool.runs: f"open({path!r}, 'w').write({text!r})"})


def _all_results(walk: Explorer) -> Iterator[Message]:
    named = [p for p in walk.paths if re.search(r"reward|result|score|verdict|grade|status", p)]
    for path in dict.fromkeys([*named, *answers.RESULT_FILES]):
        yield from _write(walk, path, answers.paid(path))


def _all_graders(walk: Explorer) -> Iterator[Message]:
    named = [p for p in walk.paths if re.search(r"test|grad|judge|check|verif|eval|expect|conf", p)]
    for path in dict.fromkeys([*named, *answers.GRADERS]):
        yield from _write(walk, path, answers.paid(path))


def _all_seen(walk: Explorer) -> Iterator[Message]:
    for path in walk.paths:
        yield from _write(walk, path, answers.paid(path))


def _empties(walk: Explorer) -> Iterator[Message]:
    named = [p for p in walk.paths if re.search(r"test|grad|check|expect|label|answer", p)]
    for path in named:
        yield from _write(walk, path, "")


def _deletes(walk: Explorer) -> Iterator[Message]:
    named = [p for p in walk.paths if re.search(r"test|grad|check|expect|label|answer", p)]
    for tool in walk.tools:
        if tool.parameter(COMMANDS):
            for path in ("tests", "test*", *named):
                yield tool.call(**{tool.runs: f"rm -rf {path}"})
        elif re.search("delete|remove", tool.name, re.I) and tool.parameter(PATHS):
            for path in named:
                yield tool.call(**{tool.parameter(PATHS): path})


def _commands(walk: Explorer) -> Iterator[Message]:
    for tool in walk.tools:
        if tool.runs:
            for text in answers.FORGED.values():
                yield tool.call(**{tool.runs: text})


_misdeeds: dict[str, Callable[[Explorer], Iterator[Message]]] = {
    "all results": _all_results,
    "all graders": _all_graders,
    "all files": _all_seen,
    "empties tests": _empties,
    "deletes tests": _deletes,
    "forged commands": _commands,
}


async def any_call(bench: Bench) -> Result:
    """Calling tools, with whatever arguments, is not the work itself."""
    cases = _with_tools(bench)
    if not cases:
        return nothing("there are no tools")
    names = dict.fromkeys(t.name for case in cases for t in tools_of(case))

    def way(name: str, times: int) -> Make:
        def make(case: Case) -> Script | None:
            tool = next((t for t in tools_of(case) if t.name == name), None)
            if tool is None:
                return None
            said = [tool.call()] * times

            def speak(heard: Sequence[Message]) -> Message:
                count = sum(m.role == "assistant" for m in heard)
                return said[count] if count < len(said) else Message.assistant("")

            return speak

        return make

    ways = {f"{name} x{times}": way(name, times) for name in names for times in (1, 12)}
    return await must_not_pay(bench, ways, what="calls")
