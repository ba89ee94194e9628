"""Answers on standard output as they come: colours on a terminal only, nothing that steers it.

`screen.begin("rl")`, `screen.tell(said)` for every piece, `screen.end()`.
"""

from __future__ import annotations

import io
import os
import sys

from puna.core.messages import Image, Message, Part, Reasoning, Text, ToolCall, ToolResult
from puna.core.printable import printable
from puna.gateway.asked import Said

# Of a terminal (ECMA-48, 8.3.117): what is not the answer itself stands back.
STYLES = {"name": "1", "thought": "2", "call": "36", "note": "2"}


class Screen:
    """Standard output; `live` says that a person watches it."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal may know few characters
        self.live = sys.stdout.isatty()
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self._colours = self.live and not plain
        self._kind = ""

    def line(self, text: str, style: str = "") -> None:
        """One line, or several."""
        self._write(text, style)
        self._write("\n")

    def note(self, text: str) -> None:
        """A line for whoever watches."""
        if self.live:
            self.line(f"({text})", "note")

    def begin(self, name: str = "") -> None:
        """An answer begins, that of `name`."""
        self._kind = ""
        if name:
            self._write(f"{name}: ", "name")

    def tell(self, said: Said) -> None:
        """What is new of it."""
        if said.thought:
            self._piece("thought", said.thought)
        if said.text:
            self._piece("text", said.text)
        for call in said.calls:
            self._piece("call", f"{call.name} {call.arguments}", whole=True)

    def end(self) -> None:
        """It is told."""
        self._write("\n")

    def message(self, message: Message, name: str) -> None:
        """A message of a conversation; an assistant's is that of `name`."""
        self.begin(name if message.role == "assistant" else message.role)
        for part in message.parts:
            for inner in part.parts if isinstance(part, ToolResult) else (part,):
                self._part(inner)
        self.end()

    def _part(self, part: Part) -> None:
        match part:
            case Reasoning(text):
                self._piece("thought", text)
            case Text(text):
                self._piece("text", text)
            case ToolCall(_, name, arguments):
                self._piece("call", f"{name} {arguments}", whole=True)
            case Image(_, _, ref):
                self._piece("image", ref if len(ref) < 200 else f"{ref[:30]}...", whole=True)

    def _piece(self, kind: str, text: str, whole: bool = False) -> None:
        """More of a thought or text that is being told, or the beginning of something else."""
        style = kind if kind in STYLES else ""
        if kind != self._kind or whole:
            if self._kind:
                self._write("\n")
            if kind != "text":
                self._write(f"{kind}: ", style)
        self._kind = kind
        self._write(text, style)

    def _write(self, text: str, style: str = "") -> None:
        # Character by character: a sequence that comes in two pieces is broken all the same.
        text = printable(text)
        if self._colours and style and text:
            text = f"\x1b[{STYLES[style]}m{text}\x1b[0m"
        sys.stdout.write(text)
        sys.stdout.flush()
