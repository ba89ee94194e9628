"""The outer jail: what bubblewrap is told to build, and what is missing where it cannot.

`arguments(Mounts(), root=False)` are the words for `bwrap`.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

from puna.core.errors import UserError
from puna.sandbox import seccomp
from puna.sandbox.base import Mounts

INSIDE = Path(__file__).parent / "inside"
KEEPER = "/run/puna/puna/sandbox/inside"
PACKAGES, LIBRARY = "/run/packages", "/run/library"
PATH = f"{sys.base_prefix}/bin:/usr/bin:/bin"  # of a job
HIDDEN_ROOMS = ("envs", "papers", "recipes")
SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")
DEVICES = ("null", "zero", "full", "random", "urandom")
DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "shm": "/box/shm",
    "ptmx": "pts/ptmx",
}
FROM_ETC = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")


def python() -> str:
    """The interpreter itself, not a link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def free_users() -> int:
    """The first of 60,000 user ids that belong to nobody; fewer are mapped in some containers."""
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= 1_000_000 and first + count >= 1_060_000:
            return 1_000_000
    return 4_000


def arguments(mounts: Mounts, root: bool) -> list[str]:
    """The arguments of bubblewrap for the outer jail."""
    out = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    out += ["--unshare-cgroup-try", "--as-pid-1", "--cap-add", "ALL", "--hostname", "jail"]
    if not root:
        out += ["--unshare-user", "--uid", "0", "--gid", "0"]
    shown: dict[str, Path] = {"/usr": Path("/usr")}
    for name in SYSTEM:
        path = Path(name)
        if path.is_symlink():
            out += ["--symlink", os.readlink(path), name]
        elif path.is_dir():
            shown[name] = path
    out += ["--dir", "/etc"]
    for name in FROM_ETC:
        out += ["--ro-bind-try", name, name]
    for path in sorted((INSIDE / "etc").iterdir()):
        out += ["--ro-bind", str(path), f"/etc/{path.name}"]
    prefix = Path(sys.base_prefix)
    if not prefix.is_relative_to("/usr") or prefix.is_relative_to("/usr/local"):
        shown[str(prefix)] = prefix
    if not Path(python()).is_relative_to(prefix):
        shown[str(Path(python()).parent)] = Path(python()).parent
    if mounts.packages:
        import numpy

        shown[PACKAGES] = Path(numpy.__file__).parent.parent
    for name, folder in mounts.folders.items():
        if not Path(folder).exists():
            raise UserError(f"no {folder} to show as {name}", "name a folder that exists")
        shown[name] = Path(folder).resolve()
    library = Path(__file__).resolve().parent.parent
    empty = []
    installed = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    for name, path in shown.items():
        if root:
            _refuse_unreadable(path)
        out += [*_parents(name), "--ro-bind", str(path), name]
        if name == "/usr" and Path("/usr/local").is_dir():
            empty.append("/usr/local")
            out += ["--tmpfs", "/usr/local"]
        if path == prefix and (prefix / installed).is_dir():
            empty.append(f"{name}/{installed}")
            out += ["--tmpfs", empty[-1]]
        elif library.is_relative_to(path):  # also where a folder above it is shown
            empty.append(f"{name}/{library.relative_to(path)}")
            out += ["--tmpfs", empty[-1]]
    if mounts.library:
        for path in sorted(library.iterdir()):
            if path.name not in (*HIDDEN_ROOMS, "__pycache__"):
                inside = f"{LIBRARY}/puna/{path.name}"
                out += [*_parents(inside), "--ro-bind", str(path), inside]
    out += [*_parents(KEEPER), "--ro-bind", str(INSIDE), KEEPER]
    out += ["--dir", "/box", "--symlink", "box/tmp", "/tmp", "--proc", "/proc"]
    out += ["--dir", "/dev"]
    for name in DEVICES:
        out += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name, target in DEVICE_LINKS.items():
        out += ["--symlink", target, f"/dev/{name}"]
    out += ["--dir", "/dev/pts"]
    for name in (*empty, "/"):
        out += ["--remount-ro", name]
    return out


def _parents(name: str) -> list[str]:
    """Folders above a mount, as everybody may enter them: bubblewrap's own are for root alone."""
    above = [str(p) for p in reversed(Path(name).parents) if p != Path("/")]
    return [word for folder in above for word in ("--dir", folder)]


def _refuse_unreadable(path: Path) -> None:
    mode = path.stat().st_mode
    if mode & 0o004 == 0 or (path.is_dir() and mode & 0o001 == 0):
        raise UserError(
            f"{path} is closed to other users, and started by root a job is one of them",
            f"chmod o+rX {path}",
        )


def refuse_unless_possible() -> None:
    """Raises UserError naming the first thing that is missing."""
    if sys.platform != "linux":
        raise UserError(
            f"bubblewrap needs Linux, this is {sys.platform}",
            "use a container backend (docker or podman)",
        )
    if not shutil.which("bwrap"):
        raise UserError("bubblewrap (the program bwrap) is not installed", "apt install bubblewrap")
    if platform.machine() not in seccomp.ARCHITECTURES:
        known = ", ".join(seccomp.ARCHITECTURES)
        raise UserError(
            f"no system call filter is known for {platform.machine()}", f"known are {known}"
        )


SWITCHES = {
    "kernel.unprivileged_userns_clone": "0",
    "user.max_user_namespaces": "0",
    "kernel.apparmor_restrict_unprivileged_userns": "1",
}


def advice(problem: str) -> str:
    """What to do about a wall that could not be built."""
    for name, bad in SWITCHES.items():
        try:
            value = Path("/proc/sys", *name.split(".")).read_text().strip()
        except OSError:
            continue
        if value == bad:
            return f"the setting {name} is {bad}, which forbids user namespaces (sysctl changes it)"
    if "permission" in problem.lower() or "not permitted" in problem.lower():
        return "inside a container? it must allow namespaces (docker: --privileged)"
    return "`puna doctor` tells which backends work here"
