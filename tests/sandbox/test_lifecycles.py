"""Random lives of jobs: whatever they do and however they end, nothing of them is left.

Looked at from outside: processes under the keeper, its descriptors, mounts of the machine, this
process's descriptors and threads. `make test-all` runs 10,000 jobs, `make test` a tenth of that.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from puna.sandbox import Job, Limits, Result, SandboxError
from puna.sandbox.bubblewrap import Bubblewrap

DEEDS = (
    "print('x' * {n})",
    "import os\nfor i in range({n} % 40): open(f'f{{i}}', 'wb').write(bytes({n}))",
    "import os\nif os.fork() == 0:\n    os.setsid()\n    import time\n    time.sleep(60)",
    "import os, time\nfor _ in range({n} % 5):\n    os.fork() or time.sleep(60)\ntime.sleep(60)",
    "import socket\nk = [socket.socketpair() for _ in range({n} % 30)]\nraise SystemExit({n})",
    "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "import ctypes\nctypes.string_at(0)",
    "import os\nos.symlink('/', 'r'); os.mkfifo('p'); os.mkdir('d'); os.chmod('d', 0)",
    "while True: pass",
    "import subprocess\nsubprocess.Popen(['sleep', '60'])\nprint(1)",
    "x = bytearray({n} << 10)\nos = __import__('os')\nos.closerange(0, 50)",
    "1 / 0",
    "import os\nos._exit({n} % 256)",
    "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
)


async def live(jail: Bubblewrap, rng: random.Random) -> str:
    """One life: what the job does, which limit it may meet, whether anybody waits to the end."""
    source = rng.choice(DEEDS).format(n=rng.randrange(100_000))
    limits = Limits(wall_s=rng.choice((0.02, 0.1, 1)), cpu_s=rng.choice((1, 5)), output_kb=64)
    fields = {
        "limits": limits,
        "outputs": rng.choice(((), ("*",))),
        "stdin": bytes(rng.randrange(9999)),
    }
    if rng.random() < 0.1:
        job = Job(["python3", "main.py"], files={"main.py": source.encode()}, **fields)
    else:
        job = Job.python(source, **fields)
    task = asyncio.create_task(jail.run(job))
    if rng.random() < 0.15:
        await asyncio.sleep(rng.random() * 0.02)
        task.cancel()
    try:
        result = await task
    except asyncio.CancelledError:
        return "cancelled"
    except SandboxError as error:
        return f"error: {error}"
    assert isinstance(result, Result)
    return result.reason or "ended"


def census(jail: Bubblewrap) -> dict[str, object]:
    """Everything that a leak would make grow."""
    keeper = jail.keeper
    assert keeper is not None
    family = descendants(keeper.process.pid)
    return {
        "processes": len(family),
        "their descriptors": [len(os.listdir(f"/proc/{pid}/fd")) for pid in sorted(family)],
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "keeper's mounts": [
            len(Path(f"/proc/{p}/mountinfo").read_text().splitlines()) for p in family
        ],
        "own descriptors": len(os.listdir("/proc/self/fd")),
        "own threads": sorted(t.name for t in threading.enumerate() if "asyncio" in t.name),
    }


def settled(jail: Bubblewrap) -> dict[str, object]:
    """The census once the last of the cancelled have gone: the same for a while."""
    seen: list[dict[str, object]] = []
    until = time.monotonic() + 60
    while len(seen) < 4 or any(each != seen[-1] for each in seen[-4:]):
        assert time.monotonic() < until, seen
        time.sleep(0.4)
        with suppress(OSError):  # one ended while it was looked at
            seen.append(census(jail))
    return seen[-1]


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("_bubblewrap_works")
def test_nothing_is_left(count: int) -> None:
    own_jail = Bubblewrap(at_once=8)
    rng = random.Random(count)

    async def lives(n: int) -> Counter[str]:
        return Counter(await asyncio.gather(*(live(own_jail, rng) for _ in range(n))))

    async def eight_at_once() -> None:
        """So that everything that is kept for use again exists."""
        nap = Job.python("import time\ntime.sleep(1)")
        await asyncio.gather(*(own_jail.run(nap) for _ in range(8)))

    asyncio.run(lives(30))
    asyncio.run(eight_at_once())
    before = settled(own_jail)
    ends = asyncio.run(lives(count))
    assert settled(own_jail) == before
    assert not [end for end in ends if end.startswith("error")], ends
    assert {"ended", "wall", "cancelled"} <= set(ends)
    keeper = own_jail.keeper
    assert keeper is not None
    process = keeper.process
    own_jail.close()
    assert process.poll() is not None
