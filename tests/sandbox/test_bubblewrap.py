"""The default backend: limits of whole families of processes, and a keeper that may die."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from processes import marked, until

from puna.core.errors import UserError
from puna.sandbox import Job, Limits, Mounts, SandboxError
from puna.sandbox.bubblewrap import QUEUE_S, Bubblewrap

pytestmark = pytest.mark.usefixtures("_bubblewrap_works")

NAP = f"77{os.getpid()}.7"  # seconds, which nobody else sleeps
FAMILY = """
import os, sys, time
for _ in range(6):
    if os.fork() == 0:
        {each}
        os._exit(0)
time.sleep(30)
"""


def test_memory_of_all_processes_together_is_limited(jail: Bubblewrap) -> None:
    """Six processes of 60 MB each, where 200 MB are allowed; each alone would be fine."""
    source = FAMILY.format(each="x = bytearray(b'1' * (60 << 20)); time.sleep(30)")
    result = jail.run_now(Job.python(source, limits=Limits(memory_mb=200)))
    assert result.reason == "memory"
    assert 200 < result.memory_mb < 700
    assert jail.run_now(Job.python(source, limits=Limits(memory_mb=990, wall_s=1))).reason == "wall"


def test_pages_that_processes_share_count_once(jail: Bubblewrap) -> None:
    source = "x = bytearray(b'1' * (60 << 20))\n" + FAMILY.format(each="time.sleep(30)")
    result = jail.run_now(Job.python(source, limits=Limits(memory_mb=200, wall_s=1)))
    assert result.reason == "wall"


def test_time_of_all_processes_together_is_limited(jail: Bubblewrap) -> None:
    source = FAMILY.format(each="\n        while True: pass")
    result = jail.run_now(Job.python(source, limits=Limits(cpu_s=1, wall_s=20)))
    assert result.reason == "cpu"
    assert result.cpu_s < 3  # a second for each of them would be 6


def test_processes_and_threads_are_counted(jail: Bubblewrap) -> None:
    source = """
import os, time
made = 0
try:
    while made < 100:
        if os.fork() == 0:
            time.sleep(20)
        made += 1
except OSError as error:
    print(made, error.errno)
"""
    assert jail.run_now(Job.python(source, limits=Limits(processes=8))).stdout == b"7 11\n"
    threads = "import threading, time\nfor i in range(20):\n"
    threads += "    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\nprint(i)"
    assert (
        b"can't start new thread"
        in jail.run_now(Job.python(threads, limits=Limits(processes=8))).stderr
    )
    assert jail.run_now(Job.python(threads, limits=Limits(processes=32))).stdout == b"19\n"


def test_disk_and_files_are_limited(jail: Bubblewrap) -> None:
    fill = "try:\n    for i in range(99):\n        {}\nexcept OSError as e:\n    print(i, e.errno)"
    big = fill.format("open(f'{i}', 'wb').write(bytes(1 << 20))")
    assert jail.run_now(Job.python(big, limits=Limits(disk_mb=10))).stdout.split()[1] == b"28"
    many = fill.format("open(f'{i}', 'w')")
    result = jail.run_now(Job.python(many, limits=Limits(files=50)))
    assert result.stdout == b"50 28\n"  # ENOSPC
    for folder in ("/tmp", "/dev/shm"):
        there = jail.run_now(
            Job.python(f"import os\nos.chdir('{folder}')\n{big}", limits=Limits(disk_mb=10))
        )
        assert there.stdout.split()[1] == b"28"


def test_folders_are_shown_read_only(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("seen")
    if os.geteuid() == 0:
        tmp_path.chmod(0o700)
        with (
            Bubblewrap(Mounts(folders={"/data": tmp_path})) as jail,
            pytest.raises(UserError, match=f"chmod o.rX {tmp_path}"),
        ):
            jail.run_now(Job(["true"]))
    tmp_path.chmod(0o755)
    with Bubblewrap(Mounts(folders={"/data": tmp_path})) as jail:
        result = jail.run_now(Job(["sh", "-c", "cat /data/data; echo x > /data/data"]))
        assert result.stdout == b"seen"
        assert b"Read-only" in result.stderr
    assert (tmp_path / "data").read_text() == "seen"


def test_packages_and_the_library_come_without_what_is_hidden() -> None:
    look = """
import importlib, sys
sys.path[:0] = ["/run/packages", "/run/library"]
import numpy, puna.core.stats
print(numpy.zeros(3).sum())
for hidden in ("puna.envs.arithmetic.env", "puna.envs.shop.judge", "puna.envs"):
    try:
        importlib.import_module(hidden)
        print("found", hidden)
    except ImportError:
        print("hidden")
