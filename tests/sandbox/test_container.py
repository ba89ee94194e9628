"""A real Podman, and an image made of this machine's own files: no registry is asked."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from puna.core.errors import UserError
from puna.sandbox import Job, Limits
from puna.sandbox.process import Container

IMAGE = "localhost/puna-test:1"
pytestmark = pytest.mark.slow


def image_of_this_machine(path: Path) -> None:
    """A root file system with the system's Python, a shell and the libraries they need."""
    programs = ["/usr/bin/python3.11", "/bin/sh", "/bin/cat", "/bin/sleep", "/usr/bin/env"]
    files = set(programs)
    for folder, names, inside in os.walk("/usr/lib/python3.11"):
        names[:] = [n for n in names if n not in ("test", "__pycache__", "idlelib", "ensurepip")]
        files |= {os.path.join(folder, name) for name in inside}
    for binary in [f for f in files if f.endswith(".so") or f in programs]:
        listed = subprocess.run(["ldd", binary], capture_output=True, text=True).stdout
        files |= {word for word in listed.split() if word.startswith("/")}
    with tarfile.open(path, "w", dereference=True) as tar:
        for file in sorted(files):
            tar.add(file)
        link = tarfile.TarInfo("usr/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, "python3.11"
        tar.addfile(link)
        for name in ("proc", "dev", "sys", "tmp", "box", "etc", "run/puna/puna/sandbox/inside"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    if not shutil.which("podman"):
        pytest.skip("needs podman")
    if not os.path.exists("/usr/bin/python3.11"):
        pytest.skip("needs the system's Python 3.11 to make an image of")
    folder = tmp_path_factory.mktemp("podman")
    settings = folder / "containers.conf"  # runc where it is: it also knows older control groups
    settings.write_text('[engine]\nruntime = "runc"\n' if shutil.which("runc") else "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_CONF", str(settings))
        image_of_this_machine(folder / "root.tar")
        subprocess.run(
            ["podman", "import", str(folder / "root.tar"), IMAGE], check=True, capture_output=True
        )
        yield Container("podman", IMAGE)
        subprocess.run(["podman", "rmi", "--force", IMAGE], check=True, capture_output=True)


def test_files_streams_and_exits(podman: Container) -> None:
    job = Job(
        ["sh", "-c", "cat in/a - > out; echo told >&3; echo err >&2; exit 3"],
        files={"in/a": b"1"},
        stdin=b"2",
        outputs=["*"],
        report=True,
    )
    result = podman.run_now(job)
    assert (result.exit, result.reason, result.report, result.stderr) == (
        3,
        "",
        b"told\n",
        b"err\n",
    )
    assert dict(result.files) == {"in/a": b"1", "out": b"12"}
    assert podman.call_now("def f(x):\n    return x * 2", "f", [(4,)])[0].value == 8


def test_limits(podman: Container) -> None:
    asleep = podman.run_now(Job(["sleep", "60"], limits=Limits(wall_s=1)))
    assert (asleep.exit, asleep.reason) == (-9, "wall")
    family = "import os, time\nfor _ in range(6):\n    if os.fork() == 0:\n"
    family += "        x = bytearray(b'1') * (60 << 20)\n        time.sleep(30)\ntime.sleep(30)"
    assert podman.run_now(Job.python(family, limits=Limits(memory_mb=200))).reason == "memory"
    files = "for i in range(9999):\n    open(str(i), 'w')\nimport time\ntime.sleep(9)"
    assert podman.run_now(Job.python(files, limits=Limits(files=100))).reason == "files"
    forks = "import os, time\nfor i in range(99):\n    if os.fork() == 0: time.sleep(9)"
    assert (
        b"BlockingIOError" in podman.run_now(Job.python(forks, limits=Limits(processes=8))).stderr
    )


def test_it_holds(podman: Container, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    source = f"""
import os, socket
tries = [
    lambda: open({str(tmp_path / "secret")!r}),
    lambda: open("/etc/evil", "w"),
    lambda: os.kill(1, 0),
    lambda: open("/proc/1/mem", "rb").read(1),
    lambda: open("/proc/1/environ", "rb").read(1),
    lambda: socket.create_connection(("1.1.1.1", 53), 2),
    lambda: socket.socket(16, 3),
    lambda: os.setuid(0),
    lambda: os.mknod("n", 0o60666, os.makedev(254, 0)),
    lambda: os.listdir("/proc/1/fd"),
]
for i, attempt in enumerate(tries):
    try:
        attempt()
        print("ESCAPED", i)
    except OSError:
        pass
print(sorted(os.listdir("/sys/class/net")) if os.path.isdir("/sys/class/net") else ["lo"])
"""
    assert podman.run_now(Job.python(source)).stdout == b"['lo']\n"


def test_a_cancelled_job_leaves_no_container(podman: Container) -> None:
    async def cancel() -> None:
        task = asyncio.create_task(podman.run(Job(["sleep", "60"], limits=Limits(wall_s=60))))
        await asyncio.sleep(1.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    left = subprocess.run(["podman", "ps", "--all", "--quiet"], capture_output=True, check=True)
    assert left.stdout == b""


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UserError, match=r"podman image inspect localhost/none:1.*podman pull"):
        Container("podman", "localhost/none:1")
    with pytest.raises(UserError, match="no-engine is not installed"):
        Container("no-engine")
