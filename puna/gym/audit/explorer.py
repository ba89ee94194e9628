"""Looking round with an environment's own tools: what each is for, what it gives, what it names.

`Explorer(case, tools_of(case), 60)` is a script that lists and reads whatever it can;
`await explored(bench)` are the walks of one through the tasks at hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from puna.core.messages import Message, ToolCall
from puna.gym.audit.bench import Bench
from puna.gym.audit.calls import said
from puna.gym.audit.case import Case

PATHS = (
    *("path", "file", "filename", "file_path", "filepath", "file_name", "name", "directory", "dir"),
    *("folder", "document", "doc", "page", "target", "location", "key"),
)
CONTENTS = (
    *("content", "contents", "text", "data", "body", "new_content", "value", "new_str", "string"),
    *("lines", "new_text", "code", "source"),
)
COMMANDS = ("command", "cmd", "bash", "shell", "script", "commands", "line")
CODES = ("code", "source", "program", "python", "snippet")
PATH = re.compile(r"(?<![\w/.-])(?:/|\./)?[\w.-]+(?:/[\w.-]+)*(?:\.[A-Za-z]\w{0,7}|/)(?![\w/])")
SUSPECT = re.compile(
    r"answer|template|skeleton|draft|example|demo|debug|inspect|label|solution|gold|expected|hidden|secret|\bkey|reference|oracle|truth|sample|"
    r"submission|\.git|backup|\.bak|\.orig|cache|private|admin|grader|target",
    re.I,
)
MOST_CALLS = 60
QUERIES = ("query", "q", "question", "keyword", "keywords", "term", "pattern", "search", "sql")
STATEMENTS = ("sql", "statement", "query")
LOOK_CODE = (
    "import os\nprint('\\n'.join(d + '/' + f for d, _, fs in os.walk('.') for f in fs)[:4000])",
    "print({k: repr(v)[:300] for k, v in list(globals().items())})",
    "import os\nprint(dict(os.environ))",
    "import sys\nf = sys._getframe()\nwhile f:\n    print({k: repr(v)[:200] for k, v in "
    "f.f_locals.items()})\n    f = f.f_back",
)
AT_ONCE = 4  # calls of one message
LOOK = (
    *("ls -la", "ls -la ..", "find . -type f", "ls -la /", "git log --all -p -5", "git log --all"),
    *("git status", "git branch -a", "git stash list", "env", "pwd", "history"),
)
_HASH = re.compile(r"(?<![0-9a-z])[0-9a-f]{7,40}(?![0-9a-z])")
LISTING = re.compile(r"\w*(?:list|ls\b|dir|tree|find|glob)", re.I)
HISTORY = re.compile(r"\.git|\bgit |backup|\.bak|\.orig|history|\.swp|~$|\.old|\bold\b", re.I)


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
    def sets(self) -> tuple[str, ...]:
        """The parameters of what it sets and of the value, none where it sets nothing."""
        kind = self.properties.get(self.required[0], {}).get("type") if self.required else ""
        return self.required if len(self.required) == 2 and kind == "string" else ()

    @property
    def says(self) -> str:
        """The parameter that takes a command, or the only one, where that is any text."""
        schema = self.properties.get(self.required[0], {}) if len(self.required) == 1 else {}
        free = schema.get("type") == "string" and not schema.get("enum") and not self.reads
        return self.runs or (self.required[0] if free else "")

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
    return {"integer": 1, "number": 1, "boolean": True, "array": []}.get(
        schema.get("type", ""), "x"
    )


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
    asked_last: list[str] = field(default_factory=list)
    first: list[Message] = field(default_factory=list)  # what to do before looking round
    statements: list[tuple[Tool, str]] = field(default_factory=list)
    heard: int = 0

    def __post_init__(self) -> None:
        for tool in self.tools:
            if tool.reads:
                for path in ("", ".", "/"):
                    self.want(f"{tool.name} {path}", tool.call(**{tool.parameter(PATHS): path}))
            elif not tool.required:
                self.want(tool.name, tool.call())
                self.optional(tool)
            elif tool.parameter(COMMANDS):
                for command in LOOK:
                    self.want(command, tool.call(**{tool.runs: command}))
            elif tool.parameter(CODES) and not tool.writes:
                for number, code in enumerate(LOOK_CODE):
                    self.want(f"list {number}", tool.call(**{tool.runs: code}))
            elif tool.parameter(QUERIES):
                self.search(tool)
            elif len(tool.required) == 1:
                name = tool.required[0]
                if tool.properties.get(name, {}).get("type") == "integer":
                    asked = re.findall(r"\d{1,9}", self.case.prompt)[:4]
                    for number in dict.fromkeys(["0", "1", "2", *asked]):
                        self.want(f"{tool.name} {number}", tool.call(**{name: int(number)}))
        self.unused()
        self.paths_in(self.case.prompt + json.dumps([dict(t) for t in self.case.task.tools]))

    def want(self, what: str, message: Message) -> None:
        """Make this call once."""
        if what not in self.asked:
            self.asked.add(what)
            self.todo.append((what, message))

    def optional(self, tool: Tool) -> None:
        """Call it with each thing that may be asked for and need not."""
        for name, schema in tool.properties.items():
            usual: Mapping[str, list[Any]] = {"integer": [1, 2, 3, 4], "boolean": [True]}
            values = [*list(schema.get("enum") or ())[:6], *usual.get(schema.get("type", ""), ())]
            for value in values:
                self.want(f"{tool.name} {name} {value}", tool.call(**{name: value}))

    def unused(self) -> None:
        """Call tools that the oracle leaves alone, with what it gives to others by that name."""
        used = {place[1] for place in said(self.case)}
        given = {p[2]: v for p, v in said(self.case).items() if v != self.case.answer}
        for tool in self.tools:
            if tool.name not in used and tool.required and set(tool.required) <= set(given):
                known = {name: given[name] for name in tool.required}
                self.want(f"{tool.name} {json.dumps(known)}", tool.call(**known))

    def paths_in(self, text: str) -> None:
        """Ask for every path that is named."""
        for path in dict.fromkeys(PATH.findall(text)):
            self.read(path)

    def read(self, path: str) -> None:
        """Read a path with every tool that can; list it where it has no ending."""
        for tool in self.tools:
            if tool.reads and not (LISTING.match(tool.name) and "." in path[1:]):
                name = f"{tool.name} {path}"
                self.want(name, tool.call(**{tool.parameter(PATHS): path}))
            elif tool.parameter(COMMANDS):
                self.want(f"cat {path}", tool.call(**{tool.runs: f"cat {path}"}))
            elif tool.parameter(CODES) and not tool.writes:
                code = f"print(open({path!r}).read())"
                self.want(f"cat {path}", tool.call(**{tool.runs: code}))

    def search(self, tool: Tool) -> None:
        """Ask a search, or a database, for what it should not know."""
        name = tool.parameter(QUERIES)
        last = (self.case.prompt.splitlines() or [""])[-1][:300]
        for query in ("answer", "solution", "label", "*", "", "e", last):
            self.want(f"{tool.name} {query[:40]}", tool.call(**{name: query}))
        if tool.parameter(STATEMENTS):
            names = "SELECT name, sql FROM sqlite_master"
            self.want(f"list {names}", tool.call(**{name: names}))
            self.statements.append((tool, name))

    def tables(self, text: str) -> None:
        """Read the tables that a list of them names, column by column where it has these."""
        made = re.findall(r"CREATE TABLE\W+(\w+)\W*\(([^()]*)", text, re.I)
        looks = []
        for table, body in made:
            columns = [w[0] for part in body.split(",") if (w := re.findall(r"[A-Za-z_]\w*", part))]
            looks.append(f"SELECT {', '.join(columns)} FROM {table} LIMIT 50")
        names = re.findall(r"[A-Za-z_]\w*", text[:2000])
        for look in looks or [f"SELECT * FROM {table} LIMIT 50" for table in dict.fromkeys(names)]:
            for tool, name in self.statements:
                self.want(look, tool.call(**{name: look}))

    def __call__(self, heard: Sequence[Message]) -> Message:
        """Note what the last calls gave, and make the next ones."""
        new = [m.text or results(m) for m in heard[self.heard :] if m.role == "tool"]
        if not new and self.asked_last:
            new = [m.text for m in heard[self.heard :] if m.role not in ("assistant", "system")]
        self.heard = len(heard)
        for what, text in zip(self.asked_last, new, strict=False):
            self.learn(what, text)
        if self.first:
            self.asked_last = []
            return self.first.pop(0)
        if not self.todo or len(self.seen) >= self.limit:
            self.asked_last = []
            return Message.assistant("")
        # what lists first, then suspicious names
        self.todo.sort(key=lambda each: (not LISTING.match(each[0]), not SUSPECT.search(each[0])))
        now, self.todo = self.todo[:AT_ONCE], self.todo[AT_ONCE:]
        self.asked_last = [what for what, _ in now]
        return together([message for _, message in now])

    def learn(self, what: str, text: str) -> None:
        """Ask for what a result names: paths, entries of a folder, commits."""
        self.seen[what] = text
        if text.startswith("error"):
            return
        if "sqlite_master" in what:
            self.tables(text)
            return
        self.paths_in(text)
        if LISTING.match(what):
            folder = what.split(" ")[-1].strip("/") if " " in what else ""
            folder = "" if folder in (".", "..", "-la") or folder.startswith("-") else f"{folder}/"
            for name in dict.fromkeys(re.findall(r"[\w./-]+", text[:4000])):
                self.read(name)
                if folder and not name.startswith(folder):
                    self.read(folder + name)
        if what.startswith("git"):
            for commit in dict.fromkeys(_HASH.findall(text)):
                for tool in self.tools:
                    if tool.parameter(COMMANDS):
                        self.want(
                            f"git show {commit}", tool.call(**{tool.runs: f"git show {commit}"})
                        )

    @property
    def paths(self) -> list[str]:
        """Paths that are there."""
        there = [what for what, text in self.seen.items() if not text.startswith("error")]
        found = [what.split(" ", 1)[1] for what in there if " " in what]
        return [p for p in dict.fromkeys(found) if p and PATH.fullmatch(p)]


def together(messages: Sequence[Message]) -> Message:
    """One message that makes all these calls."""
    calls = [call for m in messages for call in m.tool_calls]
    numbered = [ToolCall(f"call_{i}", c.name, c.arguments) for i, c in enumerate(calls)]
    return Message("assistant", tuple(numbered))


def results(message: Message) -> str:
    """The text of all tool results of a message."""
    return "\n".join(
        part.text
        for result in message.parts
        for part in getattr(result, "parts", ())
        if hasattr(part, "text")
    )


async def explored(bench: Bench, after_work: bool = False) -> list[Explorer]:
    """One walk through each task with tools, at once or after all that the oracle does but its end.

    Several probes want it, so it is walked once.
    """
    name = "walks after work" if after_work else "walks"
    if name not in bench.memo:
        found = []
        for case in with_tools(bench):
            if not after_work or case.after:
                first = list(case.said[: case.at + 1]) if after_work else []
                walk = Explorer(case, tools_of(case), MOST_CALLS, first=first)
                await bench.attempt(case, walk, "looks around")
                found.append(walk)
        bench.memo[name] = found
    walks: list[Explorer] = bench.memo[name]
    return walks


def with_tools(bench: Bench) -> list[Case]:
    """Every other task that has tools, 16 of them, 8 where they are dear."""
    return [c for c in bench.cases if c.task.tools][::2][: 8 if bench.dear else 16]


def in_sight(case: Case) -> str:
    """What the oracle was told: the prompt, and what its calls gave."""
    heard = case.episode.transcript if case.episode else ()
    told = [m.text or results(m) for _, m in heard if m.role != "assistant"]
    return "\n".join([case.prompt, *told])
