"""Isolated trivial Python jobs a second: the warm pool, a cold interpreter in it, fresh bubblewrap.

`python benchmarks/sandbox.py [SECONDS]` prints one JSON line; all three in one run, in turns.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

from puna.core.threads import default_threads
from puna.sandbox import Job, Mounts
from puna.sandbox.bubblewrap import Bubblewrap
from puna.sandbox.outer import arguments, python


def fresh_command() -> list[str]:
    """What one would write by hand: a jail and an interpreter for this job alone."""
    kept, words = [], arguments(Mounts(), root=False)
    skip = iter(words)
    for word in skip:
        if word == "--as-pid-1":
            continue
        if word == "--cap-add":
            next(skip)
            continue
        kept.append(word)
    kept += ["--tmpfs", "/box", "--chdir", "/box", "--die-with-parent"]
    return ["bwrap", *kept, "--", python(), "-I", "-S", "-c", "print(1)"]


async def rate(job: Callable[[], Awaitable[bytes]], seconds: float, lanes: int) -> float:
    """Jobs a second with `lanes` of them at a time; every answer is looked at."""
    done, until, began = 0, time.monotonic() + seconds, time.monotonic()

    async def lane() -> None:
        nonlocal done
        while time.monotonic() < until:
            assert await job() == b"1\n"
            done += 1

    await asyncio.gather(*(lane() for _ in range(lanes)))
    return done / (time.monotonic() - began)


async def main(seconds: float) -> None:
    cores = default_threads()
    command = fresh_command()

    async def fresh() -> bytes:
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        return (await process.communicate())[0]

    with Bubblewrap() as jail:
        warm_job, cold_job = Job.python("print(1)"), Job(["python3", "-I", "-S", "-c", "print(1)"])

        async def warm() -> bytes:
            return (await jail.run(warm_job)).stdout

        async def cold() -> bytes:
            return (await jail.run(cold_job)).stdout

        await warm()
        rates: dict[str, list[float]] = {"warm": [], "cold": [], "fresh": []}
        for _ in range(3):
            for name, job in (("warm", warm), ("cold", cold), ("fresh", fresh)):
                rates[name].append(await rate(job, seconds, 2 * cores))
        single = []
        for _ in range(50):
            began = time.monotonic()
            await cold()
            single.append(1000 * (time.monotonic() - began))
    best = {name: statistics.median(found) for name, found in rates.items()}
    print(
        json.dumps(
            {
                "cores": cores,
                "jobs_per_second": {name: round(value) for name, value in best.items()},
                "warm_to_fresh": round(best["warm"] / best["fresh"], 2),
                "cold_ms": round(statistics.median(single), 1),
                "rounds": {n: [round(x) for x in found] for n, found in rates.items()},
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 3.0))
