"""Verdicts of the prover in process, of Why3 and of running, on the same random programs.

`python -m benchmarks.proofs -n 10000 --jobs 2 --journal done.jsonl`: one JSON line at the end;
programs on which they differ are printed before it. The same command goes on with the journal. Exit
status 1: there is a difference. Needs why3, z3 and the extra `proofs`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

from benchmarks.proofs.agreement import AT_ONCE, some
from puna.core.jobs import PARENT, die_with_parent
from puna.core.journal import Journal, read
from puna.envs.proofs.why3 import Why3


def main() -> int:
    """Draw, judge, count."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proofs")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin nothing after these")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--journal", type=Path, help="goes on with what this file says is done")
    given = parser.parse_args()
    done = {r["first"]: r for r in read(given.journal)} if given.journal else {}
    log = Journal(given.journal) if given.journal else None
    waiting = [
        range(first, min(first + AT_ONCE, given.seed + given.n))
        for first in range(given.seed, given.seed + given.n, AT_ONCE)
    ]
    waiting = [s for s in waiting if done.get(s.start, {}).get("stop", 0) < s.stop]
    end = time.monotonic() + 60 * given.minutes
    os.environ[PARENT] = str(os.getpid())
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.jobs, spawn, initializer=die_with_parent) as pool:
        running = {}
        while waiting or running:
            while waiting and len(running) < given.jobs and time.monotonic() < end:
                seeds = waiting.pop(0)
                running[pool.submit(some, seeds)] = seeds
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                seeds = running.pop(future)
                counts, found = future.result()
                record = {"first": seeds.start, "stop": seeds.stop}
                record |= {"counts": dict(counts), "different": found}
                done[seeds.start] = record
                for text in found:
                    print(text, flush=True)
                if log is not None:
                    log.append(record, sync=True)
    inside = [r for r in done.values() if given.seed <= r["first"] < given.seed + given.n]
    total: Counter[str] = Counter()
    for record in inside:
        total += Counter(record["counts"])
    different = sum(len(r["different"]) for r in inside)
    said = {"programs": total.total(), "different": different, "why3": Why3().version()}
    print(json.dumps({**said, "verdicts": dict(sorted(total.items()))}))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
