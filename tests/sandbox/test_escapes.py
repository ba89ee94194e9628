"""The escape suite: each attempt must fail, as root and as an ordinary user."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from escapes import BOMBS, ESCAPES, HIDING, OUTSIDE, PROLOGUE, TURNING

import puna
from puna.sandbox import Job, Limits, Result, Sandbox
from puna.sandbox.bubblewrap import Bubblewrap
from puna.sandbox.process import Unsafe

FORMS = ("fork", "command")
SYSTEM_PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="module")
def listener() -> Iterator[int]:
    """A server of the host: TCP, and an abstract socket."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0puna-host")
        abstract.listen()

        def serve(server: socket.socket) -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.sendall(b"reached")
                connection.close()

        for each in (tcp, abstract):
            threading.Thread(target=serve, args=(each,), daemon=True).start()
        yield tcp.getsockname()[1]


@pytest.fixture(scope="module")
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the host, of the same user."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        assert process.poll() is None, "a job ended it"
        process.kill()


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("host") / "secret"
    path.write_text("the secret")
    return path


@pytest.fixture(scope="module")
def argument(listener: int, victim: subprocess.Popen[bytes], secret: Path) -> dict[str, str]:
    return {
        "network": str(listener),
        "host files": str(secret),
        "paths": str(secret),
        "other processes": str(victim.pid),
        "signals": str(victim.pid),
    }


def program(form: str, source: str, *args: str, **fields: Any) -> Job:
    """Source in a fork of the keeper, or a command: an interpreter of its own."""
    if form == "fork":
        return Job.python(source, *args, **fields)
    return Job(["python3", "main.py", *args], files={"main.py": source.encode()}, **fields)


def attempt(sandbox: Sandbox, form: str, name: str, argument: dict[str, str]) -> list[str]:
    source = PROLOGUE + ESCAPES[name] + "\nprint('done')"
    result = sandbox.run_now(program(form, source, argument.get(name, "")))
    lines = result.stdout.decode(errors="replace").splitlines()
    if name != "signals":  # it may well end itself
        assert lines[-1:] == ["done"], result
    return [line for line in lines if line.startswith("ESCAPED")]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ESCAPES)
def test_it_does_not_get_out(
    jail: Bubblewrap, form: str, name: str, argument: dict[str, str]
) -> None:
    assert attempt(jail, form, name, argument) == []
    assert jail.run_now(Job.python("print(1)")).ok  # and the keeper lives


@pytest.mark.parametrize("name", OUTSIDE)
def test_without_walls_it_does(name: str, argument: dict[str, str]) -> None:
    assert attempt(Unsafe(), "fork", name, argument) != []


GO = """
import json, sys
from escapes import BOMBS, ESCAPES, HIDING, PROLOGUE, TURNING
from puna.sandbox import Job, Limits
from puna.sandbox.bubblewrap import Bubblewrap

arguments = json.loads(sys.argv[1])

def programs(source, argument="", **limits):
    limits = Limits(**limits)
    yield "fork", Job.python(source, argument, limits=limits)
    yield "command", Job(["python3", "-c", source, argument], limits=limits)

with Bubblewrap() as jail:
    def run(name, source, argument="", **limits):
        for form, job in programs(source, argument, **limits):
            result = jail.run_now(job)
            lines = result.stdout[:9999].decode(errors="replace").splitlines()
            escaped = [line for line in lines if line.startswith("ESCAPED")]
            said = {"name": name, "form": form, "exit": result.exit, "reason": result.reason}
            print(json.dumps({**said, "escaped": escaped, "last": lines[-1:]}), flush=True)

    for name, source in ESCAPES.items():
        run(name, PROLOGUE + source + "\\nprint('done')", arguments.get(name, ""))
    for name, source in BOMBS.items():
        run(name, source, wall_s=1, cpu_s=1, memory_mb=300)
    for name, (source, limits, _) in HIDING.items():
        run(name, source, **limits)
    run("turning", TURNING)
    run("honest", "print('done')")
"""


