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
from dataclasses import dataclass
from typing import Any

from puna.sandbox.inside import wire

PAGE = os.sysconf("SC_PAGE_SIZE")
CLOCK = os.sysconf("SC_CLK_TCK")
STREAMS = ("stdin", "stdout", "stderr", "report")
FOLDERS = ("work", "tmp", "shm", "out")
SPARE_FILES = 1 + len(FOLDERS) + len(STREAMS)  # what is there before the job
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


@dataclass
class Usage:
    """What a job has used, and why it has to end (empty: it does not)."""

    reason: str = ""
    memory: int = 0
    cpu_s: float = 0.0


@dataclass(frozen=True)
class Opened:
    """A job's folder, the one of its streams, and its /proc, open."""

    box: int
    out: int
    proc: int = -1

    def close(self) -> None:
        """Give the descriptors back."""
        for fd in (self.box, self.out, self.proc):
            if fd >= 0:
                os.close(fd)


def look(at: Opened, reaped_s: float, limits: dict[str, Any], usage: Usage) -> None:
    """Count what a job uses now.

    `at.proc` is -1 where others than the job's processes stand there: then only output counts.
    `reaped_s`: processor time of its processes that have ended already, where that is known.
    """
    proc = at.proc
    if sum(sizes(at.out)) > limits["output"]:
        usage.reason = "output"
    if proc < 0:
        return
    cpu, resident = reaped_s, {}
    for name in os.listdir(proc):
        fields = _stat(proc, name) if name.isdigit() else []
        if not fields:
            continue
        cpu += sum(map(int, fields[11:15])) / CLOCK
        resident[name] = int(fields[21]) * PAGE
    memory = sum(resident.values())
    if memory > limits["memory"]:  # perhaps not, if shared pages count once
        memory = sum(_proportional(proc, pid) or size for pid, size in resident.items())
    usage.memory, usage.cpu_s = max(usage.memory, memory), max(usage.cpu_s, cpu)
    disk = os.statvfs(at.box)
    if memory > limits["memory"]:
        usage.reason = "memory"
    elif cpu > limits["cpu_s"]:
        usage.reason = "cpu"
    elif disk.f_files - disk.f_ffree > limits["files"] + SPARE_FILES:
        usage.reason = "files"


def sizes(out: int) -> list[int]:
    """Bytes in standard output, standard error and report."""
    return [os.stat(name, dir_fd=out).st_size for name in STREAMS[1:]]


def _stat(proc: int, pid: str) -> list[bytes]:
    try:
        with open(os.open(f"{pid}/stat", os.O_RDONLY, dir_fd=proc), "rb") as file:
            return file.read().rsplit(b")", 1)[1].split()
    except OSError:
        return []  # it has just ended


def _proportional(proc: int, pid: str) -> int:
    """Bytes of a process, shared pages in part; 0 where this process may not know."""
    try:
        with open(os.open(f"{pid}/smaps_rollup", os.O_RDONLY, dir_fd=proc), "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


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
    """Regular files of `work` that match, as (path, mode, bytes); bytes are None past the limit."""
    if not patterns:
        return
    total = 0
    for folder, names, files, at in os.fwalk("work", follow_symlinks=False, dir_fd=box):
        names.sort()
        for name in sorted(files):
            path = f"{folder}/{name}"[len("work/") :]
            if not any(fnmatch.fnmatchcase(path, p) for p in patterns):
                continue
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            try:
                fd = os.open(name, flags, dir_fd=at)
            except OSError:
                continue  # a symbolic link, a socket, or unreadable
            with open(fd, "rb") as file:
                about = os.fstat(fd)
                if not stat.S_ISREG(about.st_mode):
                    continue
                total += about.st_size
                if total > limit:
                    yield path, 0, None
                    return
                yield path, stat.S_IMODE(about.st_mode) & 0o777, file.read(about.st_size)
