"""What every backend offers: run a job, call a function of untrusted code, judge a result.

`await sandbox.run(job)`, or `sandbox.run_now(job)` where no event loop is at hand.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from puna.sandbox.job import Job, Limits, Result, SandboxError, folders_of


@dataclass(frozen=True)
class Mounts:
    """What a jail sees of the host, all of it read-only, beside the system's programs.

    `folders`: path inside -> path on the host. `packages`: the installed Python packages.
    `library`: Puna itself, without the rooms that hold tasks and their answers. `loaded`: modules
    of these, and trusted like them, that a job finds imported already, where the backend can.
    """

    folders: Mapping[str, Path] = field(default_factory=dict)
    packages: bool = False
    library: bool = False
    loaded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What one call of a function gave: a value (JSON), or the error's text."""

    value: Any = None
    error: str = ""


class Sandbox(ABC):
    """A place that runs jobs. Safe to use from several threads and event loops at once."""

    name: str

    @abstractmethod
    async def run(self, job: Job) -> Result:
        """Run a job; cancelling the call kills it.

        Raises SandboxError where the machinery failed.
        """

    @abstractmethod
    def run_now(self, job: Job) -> Result:
        """`run` for callers without an event loop."""

    @abstractmethod
    def close(self) -> None:
        """Kill what runs and give everything back; a later job starts anew."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def call(
        self, source: str, function: str, cases: Sequence[Sequence[Any]], limits: Limits = Limits()
    ) -> list[Answer]:
        """`function` of untrusted Python `source`, called with the arguments of each case.

        Arguments and values travel as JSON. The job may read what later cases are given, and never
        learns what is expected: compare here.
        A case that the job did not come to, or whose answer is malformed, has an error.
        """
        return _answers(await self.run(_calls(source, function, cases, limits)), len(cases))

    def call_now(
        self, source: str, function: str, cases: Sequence[Sequence[Any]], limits: Limits = Limits()
    ) -> list[Answer]:
        """`call` for callers without an event loop."""
        return _answers(self.run_now(_calls(source, function, cases, limits)), len(cases))

    async def judge(
        self,
        source: str,
        result: Result,
        hidden: Mapping[str, bytes] | None = None,
        limits: Limits = Limits(),
    ) -> Any:
        """The verdict of trusted Python `source` on the files that a job has left.

        The judge runs in a jail of its own: it finds the job's files under `job/`, the `hidden`
        ones under `judge/`, and says its verdict with `report(value)` (JSON). Raises SandboxError
        where it said none: then the judge is at fault, not the job.
        """
        return _verdict(await self.run(_judgement(source, result, hidden, limits)))

    def judge_now(
        self,
        source: str,
        result: Result,
        hidden: Mapping[str, bytes] | None = None,
        limits: Limits = Limits(),
    ) -> Any:
        """`judge` for callers without an event loop."""
        return _verdict(self.run_now(_judgement(source, result, hidden, limits)))


CALLER = """
import json as _json, os as _os, sys as _sys
_channel = _os.fdopen(3, "w")
_cases = _json.load(open("cases.json"))
_os.unlink("cases.json")
_space = {"__name__": "answer"}
def _say(**fields):
    try:
        text = _json.dumps(fields)
    except (TypeError, ValueError, RecursionError):
        text = _json.dumps({"error": "the value is not JSON"})
    _channel.write(text + "\\n")
    _channel.flush()
def _told(error):
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return type(error).__name__
try:
    exec(compile(open("answer.py").read(), "answer.py", "exec"), _space)
    _function = _space[_sys.argv[1]]
except BaseException as _error:
    for _ in _cases:
        _say(error=_told(_error))
    _cases = []
for _case in _cases:
    try:
        _value = _function(*_case)
    except BaseException as _error:
        _say(error=_told(_error))
    else:
        _say(value=_value)
"""

JUDGE = """
import json, os
def report(value):
    with os.fdopen(os.dup(3), "w") as file:
        file.write(json.dumps(value) + "\\n")
"""


def _calls(source: str, function: str, cases: Sequence[Sequence[Any]], limits: Limits) -> Job:
    files = {
        "answer.py": source.encode(errors="replace"),
        "cases.json": json.dumps([list(c) for c in cases]).encode(),
    }
    return Job.python(CALLER, function, files=files, report=True, limits=limits)


def _answers(result: Result, count: int) -> list[Answer]:
    answers = []
    for line in result.report.split(b"\n")[:-1][:count]:
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            said = None
        match said:
            case {"error": str(error)} if error:
                answers.append(Answer(error=error))
            case {"value": value}:
                answers.append(Answer(value))
            case _:
                answers.append(Answer(error="malformed"))
    why = f"ended by the limit of {result.reason}" if result.reason else f"exit {result.exit}"
    return answers + [Answer(error=why)] * (count - len(answers))


def _judgement(
    source: str, result: Result, hidden: Mapping[str, bytes] | None, limits: Limits
) -> Job:
    files: dict[str, bytes] = {}
    for path, data in result.files.items():
        files[f"job/{path}"] = data
    for path, data in (hidden or {}).items():
        files[f"judge/{path}"] = data
    room = sum(map(len, files.values())) + 4096 * len(files)
    limits = replace(  # beside what it brings itself it has what it was given
        limits,
        files=limits.files + len(files) + len(folders_of(files)),
        disk_mb=limits.disk_mb + room // 2**20 + 1,
    )
    return Job.python(JUDGE + source, files=files, report=True, limits=limits)


def _verdict(result: Result) -> Any:
    lines = result.report.split(b"\n")[:-1]
    if len(lines) != 1 or not result.ok:
        tail = result.stderr[-500:].decode(errors="replace").strip().splitlines()
        why = result.reason or f"exit {result.exit}"
        raise SandboxError(
            f"the judge gave {len(lines)} verdicts ({why}){': ' + tail[-1] if tail else ''}"
        )
    try:
        return json.loads(lines[0])
    except ValueError as error:
        raise SandboxError(f"the judge's verdict is not JSON: {error}") from None
