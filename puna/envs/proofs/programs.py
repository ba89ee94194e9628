"""Runs a prover that is a program: in an empty folder, within bounds of time, memory and output.

`run(["z3", "-version"], {}, seconds=5)`. Where a jail works here the program sees nothing of the
host but system programs and the prover's own folder; elsewhere it has the bounds alone, which is
enough for a program that reads proofs and executes none of them.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from puna.core.errors import UserError
from puna.envs.proofs.prover import Verdict
from puna.sandbox import Job, Limits, Mounts, Result, Sandbox, SandboxError, open_sandbox

_opened: dict[tuple[str, ...], Sandbox] = {}
WALL = (10.0, 20.0)  # seconds on the clock: so many times those of the processor, and so many more
SYSTEM = ("/usr/", "/bin/", "/lib")


def where(program: str) -> str:
    """The full path of a program, links followed; empty where there is none.

    What pip put beside a Python does not count: `z3-solver` brings a z3 that Why3 knows nothing of.
    """
    folders = map(Path, os.environ.get("PATH", os.defpath).split(os.pathsep))
    own = [f for f in folders if f != Path(sys.executable).parent and not _pips(f)]
    found = shutil.which(program, path=os.pathsep.join(map(str, own)))
    return str(Path(found).resolve()) if found else ""


def _pips(folder: Path) -> bool:
    """Whether it belongs to a virtual environment, which need not be the one that runs this."""
    return (folder.parent / "pyvenv.cfg").exists()


def run(
    command: Sequence[str],
    files: Mapping[str, bytes],
    seconds: float,
    memory_mb: int = 2048,
    folders: Sequence[str] = (),
) -> Result:
    """Run `command` among `files`; `folders` are what else it needs to see of the host.

    `seconds` bounds processor time; `WALL` is what a busy machine may make of it.
    Raises SandboxError where it could not be run at all.
    """
    limits = Limits(
        wall_s=WALL[0] * seconds + WALL[1],
        cpu_s=seconds,
        memory_mb=memory_mb,
        processes=64,
        output_kb=4096,
    )
    try:
        job = Job(command, files=files, limits=limits, loopback=True)
        return _sandbox(tuple(folders)).run_now(job)
    except (UserError, ValueError, OSError) as error:
        raise SandboxError(str(error)) from error


def judged(
    command: Sequence[str],
    files: Mapping[str, bytes],
    seconds: float,
    memory_mb: int,
    folders: Sequence[str],
    read: Callable[[str, int, str], Verdict],
) -> Verdict:
    """What `read` makes of all that a prover says, its exit status and the limit it met, if any.

    See `run`. Unknown where its time was up, failed where it could not be run.
    """
    try:
        done = run(command, files, seconds, memory_mb, folders)
    except SandboxError as error:
        return Verdict("failed", str(error))
    if done.reason in ("wall", "cpu"):
        return Verdict("unknown", "the time was up")
    said = (done.stdout + b"\n" + done.stderr).decode(errors="replace")
    return read(said, done.exit, done.reason)


def _sandbox(folders: tuple[str, ...]) -> Sandbox:
    seen = tuple(f for f in folders if not f.startswith(SYSTEM) and Path(f).is_dir())
    if seen not in _opened:
        try:
            _opened[seen] = open_sandbox(mounts=Mounts(folders={f: Path(f) for f in seen}))
        except UserError:
            _opened[seen] = open_sandbox("unsafe")
    return _opened[seen]
