"""What an agent does in a workspace: tools to look, to edit and to run; or one answer a function.

`TOOLBOX.dispatch(ToolCall("call_0", "read_file", '{"path": "run.py"}'), Desk(files, lab, 60))`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from puna.core.messages import Message, Text, ToolResult
from puna.envs.experiment import masking
from puna.envs.experiment.lab import Lab
from puna.envs.experiment.masking import decoded
from puna.envs.experiment.research import Research
from puna.gym.environment import Turn
from puna.gym.tools import Toolbox, ToolError
from puna.sandbox import LimitError, limited
from puna.sandbox.job import folders_of
from puna.sandbox.limited import CallError

MOST_CALLS = 16  # of one message; the rest is not done
OUTPUT = 10_000  # characters of a tool's answer
MOST_FILES, LARGEST = 4_000, 100 << 20
LEAST_S = 0.1
_FENCE = re.compile(r"^```[A-Za-z]*[ \t]*\n(.*?)^```", re.S | re.M)
Place = Annotated[str, "relative to the root of the repository"]


class Desk:
    """The tools at work on the files of one episode; `left` is processor time for what is run."""

    def __init__(self, files: Mapping[str, bytes], lab: Lab, left: float) -> None:
        self.files: dict[str, bytes | tuple[bytes, int]] = dict(files)
        self.lab, self.left = lab, left
        self.submitted = False

    def list_files(self) -> str:
        """List all files, with their sizes in bytes."""
        return clipped("\n".join(f"{p}  {len(self._data(p))}" for p in sorted(self.files)))

    def read_file(
        self,
        path: Place,
        first: Annotated[int, "first line, from 1"] = 1,
        last: Annotated[int, "last line; 0: the last of the file"] = 0,
    ) -> str:
        """Read a file, or some lines of it."""
        lines = self._text(path).splitlines(keepends=True)
        if not 1 <= first <= max(1, len(lines)):
            raise ToolError(f"{path} has {len(lines)} lines")
        return clipped("".join(lines[first - 1 : last if last > 0 else None]))

    def write_file(self, path: Place, text: str) -> str:
        """Write a file, in place of the one that is there if there is one."""
        self._put(_plain(path), text.encode())
        return "ok"

    def edit_file(
        self,
        path: Place,
        old: Annotated[str, "text that occurs once in the file, to the letter"],
        new: Annotated[str, "what to put in its place"],
    ) -> str:
        """Replace a piece of a file."""
        text, encoding = self._text(path), self._encoding(path)
        if not old or (count := text.count(old)) != 1:
            raise ToolError(f"the old text occurs {count if old else 0} times in {path:.200}")
        self._put(_plain(path), text.replace(old, new).encode(encoding, errors="replace"))
        return "ok"

    def run(
        self, command: Annotated[str, "a shell line; none: the experiment's command"] = ""
    ) -> str:
        """Run the experiment's command, or any shell line, in the root of the repository. Changes
        of files are kept."""
        line = command.strip() or self.lab.source.command
        if self.left < LEAST_S:
            raise ToolError("no time is left for running; submit")
        if "\0" in line:
            raise ToolError("a zero byte in the command")
        try:
            done = self.lab.run(line, self.files, ("*",), min(self.left, self.lab.seconds))
        except ValueError as error:
            raise ToolError(str(error)) from None
        self.left -= done.cpu_s
        kept = {p: (data, done.modes[p]) for p, data in done.files.items() if _is_plain(p)}
        small = sum(len(data) for data, _ in kept.values()) <= LARGEST and len(kept) <= MOST_FILES
        if whole := small and done.reason not in ("disk", "files"):
            self.files = {**kept}
        said = (done.stdout + done.stderr).decode(errors="replace")
        how = f"ended by the limit of {done.reason}" if done.reason else f"exit {done.exit}"
        note = "" if whole else "\n(files too many or too large: they are left as they were)"
        left = max(0.0, self.left)
        return f"{clipped(said)}\n({how}, {done.cpu_s:.1f} s; {left:.0f} s are left){note}"

    def submit(self) -> str:
        """Hand in the files as they are, and end."""
        self.submitted = True
        return "ok"

    def _data(self, path: str) -> bytes:
        name = _plain(path)
        if name not in self.files:
            raise ToolError(f"no file {path!r:.200}; list_files tells which there are")
        content = self.files[name]
        return content[0] if isinstance(content, tuple) else content

    def _encoding(self, path: str) -> str:
        try:
            return decoded(self._data(path))[1] if path.endswith(".py") else "utf-8"
        except (SyntaxError, UnicodeDecodeError):
            return "utf-8"

    def _text(self, path: str) -> str:
        return self._data(path).decode(self._encoding(path), errors="replace")

    def _put(self, name: str, data: bytes) -> None:
        if folders_of([name]) & self.files.keys() or any(
            p.startswith(f"{name}/") for p in self.files
        ):
            raise ToolError(f"{name:.200} is a file and a folder")
        size = sum(len(self._data(p)) for p in self.files if p != name) + len(data)
        if size > LARGEST or len(self.files) >= MOST_FILES:
            raise ToolError("the files are too many, or too large")
        self.files[name] = data


def _plain(path: str) -> str:
    """A path in the workspace, `./` left out. Raises ToolError for another one."""
    name = posixpath.normpath(path)
    if not _is_plain(name):
        raise ToolError(f"{path!r:.200} is no path in the repository")
    return name


def _is_plain(name: str) -> bool:
    inside = not name.startswith(("/", "../")) and name not in ("", ".", "..")
    parts = name.split("/")
    short = len(parts) < 50 and len(name) < 1_000 and max(len(p.encode()) for p in parts) < 256
    return inside and short and re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", name) is None


def clipped(text: str, most: int = OUTPUT) -> str:
    """Beginning and end of a text that is longer than `most` characters."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n... {len(text) - most:,} characters left out ...\n{text[-half:]}"


