"""`puna chat` at a terminal of its own: pieces that arrive, Ctrl-C, lines that are found again."""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from select import select

import pytest
from chain_model import chain

pytest.importorskip("readline")
CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"
PASTE = "\x1b[200~", "\x1b[201~"
START = "/help lists commands"


class Terminal:
    """A process at a pseudo-terminal: `type(text)`, `until(text)`, `close()` -> exit status."""

    def __init__(self, *words: str, **variables: str) -> None:
        self.controller, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        modes = termios.tcgetattr(terminal)
        modes[3] |= termios.NOFLSH  # else Ctrl-C throws away what we have not read yet
        termios.tcsetattr(terminal, termios.TCSANOW, modes)
        kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "INPUTRC")}
        kept |= {"OMP_NUM_THREADS": "1", "TERM": "xterm", "PYTHONUTF8": "1", "INPUTRC": os.devnull}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "puna.cli", "chat", *words], env=kept | variables,
            stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C arrives
        )  # fmt: skip
        os.close(terminal)
        self.seen, self.decoder = "", codecs.getincrementaldecoder("utf-8")("replace")

    def type(self, text: str) -> None:
        os.write(self.controller, text.encode())

    def until(self, wanted: str, seconds: float = 120.0) -> str:
        """What has come since the last call, up to `wanted`."""
        end = time.monotonic() + seconds
        while wanted not in self.seen:
            assert time.monotonic() < end, f"no {wanted!r} in {self.seen!r}"
            if select([self.controller], [], [], 0.5)[0]:
                self._hear()
        found, _, self.seen = self.seen.partition(wanted)
        return found

    def interrupt(self) -> None:
        """Ctrl-C, once the prompt waits: before, Python keeps the signal till the next key."""
        state = Path(f"/proc/{self.process.pid}/stat")
        time.sleep(0.0 if state.exists() else 0.5)
        while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "S":
            time.sleep(0.01)
        self.type(CTRL_C)

    def answer(self, typed: str) -> str:
        """What is printed between a line and the next prompt, without its echo."""
        self.type(f"{typed}\r")
        self.until("\n")
        return plain(self.until("> ")).strip()

    def rest(self) -> tuple[int, str]:
        """Exit status, and what has come to the end."""
        end = time.monotonic() + 120
        while time.monotonic() < end and self._hear():
            pass
        return self.process.wait(timeout=60), self.seen

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.controller)

    def _hear(self) -> bool:
        """Add what has come to `seen`; False where the other side has closed."""
        try:
            data = os.read(self.controller, 65536)
        except OSError:
            return False
        # A character, and a line's end, may come in two pieces.
        self.seen = (self.seen + self.decoder.decode(data)).replace("\r\n", "\n")
        return bool(data)


def plain(text: str) -> str:
    """Without what a line editor and colours say to a terminal."""
    return re.sub(r"\x1b\[[?\d;]*[a-zA-Z]|\r", "", text)


Open = Callable[..., Terminal]


@pytest.fixture
def open_(tmp_path: Path) -> Iterator[Open]:
    opened: list[Terminal] = []

    def begin(*words: str, **variables: str) -> Terminal:
        variables.setdefault("XDG_STATE_HOME", str(tmp_path / "state"))
        opened.append(Terminal(*words, **variables))
        return opened[-1]

    yield begin
    for terminal in opened:
        terminal.close()


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chain(tmp_path_factory.mktemp("models") / "endless", ["ab"], endless=True, room=1 << 17)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    script = ["<|think_start|>", "\x9bm", "<|think_end|>", "Ok\x1bc;!\x07", "<|python_start|>"]
    script += ["[f(a=1)]", "<|python_end|>", "<|eot|>"]
    return chain(tmp_path_factory.mktemp("models") / "hostile", script)


def test_an_answer_arrives_in_pieces_and_ctrl_c_ends_it(endless: Path, open_: Open) -> None:
    terminal = open_(str(endless), "--max-tokens", "100000")
    terminal.until(START)
    terminal.until("> ")
    terminal.type("go\r")
    terminal.until("go")
    said = plain(terminal.until("ababab")) + "ababab"  # of an answer that takes minutes
    terminal.type(CTRL_C)
    said += plain(terminal.until("(stopped)"))
    terminal.until("> ")
    kept = terminal.answer("/history").partition("endless: ")[2]
    assert len(kept) < 100_000
    assert set(kept) == {"a", "b"}
    # The terminal may put its ^C anywhere among what was printed.
    assert kept == said.replace("^C", "").strip()
    assert terminal.answer("/set max_tokens 4") == "temperature 0  max_tokens 4  seed 0"
    assert terminal.answer("again").startswith("abab\n(cut off")  # the engine is whole
    terminal.type(CTRL_D)
    assert terminal.rest()[0] == 0


