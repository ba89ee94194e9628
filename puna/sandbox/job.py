"""What goes into a sandbox and what comes out: Job, Limits, Result.

`Job.python("print(6 * 7)")`: source, in a fork of a loaded interpreter; `Job(["make"])`: a program.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from puna.core.errors import UserError


class SandboxError(Exception):
    """The machinery failed: nothing is known about the job. An outcome of it is `Infra`."""


@dataclass(frozen=True)
class Limits:
    """What a job may use, all of its processes together unless said otherwise.

    `wall_s` and `cpu_s`: seconds; `memory_mb`: of addresses in each process and of pages in all
    together; `file_mb`: of one file; `disk_mb`, `files`: of everything it writes; `output_kb`: of
    standard output, standard error and report; `open_files`: in one process.
    """

    wall_s: float = 10.0
    cpu_s: float = 10.0
    memory_mb: int = 1024
    processes: int = 32
    file_mb: int = 64
    disk_mb: int = 64
    files: int = 1000
    output_kb: int = 1024
    open_files: int = 256

    def __post_init__(self) -> None:
        """Raises ValueError where a limit is not positive."""
        for name, value in self.__dict__.items():
            if not 0 < value < 1e9:
                raise ValueError(f"limit {name} must be positive and finite, not {value!r}")

    def to_wire(self) -> dict[str, Any]:
        """In seconds and bytes."""
        return {
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
            "memory": int(self.memory_mb * 2**20),
            "processes": int(self.processes),
            "file": int(self.file_mb * 2**20),
            "disk": int(self.disk_mb * 2**20),
            "files": int(self.files),
            "output": int(self.output_kb * 2**10),
            "open_files": int(self.open_files),
        }


def folders_of(paths: Iterable[str]) -> set[str]:
    """The folders that files of these paths need."""
    found: set[str] = set()
    for path in paths:
        while (path := path.rpartition("/")[0]) and path not in found:
            found.add(path)
    return found


def _refuse_path(path: str) -> None:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or str(pure) != path or path in ("", "."):
        raise ValueError(f"the path of a file must be plain and relative, not {path!r:.300}")
    try:
        data = os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(f"the path {path!r:.300} cannot be written to a file system") from None
    if len(data) > 2000 or max(map(len, data.split(b"/"))) > 255 or len(pure.parts) > 100:
        raise ValueError(f"the path {path!r:.300} is too long")


@dataclass(frozen=True)
class Job:
    """A program to run in an empty folder that holds `files`.

    `files`: relative path to content; content may be `(bytes, mode)`. `outputs`: patterns
    (fnmatch, `*` also matches `/`) of the files to bring back. `report`: give the program
    descriptor 3, whose bytes come back apart from its output. `loopback`: let it make sockets
    and reach itself over 127.0.0.1. Raises ValueError where a path leads outside or the files are
    beyond the limits.
    """

    command: Sequence[str] = ()
    files: Mapping[str, bytes | tuple[bytes, int]] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    stdin: bytes = b""
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = Limits()
    report: bool = False
    loopback: bool = False
    source: str = ""
    args: Sequence[str] = ()

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.source):
            raise ValueError("a job has either a command or Python source")
        if isinstance(self.command, str | bytes):
            raise ValueError("a command is a list of words: ['python', 'main.py']")
        if isinstance(self.outputs, str | bytes):
            raise ValueError("outputs is a list of patterns: ['out/*']")
        for path in self.files:
            _refuse_path(path)
        self._refuse_too_much()
        texts = (*self.command, *self.args, *self.files, *self.env, *self.env.values())
        if any("\0" in text for text in texts):
            raise ValueError("a zero byte in a command, path or variable")

    def _refuse_too_much(self) -> None:
        folders = folders_of(self.files)
        if both := folders.intersection(self.files):
            raise ValueError(f"{min(both)} is a file and a folder")
        count = len(self.files) + len(folders)
        if count > self.limits.files:
            raise ValueError(f"{count} files and folders, the limit is {self.limits.files}")
        contents = (c[0] if isinstance(c, tuple) else c for c in self.files.values())
        size = sum(-(-len(data) // 4096) * 4096 for data in contents)  # as a file system counts
        if size > self.limits.disk_mb * 2**20:
            raise ValueError(f"files of {size:,} bytes, the limit is {self.limits.disk_mb} MB")
        if sum(map(len, self.outputs)) > 100_000:
            raise ValueError("the patterns of outputs are longer than 100,000 characters")

    @classmethod
    def python(cls, source: str, *args: str, **fields: Any) -> Job:
        """Python source, run as `__main__` in a fork of a loaded interpreter.

        It is the first process of its namespace: signals it sends itself do nothing without a
        handler. Without `loopback` it makes no sockets but connected pairs.
        """
        return cls(source=source or "pass", args=args, **fields)

    def to_wire(self, path: str, box: str = "/box") -> tuple[dict[str, Any], list[bytes]]:
        """Header and blobs of the request; `path`: the PATH there, `box`: the writable folder."""
        contents = [c if isinstance(c, tuple) else (c, 0o644) for c in self.files.values()]
        header = {
            "command": list(self.command),
            "source": self.source,
            "args": list(self.args),
            "env": {
                "PATH": path,
                "HOME": f"{box}/work",
                "TMPDIR": f"{box}/tmp",
                **ENVIRONMENT,
                **self.env,
            },
            "files": [[p, mode] for p, (_, mode) in zip(self.files, contents, strict=True)],
            "outputs": list(self.outputs),
            "report": self.report,
            "loopback": self.loopback,
            "limits": self.limits.to_wire(),
        }
        return header, [*(data for data, _ in contents), self.stdin]

    def room_for_answer(self) -> int:
        """Bytes beyond which an answer to this job cannot be honest."""
        limits = self.limits.to_wire()
        return int(limits["disk"] + limits["output"]) + (64 << 20)


ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclass(frozen=True)
class Result:
    """How a job ended and what it left.

    `exit`: its status, negative for a signal. `reason`: empty, or why it was ended: `wall`, `cpu`,
    `memory`, `output`, `files`, `disk` (more to bring back than the limit allows), `killed`.
    `memory_mb`: the most that one process held, or that all together were seen to hold.
    """

    exit: int
    reason: str
    stdout: bytes
    stderr: bytes
    report: bytes
    files: Mapping[str, bytes]
    modes: Mapping[str, int]
    wall_s: float
    cpu_s: float
    memory_mb: float

    @property
    def ok(self) -> bool:
        """It ended by itself, with status 0."""
        return self.exit == 0 and not self.reason

    @classmethod
    def from_wire(cls, header: Mapping[str, Any], blobs: Sequence[bytes]) -> Result:
        """The inverse of what a supervisor sends. Raises SandboxError where it sent an error."""
        if "error" in header:
            raise SandboxError(f"the sandbox could not run the job: {header['error']}")
        stdout, stderr, report, *contents = blobs
        paths = [path for path, _ in header["files"]]
        return cls(
            exit=header["exit"],
            reason=header["reason"],
            stdout=stdout,
            stderr=stderr,
            report=report,
            files=dict(zip(paths, contents, strict=True)),
            modes=dict(map(tuple, header["files"])),
            wall_s=header["wall_s"],
            cpu_s=header["cpu_s"],
            memory_mb=header["memory"] / 2**20,
        )

    def save(self, folder: Path) -> None:
        """Write the files under `folder`, which must not exist, and nowhere else.

        Raises UserError where `folder` exists.
        """
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise UserError(f"{folder} exists", "name a folder that does not") from None
        for path, data in self.files.items():
            target = folder / path
            if os.path.commonpath([folder, os.path.normpath(target)]) != str(folder):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod(self.modes[path] | 0o600)