TOOLBOX = Toolbox(
    *(Desk.list_files, Desk.read_file, Desk.write_file, Desk.edit_file, Desk.run, Desk.submit)
)


class ToolLoop:
    """An episode with tools. A message without a call is the end too: the files are handed in."""

    def __init__(self, research: Research, messages: tuple[Message, ...], desk: Desk) -> None:
        self.research, self.messages, self.desk = research, messages, desk

    def next(self) -> Turn | None:
        """The agent's turn, until it has submitted."""
        return None if self.desk.submitted else Turn("agent", self.messages, TOOLBOX.schemas)

    def take(self, turn: Turn, message: Message) -> None:
        """Do the calls, in order."""
        said = replace(message, role="assistant") if message.role != "assistant" else message
        self.messages = (*self.messages, said)
        for number, call in enumerate(message.tool_calls):
            if number >= MOST_CALLS or self.desk.submitted:
                text = "error: not done: too many calls, or behind `submit`"
                result = ToolResult(call.id, (Text(text),), True)
            else:
                result = TOOLBOX.dispatch(call, self.desk)
            self.messages = (*self.messages, Message("tool", (result,)))
        if not message.tool_calls:
            self.desk.submit()

    def artifacts(self) -> Mapping[str, bytes]:
        """The files that hold a missing function."""
        return {p: self.desk._data(p) for p in self.research.paths if p in self.desk.files}

    def close(self) -> None:
        """Nothing is held."""


class Bodies:
    """An episode without tools: each missing function is asked for once, by itself."""

    def __init__(self, research: Research, prompts: tuple[Message, ...]) -> None:
        self.research, self.prompts = research, prompts
        self.files = {path: research.given[path] for path in research.paths}
        self.done = 0

    def next(self) -> Turn | None:
        """The next function's turn, which sees nothing of the others."""
        if self.done == len(self.prompts):
            return None
        return Turn("agent", (self.prompts[self.done],))

    def take(self, turn: Turn, message: Message) -> None:
        """Put the answer into its file; what is no body leaves the stub there."""
        path, _, name = self.research.masked[self.done].partition(":")
        self.done += 1
        blocks = _FENCE.findall(message.text)
        answer = blocks[0] if blocks else message.text
        text, encoding = decoded(self.files[path])
        try:
            made = limited(masking.with_answer, text, name, answer, seconds=5.0)
        except (LimitError, CallError):
            return
        self.files[path] = made.encode(encoding, errors="replace")

    def artifacts(self) -> Mapping[str, bytes]:
        """The files that hold a missing function."""
        return self.files

    def close(self) -> None:
        """Nothing is held."""