def test_ctrl_c_at_a_prompt_drops_the_line_and_twice_at_none_leaves(
    endless: Path, open_: Open
) -> None:
    terminal = open_(str(endless), "--max-tokens", "4")
    terminal.until(START)
    terminal.until("> ")
    for typed in ("half a li", '"""a\r', "a\\\r"):
        terminal.type(typed)
        terminal.until("... " if typed.endswith("\r") else "li")
        terminal.interrupt()
        terminal.until("\n")
        assert "leaves" not in terminal.until("> ")
    terminal.interrupt()
    terminal.until("(Ctrl-C again leaves, and so does Ctrl-D)")
    terminal.until("> ")
    assert terminal.answer("go").startswith("abab")
    assert terminal.answer("/history").startswith("user: go\n")
    terminal.interrupt()
    terminal.until("again leaves")
    terminal.until("> ")
    terminal.interrupt()
    status, _ = terminal.rest()
    assert status == 0


def test_what_was_typed_is_found_in_the_next_session(
    endless: Path, open_: Open, tmp_path: Path
) -> None:
    first = open_(str(endless), "--max-tokens", "2")
    first.until(START)
    first.until("> ")
    first.answer("1st prompt")
    first.type(f"{PASTE[0]}two\rlines{PASTE[1]}\r")
    first.until("ab")
    first.until("> ")
    assert (
        first.answer("/history") == "user: 1st prompt\nendless: ab\nuser: two\nlines\nendless: ab"
    )
    os.kill(first.process.pid, signal.SIGKILL)  # as a closed window may
    history = tmp_path / "state" / "puna" / "chat_history"
    typed = ["1st prompt", "two\nlines", "/history"]
    assert [json.loads(x) for x in history.read_text().splitlines()] == typed
    assert history.stat().st_mode & 0o777 == 0o600
    assert history.parent.stat().st_mode & 0o777 == 0o700

    second = open_(str(endless), "--max-tokens", "2")
    second.until(START)
    second.until("> ")
    second.type(UP * 2)
    second.until("lines")
    second.type("\r")
    second.until("ab")
    second.until("> ")
    second.type(UP * 4)
    second.until("1st prompt")
    second.type(" too\r")
    second.until("ab")
    second.until("> ")
    shown = second.answer("/history").split("\n")
    assert shown == ["user: two", "lines", "endless: ab", "user: 1st prompt too", "endless: ab"]


def test_nothing_that_a_model_says_steers_the_terminal(hostile: Path, open_: Open) -> None:
    terminal = open_(str(hostile), "--max-tokens", "40")
    terminal.until(START)
    terminal.until("> ")
    terminal.type("go\r")
    terminal.until("go")
    shown = terminal.until("> ")
    assert "\x1b[2mthought: \x1b[0m" in shown
    assert "\x1b[36mcall: \x1b[0m" in shown
    assert plain(shown).split() == [
        "thought:",
        "\ufffdm",
        "Ok\ufffdc;!\ufffd",
        "call:",
        "f",
        '{"a":',
        "1}",
    ]
    assert not re.search("\x1bc|\x9b|\x07", shown)

    plainly = open_(str(hostile), "--max-tokens", "40", NO_COLOR="1")
    plainly.until(START)
    plainly.until("> ")
    plainly.type("go\r")
    plainly.until("go")
    assert not re.search(r"\x1b\[\d*m", plainly.until("> "))

    piped = subprocess.run(
        [sys.executable, "-m", "puna.cli", "chat", str(hostile), "go", "--max-tokens", "40"],
        capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, timeout=120,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert piped.stdout.decode() == 'thought: \ufffdm\nOk\ufffdc;!\ufffd\ncall: f {"a": 1}\n'


@pytest.mark.parametrize("state", ["/proc/nowhere", "/dev/null", "relative"])
def test_a_history_without_a_place_is_none(
    endless: Path, open_: Open, state: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    terminal = open_(str(endless), "--max-tokens", "2", XDG_STATE_HOME=state, HOME=str(home))
    terminal.until(START)
    terminal.until("> ")
    terminal.answer("go")
    terminal.type(CTRL_D)
    assert terminal.rest()[0] == 0
    # What is not absolute does not count.
    kept = (home / ".local" / "state" / "puna" / "chat_history").exists()
    assert kept == (state == "relative")
