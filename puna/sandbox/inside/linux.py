"""The Linux calls that build a wall: namespaces, mounts, capabilities, seccomp. Standard library.

Every function raises OSError naming the step that the kernel refused.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct

NEW_NS, NEW_UTS, NEW_IPC = 0x20000, 0x4000000, 0x8000000
NEW_USER, NEW_PID, NEW_NET = 0x10000000, 0x20000000, 0x40000000
READ_ONLY, NO_SUID, NO_DEV, NO_EXEC, REC, PRIVATE = 1, 2, 4, 8, 16384, 1 << 18
SET_PDEATHSIG, SET_DUMPABLE, SET_SECCOMP, SET_NO_NEW_PRIVS, CAP_AMBIENT = 1, 4, 22, 38, 47

libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, step: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{step}: {os.strerror(code)}")


def unshare(flags: int, step: str) -> None:
    """New namespaces for the calling process (for `NEW_PID`: for its children)."""
    _check(libc.unshare(flags), step)


def setns(fd: int, flag: int) -> None:
    """Join the namespace that `fd` is open on."""
    _check(libc.setns(fd, flag), "enter a namespace")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2)."""
    named = [os.fsencode(x) if x else None for x in (source, target, kind)]
    _check(
        libc.mount(*named, ctypes.c_ulong(flags), options.encode() or None),
        f"mount {kind or source} on {target}",
    )


def loopback_up() -> None:
    """Let a new network namespace reach itself, and nothing else."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP


def dumpable(yes: bool) -> None:
    """Whether processes of the same user may look into this one under /proc."""
    _check(libc.prctl(SET_DUMPABLE, int(yes), 0, 0, 0), "PR_SET_DUMPABLE")


def children_of(pid: int) -> list[int]:
    """The children of a process as /proc shows them; none where it is gone or /proc is not."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(p) for p in file.read().split()]
    except OSError:
        return []


def adopt_orphans() -> None:
    """What a descendant leaves behind becomes this process's child, not the machine's."""
    _check(libc.prctl(36, 1, 0, 0, 0), "PR_SET_CHILD_SUBREAPER")


def die_with_parent() -> None:
    """The kernel ends this process when the thread that forked it ends."""
    _check(libc.prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "PR_SET_PDEATHSIG")


def first_to_go() -> None:
    """Should the machine run out of memory, the kernel ends this process and its forks first."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def own_user(proc: int, uid: int, gid: int, inside: int) -> None:
    """A user namespace in which this process is user `inside`, outside `uid` and `gid`.

    `proc` is a writable /proc, open as a directory.
    """
    unshare(NEW_USER, "a user namespace")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{inside} {uid} 1"),
        ("gid_map", f"{inside} {gid} 1"),
    ):
        fd = os.open(f"self/{name}", os.O_WRONLY, dir_fd=proc)
        try:
            os.write(fd, text.encode())
        except OSError as error:
            raise OSError(error.errno, f"write {name}: {os.strerror(error.errno or 0)}") from None
        finally:
            os.close(fd)


def drop_capabilities() -> None:
    """Give up every capability, and the right to gain any by executing a file."""
    header = struct.pack("Ii", 0x20080522, 0)
    _check(libc.capset(header, bytes(24)), "capset")
    _check(libc.prctl(CAP_AMBIENT, 4, 0, 0, 0), "clear ambient capabilities")
    _check(libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")


def install_filter(program: bytes) -> None:
    """Install a compiled seccomp filter; no_new_privs must be set."""
    buffer = ctypes.create_string_buffer(program, len(program))
    size, address = len(program) // 8, ctypes.addressof(buffer)
    header = struct.pack("HxxxxxxP", size, address)
    _check(libc.prctl(SET_SECCOMP, 2, header, 0, 0), "seccomp filter")