@pytest.mark.slow
def test_as_an_ordinary_user(tmp_path: Path, argument: dict[str, str], secret: Path) -> None:
    """All of it once more, started by a user without rights; root only lends the user."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    if not os.path.exists(SYSTEM_PYTHON):
        pytest.skip(f"needs {SYSTEM_PYTHON}, which everybody may run")
    for folder in {*tmp_path.parents, tmp_path, *secret.parents}:
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(0o755)
    package = Path(puna.__file__).parent
    shutil.copytree(package, tmp_path / "puna", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).parent / "escapes.py", tmp_path)
    (tmp_path / "go.py").write_text(GO)
    subprocess.run(["chmod", "-R", "a+rX", tmp_path, secret], check=True)
    done = subprocess.run(
        [SYSTEM_PYTHON, "go.py", json.dumps(argument)],
        cwd=tmp_path,
        user="nobody",
        group="nogroup",
        extra_groups=[],
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == 2 * (len(ESCAPES) + len(BOMBS) + len(HIDING) + 2)
    assert [each for each in said if each["escaped"]] == []
    for each in said:
        if each["name"] in HIDING:
            expected = HIDING[each["name"]][2]
            assert expected in (each["reason"], f"exit {each['exit']}"), each
        elif (each["name"] in ESCAPES and each["name"] != "signals") or each["name"] == "honest":
            assert each["last"] == ["done"], each


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", HIDING)
def test_what_is_hidden_is_counted(jail: Bubblewrap, form: str, name: str) -> None:
    source, limits, expected = HIDING[name]

    def hide() -> None:
        result = jail.run_now(program(form, source, limits=Limits(**limits)))
        assert expected in (result.reason, f"exit {result.exit}"), result

    _leaves_no_memory(hide, 500)


def test_what_waits_for_a_command_is_not_reached(jail: Bubblewrap) -> None:
    result = jail.run_now(program("command", TURNING))
    assert b"ESCAPED" not in result.stdout
    assert (result.exit, result.reason) == (0, ""), result


@pytest.mark.parametrize(
    ("form", "name"),
    # the first process of a namespace cannot stop itself
    [(form, name) for form in FORMS for name in BOMBS if (form, name) != ("fork", "stopped")],
)
@pytest.mark.usefixtures("_bubblewrap_works")
def test_a_bomb_goes_off_in_the_jail(form: str, name: str) -> None:
    """It ends within its limits, others' jobs go on beside it, and nothing is left."""

    async def beside(jail: Bubblewrap) -> tuple[Result, list[bool]]:
        limits = Limits(wall_s=1, cpu_s=1, memory_mb=300)
        bomb = asyncio.create_task(jail.run(program(form, BOMBS[name], limits=limits)))
        fine = [(await jail.run(Job.python("print(1)"))).ok for _ in range(5)]
        return await bomb, fine

    def explode() -> None:
        with Bubblewrap(at_once=2) as jail:
            result, fine = asyncio.run(beside(jail))
        assert fine == [True] * 5
        assert not result.ok
        assert len(result.stdout) + len(result.stderr) <= 1 << 20
        assert result.wall_s < 20

    _leaves_no_memory(explode, 300)


def _leaves_no_memory(act: Callable[[], None], most_mb: int) -> None:
    """What `act` leaves it leaves each time; other processes may take memory meanwhile."""
    lost = []
    for _ in range(3):
        before = _memory_free()
        act()
        lost.append((before - _memory_free()) >> 20)
        if lost[-1] < most_mb:
            return
    raise AssertionError(f"{lost} MB are gone")


def _memory_free() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) << 10
    raise AssertionError


LEAVE = """
import os, socket, sys, time
for folder in ("/tmp", "/dev/shm", "."):
    open(f"{folder}/neighbour", "w").write("secret")
if sys.argv[1] == "sockets":
    server = socket.socket(socket.AF_UNIX)
    server.bind("\\0neighbour")
    server.listen()
    tcp = socket.create_server(("127.0.0.1", 4444))
controller, terminal = os.openpty()
os.chmod(os.ttyname(terminal), 0o666)
time.sleep(1.5)
print("lived")
"""
LOOK = """
import glob, os, socket, sys, time
deadline = time.time() + 1
while time.time() < deadline:
    found = glob.glob("/tmp/*") + glob.glob("/dev/shm/*") + glob.glob("/box/*/neighbour")
    if found: print("ESCAPED", found)
    for family, address in ((1, "\\0neighbour"), (2, ("127.0.0.1", 4444))):
        if sys.argv[1] == "sockets":
            with socket.socket(family) as s:
                if s.connect_ex(address) == 0: print("ESCAPED", address)
    if os.path.exists("/dev/pts/0"): print("ESCAPED", "a terminal")
    time.sleep(0.02)
print("done")
"""


