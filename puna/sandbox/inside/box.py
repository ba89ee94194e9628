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
from collections.abc import Iterator
from typing import Any

from puna.sandbox.inside import wire
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
    made = {""}
    for (path, mode), data in zip(request["files"], blobs, strict=False):
        _make_folder(f"{box}/work", path.rpartition("/")[0], made, owner)
        fd = os.open(f"{box}/work/{path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
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


def answer(header: dict[str, Any], at: Opened, outputs: list[str], limits: dict[str, Any]) -> bytes:
    """The encoded answer: the header, the streams, and the files that match `outputs`."""
    out, room = [], limits["output"]
    for fd in at.streams:
        out.append(os.pread(fd, room, 0))
        room -= len(out[-1])
    files = []
    for path, mode, data in _collect(at.box, outputs, limits["disk"]):
        if data is None:
            header["reason"] = header["reason"] or "disk"
            break
        files.append([path, mode])
        out.append(data)
    return wire.encode({**header, "files": files}, out)


def _collect(box: int, patterns: list[str], limit: int) -> Iterator[tuple[str, int, bytes | None]]:
    """Regular files of `work` that match, as (path, mode, bytes); bytes are None past the limit.

    Every process of the job is dead, so nothing changes on the way. Paths count too; folders are
    followed to a depth of 100.
    """
    total, todo = 0, ["work"] if patterns else []
    while todo:
        folder = todo.pop()
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=box)
        except OSError:
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
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            try:
                fd = os.open(f"{folder}/{name}", flags, dir_fd=box)
            except OSError:
                continue  # a symbolic link, a socket, or unreadable
            with open(fd, "rb") as file:
                about = os.fstat(fd)
                if not stat.S_ISREG(about.st_mode):
                    continue
                total += about.st_size + 6 * len(os.fsencode(path))  # as JSON may write it
                if total > limit:
                    yield path, 0, None
                    return
                yield path, stat.S_IMODE(about.st_mode) & 0o777, file.read(about.st_size)
