"""What is typed at a prompt: a line or several, edited and found again where there is readline.

`Keyboard().read()` -> `Typed("2+2=")`, None at the end of the input. Without a terminal lines are
read as they are.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from puna.core.files import json_bytes
from puna.core.printable import printable

QUOTES = '"""'
KEPT = 1000  # entries of the history
LONGEST = 10_000  # characters of one: more are not found again


class Typed(NamedTuple):
    """A prompt; `quoted` where it stood in triple quotes, so that it is no command."""

    text: str
    quoted: bool = False


class Keyboard:
    """Standard input. `interactive` says that a person types."""

    def __init__(self) -> None:
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")  # bytes that are no text end no conversation
        self.interactive = sys.stdin is not None and sys.stdin.isatty()
        self._readline: Any = None
        self._history: Path | None = None
        self._warned = False
        if self.interactive and sys.stdout.isatty():
            self._edit()

    def read(self) -> Typed | None:
        """The next prompt that is not empty; None where the input ends or was left by Ctrl-C twice.

        Raises KeyboardInterrupt where nobody types.
        """
        while sys.stdin is not None:
            raw = ""
            try:
                raw = input("> ")
                raw = self._rest(raw)
            except EOFError:
                print()
                return None
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                if self._interrupted(at_none=not raw):
                    return None
                continue
            self._warned = False
            if typed := _typed(raw):
                self._remember(raw.strip())
                return typed
        return None

    def _rest(self, raw: str) -> str:
        """`raw` and the lines that belong to it; what was typed counts where the input ends."""
        quoted, more = _opens(raw), "... " if self.interactive else ""
        try:
            while quoted and not _closes(raw):
                raw += "\n" + input(more)
            while not quoted and raw.endswith("\\"):
                raw = raw[:-1] + "\n"
                raw += input(more)
        except EOFError:
            print(end="\n" if self.interactive else "")
        return raw

    def _interrupted(self, at_none: bool) -> bool:
        """Ctrl-C at a prompt: what stands there is dropped; True for the second one at none."""
        print()
        if not at_none or (self._readline and self._readline.get_line_buffer()):
            self._warned = False
        elif self._warned:
            return True
        else:
            print("(Ctrl-C again leaves, and so does Ctrl-D)")
            self._warned = True
        return False

    def _edit(self) -> None:
        """Line editing, where Python has it, with what was typed in earlier sessions."""
        try:
            import readline
        except ImportError:
            return
        self._readline = readline
        readline.set_auto_history(False)
        if "libedit" not in (readline.__doc__ or ""):  # which reads other commands
            readline.parse_and_bind("set enable-bracketed-paste on")  # many lines are one prompt
        self._history = history_file()
        for entry in read_history(self._history):
            self._offer(entry)

    def _remember(self, raw: str) -> None:
        self._offer(raw)
        if self._history and len(raw) <= LONGEST:
            add_history(self._history, raw)

    def _offer(self, entry: str) -> None:
        if self._readline:
            with contextlib.suppress(ValueError):  # what this terminal cannot show
                self._readline.add_history(entry)


def history_file() -> Path | None:
    """puna/chat_history in the user's state directory; None where there is no home."""
    given = os.environ.get("XDG_STATE_HOME", "")
    try:
        state = Path(given) if os.path.isabs(given) else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return state / "puna" / "chat_history"


def read_history(path: Path | None) -> list[str]:
    """The last entries, none where they cannot be read; a file of many more is cut to these."""
    try:
        if path is None or not path.is_file():
            return []
        lines = path.read_bytes().splitlines()
        kept = lines[-KEPT:]
        if len(lines) > 2 * KEPT:
            _write(path, b"".join(line + b"\n" for line in kept), os.O_TRUNC)
    except OSError:
        return []
    return [entry for line in kept if (entry := _entry(line))]


def add_history(path: Path, entry: str) -> None:
    """One more entry, a JSON string on a line, in a file that its user alone can read.

    Nothing happens where it cannot be written.
    """
    with contextlib.suppress(OSError):
        if path.is_file() or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write(path, json_bytes(entry) + b"\n", os.O_APPEND)


def _write(path: Path, data: bytes, how: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600)
    try:
        os.fchmod(file, 0o600)
        os.write(file, data)
    finally:
        os.close(file)


def _entry(line: bytes) -> str:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    return printable(entry) if isinstance(entry, str) else ""


def _opens(raw: str) -> bool:
    return raw.lstrip().startswith(QUOTES)


def _closes(raw: str) -> bool:
    text = raw.strip()
    return len(text) >= 2 * len(QUOTES) and text.endswith(QUOTES)


def _typed(raw: str) -> Typed | None:
    if not _opens(raw):
        text = raw.strip()
        return Typed(text) if text else None
    text = raw.strip().removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")
    return Typed(text, quoted=True) if text.strip() else None
