"""One job: files in, the process under its limits, everything it left killed, files out.

Runs as the first process of the job's own namespaces (under a keeper), or as a plain process
(`once.py`: in a container, or unsafe). Trusted; the job's process is `child.py`.
"""

from __future__ import annotations

import fnmatch
import os
import resource
import select
import signal
import stat
import time
from dataclasses import dataclass, field
from typing import Any

from puna.sandbox.inside import child, wire

TICK_MS = 20
PAGE = os.sysconf("SC_PAGE_SIZE")
CLOCK = os.sysconf("SC_CLK_TCK")
READ = 1 << 16
SPARE_FILES = 4  # the folders that are there before the job


@dataclass
class Place:
    """Where a job runs: its folder, and the walls that its process enters (None: unsafe)."""

    work: str
    walls: child.Walls | None = None

    @property
    def alone(self) -> bool:
        """Whether this is the first process of a namespace, where all others belong to the job."""
        return os.getpid() == 1


@dataclass
class Ended:
    """What became of the process."""

    exit: int = 0
    reason: str = ""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    memory: int = 0
    output: dict[str, bytearray] = field(default_factory=dict)


def supervise(request: dict[str, Any], blobs: list[bytes], place: Place, hangup: int = -1) -> bytes:
    """Run the job of a request; the encoded answer. `hangup`: a socket whose end cancels the job.

    Raises OSError where the wall could not be built; then nothing of the job has run.
    """
    files = request["files"]
    for (path, mode), data in zip(files, blobs, strict=False):
        _write(place, path, mode, data)
    given = blobs[len(files)]
    ended = _run(request, given, place, hangup)
    header: dict[str, Any] = {
        "exit": ended.exit,
        "reason": ended.reason,
        "wall_s": ended.wall_s,
        "cpu_s": ended.cpu_s,
        "memory": ended.memory,
        "files": [],
    }
    out = [bytes(ended.output.get(name, b"")) for name in ("stdout", "stderr", "report")]
    for path, mode, data in _collect(place.work, request["outputs"], request["limits"]["disk"]):
        if data is None:
            header["reason"] = header["reason"] or "disk"
            break
        header["files"].append([path, mode])
        out.append(data)
    return wire.encode(header, out)


