"""The folder a job lives in (`work`, `tmp`, `shm`), its streams, and what is brought back of them.

Streams are files in memory, so that nobody has to empty pipes while a job runs.
"""

from __future__ import annotations

import fcntl
import fnmatch
import os
import resource
import signal
import stat
from collections.abc import Iterator, Sequence
from typing import Any

from puna.sandbox.inside.usage import Opened, Usage

FOLDERS = ("work", "tmp", "shm")
DEEPEST = 100
Owner = tuple[int, int] | None


def fill(box: str, request: dict[str, Any], blobs: list[bytes], owner: Owner) -> list[int]:
    """Write the job's files, open its standard input, output, error and report.

    The folders must be there. `owner`: whose all of it becomes, where that is not this process's
    own user.
    """
    if owner:
        for name in FOLDERS:
            os.chown(f"{box}/{name}", *owner)
    work, made = f"{box}/work", {""}
    for (path, mode), data in zip(request["files"], blobs, strict=False):
        _make_folder(work, path.rpartition("/")[0], made, owner)
        fd = os.open(f"{work}/{path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(fd, "wb") as file:
            file.write(data)
            if owner:
                os.fchown(fd, *owner)
    given = blobs[len(request["files"])]
    streams = [in_memory("stdin", given) if given else os.open(os.devnull, os.O_RDONLY)]
    for name in ("stdout", "stderr", "report"):
        streams.append(in_memory(name, b""))
        fcntl.fcntl(streams[-1], fcntl.F_SETFL, os.O_RDWR | os.O_APPEND)
        if owner:
            os.fchown(streams[-1], *owner)
    return streams


def in_memory(name: str, data: bytes) -> int:
    """A file that is only a descriptor, with `data`, open at its start."""
    fd = os.memfd_create(name)
    os.fchmod(fd, 0o600)
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _make_folder(work: str, path: str, made: set[str], owner: Owner) -> None:
    missing = []
    while path not in made:
        missing.append(path)
        path = path.rpartition("/")[0]
    for folder in reversed(missing):
        os.mkdir(f"{work}/{folder}", 0o755)
        if owner:
            os.chown(f"{work}/{folder}", *owner)
        made.add(folder)


def finish(
    usage: Usage, status: int, used: resource.struct_rusage, limits: dict[str, Any], at: Opened
) -> dict[str, Any]:
    """The header of the answer to a job that has ended with wait status `status`."""
    code = os.waitstatus_to_exitcode(status)
    usage.cpu_s = max(usage.cpu_s, used.ru_utime + used.ru_stime)
    reason = usage.reason
    if not reason and code in (-signal.SIGXCPU, -signal.SIGKILL):
        spent = usage.cpu_s > 0.95 * limits["cpu_s"] or code == -signal.SIGXCPU
        reason = "cpu" if spent else "killed"
    if not reason and at.written() > limits["output"]:
        reason = "output"
    return {
        "exit": code,
        "reason": reason,
        "cpu_s": usage.cpu_s,
        "memory": max(usage.memory, used.ru_maxrss * 1024),
    }


def left(
    header: dict[str, Any], at: Opened, outputs: Sequence[str], limits: dict[str, Any]
) -> tuple[dict[str, Any], list[bytes]]:
    """The whole answer: `header` with the files' names, and as blobs the streams and the files."""
    blobs, room = [], limits["output"]
    for fd in at.streams:
        blobs.append(os.pread(fd, room, 0))
        room -= len(blobs[-1])
    reason, files = header["reason"], []
    for path, mode, data in _collect(at.box, outputs, limits["disk"]):
        if data is None:
            reason = reason or "disk"
            break
        files.append((path, mode))
        blobs.append(data)
    return {**header, "reason": reason, "files": files}, blobs


def _collect(
    box: int, patterns: Sequence[str], limit: int
) -> Iterator[tuple[str, int, bytes | None]]:
    """Regular files of `work` that match, as (path, mode, bytes); bytes are None past the limit.

    Every process of the job is dead, so nothing changes on the way. Paths count too; folders are
    followed to a depth of 100.
    """
    total, todo = 0, ["work"] if patterns else []
    while todo:
        folder = todo.pop()
        fd = _open(box, folder, os.O_DIRECTORY)
        if fd < 0:
            continue
        with os.scandir(fd) as entries:
            found = sorted((e.name, e.is_dir(follow_symlinks=False)) for e in entries)
        os.close(fd)
        inside = [f"{folder}/{name}" for name, is_folder in found if is_folder]
        todo += [path for path in reversed(inside) if path.count("/") <= DEEPEST]
        for name in [name for name, is_folder in found if not is_folder]:
            path = f"{folder}/{name}"[len("work/") :]
            if not any(fnmatch.fnmatchcase(path, p) for p in patterns):
                continue
            fd = _open(box, f"{folder}/{name}", os.O_NONBLOCK)
            if fd < 0:
                continue  # a symbolic link or a socket
            with open(fd, "rb") as file:
                about = os.fstat(fd)
                if not stat.S_ISREG(about.st_mode):
                    continue
                total += about.st_size + 6 * len(os.fsencode(path))  # as JSON may write it
                if total > limit:
                    yield path, 0, None
                    return
                yield path, stat.S_IMODE(about.st_mode) & 0o777, file.read(about.st_size)


def _open(box: int, path: str, flags: int) -> int:
    """A descriptor to read with, -1 where there is none; a job may have closed its own files."""
    for last in (False, True):
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=box)
        except PermissionError:
            about = os.stat(path, dir_fd=box, follow_symlinks=False)
            if last or not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):
                return -1
            os.chmod(path, stat.S_IMODE(about.st_mode) | 0o700, dir_fd=box)
        except OSError:
            return -1
    return -1