@pytest.mark.parametrize("sockets", ["sockets", "none"])
def test_a_job_cannot_reach_its_neighbour(jail: Bubblewrap, sockets: str) -> None:
    """Two at the same time look for each other everywhere."""

    async def both() -> list[bytes]:
        jobs = (
            program("command", source, sockets, loopback=sockets == "sockets")
            for source in (LEAVE, LOOK)
        )
        return [r.stdout for r in await asyncio.gather(*map(jail.run, jobs))]

    assert asyncio.run(both()) == [b"lived\n", b"done\n"]


def test_an_earlier_job_leaves_nothing_in_the_network(own_jail: Bubblewrap) -> None:
    """Names, counters and flow labels of a network namespace; and the attempts that leave some."""
    leave = """
import array, os, socket
def attempt(function):
    try:
        return function()
    except OSError:
        print("refused")
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)))
attempt(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
attempt(lambda: socket.socket(socket.AF_UNIX))
for _ in range(60):
    a, b = socket.socketpair()
    attempt(lambda: a.bind("\\0the-hidden-answer"))
    rights = array.array("i", [a.fileno(), b.fileno()])
    a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
"""
    look = """
print([line for line in open("/proc/self/net/unix") if "@" in line])
print([line for line in open("/proc/self/net/ip6_flowlabel")][1:])
print([line.split()[2:4] for line in open("/proc/self/net/snmp") if line.startswith("Udp:")][1])
"""
    for _ in range(10):
        left = own_jail.run_now(Job.python(leave))
        assert left.stdout == b"refused\n" * 63, left
        seen = own_jail.run_now(Job.python(look)).stdout.decode().split("\n")
        assert seen[:3] == ["[]", "[]", "['0', '0']"]


def test_orders_of_others_are_not_in_a_jobs_memory(own_jail: Bubblewrap) -> None:
    walk = """
import sys
frame, seen = sys._getframe(), []
while frame:
    seen.append(repr(frame.f_locals))
    frame = frame.f_back
print(sum("hidden-" + "pattern" in each for each in seen))
"""

    async def both() -> bytes:
        nap = Job(["sleep", "0.5"], outputs=["hidden-pattern*"])
        naps = [asyncio.create_task(own_jail.run(nap)) for _ in range(4)]
        await asyncio.sleep(0.1)
        result = await own_jail.run(Job.python(walk))
        await asyncio.gather(*naps)
        return result.stdout

    assert asyncio.run(both()) == b"0\n"


def test_what_waits_for_a_command_holds_no_descriptors_of_others(own_jail: Bubblewrap) -> None:
    def counts() -> list[int]:
        parents = _children(own_jail.keeper.process.pid) if own_jail.keeper else []
        waiting = [p for one in parents for p in _children(one) if _children(p)]
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in waiting]

    async def look() -> list[int]:
        nap, found = Job(["sleep", "60"], limits=Limits(wall_s=60)), list[int]()
        naps = [asyncio.create_task(own_jail.run(nap)) for _ in range(2)]
        until = time.monotonic() + 30
        while found != [1, 1] and time.monotonic() < until:  # more while they are being made
            await asyncio.sleep(0.1)
            with suppress(OSError):  # one ended while it was looked at
                found = counts()
        for each in naps:
            each.cancel()
        await asyncio.gather(*naps, return_exceptions=True)
        return found

    assert asyncio.run(look()) == [1, 1]  # the socket that ties it to the keeper


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


STALL = """
import mmap, os, time
size = 40_000 * 4096
m = mmap.mmap(-1, size)
import ctypes
libc = ctypes.CDLL(None)
start = ctypes.addressof(ctypes.c_char.from_buffer(m))
for at in range(0, size, 8192):
    libc.mprotect(ctypes.c_void_p(start + at), 4096, 1)
for _ in range(25):
    if os.fork() == 0: break
time.sleep(30)
"""


def test_a_job_does_not_hold_up_its_neighbours(own_jail: Bubblewrap) -> None:
    """Many mappings in many processes make looking at it dear."""

    async def done_in(seconds: float) -> int:
        done, until = 0, time.monotonic() + seconds
        while time.monotonic() < until:
            assert (await own_jail.run(Job.python("pass"))).ok
            done += 1
        return done

    async def beside() -> tuple[int, int, Result]:
        alone = await done_in(2)
        stall = Job.python(STALL, limits=Limits(wall_s=4, memory_mb=512))
        running = asyncio.create_task(own_jail.run(stall))
        return alone, await done_in(4), await running

    alone, together, stalled = asyncio.run(beside())
    assert together > alone / 5
    assert stalled.wall_s < 12


