"""What Puna costs before it does anything: distributions, `puna --help`, `import puna`, a rollout.

`python benchmarks/startup.py` prints one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, requires


def closure(name: str, seen: set[str] | None = None) -> set[str]:
    """Every distribution `name` needs without extras, itself included."""
    seen = set() if seen is None else seen
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen:
        return seen
    try:
        wanted = requires(name) or []
    except PackageNotFoundError:
        return seen
    seen.add(key)
    for line in wanted:
        from packaging.requirements import Requirement

        need = Requirement(line)
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            closure(need.name, seen)
    return seen


def distributions() -> list[str]:
    """The core install beyond torch and what torch itself needs, and Puna."""
    return sorted(closure("puna") - closure("torch") - {"puna"})


def cpu_of(code: list[str], repeats: int = 5) -> float:
    """Median CPU-seconds of a Python process."""
    found = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *code], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found.append(spent)
    return sorted(found)[len(found) // 2]


def rollout_ms(n: int = 1000) -> float:
    """CPU milliseconds of one trivial in-process chat rollout, judged."""
    from puna.core.messages import Message
    from puna.gym.loop import Job, Rollout
    from puna.gym.registry import load_environment
    from puna.gym.seat import Scripted

    rollout = Rollout(
        load_environment("arithmetic"), {"agent": Scripted(lambda m: Message.assistant("1"))}
    )

    async def play(count: int) -> None:
        async for _ in rollout.run([Job("test", i) for i in range(count)]):
            pass

    asyncio.run(play(20))
    begun = time.process_time()
    asyncio.run(play(n))
    spent = time.process_time() - begun
    rollout.close()
    return 1000 * spent / n


def main() -> None:
    """Measure and print."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found = distributions()
    print(
        json.dumps(
            {
                "distributions_beyond_torch": len(found),
                "names": found,
                "help_cpu_s": round(cpu_of(["-m", "puna.cli", "--help"]), 3),
                "import_cpu_s": round(cpu_of(["-c", "import puna"]), 3),
                "rollout_cpu_ms": round(rollout_ms(), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
