"""The folder a job lives in, and what is counted and brought back: `work`, `tmp`, `shm`, `out`.

`out` holds the job's standard streams as files, so that nobody has to empty pipes while it runs.
"""

from __future__ import annotations

import fnmatch
import os
import resource
import signal
import stat
from collections.abc import Iterator
from typing import Any

from puna.sandbox.inside import wire
from puna.sandbox.inside.usage import STREAMS, Opened, Usage, sizes

FOLDERS = ("work", "tmp", "shm", "out")
LONGEST_PATH = 3000
Owner = tuple[int, int] | None


def fill(box: str, request: dict[str, Any], blobs: list[bytes], owner: Owner) -> dict[str, int]:
    """Write the job's files, open its streams: descriptors by name. The folders must be there.

    `owner`: whose the files become, where that is not this process's own user.
    """
    for name in FOLDERS:
        if owner and name != "out":
            os.chown(f"{box}/{name}", *owner)
    for (path, mode), data in zip(request["files"], blobs, strict=False):
        _write(f"{box}/work", path, mode, data, owner)
    streams = {}
    for name in STREAMS:
        flags = os.O_RDWR if name == "stdin" else os.O_WRONLY | os.O_APPEND
        streams[name] = os.open(f"{box}/out/{name}", flags | os.O_CREAT | os.O_EXCL, 0o600)
        if owner:
            os.fchown(streams[name], *owner)
    left = memoryview(blobs[len(request["files"])])
    while left:
        left = left[os.write(streams["stdin"], left) :]
    os.lseek(streams["stdin"], 0, os.SEEK_SET)
    return streams


def _write(work: str, path: str, mode: int, data: bytes, owner: Owner) -> None:
    parts = path.split("/")
    for depth in range(1, len(parts)):
        folder = os.path.join(work, *parts[:depth])
        if not os.path.isdir(folder):
            os.mkdir(folder, 0o755)
            if owner:
                os.chown(folder, *owner)
    fd = os.open(os.path.join(work, path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(fd, "wb") as file:
        file.write(data)
        if owner:
            os.fchown(fd, *owner)


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
    if not reason and sum(sizes(at.out)) > limits["output"]:
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
    for name in STREAMS[1:]:
        with open(os.open(name, os.O_RDONLY, dir_fd=at.out), "rb") as file:
            out.append(file.read(room))
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

    Every process of the job is dead, so nothing changes on the way. Paths count too; below a path
    of 3,000 bytes nothing is looked for.
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
        todo += [path for path in reversed(inside) if len(os.fsencode(path)) < LONGEST_PATH]
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