def _write(place: Place, path: str, mode: int, data: bytes) -> None:
    owner = place.walls.owner if place.walls else None
    parts = path.split("/")
    for depth in range(1, len(parts)):
        folder = os.path.join(place.work, *parts[:depth])
        if not os.path.isdir(folder):
            os.mkdir(folder, 0o755)
            if owner:
                os.chown(folder, *owner)
    fd = os.open(os.path.join(place.work, path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(fd, "wb") as file:
        file.write(data)
        if owner:
            os.chown(fd, *owner)


def _run(request: dict[str, Any], given: bytes, place: Place, hangup: int) -> Ended:
    reads: dict[int, str] = {}
    writes: dict[str, int] = {}
    names = ["stdout", "stderr", "problem"] + ["report"] * request["report"]
    for name in names:
        r, w = os.pipe()
        reads[r], writes[name] = name, w
    stdin, feed = os.pipe()
    pid = os.fork()
    if pid == 0:
        child.become(request, stdin, writes, place.walls, place.work)
    for fd in (stdin, *writes.values()):
        os.close(fd)
    if place.walls:
        place.walls.guard()
    ended = Ended(output={name: bytearray() for name in names})
    try:
        _watch(pid, reads, feed, given, hangup, request["limits"], ended, place)
    finally:
        _kill_all(pid, ended, place.alone)
    for fd, name in reads.items():  # what was in the pipes when the last process ended
        os.set_blocking(fd, False)
        try:
            while data := os.read(fd, READ):
                ended.output[name] += data
        except BlockingIOError:
            pass
        os.close(fd)
    if problem := ended.output.pop("problem"):
        raise OSError(problem.decode())
    limit = request["limits"]["output"]
    if sum(map(len, ended.output.values())) > limit:
        ended.reason = ended.reason or "output"
        for kept in ended.output.values():
            del kept[limit:]
            limit -= len(kept)
    if not ended.reason and ended.exit in (-signal.SIGXCPU, -signal.SIGKILL):
        spent = ended.cpu_s > 0.95 * request["limits"]["cpu_s"]
        ended.reason = "cpu" if spent or ended.exit == -signal.SIGXCPU else "killed"
    return ended


def _watch(
    pid: int,
    reads: dict[int, str],
    feed: int,
    given: bytes,
    hangup: int,
    limits: dict[str, Any],
    ended: Ended,
    place: Place,
) -> None:
    """Until the process ends or a limit is met: move its bytes and count what it uses."""
    began = time.monotonic()
    poll = select.poll()
    done = os.pidfd_open(pid)
    open_reads = set(reads)
    for fd in open_reads:
        poll.register(fd, select.POLLIN)
    poll.register(done, select.POLLIN)
    if hangup >= 0:
        poll.register(hangup, select.POLLIN)
    os.set_blocking(feed, False)
    view = memoryview(given)
    if view:
        poll.register(feed, select.POLLOUT)
    else:
        os.close(feed)
    total, next_look = 0, began + TICK_MS / 1000
    try:
        while True:
            for fd, event in poll.poll(TICK_MS):
                if fd in open_reads:
                    data = os.read(fd, READ)
                    ended.output[reads[fd]] += data
                    total += len(data)
                    if not data:
                        poll.unregister(fd)
                        open_reads.discard(fd)
                elif fd == done:
                    return
                elif fd == hangup:
                    ended.reason = "cancelled"
                    return
                elif view:  # the job's standard input
                    try:
                        sent = os.write(feed, view[:READ]) if event == select.POLLOUT else len(view)
                        view = view[sent:]
                    except BlockingIOError:
                        pass
                    except BrokenPipeError:
                        view = memoryview(b"")
                    if not view:
                        poll.unregister(feed)
                        os.close(feed)
            now = time.monotonic()
            if total > limits["output"]:
                ended.reason = "output"
            elif now - began > limits["wall_s"]:
                ended.reason = "wall"
            elif place.alone and now > next_look:
                next_look = now + TICK_MS / 1000
                _look(limits, place.work, ended)
            if ended.reason:
                return
    finally:
        if view:
            os.close(feed)
        os.close(done)
        ended.wall_s = time.monotonic() - began


def _look(limits: dict[str, Any], work: str, ended: Ended) -> None:
    """Count the processor time and memory of every process of this namespace, and the files."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, memory, pids = used.ru_utime + used.ru_stime, 0, []
    for name in os.listdir("/proc"):
        if not name.isdigit() or name == "1":
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rsplit(b")", 1)[1].split()
        except OSError:
            continue  # it has just ended
        cpu += sum(map(int, fields[11:15])) / CLOCK
        memory += int(fields[21]) * PAGE
        pids.append(name)
    if memory > limits["memory"]:
        memory = sum(map(_proportional, pids))  # pages that processes share count once
    ended.memory = max(ended.memory, memory)
    if memory > limits["memory"]:
        ended.reason = "memory"
    elif cpu > limits["cpu_s"]:
        ended.reason = "cpu"
    disk = os.statvfs(work)
    if disk.f_files - disk.f_ffree > limits["files"] + SPARE_FILES:
        ended.reason = "files"


def _proportional(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _kill_all(pid: int, ended: Ended, alone: bool) -> None:
    """End the process and everything it started; fill in how it ended and what it used."""
    if alone:
        assert os.getpid() == 1
        _signal(-1)
    else:
        for each in _family(os.getpid()):
            _signal(each)
    while True:
        try:
            each, status = os.waitpid(-1 if alone else pid, 0)
        except ChildProcessError:
            break
        if each == pid:
            ended.exit = os.waitstatus_to_exitcode(status)
            if not alone:
                break
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended.cpu_s = used.ru_utime + used.ru_stime
    ended.memory = max(ended.memory, used.ru_maxrss * 1024)


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _family(root: int) -> list[int]:
    """The descendants of a process as /proc shows them; stopped first, so that none is missed."""
    found: list[int] = []
    todo = [root]
    while todo:
        parent = todo.pop()
        try:
            with open(f"/proc/{parent}/task/{parent}/children") as file:
                children = [int(p) for p in file.read().split()]
        except OSError:
            continue
        for each in children:
            try:
                os.kill(each, signal.SIGSTOP)
            except OSError:
                continue
            found.append(each)
            todo.append(each)
    return found


def _collect(work: str, patterns: list[str], limit: int) -> Any:
    """Regular files of `work` that match, as (path, mode, bytes); bytes are None past the limit."""
    if not patterns:
        return
    total = 0
    for folder, names, files, at in os.fwalk(work, follow_symlinks=False):
        names.sort()
        inside = os.path.relpath(folder, work)
        for name in sorted(files):
            path = name if inside == "." else f"{inside}/{name}"
            if not any(fnmatch.fnmatchcase(path, p) for p in patterns):
                continue
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
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