def test_terminals_of_the_machine_are_not_used_up(jail: Bubblewrap) -> None:
    source = "import os\nfds = []\ntry:\n    while True: fds.append(os.open('/dev/ptmx', 2))\n"
    source += "except OSError:\n    print(len(fds))"
    assert jail.run_now(program("command", source)).stdout == b"16\n"


def test_room_reserved_in_streams_is_counted(jail: Bubblewrap) -> None:
    source = "import ctypes, time\nfor fd in (1, 2):\n"
    source += "    ctypes.CDLL(None).fallocate(fd, 1, ctypes.c_long(0), ctypes.c_long(60 << 20))\n"
    source += "time.sleep(5)"
    assert jail.run_now(Job.python(source, stdin=b"x")).reason == "output"


FORGER = """
import os, json, time
verdict = json.dumps({"right": True}) + "\\n"
for fd in range(3, 256):
    try:
        os.write(fd, verdict.encode())
        print("wrote to", fd)
    except OSError:
        pass
os.makedirs("judge", exist_ok=True)
for name in ("verdict", "verdict.json", "judge/key", "report", "main.py", "sitecustomize.py"):
    open(name, "w").write(verdict)
open("json.py", "w").write("def loads(x): return {'right': True}\\ndumps = loads\\n")
if os.fork() == 0:
    os.setsid()
    for _ in range(100000):
        open("answer", "w").write("42\\n")
open("answer", "w").write("41\\n")
"""


def test_a_verdict_cannot_be_forged(jail: Bubblewrap) -> None:
    """The job writes to every descriptor, plants modules and verdicts, leaves a daemon behind."""
    result = jail.run_now(Job.python(FORGER, outputs=["*"], limits=Limits(wall_s=5)))
    assert b"wrote to" not in result.stdout
    assert result.report == b""
    judge = "import json\nreport({'right': open('job/answer').read() == open('judge/key').read()})"
    content = result.files["answer"]  # whatever it was when the daemon was killed
    assert jail.judge_now(judge, result, {"key": content}) == {"right": True}
    assert jail.judge_now(judge, result, {"key": b"43\n"}) == {"right": False}


def test_answers_are_only_the_callers_own(jail: Bubblewrap) -> None:
    """A function that writes to the channel itself only answers for itself, and learns nothing."""
    source = """
import os
def f(x):
    os.write(3, b'{"value": 1}\\n')
    return [os.path.exists("cases.json"), sorted(os.listdir("."))]
"""
    answers = jail.call_now(source, "f", [(1,), (2,)])
    assert [a.value for a in answers] == [1, [False, ["answer.py"]]]


def test_the_judges_memory_is_not_what_a_later_job_begins_with(own_jail: Bubblewrap) -> None:
    """Each job is a fork of the keeper: what passed through earlier jobs must not be in it."""
    secret = "".join(["the", "hidden", "key", "of", "the", "judge"]) * 3
    search = """
import sys
parts = ["the", "hidden", "key", "of", "the", "judge"]
wanted = "".join(parts).encode() * 2
del parts
found = 0
for line in open("/proc/self/maps"):
    span, rights = line.split()[:2]
    low, high = (int(x, 16) for x in span.split("-"))
    if rights.startswith("rw") and "[v" not in line:
        with open("/proc/self/mem", "rb") as memory:
            memory.seek(low)
            try:
                found += memory.read(high - low).count(wanted)
            except OSError:
                pass
print(found)
"""
    result = own_jail.run_now(Job.python("open('a', 'w').write('1')", outputs=["a"]))
    planted = f"key = {secret!r}\n" + search
    many = own_jail.run_now(Job.python(planted)).stdout
    for _ in range(5):
        hidden = {"key": secret.encode()}
        seen = "report(open('judge/key').read())"
        assert own_jail.judge_now(seen, result, hidden) == secret
    few = own_jail.run_now(Job.python(search)).stdout
    assert int(many) > int(few)  # where it is, the search finds it
    assert int(few) <= 2  # its own copies of what it looks for


def test_no_descriptor_is_inherited(jail: Bubblewrap) -> None:
    source = "import os\nprint(sorted(map(int, os.listdir('/proc/self/fd'))))"
    assert jail.run_now(Job.python(source)).stdout == b"[0, 1, 2, 3]\n"  # 3: the listing itself
    with_report = jail.run_now(Job.python(source, report=True))
    assert with_report.stdout == b"[0, 1, 2, 3, 4]\n"
    shell = jail.run_now(Job(["sh", "-c", "ls /proc/$$/fd"]))
    assert shell.stdout.split() == [b"0", b"1", b"2"]
