"""Why3 with z3, on micro-Python: slower than the prover in process, and independent of it.

`Why3().prove(text, deadline=5)`. Debian: `apt-get install --no-install-recommends why3 z3`.
Tested with Why3 1.5.1 and z3 4.8.12. A goal that z3 does not prove is `unknown`: Why3 tells a false
one from a hard one only by the time it takes.
"""

from __future__ import annotations

import re
from functools import cache

from puna.envs.proofs import programs
from puna.envs.proofs.prover import Verdict
from puna.sandbox import SandboxError

MISSING = "why3 or z3 is not installed: apt-get install --no-install-recommends why3 z3"
STEPS = 4_000_000  # of z3 in a second, about
# z3 finds some goals only when they are cut finer, some only when they are whole.
WAYS = ("split_vc", "split_all_full", "")
_RESULT = re.compile(r'^File "[^"]*", line (\d+).*:\n(.*)\.\nProver result is: (\w+)', re.M)
_DONE = re.compile(r"^Prover result is: (\w+)", re.M)
_WRONG = re.compile(r'^File "[^"]*", line (\d+), .*:\n(?!warning|Sub-goal|Goal)(.*)', re.M)
# Magic 14 is the form of Why3 1.5's settings; other versions take it, or say that they do not.
_SETTINGS = """[main]
magic = 14
memlimit = 0
running_provers_max = 1

[partial_prover]
name = "Z3"
path = "{z3}"
version = "{version}"
"""


class Why3:
    """The `why3` command with its z3 driver."""

    name = "why3"

    def version(self) -> str:
        """As `why3 --version` and `z3 -version` say it."""
        found = []
        for command in ("why3", "z3"):
            if not programs.where(command):
                return ""
            found.append(f"{command} {_version(command)}")
        return ", ".join(found)

    def prove(self, source: str, deadline: float) -> Verdict:
        """Judge `source`: `deadline` bounds z3's steps on each goal, as on an idle processor."""
        if not programs.where("why3") or not programs.where("z3"):
            return Verdict("failed", MISSING)
        try:
            verdicts = (_read(*ask(source, deadline, way)) for way in WAYS)
            first = next(verdicts)
            if first.kind != "unknown":
                return first
            return next((v for v in verdicts if v.kind == "valid"), first)
        except TimeoutError:
            return Verdict("unknown", "the time was up")
        except SandboxError as error:
            return Verdict("failed", str(error))


def ask(source: str, deadline: float, way: str = WAYS[0]) -> tuple[str, int | str]:
    """What Why3 prints, and its status, or the limit that ended it; `way`: how goals are cut up.

    Raises TimeoutError, or SandboxError where it could not be run.
    """
    settings = _SETTINGS.format(z3=programs.where("z3"), version=_version("z3"))
    command = [programs.where("why3"), "prove", "-C", "why3.conf", "-F", "python", "-P", "z3"]
    command += ["-t", "0", "-s", str(int(deadline * STEPS)), *(["-a", way] if way else [])]
    command += ["program.py"]
    files = {"program.py": source.encode(errors="replace"), "why3.conf": settings.encode()}
    done = programs.run(command, files, seconds=20 * deadline + 20)
    if done.reason in ("wall", "cpu"):
        raise TimeoutError
    said = (done.stdout + done.stderr).decode(errors="replace")
    return said, done.reason or done.exit


@cache
def _version(command: str) -> str:
    flag = "--version" if command == "why3" else "-version"
    try:
        done = programs.run([programs.where(command), flag], {}, seconds=5)
    except SandboxError:
        return "?"
    match = re.search(r"\d+(\.\d+)+", done.stdout.decode(errors="replace"))
    return match.group() if match else "?"


def _read(said: str, status: int | str) -> Verdict:
    """What Why3's output means; whatever else it prints is passed over."""
    results = _DONE.findall(said)
    bad = [r for r in results if r != "Valid"]
    if status == 0 and not bad:
        return Verdict("valid")
    if status == 2 and bad:
        for line, goal, result in _RESULT.findall(said):
            if result != "Valid":
                return Verdict("unknown", f"line {line}: {goal}: {result}")
        return Verdict("unknown", f"a goal was {bad[0]}")
    if status == 1 and (match := _WRONG.search(said)):
        return Verdict("refuted", f"line {match.group(1)}: {match.group(2)}")
    tail = " ".join(said.split())[-300:]
    return Verdict("failed", f"why3 ended with {status}: {tail}")
