"""Where a repository's command is run: a jail that has its packages, and what it measured there.

`Lab(source).gold[0]` are the numbers of the original code; `Lab(source).traced` tells which
functions the command calls. The original is run alone: no job has both it and an agent's code.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from puna.core.errors import UserError
from puna.envs.experiment import numbers
from puna.envs.experiment.numbers import TOLERANCE, NoNumbersError, Number, compare
from puna.envs.experiment.packages import mounts_for
from puna.envs.experiment.source import Source
from puna.sandbox import Job, Limits, Mounts, Result, Sandbox, SandboxError, open_sandbox
from puna.sandbox.backends import CHOICE
from puna.sandbox.outer import LIBRARY, PACKAGES

TRACE = ".trace"
WALL = (4.0, 10.0)  # seconds on the clock: so many times those of the processor, and so many more
SLOW = 0.2  # of the time of what met that limit: then the machine is at fault
STEADY = 0.1  # of the tolerance: what two runs of the original may differ by
_opened: dict[str, Sandbox] = {}
_labs: dict[tuple[Source, float], Lab] = {}
_lock = threading.Lock()


class FailedError(Exception):
    """A command gave no numbers, through the fault of what was run; the message says why."""


@dataclass(frozen=True)
class Traced:
    """What the command did with the original: functions that it called, files that it read."""

    called: tuple[str, ...]
    read: tuple[str, ...]


class Lab:
    """Runs commands of one source, each within `seconds` of processor time."""

    def __init__(self, source: Source, seconds: float = 60.0) -> None:
        self.source, self.seconds = source, seconds
        self.lock = threading.RLock()

    @cached_property
    def sandbox(self) -> Sandbox:
        """One that shows what the source may import. Raises UserError where there is none."""
        return _sandbox(mounts_for(self.source))

    def run(
        self,
        command: str,
        files: Mapping[str, bytes | tuple[bytes, int]],
        outputs: tuple[str, ...] = (),
        seconds: float = 0.0,
    ) -> Result:
        """A shell line among `files`. Raises SandboxError, or ValueError for too many files."""
        cpu = seconds or self.seconds
        limits = Limits(
            wall_s=WALL[0] * cpu + WALL[1],
            cpu_s=cpu,
            memory_mb=16_384,
            processes=128,
            file_mb=64,
            disk_mb=128,
            files=8_000,
            output_kb=4_096,
        )
        env = {
            "PYTHONPATH": f"{PACKAGES}{os.pathsep}{LIBRARY}",
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
        }
        words = ["sh", "-c", command]
        return self.sandbox.run_now(Job(words, files, outputs, env=env, limits=limits))

    def measure(self, command: str, files: Mapping[str, bytes]) -> dict[str, Number]:
        """The numbers that a command gives. Raises FailedError, SandboxError."""
        done = self.run(command, files, self._outputs)
        if done.reason == "wall" and files is not self.source.files:
            again = self.run(command, self.source.files, self._outputs)
            if not again.ok or again.wall_s > SLOW * done.wall_s:
                raise SandboxError(f"the original `{command}` is too slow now: a busy machine")
        if not done.ok:
            said = done.stderr[-2_000:].decode(errors="replace").strip().splitlines()
            why = f"it met the limit of {done.reason}" if done.reason else f"exit {done.exit}"
            raise FailedError(f"`{command}` fails: {why}{': ' + said[-1] if said else ''}"[:500])
        try:
            if not self.source.results:
                return numbers.parse(numbers.last_line(done.stdout.decode(errors="replace")))
            data = done.files.get(self.source.results)
            if data is None:
                raise NoNumbersError("there is no such file")
            return numbers.parse(data.decode(errors="replace"))
        except NoNumbersError as error:
            where = self.source.results or "its last line"
            raise FailedError(f"`{command}` gives no numbers in {where}: {error}") from None

    @property
    def _outputs(self) -> tuple[str, ...]:
        return (self.source.results,) if self.source.results else ()

    @property
    def gold(self) -> list[dict[str, Number]]:
        """The numbers of the original, for each command; measured twice, on this machine.

        Raises UserError where a command fails, or its numbers vary.
        """
        with self.lock:
            return self._gold

    @cached_property
    def _gold(self) -> list[dict[str, Number]]:
        return [self._steady(command) for command in self.source.commands]

    def _steady(self, command: str) -> dict[str, Number]:
        files = self.source.files
        try:
            first, again = self.measure(command, files), self.measure(command, files)
        except FailedError as error:
            fix = "it must print a JSON object of numbers last, or write it to --results FILE"
            raise UserError(str(error), fix) from None
        found = compare(first, again, STEADY * TOLERANCE)
        if not found.right or first.keys() != again.keys():
            changed = sorted({*found.wrong, *(first.keys() ^ again.keys())})
            shown = f"{changed[0]} is {first.get(changed[0])}, then {again.get(changed[0])}"
            what = f"the numbers of `{command}` vary from run to run: {shown}"
            raise UserError(what, "seed it, and print no times")
        return first

    @property
    def traced(self) -> Traced:
        """What the shown command does.

        Raises UserError where it gives no numbers, or calls nothing of the source.
        """
        with self.lock:
            _ = self.gold  # what is wrong with the command itself is told first
            return self._traced

    @cached_property
    def _traced(self) -> Traced:
        command, source = self.source.command, self.source
        tracer = (Path(__file__).parent / "tracer.py").read_bytes()
        files = {**source.files, f"{TRACE}/sitecustomize.py": tracer}
        traced = f'PYTHONPATH="$HOME/{TRACE}:$PYTHONPATH"; export PYTHONPATH; {command}'
        done = self.run(traced, files, (f"{TRACE}/notes",), 4 * self.seconds)
        notes = done.files.get(f"{TRACE}/notes", b"").decode(errors="replace").splitlines()
        at: dict[tuple[str, int, str], str] = {}
        for name, function in source.functions.items():
            path, _, qualified = name.partition(":")
            at[path, function.line, qualified.partition("#")[0]] = name
        called, read = [], []
        for note in notes:
            match note.split("\t"):
                case ["open", path] if path in source.files and not path.endswith(".py"):
                    read.append(path)
                case ["call", path, line, name] if line.isdecimal():
                    if (path, int(line), name) in at:
                        called.append(at[path, int(line), name])
        if not called:
            what = f"`{command}` calls no function of the repository that could be seen"
            raise UserError(what, "it must run Python there, and keep PYTHONPATH as it finds it")
        return Traced(tuple(dict.fromkeys(called)), tuple(dict.fromkeys(read)))


def lab_of(source: Source, seconds: float) -> Lab:
    """The laboratory of a source; one for this process, so that each is measured once."""
    with _lock:
        return _labs.setdefault((source, seconds), Lab(source, seconds))


def _sandbox(mounts: Mounts) -> Sandbox:
    backend = os.environ.get(CHOICE, "auto")
    key = repr((backend, sorted(mounts.folders.items())))
    with _lock:
        if key not in _opened:
            _opened[key] = open_sandbox(backend, mounts)
            atexit.register(_opened[key].close)
        return _opened[key]
