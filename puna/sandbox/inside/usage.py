"""What a job uses while it runs, seen from outside its processes, and whether it must end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

TICK_S = 0.02  # between two looks
SPARE_FILES = 4  # the folders that are there before the job
PAGE = os.sysconf("SC_PAGE_SIZE")
CLOCK = os.sysconf("SC_CLK_TCK")
PATIENCE_S = 0.05  # for one job's shared pages
MOST_MAPS = 2 << 20  # bytes of /proc/PID/maps of all its processes
FREE_SOCKETS, SOCKET_BUFFERS = 16, 425_984  # twice net.core.wmem_max, as Linux has it


@dataclass
class Usage:
    """What a job has used, and why it has to end (empty: it does not).

    `alive`: start and processor time of the processes seen last, `lost`: that of earlier ones.
    """

    reason: str = ""
    memory: int = 0
    cpu_s: float = 0.0
    alive: dict[str, tuple[int, float]] = field(default_factory=dict)
    lost: float = 0.0


@dataclass(frozen=True)
class Opened:
    """A job's folder, its output, error and report, and its /proc, open."""

    box: int
    streams: Sequence[int]
    proc: int = -1

    def written(self) -> int:
        """Bytes in the streams, or reserved for them."""
        about = [os.fstat(fd) for fd in self.streams]
        return sum(max(a.st_size, 512 * a.st_blocks - PAGE) for a in about)

    def close(self) -> None:
        """Give the descriptors back."""
        for fd in (self.box, *self.streams, self.proc):
            if fd >= 0:
                os.close(fd)


def look(at: Opened, reaped_s: float, limits: dict[str, Any], usage: Usage) -> None:
    """Count what a job uses now.

    `at.proc` is -1 where others than the job's processes stand there: then only output counts.
    `reaped_s`: processor time of its processes that have ended already, where that is known.
    """
    if at.written() > limits["output"]:
        usage.reason = "output"
    if at.proc < 0:
        return
    processes = {name: fields for name in os.listdir(at.proc) if (fields := _stat(at.proc, name))}
    usage.cpu_s = max(usage.cpu_s, _processor_time(processes, reaped_s, usage))
    memory = _memory(at.proc, processes, limits["memory"])
    usage.memory = max(usage.memory, memory)
    disk = os.statvfs(at.box)
    if memory > limits["memory"]:
        usage.reason = "memory"
    elif usage.cpu_s > limits["cpu_s"]:
        usage.reason = "cpu"
    elif disk.f_files - disk.f_ffree > limits["files"] + SPARE_FILES:
        usage.reason = "files"


def _stat(proc: int, pid: str) -> list[bytes]:
    """The fields of /proc/PID/stat behind the name (proc(5): the first is number 3)."""
    return _read(f"{pid}/stat", proc, 4000).rpartition(b")")[2].split() if pid.isdigit() else []


def _processor_time(processes: dict[str, list[bytes]], reaped_s: float, usage: Usage) -> float:
    """Of all processes, those that ended included: as their parents count them, or as seen here.

    A parent that ignores SIGCHLD does not count its children, so what was seen of them is added up;
    of those that nobody saw, nothing is known.
    """
    alive, counted = {}, reaped_s
    for pid, fields in processes.items():
        alive[pid] = int(fields[19]), (int(fields[11]) + int(fields[12])) / CLOCK
        counted += sum(map(int, fields[11:15])) / CLOCK
    for pid, (start, spent) in usage.alive.items():
        if pid not in alive or alive[pid][0] != start:
            usage.lost += spent
    usage.alive = alive
    return max(counted, usage.lost + sum(spent for _, spent in alive.values()))


def _memory(proc: int, processes: dict[str, list[bytes]], limit: int) -> int:
    """Bytes of all processes: what is resident, what is shared and unmapped, what sockets may hold.

    Shared pages count once where they would make the difference, as far as that is told quickly.
    """
    resident, addresses = {}, 0
    for pid, fields in processes.items():
        if not _borrows(fields, processes):
            resident[pid] = int(fields[21]) * PAGE or _of_threads(proc, pid, fields)
            addresses += int(fields[20])
    memory = sum(resident.values())
    if memory > limit:
        until = time.monotonic() + PATIENCE_S
        for pid, size in resident.items():
            memory += (_proportional(proc, pid) or size) - size
            if time.monotonic() > until:
                break
    if memory <= limit and addresses > limit:
        memory = max(memory, _shared(proc, resident, limit))
    return memory + _sockets(proc, processes)


def _borrows(fields: list[bytes], processes: dict[str, list[bytes]]) -> bool:
    """Whether a process runs in its parent's memory: between vfork and exec, which stops that."""
    parent = processes.get(fields[1].decode())
    return parent is not None and parent[0] == b"D" and parent[20] == fields[20]


def _of_threads(proc: int, pid: str, fields: list[bytes]) -> int:
    """Resident bytes of a process whose first thread has ended, which hides them."""
    if int(fields[17]) < 2:
        return 0
    try:
        task = os.open(f"{pid}/task", os.O_RDONLY, dir_fd=proc)
    except OSError:
        return 0
    try:
        for thread in os.listdir(task):
            pages = _read(f"{thread}/statm", task, 200).split()[1:2]
            if pages and int(pages[0]):
                return int(pages[0]) * PAGE
    except OSError:
        pass
    finally:
        os.close(task)
    return 0


def _read(name: str, folder: int, most: int) -> bytes:
    """At most so many bytes of a file in /proc; none where it is gone or closed to this process."""
    try:
        fd = os.open(name, os.O_RDONLY, dir_fd=folder)
    except OSError:
        return b""
    try:
        parts = []
        while most > 0 and (part := os.read(fd, min(most, 1 << 16))):
            parts.append(part)
            most -= len(part)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _proportional(proc: int, pid: str) -> int:
    """Bytes of a process, shared pages in part; 0 where this process may not know."""
    for line in _read(f"{pid}/smaps_rollup", proc, 4000).split(b"\n"):
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _shared(proc: int, pids: Iterable[str], limit: int) -> int:
    """Bytes of anonymous memory mapped as shared: its pages stay when a process lets them go.

    More than the limit where a job has more mappings than can be read quickly.
    """
    found: dict[bytes, int] = {}
    room = MOST_MAPS
    for pid in pids:
        maps = _read(f"{pid}/maps", proc, room)
        room -= len(maps)
        if room <= 0:
            return limit + 1
        for line in maps.split(b"\n"):
            if line.endswith(b"/dev/zero (deleted)"):
                span, _, _, _, inode = line.split()[:5]
                low, high = (int(x, 16) for x in span.split(b"-"))
                found[inode] = max(found.get(inode, 0), high - low)
    return sum(found.values())


def _sockets(proc: int, processes: dict[str, list[bytes]]) -> int:
    """The most that the buffers of a job's sockets can hold, beyond those of a few."""
    for pid in processes:
        words = _read(f"{pid}/net/sockstat", proc, 100).split()
        if words[:2] == [b"sockets:", b"used"]:
            return max(0, int(words[2]) - FREE_SOCKETS) * SOCKET_BUFFERS
    return 0
