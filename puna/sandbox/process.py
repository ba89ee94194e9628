"""Backends that start one process for each job: a container (Docker, Podman), or a bare one.

`Container("podman").run_now(Job(["python3", "-c", "print(1)"]))`.
"""

from __future__ import annotations

import asyncio
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
import weakref
from abc import abstractmethod
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from puna.core.errors import UserError
from puna.core.threads import default_threads
from puna.sandbox import seccomp
from puna.sandbox.base import Mounts, Sandbox
from puna.sandbox.inside import wire
from puna.sandbox.job import Job, Result, SandboxError
from puna.sandbox.outer import INSIDE, KEEPER, LIBRARY, PACKAGES, PATH

Started = tuple[asyncio.subprocess.Process, bytes]
USER = 1000
GRACE_S = 30.0
IMAGE = "docker.io/library/python:3.12-slim"


class OneProcess(Sandbox):
    """Each job is a supervisor process of its own, spoken to over standard input and output."""

    def __init__(self, at_once: int = 0) -> None:
        self.at_once = at_once or default_threads()
        self.gates: weakref.WeakKeyDictionary[Any, asyncio.Semaphore] = weakref.WeakKeyDictionary()

    @abstractmethod
    def started(self, job: Job) -> AbstractAsyncContextManager[Started]:
        """The supervisor's process and the request; on leaving, nothing of it is left."""

    async def run(self, job: Job) -> Result:
        """Run a job. Raises SandboxError where the machinery failed."""
        loop = asyncio.get_running_loop()
        gate = self.gates.setdefault(loop, asyncio.Semaphore(self.at_once))
        async with gate, self.started(job) as (process, request):
            assert process.stdin
            assert process.stdout
            assert process.stderr
            incoming = wire.Incoming(job.room_for_answer())
            try:
                async with asyncio.timeout(job.limits.wall_s + GRACE_S):
                    process.stdin.write(request)
                    await process.stdin.drain()
                    while not incoming.done and (data := await process.stdout.read(1 << 20)):
                        incoming.feed(data)
            except TimeoutError:
                waited = job.limits.wall_s + GRACE_S
                raise SandboxError(f"no answer of {self.name} in {waited:g} s") from None
            except (OSError, ValueError) as error:
                raise SandboxError(f"{self.name} went away: {error}") from error
            if not incoming.done:
                said = (await process.stderr.read(2000)).decode(errors="replace").strip()
                raise SandboxError(f"{self.name} gave no answer: {said}")
        return Result.from_wire(*incoming.message())

    def run_now(self, job: Job) -> Result:
        """`run` for callers without an event loop of their own to wait in."""
        with ThreadPoolExecutor(1) as thread:  # there may be one running in this thread
            return thread.submit(asyncio.run, self.run(job)).result()

    def close(self) -> None:
        """Nothing outlives a job here."""


