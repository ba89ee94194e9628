"""What a job uses while it runs, seen from outside its processes, and whether it must end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SPARE_FILES = 4  # the folders that are there before the job
PAGE = os.sysconf("SC_PAGE_SIZE")
CLOCK = os.sysconf("SC_CLK_TCK")
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
        """Bytes in the streams."""
        return sum(os.fstat(fd).st_size for fd in self.streams)

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
    if not pid.isdigit():
        return []
    try:
        with open(os.open(f"{pid}/stat", os.O_RDONLY, dir_fd=proc), "rb") as file:
            return file.read().rsplit(b")", 1)[1].split()
    except OSError:
        return []  # it has just ended


def _processor_time(processes: dict[str, list[bytes]], reaped_s: float, usage: Usage) -> float:
    """Of all processes, those that ended included: as their parents count them, or as seen here.

    A parent that ignores SIGCHLD does not count its children, so what was seen of them is added up.
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

    Shared pages count once where they would make the difference.
    """
    resident, addresses = {}, 0
    for pid, fields in processes.items():
        resident[pid] = int(fields[21]) * PAGE or _of_threads(proc, pid, fields)
        addresses += int(fields[20])
    memory = sum(resident.values())
    if memory > limit:
        memory = sum(_proportional(proc, pid) or size for pid, size in resident.items())
    if memory <= limit and addresses > limit:
        memory = max(memory, _shared(proc, processes))
    return memory + _sockets(proc, processes)


def _of_threads(proc: int, pid: str, fields: list[bytes]) -> int:
    """Resident bytes of a process whose first thread has ended, which hides them."""
    if int(fields[17]) < 2:
        return 0
    try:
        for thread in os.listdir(task := os.open(f"{pid}/task", os.O_RDONLY, dir_fd=proc)):
            with open(os.open(f"{thread}/statm", os.O_RDONLY, dir_fd=task), "rb") as file:
                if pages := int(file.read().split()[1]):
                    os.close(task)
                    return pages * PAGE
        os.close(task)
    except OSError:
        pass
    return 0


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


def _shared(proc: int, processes: dict[str, list[bytes]]) -> int:
    """Bytes of anonymous memory mapped as shared: its pages stay when a process lets them go."""
    found: dict[bytes, int] = {}
    for pid in processes:
        try:
            with open(os.open(f"{pid}/maps", os.O_RDONLY, dir_fd=proc), "rb") as file:
                for line in file:
                    if line.endswith(b"/dev/zero (deleted)\n"):
                        span, _, _, _, inode = line.split()[:5]
                        low, high = (int(x, 16) for x in span.split(b"-"))
                        found[inode] = max(found.get(inode, 0), high - low)
        except OSError:
            pass
    return sum(found.values())


def _sockets(proc: int, processes: dict[str, list[bytes]]) -> int:
    """The most that the buffers of a job's sockets can hold, beyond those of a few."""
    for pid in processes:
        try:
            with open(os.open(f"{pid}/net/sockstat", os.O_RDONLY, dir_fd=proc), "rb") as file:
                used = int(file.readline().split()[2])
            return max(0, used - FREE_SOCKETS) * SOCKET_BUFFERS
        except (OSError, IndexError):
            continue
    return 0
