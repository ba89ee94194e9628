"""Dafny, 2.3 of Debian or newer: `Dafny().prove(text, deadline=10)`.

Debian: `apt-get install --no-install-recommends dafny`. Programs are proved, never compiled or run.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from puna.envs.proofs import programs
from puna.envs.proofs.prover import Verdict
from puna.sandbox import SandboxError

MISSING = "dafny is not installed: apt-get install --no-install-recommends dafny"
_FINISHED = re.compile(r"Dafny program verifier finished with (\d+) verified, (\d+) errors?(.*)")
_ERROR = re.compile(r"^program\.dfy\((\d+),\d+\): (?:Error|Syntax error|error)\b:?(.*)", re.M)
_NO_BODY = re.compile(r"^program\.dfy\((\d+),\d+\): .*(has no body.*)", re.M)
_UNSURE = re.compile(r"time[ds]? out|out of resource|inconclusive|out of memory", re.I)


class Dafny:
    """The `dafny` command, or the one that `path` names."""

    name = "dafny"

    def __init__(self, path: str = "dafny") -> None:
        self.path = path

    def version(self) -> str:
        """As the program says it."""
        program = programs.where(self.path)
        if not program:
            return ""
        for flag in ("/version", "--version"):
            try:
                done = programs.run([program, flag], {}, 30, MEMORY, _folders(program))
            except SandboxError:
                return "?"
            if match := re.search(r"\d+(\.\d+)+", done.stdout.decode(errors="replace")):
                return match.group()
        return "?"

    def prove(self, source: str, deadline: float) -> Verdict:
        """Judge `source`; z3 has about `deadline` seconds for each method."""
        program = programs.where(self.path)
        if not program:
            return Verdict("failed", MISSING)
        limit = max(1, round(deadline))
        command = [program, "/compile:0", f"/timeLimit:{limit}", "/nologo", "program.dfy"]
        files = {"program.dfy": source.encode(errors="replace")}
        seconds = 10 * deadline + 30
        return programs.judged(command, files, seconds, MEMORY, _folders(program), _read)


MEMORY = 8192  # MB of addresses: Mono reserves many and uses few


def _folders(program: str) -> tuple[str, ...]:
    """What the jail must show beside the system's programs."""
    return (str(Path(program).parent), *(d for d in ("/etc/mono",) if os.path.isdir(d)))


def _read(said: str, status: int, reason: str) -> Verdict:
    """What Dafny's output means; other lines of it are passed over."""
    if match := _NO_BODY.search(said):
        return Verdict("refuted", f"line {match.group(1)}: {match.group(2)}, so it is not proved")
    end, error = _FINISHED.findall(said), _ERROR.search(said)
    told = f"line {error.group(1)}:{error.group(2)}" if error else ""
    if len(end) == 1 and not reason:
        proved, errors, rest = int(end[0][0]), int(end[0][1]), end[0][2]
        if status == 0 and not errors and not error and not rest.strip(" ,"):
            return Verdict("valid") if proved else Verdict("refuted", "nothing was verified")
        if _UNSURE.search(said):
            return Verdict("unknown", told or rest.strip(" ,"))
        if errors:
            return Verdict("refuted", told)
    if error and not end:
        return Verdict("refuted", told)
    tail = " ".join(said.split())[-300:]
    return Verdict("failed", f"dafny ended with {reason or status}: {tail}")
