"""A program of the user's that speaks in lines of JSON over standard input and output.

`program = await Program.start(["python", "agent.py"], {"OPENAI_BASE_URL": url}, Keeper())`, then
`await program.tell({"messages": [...]})` and `await program.hear()`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from typing import Any

LINE_LIMIT = 8_000_000  # bytes of one line
SPOKEN = ("role", "content", "tool_calls")
TAIL = 2_000  # bytes kept of what it writes to standard error
GRACE_S = 3.0  # for it to end after its input has
LOOK_S = 0.02  # how often it is looked at whether it has ended


# Groups are told when they begin and when they end; the pipe closes when we are gone.
_KEEP = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    groups ^= {int(line)}
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
"""


class Keeper:
    """A process that ends those programs which a killed one of ours would leave behind."""

    def __init__(self) -> None:
        words = [sys.executable, "-I", "-S", "-c", _KEEP]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)

    def tell(self, group: int) -> None:
        """A group has begun, or it has ended."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(b"%d\n" % group)
            self.process.stdin.flush()

    def close(self) -> None:
        """It is needed no more."""
        self.process.communicate()


class Program:
    """One process, in a group of its own so that what it started ends with it."""

    def __init__(self, process: Process, keeper: Keeper) -> None:
        self.process, self.keeper = process, keeper
        keeper.tell(process.pid)
        self._tail = b""
        self._reading = asyncio.ensure_future(self._read_errors())
        self._watching = asyncio.ensure_future(self._watch())

    @classmethod
    async def start(cls, words: Sequence[str], env: Mapping[str, str], keeper: Keeper) -> Program:
        """Begin it in the working directory, with `env` beside the variables there are."""
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={**os.environ, **env},
            limit=LINE_LIMIT,
            start_new_session=True,
        )
        return cls(process, keeper)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.returncode is None

    async def tell(self, data: Mapping[str, Any]) -> None:
        """One line to it; lost where it has ended."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(data).encode() + b"\n")
            await self.process.stdin.drain()

    async def hear(self) -> dict[str, Any] | None:
        """Its next message, a JSON object with a role, content or tool_calls; other lines are its
        log.

        None where it has ended. Raises ValueError for a line of more than 8 MB.
        """
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            with contextlib.suppress(ValueError, RecursionError):
                data = json.loads(line)
                if isinstance(data, dict) and not data.keys().isdisjoint(SPOKEN):
                    return data
        return None

    async def rest(self) -> str:
        """All it writes until it ends, its input closed. Raises ValueError for more than 8 MB."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        out = await self.process.stdout.read(LINE_LIMIT + 1)
        while len(out) <= LINE_LIMIT and (more := await self.process.stdout.read(LINE_LIMIT)):
            out += more
        if len(out) > LINE_LIMIT:
            raise ValueError("it wrote more than 8 MB")
        await asyncio.wait({self._watching})
        return out.decode("utf-8", "replace")

    async def ended(self) -> str:
        """How it ended, with the last of what it wrote to standard error."""
        await asyncio.wait({self._watching, self._reading}, timeout=GRACE_S)
        text = " ".join(self._tail.decode("utf-8", "replace").split())
        how = "is still running" if self.running else f"exit status {self.process.returncode}"
        return f"{how}: {text[-500:]}" if text else how

    async def end(self, gently: bool = False) -> None:
        """End it and what it started; `gently` closes its input and gives it a moment first.

        Its pipes are closed too: a child that left the group may hold their other ends for ever.
        """
        assert self.process.stdin is not None
        self.process.stdin.close()
        if gently:
            await asyncio.wait({self._watching}, timeout=GRACE_S)
        self._kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await self.process.wait()
        await asyncio.wait({self._watching}, timeout=GRACE_S)
        self._watching.cancel()
        self._reading.cancel()
        self.process._transport.close()  # type: ignore[attr-defined]

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    async def _watch(self) -> None:
        """Until it has ended, and with it what it started, which would hold the pipes open.

        `Process.wait` waits for the pipes too, and so for a child that left the group.
        """
        while self.running:
            await asyncio.sleep(LOOK_S)
        self._kill()
        self.keeper.tell(self.process.pid)

    async def _read_errors(self) -> None:
        assert self.process.stderr is not None
        while some := await self.process.stderr.read(65536):
            self._tail = (self._tail + some)[-TAIL:]
