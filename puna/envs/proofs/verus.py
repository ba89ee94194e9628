"""Verus behind the interface of the others. Not run by us: its output is read as documented.

`Verus("/path/to/verus").prove(text, deadline=10)`.
"""

from __future__ import annotations

import re
from pathlib import Path

from puna.envs.proofs import programs
from puna.envs.proofs.prover import Verdict
from puna.sandbox import SandboxError

MISSING = "verus is not installed: see https://github.com/verus-lang/verus"
_FINISHED = re.compile(r"verification results:: (\d+) verified, (\d+) errors")
_ERROR = re.compile(r"^error(?:\[\w+\])?: (.*)\n +--> [^:\n]*:(\d+)", re.M)
_UNSURE = re.compile(r"resource limit|rlimit|timed? ?out", re.I)


class Verus:
    """The `verus` command, or the one that `path` names."""

    name = "verus"

    def __init__(self, path: str = "verus") -> None:
        self.path = path

    def version(self) -> str:
        """As the program says it."""
        program = programs.where(self.path)
        if not program:
            return ""
        try:
            done = programs.run([program, "--version"], {}, 10, 4096, (str(Path(program).parent),))
        except SandboxError:
            return "?"
        match = re.search(r"Version: (\S+)", done.stdout.decode(errors="replace"))
        return match.group(1) if match else "?"

    def prove(self, source: str, deadline: float) -> Verdict:
        """Judge `source`; `deadline` is Verus' own limit of resources, about seconds."""
        program = programs.where(self.path)
        if not program:
            return Verdict("failed", MISSING)
        command = [program, "program.rs", "--rlimit", str(max(1, round(deadline)))]
        files = {"program.rs": source.encode(errors="replace")}
        folder = str(Path(program).parent)
        return programs.judged(command, files, 10 * deadline + 30, 8192, (folder,), _read)


def _read(said: str, status: int, reason: str) -> Verdict:
    """What Verus' output means; other lines of it are passed over."""
    end, error = _FINISHED.findall(said), _ERROR.search(said)
    told = f"line {error.group(2)}: {error.group(1)}" if error else ""
    if len(end) == 1 and not reason:
        proved, errors = map(int, end[0])
        if status == 0 and not errors and not error:
            return Verdict("valid") if proved else Verdict("refuted", "nothing was verified")
        if _UNSURE.search(said):
            return Verdict("unknown", told)
        if errors or error:
            return Verdict("refuted", told)
    if error and not end:
        return Verdict("refuted", told)
    tail = " ".join(said.split())[-300:]
    return Verdict("failed", f"verus ended with {reason or status}: {tail}")