class Container(OneProcess):
    """Docker or Podman: for what needs another root file system. `image` must be there already.

    The image needs `python3` (3.11 or newer). Raises UserError where the engine cannot run it.
    """

    def __init__(
        self,
        engine: str = "docker",
        image: str = IMAGE,
        mounts: Mounts = Mounts(),
        at_once: int = 0,
    ) -> None:
        super().__init__(at_once)
        self.name, self.image, self.mounts = engine, image, mounts
        if not shutil.which(engine):
            raise UserError(f"{engine} is not installed", "`puna doctor` tells what works here")
        self._ask("info", fix=f"is {engine} running, and may this user speak to it?")
        self._ask("image", "inspect", image, fix=f"{engine} pull {image}")
        if mounts.packages or mounts.library:
            raise UserError(
                f"{PACKAGES} and {LIBRARY} are this machine's", "put packages into the image"
            )

    def _ask(self, *words: str, fix: str) -> None:
        try:
            done = subprocess.run([self.name, *words], capture_output=True, timeout=60)
        except subprocess.TimeoutExpired:
            raise UserError(f"`{self.name} {words[0]}` gave no answer in 60 s", fix) from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise UserError(f"`{self.name} {' '.join(words)}` failed: {(said or ['?'])[-1]}", fix)

    @asynccontextmanager
    async def started(self, job: Job) -> AsyncIterator[Started]:
        """A container that is removed on leaving."""
        with tempfile.TemporaryDirectory() as folder:  # Podman's monitor leaves notes where it runs
            async with self._container(job, folder) as started:
                yield started

    @asynccontextmanager
    async def _container(self, job: Job, folder: str) -> AsyncIterator[Started]:
        name = f"puna-{secrets.token_hex(8)}"
        process = await asyncio.create_subprocess_exec(
            *(self.name, "run", "--name", name, *self.options(job), self.image),
            *("python3", "-s", "-S", "-P", f"{KEEPER}/once.py", "/box"),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        header, blobs = job.to_wire("/usr/local/bin:/usr/bin:/bin")
        blobs.append(seccomp.program(platform.machine(), job.loopback))
        try:
            yield process, wire.encode({**header, "user": USER}, blobs)
        finally:
            await asyncio.shield(self._remove(process, name))

    async def _remove(self, process: asyncio.subprocess.Process, name: str) -> None:
        if process.stdin:
            process.stdin.close()  # it ends by itself after this
        try:
            await asyncio.wait_for(_drained(process), 5)
        except TimeoutError:
            removal = await asyncio.create_subprocess_exec(
                *(self.name, "rm", "--force", name),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            await asyncio.wait_for(removal.wait(), 60)
            _kill(process)
            await _drained(process)

    def options(self, job: Job) -> list[str]:
        """The engine's options for one job."""
        limits = job.limits
        sizes = limits.to_wire()
        memory, disk = sizes["memory"] + (64 << 20), sizes["disk"]
        out = ["--rm", "--interactive", "--pull=never", "--network=none", "--read-only"]
        out += ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=0:0"]
        out += [f"--cap-add={c}" for c in ("SETUID", "SETGID", "CHOWN", "KILL", "DAC_OVERRIDE")]
        out += [f"--pids-limit={limits.processes + 2}", f"--memory={memory}"]
        out += ["--env=PYTHONHASHSEED=0", f"--shm-size={disk}"]
        if self.name == "podman":
            out.append("--read-only-tmpfs=false")  # or /var/tmp could be written without bounds
        out += [f"--memory-swap={memory}", "--ipc=private"]
        # Podman would raise these above what the user may; --pids-limit is what counts
        most = 4096 + limits.processes
        out += [f"--ulimit=nofile={limits.open_files + 32}", f"--ulimit=nproc={most}"]
        out += [f"--tmpfs=/box:rw,exec,nosuid,nodev,mode=755,size={disk}"]  # files are counted
        out += [f"--volume={INSIDE}:{KEEPER}:ro"]
        out += [f"--volume={Path(p).resolve()}:{at}:ro" for at, p in self.mounts.folders.items()]
        return out


class Unsafe(OneProcess):
    """A plain process under limits. It can read what you can read, and reach the network.

    Time, memory and size of a file are limited for each process, output for the job; what it
    started is killed. Only for code that you would run yourself.
    """

    name = "unsafe"

    def __init__(self, at_once: int = 0) -> None:
        super().__init__(at_once)
        if sys.platform != "linux":
            raise UserError("the unsafe backend needs Linux", "use docker or podman")

    @asynccontextmanager
    async def started(self, job: Job) -> AsyncIterator[Started]:
        """A process in a temporary folder."""
        box = tempfile.mkdtemp(prefix="puna-unsafe-")
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-s", "-S", "-P", str(INSIDE / "once.py"), box),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"},
            )
            try:
                yield process, wire.encode(*job.to_wire(PATH, box))
            finally:
                await asyncio.shield(_end(process))
        finally:  # a program, because folders may be deeper than Python's own function can go
            subprocess.run(["rm", "-rf", box], timeout=60)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.stdin:
        process.stdin.close()  # the supervisor kills what it started, and ends
    try:
        await asyncio.wait_for(_drained(process), GRACE_S)
    except TimeoutError:
        _kill(process)
        await _drained(process)


async def _drained(process: asyncio.subprocess.Process) -> None:
    """Until it has ended: asyncio waits for the end of its pipes too, so they are read."""

    async def drop(stream: asyncio.StreamReader | None) -> None:
        while stream and await stream.read(1 << 20):
            pass

    await asyncio.gather(drop(process.stdout), drop(process.stderr), process.wait())


def _kill(process: asyncio.subprocess.Process) -> None:
    try:
        process.kill()
    except ProcessLookupError:
        pass
