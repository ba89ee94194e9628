"""Writing so that `kill -9` at any moment leaves either the old file or the new one, never a half.

`write_text(path, "x")` writes aside, syncs and renames. Each step is a named crash point for tests.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from puna.core.errors import UserError

_hits: dict[str, int] = {}


def crash_point(name: str) -> None:
    """Kill this process here when PUNA_CRASH_AT is `name` or `name:N` (its N-th passage)."""
    wanted = os.environ.get("PUNA_CRASH_AT")
    trace = os.environ.get("PUNA_CRASH_TRACE")
    if not wanted and not trace:
        return
    _hits[name] = _hits.get(name, 0) + 1
    if trace:
        with open(trace, "a") as f:
            f.write(f"{name}:{_hits[name]}\n")
    if wanted in (name, f"{name}:{_hits[name]}"):
        os.kill(os.getpid(), signal.SIGKILL)


def explain(error: OSError, path: Path) -> UserError:
    """The one line for a full disk, a missing permission, a file in the way."""
    fixes = {
        errno.ENOSPC: "free some space and run the same command again; nothing is lost",
        errno.EDQUOT: "free some of your quota and run the same command again; nothing is lost",
        errno.EACCES: "choose a directory you may write to",
        errno.EPERM: "choose a directory you may write to",
        errno.EROFS: "choose a directory you may write to",
        errno.EEXIST: "a file is in the way; choose another directory",
        errno.ENOTDIR: "a file is in the way; choose another directory",
    }
    reason = error.strerror or str(error)
    return UserError(f"cannot write {path}: {reason}", fixes.get(error.errno or 0, ""))


def _sync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_bytes(path: Path, data: bytes, point: str = "file") -> None:
    """Replace `path` by `data` in one rename. Raises UserError on a full disk or no permission."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as f:
            f.write(data)
            crash_point(f"{point}.written")
            f.flush()
            os.fsync(f.fileno())
        os.replace(aside, path)
        crash_point(f"{point}.renamed")
        _sync_dir(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # the folder itself may not be one
            aside.unlink(missing_ok=True)
        raise explain(error, path) from error


def write_text(path: Path, text: str, point: str = "file") -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, text.encode(), point)


def write_json(path: Path, data: Any, point: str = "file") -> None:
    """`write_bytes` for JSON, keys in the order given, one trailing newline."""
    write_bytes(path, json_bytes(data, indent=1) + b"\n", point)


def json_bytes(data: Any, **style: Any) -> bytes:
    """JSON as UTF-8; text that UTF-8 cannot hold (a lone surrogate) is escaped."""
    try:
        return json.dumps(data, ensure_ascii=False, **style).encode()
    except UnicodeEncodeError:
        return json.dumps(data, **style).encode()


class NewDirectory:
    """A directory filled aside and put in place by one rename; absent until then.

    `with NewDirectory(path, "checkpoint") as aside: ...write into aside...`
    An exception inside removes what was written and leaves `path` as it was.
    """

    def __init__(self, path: Path, point: str = "dir") -> None:
        self.path, self.point = path, point
        self.aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self.old = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")

    def __enter__(self) -> Path:
        try:
            for left in (self.aside, self.old):
                if left.exists():
                    shutil.rmtree(left)
            self.aside.mkdir(parents=True)
        except OSError as error:
            raise explain(error, self.path) from error
        return self.aside

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None:
            shutil.rmtree(self.aside, ignore_errors=True)
            if isinstance(error, OSError) and error.errno is not None:
                raise explain(error, self.path) from error
            return
        try:
            for file in sorted(self.aside.rglob("*")):
                if file.is_file():
                    with open(file, "rb") as f:
                        os.fsync(f.fileno())
            crash_point(f"{self.point}.written")
            if self.path.is_dir():
                os.replace(self.path, self.old)
                crash_point(f"{self.point}.cleared")
            os.replace(self.aside, self.path)
            crash_point(f"{self.point}.renamed")
            _sync_dir(self.path.parent)
            shutil.rmtree(self.old, ignore_errors=True)
        except OSError as failure:
            shutil.rmtree(self.aside, ignore_errors=True)
            if self.old.exists() and not self.path.exists():
                os.replace(self.old, self.path)
            raise explain(failure, self.path) from failure


@contextlib.contextmanager
def locked(directory: Path, patience_s: float = 0.0) -> Iterator[int]:
    """Hold `directory` (made if need be) until the end; gives the lock's file descriptor.

    A process that inherits the descriptor holds it too. Raises UserError where another still holds
    it after `patience_s` seconds.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(directory / ".lock", "a+")  # noqa: SIM115 - held to the end
    except OSError as error:
        raise explain(error, directory) from error
    with lock:
        deadline = time.monotonic() + patience_s
        while not _flock(lock.fileno()):
            if time.monotonic() >= deadline:
                lock.seek(0)
                owner = lock.read().strip() or "another process"
                fix = "wait for it, or choose another directory"
                raise UserError(f"{directory} is in use by {owner}", fix)
            time.sleep(0.05)
        try:
            lock.seek(0)
            lock.truncate()
            lock.write(f"process {os.getpid()}")
            lock.flush()
        except OSError as error:
            raise explain(error, directory) from error
        yield lock.fileno()


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_leftovers(path: Path) -> None:
    """Delete what killed writers left aside under `path` (hidden `*.tmp` files and directories)."""
    for left in sorted(path.rglob(".*.tmp")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


# Files beside weights that whoever passes a model on has to pass on too.
LICENCES = ("*LICENSE*", "*NOTICE*", "*Notice*", "*USE_POLICY*")


def in_use(out: Path) -> bool:
    """Whether `out` is a file, or a directory with something in it. Raises UserError."""
    try:
        return out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise UserError(f"cannot read {out}: {error.strerror}", "choose another one") from error


def remove_asides(out: Path) -> None:
    """What killed writers of the very directory `out` left beside it."""
    left = re.compile(rf"\.{re.escape(out.name)}\.\d+(\.old)?\.tmp")
    for path in out.parent.iterdir() if out.parent.is_dir() else ():
        if left.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_json(data: Any) -> str:
    """Hex SHA-256 of the canonical JSON of `data`."""
    canonical = json_bytes(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical).hexdigest()