"""
    limits = Limits(memory_mb=4000, wall_s=60, cpu_s=60)
    with Bubblewrap(Mounts(packages=True, library=True)) as jail:
        result = jail.run_now(Job.python(look, limits=limits))
    assert result.stdout == b"0.0\nhidden\nhidden\nhidden\n", result


def test_a_job_finds_loaded_what_was_asked_for(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "slow.py").write_text("VALUE = [1]\n")
    look = """
import sys
print("slow" in sys.modules, "/data" in sys.path)
sys.modules["slow"].VALUE.append(2)
print(sys.modules["slow"].VALUE)
"""
    mounts = Mounts(folders={"/data": tmp_path}, loaded=("slow",))
    with Bubblewrap(mounts) as jail:
        for _ in range(2):  # what a job does to the module, the next does not see
            result = jail.run_now(Job.python(look))
            assert result.stdout == b"True False\n[1, 2]\n", result
    with (
        Bubblewrap(Mounts(loaded=("no_such_module",))) as jail,
        pytest.raises(UserError, match="No module named 'no_such_module'"),
    ):
        jail.run_now(Job(["true"]))


def test_a_folder_above_the_library_does_not_show_it() -> None:
    import puna

    above = Path(puna.__file__).parent.parent
    with Bubblewrap(Mounts(folders={"/above": above})) as jail:
        shown = jail.run_now(Job(["ls", "/above"])).stdout.split()
        inside = jail.run_now(Job(["ls", "-A", "/above/puna"]))
    assert b"puna" in shown
    assert (inside.exit, inside.stdout) == (0, b"")


def test_a_keeper_that_dies_is_replaced_and_its_jobs_run_again(own_jail: Bubblewrap) -> None:
    assert own_jail.run_now(Job(["true"])).ok
    first = own_jail.keeper
    assert first is not None
    done: list[object] = []
    nap = Job(["sh", "-c", "sleep 1; echo slept"])
    threads = [
        threading.Thread(target=lambda: done.append(own_jail.run_now(nap).stdout)),
        threading.Thread(target=lambda: done.append(asyncio.run(own_jail.run(nap)).stdout)),
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    os.killpg(first.process.pid, signal.SIGKILL)  # bwrap began a session: the keeper is in it
    for thread in threads:
        thread.join(60)
    assert done == [b"slept\n"] * 2
    assert own_jail.keeper is not first


def test_closing_does_not_run_jobs_again(own_jail: Bubblewrap) -> None:
    lost: list[object] = []

    def wait() -> None:
        try:
            lost.append(own_jail.run_now(Job(["sleep", NAP], limits=Limits(wall_s=600))))
        except SandboxError as error:
            lost.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: marked(NAP))
    own_jail.close()
    thread.join(60)
    assert "keeper went away" in str(lost[0])
    assert own_jail.keeper is None


def test_threads_and_event_loops_share_a_keeper(jail: Bubblewrap) -> None:
    outputs: dict[int, bytes] = {}

    def one(i: int) -> None:
        if i % 2:
            outputs[i] = jail.run_now(Job.python(f"print({i})")).stdout
        else:
            outputs[i] = asyncio.run(jail.run(Job.python(f"print({i})"))).stdout

    threads = [threading.Thread(target=one, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outputs == {i: f"{i}\n".encode() for i in range(12)}


def test_sixty_four_at_once_and_none_is_lost(tmp_path: Path) -> None:
    """All of them live at the same time: each waits for a file that comes when they are there."""
    tmp_path.chmod(0o755)
    mark = f"{tmp_path.name}-{os.getpid()}"
    source = "import os, sys, time\n"
    source += "while not os.path.exists('/data/go'):\n    time.sleep(0.1)\nprint(sys.argv[1])"

    async def run(jail: Bubblewrap) -> list[bytes]:
        commands = [["python3", "-c", source, str(i), mark] for i in range(64)]
        jobs = [Job(command, limits=Limits(wall_s=120)) for command in commands]
        running = asyncio.gather(*map(jail.run, jobs))
        while len(marked(mark)) < 64:
            await asyncio.sleep(0.1)
        (tmp_path / "go").touch()
        return [r.stdout for r in await running]

    with Bubblewrap(Mounts(folders={"/data": tmp_path}), at_once=64) as jail:
        assert asyncio.run(run(jail)) == [f"{i}\n".encode() for i in range(64)]


def test_a_thousand_may_wait(jail: Bubblewrap) -> None:
    async def run() -> int:
        jobs = [Job.python("print(1)") for _ in range(1000)]
        return sum(r.stdout == b"1\n" for r in await asyncio.gather(*map(jail.run, jobs)))

    assert asyncio.run(run()) == 1000


def test_the_first_job_may_come_from_a_thread_that_ends(own_jail: Bubblewrap) -> None:
    thread = threading.Thread(target=lambda: own_jail.run_now(Job(["true"])))
    thread.start()
    thread.join()
    keeper = own_jail.keeper
    time.sleep(0.2)
    assert own_jail.run_now(Job(["true"])).ok
    assert own_jail.keeper is keeper


def test_a_fork_of_this_process_has_a_keeper_of_its_own(own_jail: Bubblewrap) -> None:
    assert own_jail.run_now(Job(["true"])).ok
    keeper = own_jail.keeper
    pid = os.fork()
    if pid == 0:
        fine = own_jail.run_now(Job.python("print(1)")).stdout == b"1\n"
        own = own_jail.keeper is not keeper
        own_jail.close()
        os._exit(0 if fine and own else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert own_jail.run_now(Job(["true"])).ok
    assert own_jail.keeper is keeper


def test_a_fork_holds_nothing_up(own_jail: Bubblewrap) -> None:
    """A worker that was forked lives on; closing, cancelling and locks do not wait for it."""
    assert own_jail.run_now(Job(["true"])).ok

    async def cancelled() -> None:
        limits = Limits(wall_s=60)
        task = asyncio.create_task(own_jail.run(Job(["sleep", NAP], limits=limits)))
        while not marked(NAP):
            await asyncio.sleep(0.05)
        pid = os.fork()
        if pid == 0:
            time.sleep(300)
            os._exit(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        workers.append(pid)

    workers: list[int] = []
    asyncio.run(cancelled())
    until(lambda: not marked(NAP))
    with own_jail.lock:
        pid = os.fork()
        if pid == 0:
            fine = own_jail.run_now(Job.python("print(1)")).stdout == b"1\n"
            own_jail.close()
            os._exit(0 if fine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    keeper = own_jail.keeper
    assert keeper is not None
    own_jail.close()
    assert keeper.process.poll() not in (None, -signal.SIGKILL)  # it ended by itself
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_after_a_crash_inside_no_further_job_is_lost(own_jail: Bubblewrap) -> None:
    for _ in range(5):
        assert own_jail.run_now(Job(["true"])).ok
        assert own_jail.keeper is not None
        pid = own_jail.keeper.process.pid
        inside = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(inside[0]), signal.SIGKILL)
        assert own_jail.run_now(Job(["true"])).ok


def test_waiting_for_ones_turn_is_no_fault() -> None:
    nap = Job(["sleep", "99"], limits=Limits(wall_s=0.5))

    async def three() -> list[str]:
        return [r.reason for r in await asyncio.gather(*(jail.run(nap) for _ in range(3)))]

    with Bubblewrap(at_once=1) as jail:
        assert asyncio.run(three()) == ["wall"] * 3
    long = Job(["sleep", "99"], limits=Limits(wall_s=60))
    with (
        Bubblewrap(at_once=2) as jail,
        jail._deadline(long) as first,
        jail._deadline(nap) as second,
    ):
        assert (first, second) == (QUEUE_S + 60, QUEUE_S + 0.5 + 60 / 2)  # two share what is ahead
    assert jail.ahead_s == 0


def test_a_keeper_that_was_stopped_is_closed(own_jail: Bubblewrap) -> None:
    assert own_jail.run_now(Job(["true"])).ok
    keeper = own_jail.keeper
    assert keeper is not None
    os.killpg(keeper.process.pid, signal.SIGSTOP)
    own_jail.close()
    assert keeper.process.poll() is not None


def test_a_folder_that_is_not_there_is_named() -> None:
    with (
        Bubblewrap(Mounts(folders={"/data": Path("/no/such/folder")})) as jail,
        pytest.raises(UserError, match="no /no/such/folder to show as /data"),
    ):
        jail.run_now(Job(["true"]))


def test_out_of_descriptors_is_the_machines_fault(own_jail: Bubblewrap) -> None:
    import resource

    assert own_jail.run_now(Job(["true"])).ok
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        with pytest.raises(SandboxError, match="Too many open files"):
            own_jail.run_now(Job(["true"]))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert own_jail.run_now(Job(["true"])).ok


def test_the_death_of_this_process_ends_everything(tmp_path: Path) -> None:
    mark = f"{tmp_path.name}-{os.getpid()}"
    pid = os.fork()
    if pid == 0:
        os.setsid()
        jail = Bubblewrap()
        jail.run_now(Job(["python3", "-c", "import time; time.sleep(300)", mark]))
        os._exit(0)
    until(lambda: marked(mark))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    until(lambda: not marked(mark))


@pytest.mark.parametrize("missing", ["bwrap", "architecture", "system"])
def test_what_is_missing_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "bwrap":
        monkeypatch.setenv("PATH", "/nowhere")
        expected = "bwrap.* is not installed; apt install bubblewrap"
    elif missing == "architecture":
        monkeypatch.setattr("platform.machine", lambda: "riscv64")
        expected = "no system call filter is known for riscv64; known are x86_64, aarch64"
    else:
        monkeypatch.setattr("sys.platform", "darwin")
        expected = "needs Linux, this is darwin; use a container backend"
    with pytest.raises(UserError, match=expected):
        Bubblewrap().run_now(Job(["true"]))
